"""Benchmarks, each declared on the one shared loop of `trainer.evaluation`."""

from modeling_rtd import suggest
from trainer.benchmarks.base import Benchmark


__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]

BENCHMARKS = ("small_world",)


def load_benchmark(name: str, split: str = "validation") -> Benchmark:
    """Load a benchmark by its name.

    Args:
        name (`str`): Name, and after a slash the preset, such as `"small_world/demo"`.
        split (`str`, defaults to `"validation"`): Split of its queries.

    Returns:
        [`Benchmark`]: Gallery, queries and protocol.

    Raises:
        ValueError: If benchmark, preset or split is unknown.
    """
    benchmark, _, preset = name.partition("/")
    if benchmark not in BENCHMARKS:
        raise ValueError(suggest("benchmark", benchmark, BENCHMARKS))
    from trainer.small_world import build_benchmark

    return build_benchmark(preset or "demo", split)

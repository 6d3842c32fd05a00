"""A world as a benchmark like any other, but for its directory: it is drawn."""

from __future__ import annotations

from dataclasses import replace

from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol
from trainer.worlds.data import build_benchmark
from trainer.worlds.world import World


__all__ = ["declare_benchmark"]


def declare_benchmark(world: World) -> BenchmarkInfo:
    """Declare a world as a benchmark, with its presets as parts.

    Args:
        world ([`World`]): The world.

    Returns:
        [`BenchmarkInfo`]: The declaration.
    """

    def load(folder: None, split: str, part: str, protocol: Protocol) -> Benchmark:
        # A copy: the drawn benchmark is kept for the next call.
        return replace(build_benchmark(world, part, split), protocol=protocol)

    return BenchmarkInfo(
        name=world.name,
        license="Apache-2.0, drawn by this package",
        citation="this package",
        layout="none: it is drawn",
        steps={},
        counts={split: {name: {} for name in world.presets} for split in ("validation", "test")},
        protocol=Protocol(exclude_reference=True),
        load=load,
        needs_root=False,
    )

"""Captions of targets, from a file, for benchmarks that have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modeling_rtd import read_json
from trainer.data.tables import add_column
from trainer.evaluation.benchmarks import Benchmark


__all__ = ["add_target_captions"]


def add_target_captions(benchmark: Benchmark, path: str | Path) -> Benchmark:
    """Give each query a plain caption of its first target, which a diagnosis of alignment needs.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        path (`str` or `Path`): JSON file with an object of image id to caption; may hold more than is needed.

    Returns:
        [`Benchmark`]: With the column `target_caption`; that of a query without a target is empty.

    Raises:
        ValueError: If the file is not of this form, or a target has no caption in it.
    """
    captions = read_json(path, "give an object of image id to caption")
    if not all(isinstance(caption, str) for caption in captions.values()):
        raise ValueError(f"the captions '{path}' must be an object of image id to caption, both strings.")
    firsts = [ids[0] if ids else None for ids in benchmark.queries["target_ids"][:]]
    if absent := [name for name in firsts if name is not None and name not in captions]:
        raise ValueError(
            f"the captions '{path}' lack {len(absent)} targets of {benchmark.title}, such as '{absent[0]}'."
        )
    queries = benchmark.queries
    # What is named counts more than the captions of a drawn world.
    if "target_caption" in queries.column_names:
        queries = queries.remove_columns("target_caption")
    column = ["" if name is None else captions[name] for name in firsts]
    return replace(benchmark, queries=add_column(queries, "target_caption", column))

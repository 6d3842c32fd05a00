"""Benchmarks, each declared in one file, on the one shared loop of `trainer.evaluation.evaluator`."""

from __future__ import annotations

import importlib
from pathlib import Path

from modeling_rtd import check_path, suggest
from trainer.evaluation.benchmarks.data_folder import DataFolder
from trainer.evaluation.benchmarks.declaration import DEFAULT_METRICS, Benchmark, BenchmarkInfo, Protocol


__all__ = [
    "BENCHMARKS",
    "DEFAULT_METRICS",
    "Benchmark",
    "BenchmarkInfo",
    "DataFolder",
    "Protocol",
    "check_annotations",
    "check_one_part",
    "check_request",
    "check_root",
    "find_benchmark",
    "load_benchmark",
    "load_parts",
]

# Imported when asked for: the worlds are on a higher floor.
_MODULES = {
    name: f"trainer.evaluation.benchmarks.{name}"
    for name in ("cirr", "circo", "fashioniq", "genecis", "coco", "imagenet_r")
} | {name: f"trainer.worlds.{name}.declaration" for name in ("small_world", "wardrobe")}

BENCHMARKS = tuple(_MODULES)


def find_benchmark(name: str) -> BenchmarkInfo:
    """Find the declaration of a benchmark.

    Args:
        name (`str`): Name, with or without a part.

    Returns:
        [`BenchmarkInfo`]: The declaration.

    Raises:
        ValueError: If there is no such benchmark.
    """
    check_path(name, "benchmark")
    name = str(name).partition("/")[0]
    if name not in _MODULES:
        raise ValueError(suggest("benchmark", name, BENCHMARKS))
    return importlib.import_module(_MODULES[name]).INFO


def load_parts(
    name: str, split: str | None = None, folder: DataFolder | None = None, protocol: Protocol | None = None
) -> list[Benchmark]:
    """Load a benchmark, part by part.

    Args:
        name (`str`): Name, and after a slash a part or a preset where not all are wanted, such as `"fashioniq/dress"`.
        split (`str`, *optional*): Split of its queries; the labelled one by default.
        folder ([`DataFolder`], *optional*): Directory that holds it; a drawn world needs none.
        protocol ([`Protocol`], *optional*): The one published for LinCIR and RTD by default.

    Returns:
        `list[Benchmark]`: The parts, which are scored on their own.

    Raises:
        ValueError: If benchmark, part or split is unknown, the directory is missing, or a file in it is not in order.
    """
    info, part = find_benchmark(name), name.partition("/")[2]
    split = info.check_split(split)
    parts = info.choose_parts(split, part)
    # Before a file is looked for: the refusal shows the whole layout.
    check_root(info, folder and folder.root)
    return [check_annotations(info.load(folder, split, part, protocol or info.protocol)) for part in parts]


def check_root(info: BenchmarkInfo, root: Path | None) -> None:
    """Check that the directory of a benchmark was named, where it needs one.

    Args:
        info ([`BenchmarkInfo`]): The declaration.
        root (`Path`, *optional*): The directory.

    Raises:
        ValueError: If it was not; says what it must hold.
    """
    if info.needs_root and root is None:
        raise ValueError(f"{info.name} needs a folder, its root, which was not named. It must hold\n{info.layout}")


def load_benchmark(
    name: str, split: str | None = None, root: str | Path | None = None, protocol: Protocol | None = None
) -> Benchmark:
    """Load a benchmark, or one part of it.

    Args:
        name (`str`): Name, and after a slash the part or preset, such as `"wardrobe/demo"` or `"fashioniq/dress"`.
        split (`str`, *optional*): Split of its queries; the labelled one by default.
        root (`str` or `Path`, *optional*): Directory that holds it; a drawn world needs none.
        protocol ([`Protocol`], *optional*): The one published for LinCIR and RTD by default.

    Returns:
        [`Benchmark`]: Gallery, queries and protocol.

    Raises:
        ValueError: As [`load_parts`], and if the benchmark has several parts and none is named.
    """
    check_one_part(name, split)
    return load_parts(name, split, root and DataFolder(root, find_benchmark(name).steps), protocol)[0]


def check_one_part(name: str, split: str | None = None) -> None:
    """Check that a name stands for one part of a benchmark.

    Args:
        name (`str`): Name, with or without a part.
        split (`str`, *optional*): Split.

    Raises:
        ValueError: If benchmark, part or split is unknown, or it has several parts and none is named.
    """
    info = find_benchmark(name)
    parts = info.choose_parts(info.check_split(split), name.partition("/")[2])
    if len(parts) > 1:
        raise ValueError(
            f"{name} has several parts: name one of {', '.join(f'{info.name}/{part}' for part in parts)}."
        )


def check_request(name: str, split: str | None = None, root: str | Path | None = None, **switches) -> None:
    """Refuse what can be refused before a model is loaded.

    Args:
        name (`str`): Name of a benchmark, with or without a part.
        split (`str`, *optional*): Split.
        root (`str` or `Path`, *optional*): Directory of the benchmark.
        switches: See [`Protocol`]; `None` leaves a switch where it is.

    Raises:
        ValueError: If benchmark, part, split or switch is unknown, or a root is needed.
    """
    info = find_benchmark(name)
    info.choose_parts(info.check_split(split), name.partition("/")[2])
    info.find_protocol("", **switches)
    check_root(info, root)


def check_annotations(benchmark: Benchmark) -> Benchmark:
    """Refuse annotations that contradict one another.

    Args:
        benchmark ([`Benchmark`]): One part, as its declaration loads it.

    Returns:
        [`Benchmark`]: The same.

    Raises:
        ValueError: If a query names an image that the gallery lacks, has its targets outside of its subset, or an id
            that repeats.
    """
    ids = set(benchmark.gallery["id"][:])
    for column in ("target_ids", "subset_ids", "candidate_ids"):
        if column not in benchmark.queries.column_names:
            continue
        for query, named in zip(benchmark.queries["id"][:], benchmark.queries[column][:], strict=True):
            if absent := set(named) - ids:
                raise ValueError(
                    f"{benchmark.title}: query {query} names '{min(absent)}' ({column}), which the gallery lacks; "
                    "captions and image lists are not of the same release."
                )
    columns = (benchmark.queries[name][:] for name in ("id", "target_ids", "subset_ids"))
    for query, targets, subset in zip(*columns, strict=True):
        if targets and subset and set(targets).isdisjoint(subset):
            raise ValueError(f"{benchmark.title}: query {query} has its target '{targets[0]}' outside of its subset.")
    if len(set(benchmark.queries["id"][:])) < len(benchmark.queries):
        raise ValueError(f"{benchmark.title}: ids of queries repeat.")
    return benchmark

"""Judging a system on a benchmark, and the record that says how it was done."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from trainer.benchmarks import BenchmarkInfo, DataFolder, find_benchmark, load_parts
from trainer.benchmarks.checking import compare_with_official, drop_missing, find_missing
from trainer.scoring import average_parts, score_rankings
from trainer.systems import EmbeddingSystem, ModelSystem, RankingSystem


__all__ = ["find_root", "judge", "open_parts", "write_record"]


def find_root(root: str | Path | None, name: str, is_one_of_many: bool) -> Path | None:
    """Find the directory of a benchmark.

    Args:
        root (`str` or `Path`, *optional*): What the user named.
        name (`str`): Name of the benchmark.
        is_one_of_many (`bool`): Whether the root holds several benchmarks, each in a folder of its name.

    Returns:
        `Path` or `None`: The directory.

    Raises:
        ValueError: If the root holds no such folder.
    """
    info = find_benchmark(name)
    if root is None or not info.needs_root:
        return None
    if not is_one_of_many or not Path(root).is_dir():
        return Path(root)

    def plain(folder: str) -> str:  # users write fashion-iq, FashionIQ, imagenet-r
        return folder.lower().replace("-", "").replace("_", "")

    folders = {plain(path.name): path for path in sorted(Path(root).iterdir()) if path.is_dir()}
    if plain(info.name) not in folders:
        raise ValueError(f"'{root}' has no folder '{info.name}'; for several benchmarks it needs one for each.")
    return folders[plain(info.name)]


def open_parts(
    name: str,
    split: str | None,
    root: Path | None,
    method: str,
    needs_images: bool = True,
    allow_missing: bool = False,
    **switches,
) -> tuple[list, DataFolder | None, list[str]]:
    """Load a benchmark in the protocol of a method, and see whether its images are there.

    Args:
        name (`str`): Name of the benchmark.
        split (`str`, *optional*): Split.
        root (`Path`, *optional*): Its directory.
        method (`str`): Whose published protocol is followed.
        needs_images (`bool`, defaults to `True`): Whether images will be read.
        allow_missing (`bool`, defaults to `False`): Whether to go on without those that are missing.
        switches: Positions of switches that differ from the published ones.

    Returns:
        `tuple`: Parts, directory, and the missing images.

    Raises:
        ValueError: If images are missing and that is not allowed.
    """
    info = find_benchmark(name)
    folder = None if root is None else DataFolder(root, info.steps, needs_images)
    parts = load_parts(name, split, folder, info.find_protocol(method, **switches))
    missing = []
    if needs_images:
        for i, part in enumerate(parts):
            if gone := find_missing(part, folder):
                missing += [path for path in gone if path not in missing]
                parts[i] = drop_missing(part, gone) if allow_missing else part
    if missing and not allow_missing:
        shown = ", ".join(missing[:3])
        raise ValueError(
            f"{len(missing)} images of {info.name} are missing, such as {shown}. `rtd evaluate --check` tells what to "
            "do; --allow-missing scores without them, and marks the result as not comparable."
        )
    return parts, folder, missing


def judge(
    system: ModelSystem | EmbeddingSystem | RankingSystem,
    name: str,
    split: str | None = None,
    root: Path | None = None,
    allow_missing: bool = False,
    **switches,
) -> dict[str, Any]:
    """Judge a system on a benchmark.

    Args:
        system: A model, embeddings or rankings.
        name (`str`): Name of the benchmark, perhaps with a part.
        split (`str`, *optional*): Split; the labelled one by default.
        root (`Path`, *optional*): Directory of the benchmark.
        allow_missing (`bool`, defaults to `False`): Whether to go on without images that are missing.
        switches: Positions of switches that differ from the published ones, see [`Protocol`].

    Returns:
        `dict`: The record: `metrics` (fractions), those of `parts`, and everything they depend on.

    Raises:
        ValueError: As [`open_parts`], and if the targets of the split are not public.
    """
    start, info = time.perf_counter(), find_benchmark(name)
    parts, folder, missing = open_parts(
        name, split, root, system.method, system.needs_images, allow_missing, **switches
    )
    if hidden := [part.title for part in parts if not part.is_labelled]:
        raise ValueError(f"the targets of {hidden[0]} are not public: write a file for its server with `rtd submit`.")
    scores = {part.part: score_rankings(part, system.rank(part)) for part in parts}
    first = parts[0]
    protocol = asdict(first.protocol) | system.describe_protocol(first)
    deviations = _find_deviations(info, parts, folder, missing, asdict(info.find_protocol(system.method)))
    if (precision := system.facts.get("precision", "float32")) != "float32":
        deviations.append(f"precision is {precision}, published float32")
    return {
        "benchmark": name,
        "split": first.split,
        "metrics": average_parts(info, scores),
        "parts": scores if len(scores) > 1 or first.part else {},
        "protocol": protocol,
        "system": system.facts,
        "comparable": not deviations,
        "deviations": deviations,
        "missing_images": missing,
        "numbers": {part.title: {"queries": len(part.queries), "gallery": len(part.gallery)} for part in parts},
        "data": {"files": folder.files if folder else {}, "licence": info.licence, "citation": info.citation},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "seconds": round(time.perf_counter() - start, 1),
    }


def _find_deviations(
    info: BenchmarkInfo, parts: list, folder: DataFolder | None, missing: list[str], published: Mapping[str, Any]
) -> list[str]:
    """List what sets a result apart from published ones."""
    deviations = [f"{len(missing)} images are missing"] if missing else []
    deviations += [text for part in parts for text in compare_with_official(info, part)]
    used = asdict(parts[0].protocol)
    deviations += [
        f"{name} is {used[name]!r}, published {published[name]!r}" for name in used if used[name] != published[name]
    ]
    for file, digest in (folder.files if folder else {}).items():
        if info.digests.get(Path(file).name, digest) != digest:
            deviations.append(f"{file} is not the official file")
    return deviations


def write_record(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a record.

    Args:
        record (`Mapping`): As [`judge`] gives it.
        folder (`str` or `Path`): Folder, made where it does not exist.

    Returns:
        `Path`: The file, named by benchmark and split.
    """
    path = Path(folder) / f"{record['benchmark'].replace('/', '-')}-{record['split']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2), encoding="utf-8")
    return path

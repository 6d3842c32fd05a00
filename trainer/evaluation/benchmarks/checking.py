"""Checking the directory of a benchmark: what is there, missing, corrupt, more than official, or another release."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from trainer.encoding.preprocessing import read_image
from trainer.evaluation.benchmarks import Benchmark, BenchmarkInfo, DataFolder, check_annotations
from trainer.evaluation.benchmarks.data_folder import MissingError


__all__ = ["Finding", "check_folder", "compare_with_official", "drop_missing", "find_missing"]


class Finding(NamedTuple):
    """One thing that was found about a directory.

    Args:
        kind (`str`): `"ok"`, `"missing"`, `"corrupt"`, `"differs"` or `"extra"`.
        text (`str`): A sentence.
    """

    kind: str
    text: str


def check_folder(info: BenchmarkInfo, root: str | Path, split: str | None = None, part: str = "") -> list[Finding]:
    """Check the directory of a benchmark; reads every image of it.

    Args:
        info ([`BenchmarkInfo`]): The declaration.
        root (`str` or `Path`): The directory.
        split (`str`, *optional*): Split to check. Defaults to all.
        part (`str`, defaults to `""`): Part to check. Defaults to all.

    Returns:
        `list[Finding]`: The directory is in order where all are `"ok"` or `"extra"`.

    Raises:
        ValueError: If there is no such directory, split or part.
    """
    # What annotations say is told even where images are not there yet.
    folder = DataFolder(root, info.steps, needs_images=False)
    findings, images, is_read = [], {}, True
    for name in [info.check_split(split)] if split else info.counts:
        for piece in info.choose_parts(name, part):
            try:
                benchmark = check_annotations(info.load(folder, name, piece, info.protocol))
            except ValueError as error:
                kind = "missing" if isinstance(error, MissingError) else "corrupt"
                findings.append(Finding(kind, f"{name}{piece and ' ' + piece}: {error}"))
                is_read = False
                continue
            deviations = compare_with_official(info, benchmark)
            findings += [Finding("differs", text) for text in deviations]
            if not deviations:
                findings.append(Finding("ok", f"{benchmark.title}: {_count(benchmark)}, the official numbers"))
            # Parts share images, each of which is read once.
            images |= dict.fromkeys(_list_images(benchmark))
    findings += _check_digests(info, folder) + [Finding("missing", text) for text in folder.absent]
    missing = [path for path in images if not folder.holds(path)]
    findings += _tell("missing", "images are not there", missing, folder)
    there = [path for path in images if folder.holds(path)]
    findings += _tell("corrupt", "images cannot be read", _find_unreadable(there), folder)
    # Parts share their folders: files of the others would all be called extra.
    if is_read and not part:
        findings += _tell("extra", "files beside the images are in no list", _find_extra(there, images), folder)
    if images and not missing:
        listed = "images" if is_read else "images of what could be read"
        findings.append(Finding("ok", f"all {len(images)} {listed} are there"))
    order = ("missing", "corrupt", "differs", "extra", "ok")
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.kind))


def compare_with_official(info: BenchmarkInfo, benchmark: Benchmark) -> list[str]:
    """Compare a part of a benchmark with its official numbers.

    Args:
        info ([`BenchmarkInfo`]): The declaration.
        benchmark ([`Benchmark`]): The part.

    Returns:
        `list[str]`: A sentence for each difference.
    """
    official = info.counts[benchmark.split].get(benchmark.part, {})
    gallery = "gallery_val" if benchmark.protocol.gallery == "val" else "gallery"
    numbers = {"queries": len(benchmark.queries), gallery: len(benchmark.gallery)}
    if "candidates" in official:
        # The number that is most unlike the official one, if any.
        sizes = {len(ids) for ids in benchmark.queries["candidate_ids"][:]}
        numbers["candidates"] = max(sizes, key=lambda size: abs(size - official["candidates"]))
    names = {"gallery": "gallery images", "gallery_val": "gallery images", "candidates": "candidates a query"}
    return [
        f"{benchmark.title}: {number} {names.get(name, name)}, officially {official[name]}"
        for name, number in numbers.items()
        if official.get(name, number) != number
    ]


def find_missing(benchmark: Benchmark, folder: DataFolder | None) -> list[str]:
    """List the images of a benchmark that are not there.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        folder ([`DataFolder`], *optional*): Its directory; one without needs no files.

    Returns:
        `list[str]`: Paths, each once.
    """
    return [] if folder is None else [path for path in _list_images(benchmark) if not folder.holds(path)]


def drop_missing(benchmark: Benchmark, missing: Iterable[str]) -> Benchmark:
    """Leave out gallery images that are missing, and queries whose reference is; a missing target is never found.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        missing (`Iterable[str]`): Paths, as [`find_missing`] lists them.

    Returns:
        [`Benchmark`]: What is left of it; its numbers are not comparable with others.

    Raises:
        ValueError: If nothing is left.
    """
    missing = set(missing)

    def keep(dataset, column: str):
        return dataset.select([row for row, path in enumerate(dataset[column][:]) if path not in missing])

    gallery, queries = keep(benchmark.gallery, "image"), keep(benchmark.queries, "reference_image")
    if not len(gallery) or not len(queries):
        raise ValueError(f"no image of {benchmark.title} is there: nothing is left to be judged on.")
    return replace(benchmark, gallery=gallery, queries=queries)


def _list_images(benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys([*benchmark.gallery["image"][:], *benchmark.queries["reference_image"][:]]))


def _count(benchmark: Benchmark) -> str:
    return f"{len(benchmark.queries)} queries, {len(benchmark.gallery)} gallery images"


def _check_digests(info: BenchmarkInfo, folder: DataFolder) -> list[Finding]:
    findings = []
    for file, digest in folder.files.items():
        official = info.digests.get(Path(file).name)
        if official == digest:
            findings.append(Finding("ok", f"{file} is the official file"))
        elif official is not None:
            findings.append(Finding("differs", f"{file} is not the official file: its SHA-256 is {digest}"))
    return findings


def _find_unreadable(paths: list[str]) -> list[str]:
    def is_readable(path: str) -> bool:
        try:
            read_image(path)
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside of the interpreter's lock
        readable = list(tqdm(pool.map(is_readable, paths), total=len(paths), desc="Reading images", disable=not paths))
    return [path for path, fine in zip(paths, readable, strict=True) if not fine]


def _find_extra(there: list[str], images: dict) -> list[str]:
    folders = dict.fromkeys(Path(path).parent for path in there)
    return [str(path) for folder in folders for path in sorted(folder.glob("*.*")) if str(path) not in images]


def _tell(kind: str, what: str, paths: list[str], folder: DataFolder) -> list[Finding]:
    if not paths:
        return []
    shown = ", ".join(os.path.relpath(path, folder.root) for path in paths[:3])
    steps = ""
    if kind == "missing":
        steps = " The steps that bring them: " + "; ".join(step.rstrip(".") for step in folder.steps.values()) + "."
    return [Finding(kind, f"{len(paths)} {what}, such as {shown}.{steps}")]

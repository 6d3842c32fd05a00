"""Evaluating a model, or another system, on a benchmark, and the record that says how it was done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from modeling_rtd import RTDModel, RTDProcessor, write_json
from trainer.evaluation.benchmarks import Benchmark, DataFolder, check_request, find_benchmark, load_parts
from trainer.evaluation.benchmarks.checking import compare_with_official, drop_missing, find_missing
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.evaluation.scoring import average_parts, score_rankings
from trainer.evaluation.systems import EmbeddingSystem, ModelSystem, RankingSystem


__all__ = ["compare", "evaluate", "find_benchmark_root", "make_record", "open_parts", "write_record"]

_OF_A_SYSTEM = ("system", "protocol", "missing_images", "data")  # what records of one benchmark and split differ in


def find_benchmark_root(root: str | Path | None, name: str, is_one_of_many: bool) -> Path | None:
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
    root: str | Path | None,
    method: str,
    needs_images: bool = True,
    allow_missing: bool = False,
    **switches,
) -> tuple[list, DataFolder | None, list[str]]:
    """Load a benchmark in the protocol of a method, and see whether its images are there.

    Args:
        name (`str`): Name of the benchmark.
        split (`str`, *optional*): Split.
        root (`str` or `Path`, *optional*): Its directory; a drawn world needs none.
        method (`str`): Whose published protocol is followed.
        needs_images (`bool`, defaults to `True`): Whether images will be read.
        allow_missing (`bool`, defaults to `False`): Whether to continue without those that are missing.
        switches: Positions of switches that differ from the published ones.

    Returns:
        `tuple`: Parts, directory, and the missing images.

    Raises:
        ValueError: If images are missing and that is not allowed.
    """
    info = find_benchmark(name)
    folder = DataFolder(root, info.steps, needs_images) if root and info.needs_root else None
    parts = load_parts(name, split, folder, info.find_protocol(method, **switches))
    missing = []
    if needs_images:
        for i, part in enumerate(parts):
            if gone := find_missing(part, folder):
                missing = list(dict.fromkeys([*missing, *gone]))
                parts[i] = drop_missing(part, gone) if allow_missing else part
    if missing and not allow_missing:
        shown = ", ".join(missing[:3])
        raise ValueError(
            f"{len(missing)} images of {info.name} are missing, such as {shown}. `rtd evaluate --check` says what to "
            "do; --allow-missing scores without them, and marks the result as not comparable."
        )
    return parts, folder, missing


def evaluate(
    model: RTDModel | str | Path | ModelSystem | EmbeddingSystem | RankingSystem,
    benchmark: str,
    split: str | None = None,
    root: str | Path | None = None,
    *,
    processing_class: RTDProcessor | None = None,
    mode: str = "composed",
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    allow_missing: bool = False,
    **switches,
) -> dict[str, Any]:
    """Evaluate a model on a benchmark, in the protocol that its method was published with.

    Args:
        model ([`RTDModel`] or `str`):
            The model, or directory or Hub id of one or of an adapter repository. A system, such as
            [`EmbeddingSystem`], is evaluated as it is.
        benchmark (`str`): Name, and after a slash a part where not all are wanted, such as `"fashioniq/dress"`.
        split (`str`, *optional*): Split of the queries; the labelled one by default.
        root (`str` or `Path`, *optional*): Directory of the benchmark; a drawn world needs none.
        processing_class ([`RTDProcessor`], *optional*): Of the model; found from its place by default.
        mode (`str`, defaults to `"composed"`): Or a baseline: `"text"`, `"image"` or `"sum"`.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
        cache_dir (`str` or `Path`, *optional*): Keeps embeddings of images; none are kept by default.
        allow_missing (`bool`, defaults to `False`): Whether to leave missing images out; not comparable.
        switches: Positions of switches that differ from the published ones, see [`Protocol`].

    Returns:
        `dict`: The record: `metrics` (fractions), those of `parts`, and everything they depend on.

    Raises:
        ValueError: If a name or option is not accepted, images are missing, or the targets of the split are hidden.

    Examples:
        >>> evaluate("org/rtd-vitl", "cirr", root="data/cirr")["metrics"]["recall@1"]  # doctest: +SKIP
    """
    options = {"processing_class": processing_class, "mode": mode, "batch_size": batch_size, "cache_dir": cache_dir}
    return _judge(model, benchmark, split, root, options, allow_missing, switches)


def compare(
    model, other, benchmark: str, split: str | None = None, root: str | Path | None = None, **options
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict]]:
    """Judge two models on the same queries, and compare them query by query.

    Args:
        model, other: As [`evaluate`] takes them. Changes are from `other` to `model`.
        benchmark, split, root: As for [`evaluate`].
        options: `allow_missing` and switches, as for [`evaluate`]; they count for both.

    Returns:
        `tuple`: The records of `model` and of `other`, and the changes by metric as [`compare_ranks`] gives them. Of a
        benchmark without recall it is `"recall@10"`. Queries of all parts count alike.

    Raises:
        ValueError: As [`evaluate`].
    """
    allow_missing = options.pop("allow_missing", False)
    after, before = [], []
    record, second = (
        _judge(system, benchmark, split, root, {}, allow_missing, options, ranks)
        for system, ranks in ((model, after), (other, before))
    )
    names = [name for name in record["metrics"] if name.startswith("recall@")] or ["recall@10"]
    after, before = map(numpy.concatenate, (after, before))
    return record, second, {name: compare_ranks(before, after, int(name.partition("@")[2])) for name in names}


def _judge(model, benchmark, split, root, options, allow_missing, switches, ranks=None) -> dict[str, Any]:
    """Give the record of a system; where a list of ranks came, add those of each part's queries to it, from 1."""
    start = time.perf_counter()
    check_request(benchmark, split, root, **switches)
    system = model
    if not isinstance(model, ModelSystem | EmbeddingSystem | RankingSystem):
        system = ModelSystem(model, **options)
    # After the model, whose method decides the protocol.
    parts, folder, missing = open_parts(
        benchmark, split, root, system.method, system.needs_images, allow_missing, **switches
    )
    if hidden := [part.title for part in parts if not part.is_labelled]:
        raise ValueError(f"the targets of {hidden[0]} are not public: write a file for its server with `rtd submit`.")
    scores = {}
    for part in parts:  # one after another: the rankings of a part may have a gigabyte
        found = system.rank(part)
        scores[part.part] = score_rankings(part, found)
        if ranks is not None:
            ranks.append(target_ranks(relevance(found.whole, found.gallery_ids, part.queries["target_ids"][:])))
    return {
        **make_record(system, benchmark, parts, folder, missing),
        "metrics": average_parts(find_benchmark(benchmark), scores),
        "parts": scores if len(scores) > 1 or parts[0].part else {},
        "seconds": round(time.perf_counter() - start, 1),
    }


def make_record(
    system: ModelSystem | EmbeddingSystem | RankingSystem,
    name: str,
    parts: Sequence[Benchmark],
    folder: DataFolder | None,
    missing: Sequence[str],
) -> dict[str, Any]:
    """Describe how a system ranks a benchmark.

    Args:
        system: A model, embeddings or rankings.
        name (`str`): Name of the benchmark, perhaps with a part.
        parts (`Sequence[Benchmark]`): As [`open_parts`] gives them.
        folder ([`DataFolder`], *optional*): Likewise.
        missing (`Sequence[str]`): Likewise.

    Returns:
        `dict`: Everything that numbers depend on, what sets them apart from published ones (`deviations`), and whether
        nothing does (`comparable`).
    """
    info, first = find_benchmark(name), parts[0]
    protocol = asdict(first.protocol) | system.describe_protocol(first)
    published = replace(first, protocol=info.find_protocol(system.method))
    # With the system's part, which writes the prompt of a protocol out.
    published = asdict(published.protocol) | system.describe_protocol(published)
    deviations = [f"{len(missing)} images are missing"] if missing else []
    deviations += [text for part in parts for text in compare_with_official(info, part)]
    deviations += _find_deviations(protocol, published, system.facts)
    # Two releases may be of one size: an older copy of CIRCO's val lacks only the aspects.
    for file, digest in (folder.files if folder else {}).items():
        if info.digests.get(Path(file).name, digest) != digest:
            deviations.append(f"{file} is not the official file")
    return {
        "benchmark": name,
        "split": first.split,
        "protocol": protocol,
        "system": system.facts,
        "comparable": not deviations,
        "deviations": deviations,
        "missing_images": missing,
        "numbers": {part.title: {"queries": len(part.queries), "gallery": len(part.gallery)} for part in parts},
        "data": {"files": folder.files if folder else {}, "license": info.license, "citation": info.citation},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
    }


def _find_deviations(protocol: Mapping[str, Any], published: Mapping[str, Any], facts: Mapping) -> list[str]:
    """List the switches that are not where they were published, or of which nobody knows where they are."""
    deviations = [
        f"{name} is {value!r}, published {published[name]!r}"
        for name, value in protocol.items()
        if value is not None and value != published[name]
    ]
    if unknown := [name for name, value in protocol.items() if value is None]:
        deviations.append(f"{', '.join(unknown)} of what was computed elsewhere are not known")
    if (mode := facts.get("mode", "composed")) != "composed":
        deviations.append(f"mode is {mode}, a baseline")
    if (precision := facts.get("precision", "float32")) != "float32":
        deviations.append(f"precision is {precision}, published float32")
    return deviations


def write_record(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a record.

    Args:
        record (`Mapping`): As [`evaluate`] returns it.
        folder (`str` or `Path`): Folder, made where it does not exist.

    Returns:
        `Path`: The file, named by benchmark, split and a hash of system, protocol and data: only the same evaluation
        replaces it.
    """
    # Not of the scores, so that the same evaluation replaces its record and no other does.
    facts = json.dumps([record[name] for name in _OF_A_SYSTEM], sort_keys=True)
    name = (
        f"{record['benchmark'].replace('/', '-')}-{record['split']}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
    )
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return path

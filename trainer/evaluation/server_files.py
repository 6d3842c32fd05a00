"""Files for the test servers of CIRR and CIRCO: written, and checked offline against every documented rule."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rtd import read_json
from trainer.evaluation.benchmarks import Benchmark, DataFolder, find_benchmark
from trainer.evaluation.benchmarks.circo import read_gallery, read_rows
from trainer.evaluation.benchmarks.data_folder import MissingError
from trainer.evaluation.scoring import SUBSET_DEPTH, Rankings


__all__ = ["TEST_SPLITS", "check_submission", "write_submission"]

TEST_SPLITS = {"cirr": "test1", "circo": "test"}
_DEPTH = 50  # images of a ranking, for both servers
_MAX_BYTES = 5_000_000  # "5MB"; the smaller reading of it
_COCO_IDS = range(10**12)  # files of COCO are named by ids of twelve digits


def write_submission(benchmark: Benchmark, rankings: Rankings, folder: str | Path) -> list[Path]:
    """Write the files for a benchmark's server.

    Args:
        benchmark ([`Benchmark`]): Test split of CIRR or CIRCO.
        rankings ([`Rankings`]): Its rankings.
        folder (`str` or `Path`): Folder, made where it does not exist.

    Returns:
        `list[Path]`: CIRR: files of recall and of subset recall; CIRCO: one file.

    Raises:
        ValueError: If there is no server for the benchmark and split, or CIRR's subsets are not ranked.
    """
    if TEST_SPLITS.get(benchmark.name) != benchmark.split:
        known = ", ".join(f"{name} {split}" for name, split in TEST_SPLITS.items())
        raise ValueError(f"there is a server for {known}, none for {benchmark.title}.")
    if benchmark.name == "cirr" and rankings.subset is None:
        raise ValueError(
            "CIRR's server takes rankings of the subsets too, and there are none: give both, such as "
            "`--rankings recall.json recall_subset.json`."
        )
    ids = np.array(rankings.gallery_ids, dtype=object)

    def name(ranking: np.ndarray, depth: int) -> dict[str, list]:
        rows = zip(benchmark.queries["id"][:], ranking[:, :depth], strict=True)
        return {query: ids[row[row >= 0]].tolist() for query, row in rows}

    if benchmark.name == "circo":
        rows = name(rankings.whole, _DEPTH)
        # CIRCO's script casts ids to int and stops at file names; its examples hold numbers.
        files = {"circo_test.json": {query: [int(item) for item in row] for query, row in rows.items()}}
    else:
        files = {
            f"cirr_test1_{metric}.json": {"version": "rc2", "metric": metric, **name(ranking, depth)}
            for metric, ranking, depth in (
                ("recall", rankings.whole, _DEPTH),
                ("recall_subset", rankings.subset, SUBSET_DEPTH),
            )
        }
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for file, content in files.items():
        paths.append(Path(folder) / file)
        paths[-1].write_text(json.dumps(content), encoding="utf-8")  # not indented: CIRR's would exceed its limit
    return paths


def check_submission(
    path: str | Path, root: str | Path | None = None, benchmark: str | None = None
) -> tuple[str, list[str]]:
    """Check a file for the server of CIRR or CIRCO.

    Args:
        path (`str` or `Path`): The file.
        root (`str` or `Path`, *optional*):
            Directory of the benchmark, of which annotations are read. Needed for CIRR; without it, or without the list
            of its gallery in it, CIRCO's image ids are not compared with the gallery.
        benchmark (`str`, *optional*): `"cirr"` or `"circo"`. Defaults to what the file shows.

    Returns:
        `tuple`: What kind of file it is (and that ids were not compared, if so), and a sentence for each rule that it
        breaks.

    Raises:
        ValueError: If it is not a JSON object, or the annotations cannot be read.
    """
    path = Path(path)
    content = read_json(path, "give an object of query id to a list of images")
    if (benchmark or _tell_benchmark(content)) == "cirr":
        if root is None:
            raise ValueError("a file for CIRR is checked against its annotations: name their directory with --root.")
        problems = list(_check_size(path)) + list(_check_cirr(content, root))
        return f"cirr test1 {content.get('metric')}", problems
    folder = None if root is None else DataFolder(root, find_benchmark("circo").steps, needs_images=False)
    try:
        known = None if folder is None else {int(name) for name in read_gallery(folder)}
    except MissingError:
        known = None
    kind = "circo test" + (" (ids of images not compared with the gallery)" if known is None else "")
    return kind, list(_check_circo(content, folder, known))


def _tell_benchmark(content: Mapping[str, Any]) -> str:
    """Recognise CIRR's files by their extra keys, or by the names of images, which CIRCO numbers."""
    row = next(iter(content.values()), None)
    first = row[0] if isinstance(row, list) and row else None
    is_name = isinstance(first, str) and not first.strip()[:1].isdecimal()
    return "cirr" if is_name or not content.keys().isdisjoint(("version", "metric")) else "circo"


def _check_size(path: Path) -> Iterator[str]:
    if (size := path.stat().st_size) > _MAX_BYTES:
        yield f"the file has {size:,} bytes, and the server takes {_MAX_BYTES:,}: write it without indentation."


def _check_cirr(content: Mapping[str, Any], root: str | Path) -> Iterator[str]:
    info = find_benchmark("cirr")
    folder = DataFolder(root, info.steps, needs_images=False)
    test = info.load(folder, "test1", "", info.protocol)
    metric, depth = content.get("metric"), {"recall": _DEPTH, "recall_subset": SUBSET_DEPTH}
    if content.get("version") != "rc2":
        yield f"`version` must be 'rc2', but is {content.get('version')!r}."
    if metric not in list(depth):  # may be of any type
        yield f"`metric` must be 'recall' or 'recall_subset', but is {metric!r}."
        return
    rows = {name: row for name, row in content.items() if name not in ("version", "metric")}
    yield from _check_keys(rows, test.queries["id"][:], "cirr")
    known = set(test.gallery["id"][:])
    size = min(depth[metric], len(known) - 1)  # a gallery as small as that of a test has no more
    for query in test.queries:
        if query["id"] not in rows:
            continue
        row = rows[query["id"]]
        allowed = known if metric == "recall" else set(query["subset_ids"])
        if problem := _check_row(row, size, str, allowed, query["reference_id"]):
            yield f"query {query['id']}: {problem}"


def _check_circo(content: Mapping[str, Any], folder: DataFolder | None, known: set[int] | None) -> Iterator[str]:
    ids = [str(i) for i in range(find_benchmark("circo").counts["test"][""]["queries"])]
    if folder is not None:
        ids = [str(row["id"]) for row in read_rows(folder, "test")]
    yield from _check_keys(content, ids, "circo")
    size, known = (_DEPTH, _COCO_IDS) if known is None else (min(_DEPTH, len(known)), known)
    for name in ids:
        row = content.get(name)
        if isinstance(row, list):  # the server turns strings of digits into numbers
            row = [int(item) if isinstance(item, str) and item.isdecimal() else item for item in row]
        if name in content and (problem := _check_row(row, size, int, known)):
            yield f"query {name}: {problem}"


def _check_keys(rows: Mapping[str, Any], ids: list[str], name: str) -> Iterator[str]:
    known = set(ids)
    absent, foreign = [query for query in ids if query not in rows], [query for query in rows if query not in known]
    val = find_benchmark(name).counts["val"][""]["queries"]
    # CIRCO's script averages over whatever queries a file has, without a word.
    if name == "circo" and len(rows) == val != len(ids):
        yield f"these are {val} queries, as many as the split val has: the server takes test, of {len(ids)}."
    if name == "cirr" and foreign and len(absent) == len(ids):
        yield f"none of its queries is of test1, but such as '{foreign[0]}': is it for val?"
    if absent:
        yield f"{len(absent)} of {len(ids)} queries are missing, such as '{absent[0]}'."
    if foreign:
        yield f"{len(foreign)} keys are not queries of the test split, such as '{foreign[0]}'."


def _check_row(row: Any, size: int, kind: type, allowed: Container, reference: str | None = None) -> str | None:
    """Find the first rule that a ranking breaks."""
    if not isinstance(row, list) or not all(type(item) is kind for item in row):
        return f"its images must be a list of {'names' if kind is str else 'whole numbers'}, but are {str(row)[:60]}."
    # CIRCO's script takes lists of any length, without a word.
    if len(row) != size:
        return f"it must list {size} images, but lists {len(row)}."
    if len(set(row)) < len(row):
        return f"it lists {next(item for item in row if row.count(item) > 1)!r} twice."
    if reference is not None and reference in row:
        return f"it lists its own reference '{reference}'."
    if foreign := [item for item in row if item not in allowed]:
        hint = "; names have neither path nor ending" if kind is str else ""
        return f"it lists {foreign[0]!r}, which it may not rank{hint}."
    return None

"""What other systems computed: embeddings or rankings in npz, parquet or json, aligned by ids with a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from modeling_rtd import read_json, settle_ids
from trainer.evaluation.benchmarks import Benchmark
from trainer.evaluation.ranking import index_rankings
from trainer.evaluation.scoring import SUBSET_DEPTH, Rankings, find_depth


__all__ = ["Embeddings", "align_rankings", "read_precomputed_embeddings", "read_rankings"]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings under ids.

    Args:
        ids (`list[str]`): One for each row, unique.
        rows (`np.ndarray` of shape `(len(ids), projection_dim)`): Of any norm.
        name (`str`): What they are of, `"gallery"` or `"query"`.

    Raises:
        ValueError: If counts differ, ids repeat, or a row is not finite or zero.
    """

    ids: list[str]
    rows: np.ndarray
    name: str

    def __post_init__(self):
        if self.rows.ndim != 2 or self.rows.dtype.kind not in "iuf":
            raise ValueError(
                f"{self.name} embeddings must be rows of numbers of one length, got {self.rows.dtype} of the shape "
                f"{self.rows.shape}."
            )
        if len(self.ids) != len(self.rows):
            raise ValueError(f"got {len(self.ids)} {self.name} ids, but {len(self.rows)} {self.name} embeddings.")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError(f"{self.name} ids repeat: {len(self.ids)} ids, {len(set(self.ids))} of them distinct.")
        # In the type in which they are compared. A row of zeros has no cosine.
        with np.errstate(over="ignore"):
            rows = self.rows.astype(np.float32)
        usable = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
        if not usable.all():
            raise ValueError(
                f"{(~usable).sum()} {self.name} embeddings are not finite or all zero, such as that of "
                f"'{self.ids[int(np.argmin(usable))]}'."
            )

    def take(self, ids: Sequence[str]) -> torch.Tensor:
        """Take rows by their ids, in whatever order they are stored.

        Args:
            ids (`Sequence[str]`): Ids.

        Returns:
            `torch.Tensor` of shape `(len(ids), projection_dim)`: L2-normalised, float32.

        Raises:
            ValueError: If ids are missing.
        """
        position = {name: row for row, name in enumerate(self.ids)}
        if absent := [name for name in ids if name not in position]:
            raise ValueError(
                f"{len(absent)} of {len(ids)} {self.name} ids of the benchmark have no embedding, such as "
                f"'{absent[0]}'; the file has ids such as '{self.ids[0]}'."
            )
        rows = torch.from_numpy(self.rows[[position[name] for name in ids]].astype(np.float32))
        return torch.nn.functional.normalize(rows, dim=-1)


def read_precomputed_embeddings(path: str | Path) -> tuple[Embeddings, Embeddings]:
    """Read embeddings of a gallery and of queries.

    Args:
        path (`str` or `Path`):
            `.npz` with the arrays `gallery_ids`, `gallery_embeds`, `query_ids`, `query_embeds`. `.parquet` with the
            columns `kind` (`"gallery"` or `"query"`), `id` and `embedding`. Or `.json`, an object with `gallery` and
            `query`, each an object of id to embedding. May hold more than a benchmark needs.

    Returns:
        `tuple`: Those of the gallery, and those of the queries.

    Raises:
        ValueError: If the file is not of this form, or gallery and queries do not fit.
    """
    path = Path(path)
    content = _read(path, ("gallery_ids", "gallery_embeds", "query_ids", "query_embeds"), ("kind", "id", "embedding"))
    pair = []
    for name in ("gallery", "query"):
        if path.suffix == ".npz":
            ids, rows = content[f"{name}_ids"], content[f"{name}_embeds"]
        elif path.suffix == ".parquet":
            chosen = [i for i, kind in enumerate(content["kind"]) if kind == name]
            ids, rows = ([content[column][i] for i in chosen] for column in ("id", "embedding"))
        else:
            named = content.get(name)
            if not isinstance(named, dict):
                raise ValueError(f"'{path}' must hold an object `{name}` of id to embedding.")
            ids, rows = list(named), list(named.values())
        try:
            pair.append(Embeddings(settle_ids(_list(ids)), np.array(rows), name))
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}': {error}") from error
    gallery, query = pair
    if gallery.rows.shape[1] != query.rows.shape[1]:
        raise ValueError(
            f"'{path}': gallery embeddings have {gallery.rows.shape[1]} numbers, query embeddings "
            f"{query.rows.shape[1]}; both must come from one joint space."
        )
    return gallery, query


def read_rankings(path: str | Path) -> dict[str, dict[str, list[str]]]:
    """Read rankings.

    Args:
        path (`str` or `Path`):
            `.npz` with the arrays `query_ids`, `ranking` (of shape `(num_queries, depth)`) and perhaps
            `subset_ranking`. `.parquet` with the columns `query_id`, `ranking` (lists) and perhaps `subset_ranking`.
            Or `.json`, an object of query id to a list of ids, such as a file for a server.

    Returns:
        `dict`: `ranking` or `subset_ranking` or both, each ids of images, best first, by the id of the query.

    Raises:
        ValueError: If the file is not of this form.
    """
    path = Path(path)
    content = _read(path, ("query_ids",), ("query_id",))
    if path.suffix == ".json":
        # A file for CIRR's server is a ranking as well, with two keys more.
        kind = "subset_ranking" if content.get("metric") == "recall_subset" else "ranking"
        content = {kind: {name: ids for name, ids in content.items() if name not in ("version", "metric")}}
    else:
        ids = content.get("query_ids", content.get("query_id"))
        kinds = [kind for kind in ("ranking", "subset_ranking") if kind in content]
        if not kinds:
            raise ValueError(f"'{path}' has neither ranking nor subset_ranking. It has {', '.join(content)}.")
        if wrong := [kind for kind in kinds if len(content[kind]) != len(ids)]:
            raise ValueError(f"'{path}' has {len(ids)} queries, but {len(content[wrong[0]])} rows of {wrong[0]}.")
        ids = settle_ids(_list(ids), f" of '{path}'")
        content = {kind: dict(zip(ids, list(content[kind]), strict=True)) for kind in kinds}
        if any(len(rows) < len(ids) for rows in content.values()):
            raise ValueError(f"'{path}': ids of queries repeat.")
    rankings = {}
    for kind, rows in content.items():
        if wrong := [name for name, row in rows.items() if not isinstance(row, list | np.ndarray)]:
            raise ValueError(f"'{path}' must have a list of ids for each query; '{wrong[0]}' has {rows[wrong[0]]!r}.")
        rankings[kind] = {name: settle_ids(_list(row), f" of '{name}' in '{path}'") for name, row in rows.items()}
    return rankings


def _list(values: np.ndarray | list) -> list:
    return values.tolist() if isinstance(values, np.ndarray) else values


def align_rankings(benchmark: Benchmark, rankings: Mapping[str, Mapping[str, Sequence[str]]]) -> Rankings:
    """Align rankings with a benchmark.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        rankings (`Mapping`): As [`read_rankings`] gives them; may hold queries of other parts too.

    Returns:
        [`Rankings`]: In the order of the queries; an excluded reference is struck out.

    Raises:
        ValueError: If queries are missing, or a ranking is shorter than a metric looks, repeats an id, or has one that
            it may not rank.
    """
    queries, gallery_ids = benchmark.queries, benchmark.gallery["id"][:]
    excluded = queries["reference_id"][:] if benchmark.protocol.exclude_reference else [None] * len(queries)
    lists_of = {"ranking": [gallery_ids] * len(queries), "subset_ranking": queries["subset_ids"][:]}
    if "candidate_ids" in queries.column_names:
        lists_of["ranking"] = queries["candidate_ids"][:]
    depths = {"ranking": find_depth(benchmark), "subset_ranking": SUBSET_DEPTH}
    if "ranking" not in rankings:
        raise ValueError("there are rankings of subsets, but none of the gallery; give both files.")
    aligned = dict.fromkeys(lists_of)
    for kind, rows in rankings.items():
        if absent := [name for name in queries["id"][:] if name not in rows]:
            raise ValueError(
                f"{len(absent)} of {len(queries)} queries of {benchmark.title} have no {kind}, such as '{absent[0]}'; "
                f"the file has queries such as '{next(iter(rows), 'none')}'."
            )
        depth = depths[kind]
        lists = [
            _strike(rows[name], allowed, reference, depth, f"the {kind} of query '{name}'")
            for name, allowed, reference in zip(queries["id"][:], lists_of[kind], excluded, strict=True)
        ]
        aligned[kind] = index_rankings(lists, gallery_ids, depth)
    return Rankings(gallery_ids, aligned["ranking"], aligned["subset_ranking"])


def _strike(row: Sequence[str], allowed: Sequence[str], reference: str | None, depth: int, what: str) -> list[str]:
    """Strike the reference out of a ranking, and refuse one that cannot be scored."""
    # Whoever ranked the reference too loses no rank by it.
    row = [item for item in row if item != reference]
    if len(set(row)) < len(row):
        raise ValueError(f"{what} repeats ids: {len(row)} of them, {len(set(row))} distinct.")
    allowed = dict.fromkeys(allowed)
    if foreign := [item for item in row if item not in allowed]:
        raise ValueError(f"{what} names '{foreign[0]}', which is none of the {len(allowed)} images it may rank.")
    # A subset may have fewer images than the metrics look at.
    needed = min(len(allowed) - (reference in allowed), depth)
    if len(row) < needed:
        raise ValueError(f"{what} must have {needed} ids beside an excluded reference, but has {len(row)}.")
    return row


def _read(path: Path, arrays: Sequence[str], columns: Sequence[str]) -> dict:
    """Read a file of any of the forms, and check that it has what it must have."""
    try:
        if path.suffix == ".npz":
            # A pickle would run code of whoever wrote the file.
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, as np.save writes; np.savez writes several by their names")
            with file:
                # `np.savez` keeps a single id as an array without dimensions.
                content, needed = {name: np.atleast_1d(array) for name, array in file.items()}, arrays
        elif path.suffix == ".parquet":
            content, needed = pyarrow.parquet.read_table(path).to_pydict(), columns
        elif path.suffix == ".json":
            content, needed = read_json(path, "give an object, see the documentation"), ()
        else:
            raise ValueError("its name must end in .npz, .parquet or .json")
    except Exception as error:  # whatever numpy, zipfile, pyarrow or json make of a broken file
        raise ValueError(f"'{path}' cannot be read: {error}") from error
    if absent := [name for name in needed if name not in content]:
        raise ValueError(
            f"'{path}' has no {', '.join(absent)}: embeddings and rankings come with the ids they belong to, since "
            f"their order cannot be checked otherwise. It has {', '.join(content) or 'nothing'}."
        )
    return content

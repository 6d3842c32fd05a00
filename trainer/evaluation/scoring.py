"""Scoring: the metrics of a benchmark, by name, of rankings that any system made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.benchmarks import Benchmark, BenchmarkInfo
from trainer.evaluation.metrics import (
    map_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
    semantic_map_at_k,
    set_recall_at_k,
    subset_recall_at_k,
    target_ranks,
)


__all__ = ["SUBSET_DEPTH", "Rankings", "average_parts", "find_depth", "score_rankings"]

SUBSET_DEPTH = 3  # ranks that CIRR's subset metrics and its server look at


class Rankings(NamedTuple):
    """Rankings of one benchmark.

    Args:
        gallery_ids (`Sequence[str]` of length `num_gallery`): Ids of the gallery.
        whole (`np.ndarray` of shape `(num_queries, depth)`): Positions in the gallery, best first, -1 for nothing.
        subset (`np.ndarray` of shape `(num_queries, depth)`, *optional*): Likewise, of each query's subset alone.
    """

    gallery_ids: Sequence[str]
    whole: np.ndarray
    subset: np.ndarray | None = None


def find_depth(benchmark: Benchmark) -> int:
    """Find how many ranks the metrics of a benchmark look at.

    Args:
        benchmark ([`Benchmark`]): The benchmark.

    Returns:
        `int`: The largest k, and no less than the whole gallery where a metric is the rank of a target.
    """
    ks = [name.partition("@")[2] for name in benchmark.metrics]
    return max(int(k) if k else len(benchmark.gallery) for k in ks)


def score_rankings(benchmark: Benchmark, rankings: Rankings) -> dict[str, float]:
    """Score rankings.

    Args:
        benchmark ([`Benchmark`]): Targets and metrics. `recall@k`, `subset_recall@k`, `map@k`, `semantic_map@k`,
            `set_recall@k`, `precision@k`: see `trainer.evaluation.metrics`. `target_recall@k` counts the first target
            only, as CIRCO's recall. `mean_rank` and `median_rank` are of the first target, the median as Pic2Word
            rounds it.
        rankings ([`Rankings`]): Where there are none of subsets, there is no subset recall.

    Returns:
        `dict[str, float]`: By name; fractions, but for ranks.

    Raises:
        ValueError: If no query has a target.
    """
    if not benchmark.is_labelled:
        raise ValueError(
            f"the targets of {benchmark.title} are not public: write a file for its server with `rtd submit`."
        )
    queries, protocol = benchmark.queries, benchmark.protocol
    gallery_ids, ranking, subset_ranking = rankings
    targets = queries["target_ids"][:]
    here = set(gallery_ids)
    if lost := sum(bool(ids) and here.isdisjoint(ids) for ids in targets):
        warnings.warn(
            f"of {lost} of {len(targets)} queries of {benchmark.title} no target is in the gallery: they count as "
            "misses.",
            stacklevel=2,
        )
    # Each target once, should annotations repeat one.
    found, numbers = relevance(ranking, gallery_ids, targets), [len(set(ids)) for ids in targets]
    compute = {
        "recall": lambda k: recall_at_k(found, k),
        "target_recall": lambda k: recall_at_k(relevance(ranking, gallery_ids, [ids[:1] for ids in targets]), k),
        "map": lambda k: map_at_k(found, numbers, k),
        "set_recall": lambda k: set_recall_at_k(found, numbers, k),
        "precision": lambda k: precision_at_k(found, k),
        "mean_rank": lambda _: float(target_ranks(found).mean()),
        "median_rank": lambda _: float(np.floor(np.median(target_ranks(found) - 1)) + 1),
    }
    if subset_ranking is not None:
        # The six members of a set of CIRR hold the reference too; five are ranked.
        references = queries["reference_id"][:] if protocol.exclude_reference else None
        subset = (subset_ranking, gallery_ids, targets, queries["subset_ids"][:])
        compute["subset_recall"] = lambda k: subset_recall_at_k(*subset, k, references)
    named = [(name, *name.partition("@")[::2]) for name in benchmark.metrics]
    metrics = {name: compute[kind](int(k or 0)) for name, kind, k in named if kind in compute}
    aspects = queries["aspects"][:] if "aspects" in queries.column_names else []
    for name, kind, k in named:
        if kind == "semantic_map" and any(aspects):
            scores = semantic_map_at_k(found, numbers, aspects, int(k))
            metrics |= {f"{name}/{aspect}": score for aspect, score in scores.items()}
    return metrics


def average_parts(info: BenchmarkInfo, parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Join the metrics of a benchmark's parts: their unweighted means, and the average that its papers report.

    Args:
        info ([`BenchmarkInfo`]): The declaration.
        parts (`Mapping[str, Mapping[str, float]]`): Metrics by part.

    Returns:
        `dict[str, float]`: By name, and `average` where the benchmark has one and all of its parts are there.
    """
    rows = list(parts.values())
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if all(name in row for row in rows)}
    # The mean of some categories is not the average that papers report.
    is_whole = len(rows) == len(info.counts[info.default_split])
    if is_whole and info.average_of and all(name in means for name in info.average_of):
        means["average"] = float(np.mean([means[name] for name in info.average_of]))
    return means

"""Scoring: the metrics of a benchmark, by name, of rankings that any system made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.benchmarks import Benchmark, BenchmarkInfo
from trainer.metrics import (
    map_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
    semantic_map_at_k,
    set_recall_at_k,
    subset_recall_at_k,
    target_ranks,
)


__all__ = ["average_parts", "find_depth", "score_rankings"]


def find_depth(benchmark: Benchmark) -> int | None:
    """Tell how many ranks the metrics of a benchmark look at.

    Args:
        benchmark ([`Benchmark`]): The benchmark.

    Returns:
        `int` or `None`: The largest k; `None` where a metric needs the whole ranking.
    """
    depths = [int(k) for _, _, k in (name.partition("@") for name in benchmark.metrics) if k]
    return None if any("@" not in name for name in benchmark.metrics) else max(depths)


def score_rankings(
    benchmark: Benchmark, gallery_ids: Sequence[str], ranking: np.ndarray, subset_ranking: np.ndarray | None = None
) -> dict[str, float]:
    """Score rankings.

    Args:
        benchmark ([`Benchmark`]): Targets and metrics. `recall@k`, `subset_recall@k`, `map@k`, `semantic_map@k`,
            `set_recall@k`, `precision@k`: see `trainer.metrics`. `target_recall@k` counts the first target only, as
            CIRCO's recall. `mean_rank` and `median_rank` are of the first target, the median as Pic2Word rounds it.
        gallery_ids (`Sequence[str]` of length `num_gallery`): Ids of the gallery.
        ranking (`np.ndarray` of shape `(num_queries, depth)`): Positions in the gallery, -1 for nothing.
        subset_ranking (`np.ndarray` of shape `(num_queries, depth)`, *optional*):
            Of each query's subset; where left out there is no subset recall.

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
    targets = queries["target_ids"][:]
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
        `dict[str, float]`: By name, and `average` where the benchmark has one.
    """
    rows = list(parts.values())
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if all(name in row for row in rows)}
    if info.average_of and all(name in means for name in info.average_of):
        means["average"] = float(np.mean([means[name] for name in info.average_of]))
    return means

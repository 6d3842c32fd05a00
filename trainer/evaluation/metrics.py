"""Retrieval metrics: numpy arrays in, fractions in [0, 1] out, higher is better, exact under ties."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from trainer.evaluation.ranking import find_positions


__all__ = [
    "average_precision_at_k",
    "map_at_k",
    "precision_at_k",
    "recall_at_k",
    "relevance",
    "semantic_map_at_k",
    "set_recall_at_k",
    "subset_recall_at_k",
    "target_ranks",
]


def relevance(
    ranking: np.ndarray, gallery_ids: Sequence[Hashable], target_ids: Sequence[Sequence[Hashable]]
) -> np.ndarray:
    """Mark the targets in a ranking.

    A target that the gallery lacks is never found; it still counts in `num_targets` of [`map_at_k`].

    Args:
        ranking (`np.ndarray` of shape `(num_queries, depth)`):
            Positions in the gallery, best first, see `trainer.evaluation.ranking`; may end before the gallery does,
            and -1 stands for nothing.
        gallery_ids (`Sequence[Hashable]` of length `num_gallery`): Ids of the gallery, unique.
        target_ids (`Sequence[Sequence[Hashable]]` of length `num_queries`):
            Correct ids of each query. A query without any is never a hit.

    Returns:
        `np.ndarray` of shape `(num_queries, depth)`: Whether the item at each rank is a target.

    Raises:
        ValueError: If the numbers of queries differ, or an id is in the gallery twice.

    Examples:
        >>> relevance(np.array([[2, 0, 1]]), gallery_ids=["a", "b", "c"], target_ids=[["a"]])
        array([[False,  True, False]])
    """
    ranking = np.asarray(ranking)
    if ranking.ndim != 2 or len(ranking) != len(target_ids):
        raise ValueError(f"`ranking` must have one row for each of {len(target_ids)} queries, got {ranking.shape}.")
    return _find(ranking, target_ids, gallery_ids)


def recall_at_k(relevance: np.ndarray, k: int) -> float:
    """Compute Recall@k: the share of queries with any target among the first `k`.

    With one target this is the recall of CIRR, FashionIQ and GeneCIS; with several, any of them is a hit.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`].
        k (`int`): Ranks that count, from 1 to `depth`.

    Returns:
        `float`: Fraction of queries, in [0, 1].

    Raises:
        ValueError: If `k` is out of range or there is no query.

    Examples:
        >>> recall_at_k(np.array([[False, True, False], [False, False, True]]), k=2)
        0.5
    """
    return float((_count_hits(relevance, k) > 0).mean())


def average_precision_at_k(relevance: np.ndarray, num_targets: Sequence[int], k: int) -> np.ndarray:
    """Compute the average precision of each query, as CIRCO defines it.

    The precisions at the ranks of the hits among the first `k` are summed and divided by `min(k, num_targets)`
    (SEARLE, https://huggingface.co/papers/2303.15247).

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`):
            See [`relevance`]. May be shallower than `k`: what is not listed is not a hit.
        num_targets (`Sequence[int]` of length `num_queries`): All correct items of each query, found or not.
        k (`int`): Ranks that count, 1 or more.

    Returns:
        `np.ndarray` of shape `(num_queries,)`: Fractions in [0, 1].

    Raises:
        ValueError: If `k` is out of range, there is no query, or `num_targets` does not fit the relevance.

    Examples:
        >>> average_precision_at_k(np.array([[True, False, True]]), num_targets=[4], k=3)  # (1/1 + 2/3) / 3
        array([0.55555556])
    """
    relevance = _check_relevance(relevance)
    num_targets = np.asarray(num_targets)
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if num_targets.shape != relevance.shape[:1]:
        raise ValueError(f"`num_targets` must be of shape {relevance.shape[:1]}, got {num_targets.shape}.")
    # More hits than targets come of a ranking that repeats an id.
    if (wrong := np.flatnonzero((num_targets < 1) | (num_targets < relevance.sum(axis=1)))).size:
        raise ValueError(f"the query in row {wrong[0]} has no target, or more hits than targets.")
    hits = relevance[:, :k]  # (num_queries, <= k)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    # CIRCO divides by the smaller number: otherwise a perfect list of k could not reach 1.
    return (precision * hits).sum(axis=1) / np.minimum(k, num_targets)


def map_at_k(relevance: np.ndarray, num_targets: Sequence[int], k: int) -> float:
    """Compute mAP@k, the mean of [`average_precision_at_k`] over the queries.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`].
        num_targets (`Sequence[int]` of length `num_queries`): All correct items of each query, found or not.
        k (`int`): Ranks that count, 1 or more.

    Returns:
        `float`: Fraction in [0, 1].

    Raises:
        ValueError: As [`average_precision_at_k`].

    Examples:
        >>> map_at_k(np.array([[True, False], [False, True]]), num_targets=[1, 1], k=2)  # (1 + 1/2) / 2
        0.75
    """
    return float(average_precision_at_k(relevance, num_targets, k).mean())


def semantic_map_at_k(
    relevance: np.ndarray, num_targets: Sequence[int], aspects: Sequence[Iterable[str]], k: int
) -> dict[str, float]:
    """Compute CIRCO's semantic mAP@k: mAP@k over the queries that carry an aspect.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`].
        num_targets (`Sequence[int]` of length `num_queries`): All correct items of each query, found or not.
        aspects (`Sequence[Iterable[str]]` of length `num_queries`): Aspects; a query counts in each of its own.
        k (`int`): Ranks that count, 1 or more.

    Returns:
        `dict[str, float]`: Fraction in [0, 1] for each aspect, by name.

    Raises:
        ValueError: As [`average_precision_at_k`].

    Examples:
        >>> semantic_map_at_k(np.array([[True], [False]]), [1, 1], [["negation"], ["addition", "negation"]], k=1)
        {'addition': 0.0, 'negation': 0.5}
    """
    scores = average_precision_at_k(relevance, num_targets, k)
    names = sorted({name for row in aspects for name in row})
    return {name: float(scores[[name in row for row in aspects]].mean()) for name in names}


def set_recall_at_k(relevance: np.ndarray, num_targets: Sequence[int], k: int) -> float:
    """Compute the mean share of its targets that a query finds among the first `k`.

    This is R@k of Pic2Word's domain conversion (https://huggingface.co/papers/2302.03084), with its denominator
    `num_targets + 1e-5`: a query without a target counts as 0, and a perfect ranking stays below 1.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`].
        num_targets (`Sequence[int]` of length `num_queries`): All correct items of each query, 0 or more.
        k (`int`): Ranks that count, from 1 to `depth`.

    Returns:
        `float`: Fraction in [0, 1].

    Raises:
        ValueError: If `k` is out of range or there is no query.

    Examples:
        >>> round(set_recall_at_k(np.array([[True, False, True]]), num_targets=[3], k=3), 4)
        0.6667
    """
    # As published, with its 1e-5: without a target the share is 0 and not undefined.
    return float((_count_hits(relevance, k) / (np.asarray(num_targets) + 1e-5)).mean())


def precision_at_k(relevance: np.ndarray, k: int) -> float:
    """Compute Precision@k: the mean share of targets among the first `k`.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`].
        k (`int`): Ranks that count, from 1 to `depth`.

    Returns:
        `float`: Fraction in [0, 1].

    Raises:
        ValueError: If `k` is out of range or there is no query.

    Examples:
        >>> precision_at_k(np.array([[True, False], [False, False]]), k=2)
        0.25
    """
    return float(_count_hits(relevance, k).mean() / k)


def target_ranks(relevance: np.ndarray) -> np.ndarray:
    """Find the rank of the first target of each query, for mean and median rank.

    Args:
        relevance (`np.ndarray` of shape `(num_queries, depth)`): See [`relevance`]; over the whole gallery.

    Returns:
        `np.ndarray` of shape `(num_queries,)`: Ranks from 1; `depth + 1` where no target is listed.

    Raises:
        ValueError: If there is no query.

    Examples:
        >>> target_ranks(np.array([[False, True], [False, False]]))
        array([2, 3])
    """
    relevance = _check_relevance(relevance)
    # Without a hit, argmax would give the first rank.
    return np.where(relevance.any(axis=1), relevance.argmax(axis=1) + 1, relevance.shape[1] + 1)


def subset_recall_at_k(
    ranking: np.ndarray,
    gallery_ids: Sequence[Hashable],
    target_ids: Sequence[Sequence[Hashable]],
    subset_ids: Sequence[Iterable[Hashable]],
    k: int,
    reference_ids: Sequence[Hashable] | None = None,
) -> float:
    """Compute Recall@k of a ranking from which all but each query's own subset is struck, as CIRR's subset recall.

    Args:
        ranking (`np.ndarray` of shape `(num_queries, depth)`):
            Positions in the gallery, best first, see [`relevance`]: of the whole gallery, or of the subset alone.
        gallery_ids (`Sequence[Hashable]` of length `num_gallery`): Ids of the gallery, unique.
        target_ids (`Sequence[Sequence[Hashable]]` of length `num_queries`): All correct ids of each query.
        subset_ids (`Sequence[Iterable[Hashable]]` of length `num_queries`): Ids that each query ranks.
        k (`int`): Ranks that count, from 1 to the size of the smallest subset.
        reference_ids (`Sequence[Hashable]` of length `num_queries`, *optional*):
            Reference images, removed from the subsets. Without them subsets are taken as they are.

    Returns:
        `float`: Fraction of queries, in [0, 1].

    Raises:
        ValueError: If shapes do not fit, `k` is out of range, or a query has no target in its subset.

    Examples:
        >>> query = {"gallery_ids": ["a", "b", "c"], "target_ids": [["c"]], "subset_ids": [["a", "c"]]}
        >>> subset_recall_at_k(np.array([[0, 1, 2]]), **query, k=1, reference_ids=["a"])
        1.0
    """
    if reference_ids is not None and len(reference_ids) != len(subset_ids):
        raise ValueError(f"`reference_ids` must have one id for each of {len(subset_ids)} queries.")
    references = [None] * len(subset_ids) if reference_ids is None else reference_ids
    subsets = [set(ids) - {reference} for ids, reference in zip(subset_ids, references, strict=True)]
    missed = [row for row, ids in enumerate(target_ids) if subsets[row].isdisjoint(ids)]
    if missed:
        raise ValueError(f"{len(missed)} queries have no target in their subset, the first in row {missed[0]}.")
    smallest = min(map(len, subsets), default=0)
    if not 1 <= k <= smallest:
        raise ValueError(f"`k` must be between 1 and the size of the smallest subset ({smallest}), got {k}.")
    hits = relevance(ranking, gallery_ids, target_ids)
    inside = _find(np.asarray(ranking), subsets, gallery_ids)
    # The k first of the subset, wherever they are in a ranking of the whole gallery.
    return float((hits & inside & (inside.cumsum(axis=1) <= k)).any(axis=1).mean())


def _find(ranking: np.ndarray, ids_per_query: Sequence[Iterable[Hashable]], gallery_ids: Sequence) -> np.ndarray:
    """Mark ids in a ranking, without a table of queries and gallery: that of CIRCO has 10^8 cells."""
    position = find_positions(gallery_ids)
    found = np.zeros(ranking.shape, dtype=bool)
    for row, ids in enumerate(ids_per_query):
        # -1, which stands for nothing, is the place of no id.
        found[row] = np.isin(ranking[row], [position[item] for item in ids if item in position])
    return found


def _count_hits(relevance: np.ndarray, k: int) -> np.ndarray:
    relevance = _check_relevance(relevance)
    depth = relevance.shape[1]
    if not 1 <= k <= depth:
        raise ValueError(f"`k` must be between 1 and the depth of the ranking ({depth}), got {k}.")
    return relevance[:, :k].sum(axis=1)


def _check_relevance(relevance: np.ndarray) -> np.ndarray:
    relevance = np.asarray(relevance, dtype=bool)
    if relevance.ndim != 2 or not relevance.size:
        raise ValueError(f"`relevance` must be of shape (num_queries, depth), none of them 0, got {relevance.shape}.")
    return relevance

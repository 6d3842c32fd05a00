"""Ranks of targets, and whether a change of them is more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


__all__ = ["bootstrap_interval", "compare_ranks", "compute_sign_test"]

_RESAMPLES = 1000


def compute_sign_test(wins: int, losses: int) -> float:
    """Compute the exact two-sided sign test: how likely so uneven a split is where both sides are as likely.

    Args:
        wins, losses (`int`): Pairs that went up and down; ties are left out.

    Returns:
        `float`: p-value in [0, 1]; 1 where there are no pairs.

    Examples:
        >>> compute_sign_test(5, 0)  # 2 / 2 ** 5
        0.0625
    """
    pairs, fewer = wins + losses, min(wins, losses)
    # In whole numbers, which stay exact: 2**pairs is beyond a float from 1,024 pairs on.
    ways = total = 1
    for i in range(fewer):
        ways = ways * (pairs - i) // (i + 1)
        total += ways
    return min(1.0, 2 * total / 2**pairs)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Estimate the 95 % interval of a mean by resampling (percentile bootstrap, 1,000 resamples).

    Args:
        values (`Sequence[float]` of length `num_queries`): Values, one a query.
        seed (`int`, defaults to 0): Seed of the resampling.

    Returns:
        `tuple[float, float]`: Lower and upper end.

    Examples:
        >>> bootstrap_interval([2.0, 2.0, 2.0])
        (2.0, 2.0)
    """
    values, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare_ranks(before: np.ndarray, after: np.ndarray, k: int) -> dict:
    """Compare the ranks that the same queries reach in two ways.

    Args:
        before, after (`np.ndarray` of shape `(num_queries,)`): Ranks of the best targets, from 1.
        k (`int`): Ranks that count as found.

    Returns:
        `dict`: `recall_before`, `recall_after` (fractions), `recall_change` with its 95 % bootstrap `interval`.
        `gained` and `lost` queries and the `p_value` of their sign test. `median_rank_before`, `median_rank_after`.
        `better` and `worse` ranks and `rank_p_value`.

    Raises:
        ValueError: If the numbers of queries differ or are 0.

    Examples:
        >>> change = compare_ranks(np.array([1, 2, 9]), np.array([1, 7, 3]), k=5)
        >>> change["gained"], change["lost"], change["recall_change"]
        (1, 1, 0.0)
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape or not before.size:
        raise ValueError(f"ranks must be of the same queries, got {before.shape} and {after.shape}.")
    change = (after <= k).astype(int) - (before <= k)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    better, worse = int((after < before).sum()), int((after > before).sum())
    return {
        "recall_before": float((before <= k).mean()),
        "recall_after": float((after <= k).mean()),
        "recall_change": float(change.mean()),
        # Paired: a query that is drawn again brings both of its outcomes.
        "interval": bootstrap_interval(change),
        "gained": gained,
        "lost": lost,
        "p_value": compute_sign_test(gained, lost),
        "median_rank_before": float(np.median(before)),
        "median_rank_after": float(np.median(after)),
        "better": better,
        "worse": worse,
        "rank_p_value": compute_sign_test(better, worse),
    }

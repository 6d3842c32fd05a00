"""Rows of similar length together, so that short texts of a batch are not padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence


__all__ = ["group_by_length"]


def group_by_length(lengths: Sequence[int], count: int) -> list[tuple[int, int, int]]:
    """Cut sorted rows into groups so that padding each to its longest row costs the fewest tokens.

    Args:
        lengths (`list[int]`): Tokens of each row, rising.
        count (`int`): Groups; fewer where there are fewer lengths.

    Returns:
        `list[tuple[int, int, int]]`: For each group its first row, the row behind its last, and its longest length, as
        [`RTDTextModel`] takes them.

    Examples:
        >>> group_by_length([3, 3, 4, 9, 9], 2)
        [(0, 3, 4), (3, 5, 9)]
    """
    total = len(lengths)
    stops = [row for row in range(1, total) if lengths[row] != lengths[row - 1]] + [total]
    cheapest: dict[int, tuple[int, tuple[int, ...]]] = {
        0: (0, ())
    }  # by rows behind us: tokens, and where groups begin
    for _ in range(min(count, len(stops))):
        cheapest = {
            stop: min(
                (tokens + (stop - start) * lengths[stop - 1], (*starts, start))
                for start, (tokens, starts) in cheapest.items()
                if start < stop
            )
            for stop in stops
            if stop > min(cheapest)
        }
    starts = cheapest[total][1]
    return [(start, stop, lengths[stop - 1]) for start, stop in zip(starts, (*starts[1:], total), strict=True)]

"""Rows of similar length together: sub-batches of one step, each no longer than its own longest row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


__all__ = ["encode_in_groups", "group_by_length"]

_LONG = ("input_ids", "placeholder_mask")  # as long as the batch; whatever else comes has rows only


def group_by_length(lengths: Sequence[int], count: int) -> list[tuple[int, int, int]]:
    """Cut sorted rows into groups so that padding each to its longest row costs the fewest tokens.

    Args:
        lengths (`list[int]`): Tokens of each row, rising.
        count (`int`): Groups; always so many, or one a row where there are fewer rows, since processes that train
            together must run their model equally often.

    Returns:
        `list[tuple[int, int, int]]`: For each group its first row, the row behind its last, and its longest length.

    Examples:
        >>> group_by_length([3, 3, 4, 9, 9], 2)
        [(0, 3, 4), (3, 5, 9)]
    """
    total = len(lengths)
    count = min(count, total)
    # It never pays to cut between equal lengths, unless there are fewer lengths than groups.
    stops = {i for i in range(1, total) if lengths[i] != lengths[i - 1]} | {*range(1, count), total}
    cheapest: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # by rows behind us: cost, and where groups begin
    for _ in range(count):
        cheapest = {
            stop: min(
                (cost + (stop - start) * lengths[stop - 1], (*starts, start))
                for start, (cost, starts) in cheapest.items()
                if start < stop
            )
            for stop in stops
            if stop > min(cheapest)
        }
    starts = cheapest[total][1]
    return [(start, stop, lengths[stop - 1]) for start, stop in zip(starts, (*starts[1:], total), strict=True)]


def encode_in_groups(
    text_model: nn.Module, groups: Sequence[tuple[int, int, int]] | None, **inputs: torch.Tensor | None
) -> torch.Tensor:
    """Encode texts group by group, and join what comes out. The result is that of the whole batch at once.

    Args:
        text_model (`torch.nn.Module`): An [`RTDTextModel`], possibly wrapped; called once for each group.
        groups (`list[tuple]`, *optional*): Of [`group_by_length`]; one for all rows where left out.
        inputs (`torch.Tensor`): As the tower takes them, rows sorted by length.

    Returns:
        `torch.Tensor` of shape `(batch_size, projection_dim)` or `(batch_size, 2, projection_dim)`: Text embeddings.
    """
    inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    embeds = []
    for start, stop, longest in groups or [(0, *inputs["input_ids"].shape)]:
        part = {name: t[start:stop, :longest] if name in _LONG else t[start:stop] for name, t in inputs.items()}
        embeds.append(text_model(**part).text_embeds)
    return torch.cat(embeds)

"""Rows of similar length together, so that short texts of a batch are not padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence

import torch


__all__ = ["group_by_length", "run_in_groups"]


def group_by_length(lengths: Sequence[int], count: int) -> list[tuple[int, int, int]]:
    """Cut sorted rows into groups so that padding each to its longest row costs the fewest tokens.

    Args:
        lengths (`list[int]`): Tokens of each row, rising.
        count (`int`): Groups; fewer where there are fewer lengths.

    Returns:
        `list[tuple[int, int, int]]`: For each group its first row, the row behind its last, and its longest length.

    Examples:
        >>> group_by_length([3, 3, 4, 9, 9], 2)
        [(0, 3, 4), (3, 5, 9)]
    """
    total = len(lengths)
    stops = [row for row in range(1, total) if lengths[row] != lengths[row - 1]] + [total]
    cheapest: dict[int, tuple[int, tuple[int, ...]]] = {
        0: (0, ())
    }  # by rows behind us: tokens, and where groups begin
    # Dynamic programming: exact, and cheap since a batch has few distinct lengths.
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


def run_in_groups(
    model: torch.nn.Module, groups: Sequence[tuple[int, int, int]] | None, **inputs: torch.Tensor | None
) -> torch.Tensor:
    """Encode the rows of a batch group by group, none padded further than its group needs.

    The embeddings are those of the whole batch, since attention is causal and padding is on the right. The model is
    called once for each group. With DistributedDataParallel, processes may call it a different number of times, as
    long as it does not broadcast buffers at each call.

    Args:
        model (`torch.nn.Module`): [`RTDTextModel`], possibly wrapped.
        groups (`list[tuple[int, int, int]]`, *optional*):
            Of [`group_by_length`]. With one, or none, the model takes the inputs as they are.
        inputs (`torch.Tensor`, *optional*):
            Inputs of the model by name, `input_ids` of shape `(batch_size, seq_len)` among them. Each is cut by rows,
            and those of the shape of `input_ids` by length, too.

    Returns:
        `torch.Tensor` of shape `(batch_size, projection_dim)` or `(batch_size, 2, projection_dim)`: Its `text_embeds`.
    """
    if groups is None or len(groups) == 1:
        return model(**inputs).text_embeds
    inputs = {name: values for name, values in inputs.items() if values is not None}
    shape = inputs["input_ids"].shape
    parts = []
    for start, stop, longest in groups:
        part = {
            # What runs along the text is cut; pseudo-words and branch places have other shapes.
            name: values[start:stop, :longest] if values.shape == shape else values[start:stop]
            for name, values in inputs.items()
        }
        parts.append(model(**part).text_embeds)
    return torch.cat(parts)

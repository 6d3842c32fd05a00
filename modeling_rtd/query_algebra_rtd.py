"""Query algebra: how much a condition counts, what is not wanted, several references. Ours, not the paper's."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch


__all__ = ["check_strength", "check_weight", "exclude_text", "join_references", "weigh_condition"]


def weigh_condition(
    reference_embeds: torch.Tensor, composed_embeds: torch.Tensor, strength: float | Sequence[float]
) -> torch.Tensor:
    """Weigh a condition against its reference: `norm((1 - strength) * reference + strength * composed)`.

    Args:
        reference_embeds (`torch.Tensor` of shape `(num_queries, dim)`):
            Of the prompts of the references alone: what the model makes of an empty condition.
        composed_embeds (`torch.Tensor` of shape `(num_queries, dim)`): Of reference and condition.
        strength (`float` or `list[float]`): One for all queries, or one each: 0 the reference alone, 1 the query as it
            is.

    Returns:
        `torch.Tensor` of shape `(num_queries, dim)`: L2-normalised, as the embeddings are before they are mixed.

    Raises:
        ValueError: If a strength is not between 0 and 1, or shapes differ.

    Examples:
        >>> weigh_condition(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    _check_shapes(reference_embeds, composed_embeds)
    share = _spread(strength, check_strength, composed_embeds)
    return _normalise((1 - share) * _normalise(reference_embeds) + share * _normalise(composed_embeds))


def exclude_text(
    query_embeds: torch.Tensor, negative_embeds: torch.Tensor, weight: float | Sequence[float]
) -> torch.Tensor:
    """Move queries away from a text: `norm(query - weight * negative)`.

    Args:
        query_embeds (`torch.Tensor` of shape `(num_queries, dim)`): Queries.
        negative_embeds (`torch.Tensor` of shape `(num_queries, dim)`):
            Of what is not wanted, by the text tower from before RTD (`get_text_features`).
        weight (`float` or `list[float]`): One for all queries, or one each: 0 leaves the query as it is.

    Returns:
        `torch.Tensor` of shape `(num_queries, dim)`: L2-normalised, as the embeddings are before they are mixed.

    Raises:
        ValueError: If a weight is negative, shapes differ, or nothing is left of a query.

    Examples:
        >>> exclude_text(torch.tensor([[0.8, 0.6]]), torch.tensor([[0.0, 1.0]]), 0.6)
        tensor([[1., 0.]])
    """
    _check_shapes(query_embeds, negative_embeds)
    share = _spread(weight, check_weight, query_embeds)
    return _normalise(_normalise(query_embeds) - share * _normalise(negative_embeds))


def join_references(embeds: torch.Tensor, weights: Sequence[float] | None = None) -> torch.Tensor:
    """Join the embeddings of one query's references: `norm(sum(weight * embedding) / sum(weights))`.

    Args:
        embeds (`torch.Tensor` of shape `(num_references, dim)`): Of each reference with the condition.
        weights (`list[float]`, *optional*): One a reference; equal ones where left out.

    Returns:
        `torch.Tensor` of shape `(dim,)`: L2-normalised, as the embeddings are before they are joined.

    Raises:
        ValueError: If counts differ, a weight is negative, or all are zero.

    Examples:
        >>> join_references(torch.eye(2), [3.0, 4.0])
        tensor([0.6000, 0.8000])
    """
    if weights is None:
        weights = [1.0] * len(embeds)
    if len(weights) != len(embeds):
        raise ValueError(f"`weights` needs one number a reference: got {len(weights)} for {len(embeds)}.")
    for weight in weights:
        check_weight("a weight of `weights`", weight)
    if not sum(weights):
        raise ValueError(f"`weights` are {list(weights)}: at least one reference must count.")
    shares = torch.tensor(weights, dtype=torch.float32, device=embeds.device)[:, None] / sum(weights)
    return _normalise((shares * _normalise(embeds)).sum(dim=0, keepdim=True))[0]


def check_strength(name: str, value: float) -> None:
    """Refuse a strength that is none.

    Args:
        name (`str`): What it is called.
        value (`float`): What came.

    Raises:
        ValueError: If it is no number between 0 and 1.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 (the reference alone) and 1 (the query as it is), got {value!r}.")


def check_weight(name: str, value: float) -> None:
    """Refuse a weight that is none.

    Args:
        name (`str`): What it is called.
        value (`float`): What came.

    Raises:
        ValueError: If it is no finite number of at least 0.
    """
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _spread(value, check, embeds: torch.Tensor) -> torch.Tensor:
    """Give one number a row, as a column."""
    values = list(value) if isinstance(value, list | tuple) else [value] * len(embeds)
    if len(values) != len(embeds):
        raise ValueError(f"got {len(values)} weights for {len(embeds)} queries: give one, or one each.")
    for one in values:
        check("`strength`" if check is check_strength else "`weight`", one)
    return torch.tensor(values, dtype=torch.float32, device=embeds.device)[:, None]


def _check_shapes(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"embeddings of the shapes {tuple(ours.shape)} and {tuple(theirs.shape)} cannot be mixed; were they made "
            "by the same CLIP, one row a query?"
        )


def _normalise(embeds: torch.Tensor) -> torch.Tensor:
    embeds = embeds.float()
    norms = embeds.norm(dim=-1, keepdim=True)
    if not bool((norms > 1e-6).all()):  # a rest of rounding is no direction; and no NaN
        raise ValueError("nothing is left of a query: what it is made of cancels out, or is not finite.")
    return embeds / norms

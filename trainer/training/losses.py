"""Losses as pure functions of embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional


__all__ = ["cosine_loss", "target_anchored_loss"]


def cosine_loss(embeds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Measure how far embeddings point away from their targets: the mean of 1 - cosine.

    Args:
        embeds (`torch.Tensor` of shape `(num_pairs, projection_dim)`): Of any norm; gradients flow here.
        targets (`torch.Tensor` of shape `(num_pairs, projection_dim)`): Of any norm.

    Returns:
        `torch.Tensor`: Scalar in [0, 2].

    Examples:
        >>> cosine_loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item()
        0.5
    """
    return 1 - functional.cosine_similarity(embeds, targets, dim=-1).mean()


def target_anchored_loss(
    composed_embeds: torch.Tensor,
    target_embeds: torch.Tensor,
    temperature: float = 0.07,
    loss_type: str = "nt_xent",
) -> torch.Tensor:
    """Pull each composed query to its own frozen anchor and away from the others of the batch.

    Target-anchored contrastive learning of RTD (https://huggingface.co/papers/2406.09188). `"nt_xent"` is what the
    published code computes. It is the joint NT-Xent of SimCLR over all 2M rows, whose denominators also hold the pairs
    within each set. `"info_nce"` is the symmetric InfoNCE that the paper's text describes.

    Args:
        composed_embeds (`torch.Tensor` of shape `(num_pairs, projection_dim)`):
            Queries of any norm; gradients flow here.
        target_embeds (`torch.Tensor` of shape `(num_pairs, projection_dim)`):
            Row `i` is the one positive of query `i`; any norm.
        temperature (`float`, defaults to 0.07): Softmax temperature, greater than 0.
        loss_type (`str`, defaults to `"nt_xent"`): `"nt_xent"` or `"info_nce"`.

    Returns:
        `torch.Tensor`: Scalar mean in nats, in the precision of the inputs.

    Raises:
        ValueError: If shapes differ, fewer than two pairs come, or an option is not accepted.

    Examples:
        >>> queries = torch.eye(2)
        >>> round(target_anchored_loss(queries, queries, 1.0).item(), 4)  # ln((e + 2) / e)
        0.5514
        >>> round(target_anchored_loss(queries, queries, 1.0, "info_nce").item(), 4)  # ln((e + 1) / e)
        0.3133
    """
    if composed_embeds.shape != target_embeds.shape or composed_embeds.ndim != 2:
        raise ValueError(
            "queries and targets must both have the shape (num_pairs, projection_dim), got "
            f"{tuple(composed_embeds.shape)} and {tuple(target_embeds.shape)}."
        )
    num_pairs = len(composed_embeds)
    if num_pairs < 2:
        raise ValueError(f"a contrastive loss needs at least 2 pairs, got {num_pairs}: raise the batch size.")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
    queries = functional.normalize(composed_embeds, dim=-1)
    targets = functional.normalize(target_embeds, dim=-1)
    index = torch.arange(num_pairs, device=queries.device)
    if loss_type == "nt_xent":
        rows = torch.cat([targets, queries])  # (2M, D)
        # A row is not its own negative.
        logits = (rows @ rows.T / temperature).fill_diagonal_(float("-inf"))
        # Finite at any temperature, where the published code exponentiates before it divides.
        return functional.cross_entropy(logits, torch.cat([index + num_pairs, index]))
    if loss_type == "info_nce":
        logits = queries @ targets.T / temperature
        return (functional.cross_entropy(logits, index) + functional.cross_entropy(logits.T, index)) / 2
    raise ValueError(f'`loss_type` must be "nt_xent" or "info_nce", got {loss_type!r}.')

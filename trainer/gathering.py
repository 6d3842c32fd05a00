"""Joining embeddings over processes, with gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist


__all__ = ["gather_embeds"]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeds):
        ctx.start, ctx.rows = dist.get_rank() * len(embeds), len(embeds)
        gathered = [torch.empty_like(embeds) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, embeds.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad):
        # The sum over processes, of which DDP then takes the mean: the gradient of the joined batch.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.start : ctx.start + ctx.rows]


def gather_embeds(embeds: torch.Tensor) -> torch.Tensor:
    """Join the embeddings of all processes, with gradients.

    Args:
        embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): Of this process; equal sizes everywhere.

    Returns:
        `torch.Tensor` of shape `(world_size * batch_size, projection_dim)`: The input itself in a single process.
    """
    return _Gather.apply(embeds) if dist.is_initialized() and dist.get_world_size() > 1 else embeds

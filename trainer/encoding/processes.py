"""Joining embeddings over processes: with gradients, or batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from modeling_rtd import encode_batches
from trainer.encoding.array_cache import load_array, save_array


__all__ = ["gather_embeds", "join_processes", "share_batches", "share_images"]


# torch.distributed.nn's all_gather has this gradient too, but is deprecated since torch 2.13.
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


@contextmanager
def join_processes() -> Iterator[PartialState]:
    """Work as one of the processes that `torchrun` started, on an accelerator or not, and end together.

    Yields:
        `accelerate.PartialState`: Which of them this is.
    """
    # accelerate joins processes on a CPU only where it is told that they are.
    yield PartialState(cpu=not torch.accelerator.is_available())
    # Without an orderly end some processes abort after their work is done.
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def share_batches(
    encode: Callable[[range], torch.Tensor],
    total: int,
    batch_size: int,
    desc: str | None = None,
    folder: Path | None = None,
) -> torch.Tensor:
    """Encode rows in batches, each by one of the processes, and join them in order.

    The batches are the same for any number of processes, and so is the result.

    Args:
        encode (`Callable`): Takes a range of rows, gives a tensor of shape `(len(range), projection_dim)`.
        total (`int`): Number of rows.
        batch_size (`int`): Rows in a batch.
        desc (`str`, *optional*): Title of the progress bar, shown after one second. Defaults to no bar.
        folder (`Path`, *optional*): Keeps each batch, so that a run that was stopped continues.

    Returns:
        `torch.Tensor` of shape `(total, projection_dim)`: Float32, on the CPU.
    """
    state = PartialState()
    starts = range(0, total, batch_size)[state.process_index :: state.num_processes]
    chunks = []
    for start in tqdm(starts, desc=desc, disable=desc is None or not state.is_main_process, delay=1):
        batch = range(start, min(start + batch_size, total))
        path = folder and folder / f"{batch_size}-{start}.npy"
        chunk = load_array(path, len(batch)) if path else None
        if chunk is None:
            chunk = encode(batch).float().cpu()
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_array(path, chunk.numpy())
        chunks.append((start, chunk))
    return torch.cat([chunk for _, chunk in sorted(gather_object(chunks), key=lambda pair: pair[0])])


def share_images(
    model, processor, images: Sequence, batches: Sequence[Sequence[int]] | None = None, num_workers: int | None = None
) -> Iterator[tuple]:
    """Encode batches of images, each by one of the processes, for a gallery that the main process alone writes.

    The main process passes it to `Gallery.add` as `encode`; the others run through it, which yields them nothing. The
    batches are those of one process, and so is the gallery.

    Args:
        model, processor, images, num_workers: See [`encode_batches`]; of one content in all processes.
        batches (sequence of sequences of `int`, *optional*): Defaults to those of the main process.

    Yields:
        `tuple`: See [`encode_batches`]; all batches in order, in the main process.
    """
    state = PartialState()
    (batches,) = broadcast_object_list([batches])
    own = encode_batches(model, processor, images, batches[state.process_index :: state.num_processes], num_workers)
    # As often in each process: `gather_object` waits for all of them.
    for _ in range(0, len(batches), state.num_processes):
        parts = gather_object([next(own, None)])
        if state.is_main_process:
            yield from (part for part in parts if part is not None)

"""Noise for embeddings that does not depend on how the work is split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


__all__ = ["draw_noise"]


def draw_noise(
    rows: Sequence[int], dim: int, seed: int, epoch: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw the noise of refined concatenation, `u * eps` with `u ~ U(0, 1)` and `eps ~ N(0, I)` for each row.

    RTD and LinCIR both add it, times a scale, to the text embedding that stands in for an image's. The generator is
    counter-based (Philox), keyed by seed, epoch and row: results are the same for any number of processes or loader
    workers, and after a resume.

    Args:
        rows (sequence of `int`): Row numbers in the data set, not in the batch.
        dim (`int`): Size of the embedding.
        seed (`int`): Seed of the run.
        epoch (`int`): Number of passes over the data before this one.
        device (`torch.device` or `str`, defaults to `"cpu"`): Where it is wanted. It is drawn on the CPU, and sent
            without waiting for what the device does.

    Returns:
        `torch.Tensor` of shape `(len(rows), dim)`: float32.

    Examples:
        >>> bool((draw_noise([3, 5], 4, seed=0, epoch=1)[1] == draw_noise([5], 4, seed=0, epoch=1)[0]).all())
        True
    """
    bits = np.random.Philox(key=[seed, 0])
    generator = np.random.Generator(bits)
    fresh = bits.state
    noise = np.empty((len(rows), dim), dtype=np.float32)
    for i, row in enumerate(rows):
        # Setting the counter of one generator is three times as fast as building a generator for each row.
        fresh["state"]["counter"][:] = (0, 0, row, epoch)
        bits.state = fresh
        noise[i] = generator.random() * generator.standard_normal(dim)
    drawn = torch.from_numpy(noise)
    if torch.device(device).type == "cuda":
        drawn = drawn.pin_memory()  # otherwise sending would wait
    return drawn.to(device, non_blocking=True)

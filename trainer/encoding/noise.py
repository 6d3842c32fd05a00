"""Noise for embeddings that does not depend on how the work is split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from modeling_rtd import RTDProcessor, RTDTextTower, name_family, suggest
from trainer.encoding.captions import encode_captions


__all__ = ["draw_noise", "iterate_generators", "measure_noise", "settle_noise_unit"]

_UNITS = ("absolute", "rms")
_NUM_CAPTIONS = 256  # that the size of embeddings is measured on


def draw_noise(
    rows: Sequence[int], dim: int, seed: int, epoch: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw the noise of refined concatenation, `u * eps` with `u ~ U(0, 1)` and `eps ~ N(0, I)` for each row.

    RTD and LinCIR both add it, times a scale, to the text embedding that replaces an image's. The generator is
    counter-based (Philox), keyed by seed, epoch and row. Results are the same for any number of processes or loader
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
    noise = np.empty((len(rows), dim), dtype=np.float32)
    for i, generator in enumerate(iterate_generators(rows, seed, epoch)):
        noise[i] = generator.random() * generator.standard_normal(dim)
    drawn = torch.from_numpy(noise)
    if torch.device(device).type == "cuda":
        drawn = drawn.pin_memory()  # otherwise sending would wait
    return drawn.to(device, non_blocking=True)


def iterate_generators(rows: Sequence[int], seed: int, epoch: int, stream: int = 0) -> Iterator[np.random.Generator]:
    """Give a random generator for each row, whose draws depend on seed, epoch, row and stream alone.

    Args:
        rows (sequence of `int`): Row numbers in the data set, not in the batch.
        seed (`int`): Seed of the run.
        epoch (`int`): Number of passes over the data before this one.
        stream (`int`, defaults to 0): Whose draws these are; 0 is the noise.

    Returns:
        Iterator of `numpy.random.Generator`: The same object each time, to be used before the next one is taken.
    """
    bits = np.random.Philox(key=[seed, stream])
    generator, fresh = np.random.Generator(bits), bits.state
    for row in rows:
        # Setting the counter of one generator is three times as fast as building a generator for each row.
        fresh["state"]["counter"][:] = (0, 0, row, epoch)
        bits.state = fresh
        yield generator


def settle_noise_unit(unit: str | None, text_model: RTDTextTower) -> str:
    """Settle the unit of noise.

    The published scales are absolute: they go with the size of the embeddings of OpenAI's CLIP, which other families
    do not have.

    Args:
        unit (`str`, *optional*):
            `"absolute"`, or `"rms"`, the root mean square of the elements of caption embeddings. Defaults to
            `"absolute"` on a CLIP, and must be given on other families.
        text_model ([`RTDTextTower`]): The tower whose embeddings take the noise.

    Returns:
        `str`: The unit.

    Raises:
        ValueError: If the unit is unknown, or missing where it must be given.
    """
    family = name_family(text_model.config)
    if unit is None and family != "clip":
        raise ValueError(
            f"the published noise goes with the embeddings of OpenAI's CLIP, and these are of {family}. Say "
            "noise_unit='rms' (--noise-unit rms), in units of the embeddings' own size, or 'absolute'."
        )
    if unit not in (None, *_UNITS):
        raise ValueError(suggest("unit of noise", unit, _UNITS))
    return unit or "absolute"


def measure_noise(unit: str, text_model: RTDTextTower, processor: RTDProcessor, captions: Sequence[str]) -> float:
    """Measure the unit of noise.

    Args:
        unit (`str`): Of [`settle_noise_unit`].
        text_model ([`RTDTextTower`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        captions (`list[str]`): Captions that are trained on; the first 256 are read.

    Returns:
        `float`: What a scale in this unit is multiplied by, to four digits.
    """
    if unit == "absolute":
        return 1.0
    embeds = encode_captions(text_model, processor, captions[:_NUM_CAPTIONS], desc=None)
    # Rounded: it is compared on resume, and its last digits depend on the number of threads.
    return float(f"{embeds.square().mean().sqrt().item():.4g}")

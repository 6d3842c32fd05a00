"""Encoding images: decoding ahead of the tower, and the fingerprint by which two image towers are compared."""

from __future__ import annotations

import base64
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.utils.logging import tqdm


__all__ = [
    "check_parts",
    "compare_towers",
    "encode_batches",
    "encode_images",
    "encode_pixels",
    "fingerprint_tower",
    "load_ahead",
    "settle_images",
]

MIN_TOWER_COSINE = 0.999  # the same tower in half precision is above, another tower far below
MIN_FOREIGN_COSINE = 0.99  # the same weights behind another program's own resizing
_BATCHES_AHEAD = 2


def check_parts(model, processor) -> None:
    """Refuse what does not encode images.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor ([`RTDProcessor`]): Its processor.

    Raises:
        ValueError: If one is something else, or they are in another order.
    """
    if not hasattr(processor, "prepare_images") or not hasattr(model, "get_image_features"):
        names = f"a {type(model).__name__} and a {type(processor).__name__}"
        raise ValueError(f"images are encoded by an RTDModel and its RTDProcessor, in this order, got {names}.")


def settle_images(images) -> Sequence:
    """Check that images can be read by position.

    Args:
        images (sequence of images, paths or URLs): Also a column of `datasets` or of pandas.

    Returns:
        Sequence: The same; a column of pandas, which would be read by its labels, as a list.

    Raises:
        ValueError: If it is a single image, a data set or no sequence.
    """
    columns = getattr(images, "column_names", None) or list(getattr(images, "columns", ()))
    if columns and hasattr(images, "__len__"):
        raise ValueError(
            f"`images` is a data set with the columns {columns}: pass one of them, such as images=rows['image'], "
            "and ids=, one an image."
        )
    if isinstance(images, str | Path):
        raise ValueError(f"`images` must be a list of images, got the one '{images}'; put it into a list.")
    if isinstance(images, Mapping | bytes) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise ValueError(f"`images` must be a list or another sequence, got a {type(images).__name__}.")
    return images.tolist() if hasattr(images, "iloc") else images


@torch.no_grad()
def encode_pixels(model, pixel_values: torch.Tensor) -> torch.Tensor:
    """Encode preprocessed images into the joint space.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Preprocessed images.

    Returns:
        `torch.Tensor` of shape `(batch_size, projection_dim)`: L2-normalised, float32, on the CPU.
    """
    embeds = model.get_image_features(pixel_values.to(model.device, model.dtype)).pooler_output
    return torch.nn.functional.normalize(embeds.float(), dim=-1).cpu()


def load_ahead(
    processor, images: Sequence, batches: Iterable[Sequence[int]], num_workers: int | None = None
) -> Iterator[tuple[Sequence[int], list[torch.Tensor | ValueError]]]:
    """Load and preprocess images in threads, ahead of their use.

    Args:
        processor ([`RTDProcessor`]): Whose preprocessing is used.
        images (sequence of images, paths or URLs): Read by position, in the threads.
        batches (iterable of sequences of `int`): Positions of each batch.
        num_workers (`int`, *optional*): Threads. Defaults to the number of CPUs, at most 8.

    Returns:
        Iterator of `tuple`: The positions of a batch, and for each the pixels of shape `(channels, height, width)` or
        the `ValueError` that says why there are none.
    """

    def load(position: int) -> torch.Tensor | ValueError:
        try:
            image = images[position]  # a data set decodes it here
        except Exception as error:  # whatever its decoder raises, such as Pillow's for a decompression bomb
            return ValueError(f"the image at position {position} cannot be read: {error}")
        try:
            return processor.prepare_images(image)[0]
        except ValueError as error:
            return error

    with ThreadPoolExecutor(num_workers or min(8, os.cpu_count() or 1)) as pool:
        waiting = deque()
        for positions in batches:
            waiting.append((positions, [pool.submit(load, position) for position in positions]))
            if len(waiting) > _BATCHES_AHEAD:
                positions, futures = waiting.popleft()
                yield positions, [future.result() for future in futures]
        for positions, futures in waiting:
            yield positions, [future.result() for future in futures]


def encode_batches(
    model, processor, images: Sequence, batches: Sequence[Sequence[int]], num_workers: int | None = None
) -> Iterator[tuple[list[int], np.ndarray, list[str]]]:
    """Encode batches of images, while the next ones are decoded.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor, images, batches, num_workers: See [`load_ahead`].

    Returns:
        Iterator of `tuple`: For each batch the positions of the images that can be read, their embeddings of shape
        `(num_read, projection_dim)`, L2-normalised, in float32, and a sentence for each of the others.
    """
    for positions, pixels in load_ahead(processor, images, batches, num_workers):
        places = [place for place, one in zip(positions, pixels, strict=True) if torch.is_tensor(one)]
        tensors = [one for one in pixels if torch.is_tensor(one)]
        embeds = encode_pixels(model, torch.stack(tensors)) if tensors else torch.empty(0, model.config.projection_dim)
        yield places, embeds.numpy(), [str(one) for one in pixels if not torch.is_tensor(one)]


def encode_images(model, processor, images: Sequence, batch_size: int = 64, desc: str | None = None) -> torch.Tensor:
    """Encode images into the joint space.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor ([`RTDProcessor`]): Its processor.
        images (sequence of images, paths or URLs): Anything [`RTDProcessor`] loads.
        batch_size (`int`, defaults to 64): Images in one pass.
        desc (`str`, *optional*): Title of the progress bar. Defaults to no bar.

    Returns:
        `torch.Tensor` of shape `(len(images), projection_dim)`: L2-normalised, float32, on the CPU.

    Raises:
        ValueError: If an image cannot be read, which it names; or as [`check_parts`] and [`settle_images`].
    """
    check_parts(model, processor)
    images, chunks = settle_images(images), []
    batches = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    loaded = load_ahead(processor, images, batches)
    for _, pixels in tqdm(loaded, total=len(batches), desc=desc, disable=desc is None):
        for one in pixels:
            if isinstance(one, ValueError):
                raise one
        chunks.append(encode_pixels(model, torch.stack(pixels)))
    return torch.cat(chunks) if chunks else torch.empty(0, model.config.projection_dim)


def _draw_test_images() -> list[Image.Image]:
    """Draw eight images from integers alone, so that they are the same with every version of every library."""
    images = []
    for n in range(8):
        y, x = np.mgrid[: 192 + 16 * n, : 320 - 16 * n]
        inside = (y - 90) ** 2 + (x - 80 - 20 * n) ** 2 < (25 + 6 * n) ** 2
        stripes = ((x * (n + 1) + y * (8 - n)) // 24 % 2) * 90
        channels = [(x * (c + 1) + y * (n + 1)) // 4 % 256 // 2 + stripes for c in range(3)]
        channels[n % 3] = np.where(inside, 255 - channels[n % 3], channels[n % 3])
        images.append(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)))
    return images


def fingerprint_tower(model, processor) -> str:
    """Embed eight fixed synthetic images through preprocessing and image tower.

    Args:
        model ([`RTDModel`]): Whose image tower is meant.
        processor ([`RTDProcessor`]): Its processor.

    Returns:
        `str`: The eight L2-normalised embeddings in float16, little-endian, as base64.
    """
    embeds = encode_pixels(model, processor.prepare_images(_draw_test_images()))
    return base64.b64encode(embeds.numpy().astype("<f2").tobytes()).decode()


def compare_towers(ours: str, theirs: str) -> float:
    """Compare two fingerprints.

    Args:
        ours, theirs (`str`): As `fingerprint_tower` makes them.

    Returns:
        `float`: The smallest cosine of the eight pairs; -1 where dimensions differ.

    Raises:
        ValueError: If one is not of eight embeddings of norm 1.
    """
    rows = [_read_fingerprint(text) for text in (ours, theirs)]
    if rows[0].shape != rows[1].shape:
        return -1.0
    return float((rows[0] * rows[1]).sum(axis=1).min())


def _read_fingerprint(text: str) -> np.ndarray:
    """Read the eight embeddings of a fingerprint, and bring them from float16 to norm 1 again."""
    try:
        rows = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float64).reshape(8, -1)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    except ValueError:
        norms = np.zeros(1)
    if not (np.abs(norms - 1) < 0.01).all():  # false of NaN too
        raise ValueError(
            "the fingerprint of the gallery's image tower is damaged: compare a few images with `verify_embeddings`, "
            "or index the images again."
        )
    return rows / norms

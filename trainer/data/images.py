"""Tables of images: loading, decoding and hashing."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor
from trainer.data.image_files import list_images
from trainer.data.row_files import take_split
from trainer.data.tables import refuse_transform


__all__ = ["decode_image", "hash_images", "load_images"]


def load_images(source: str | Path | Dataset, limit: int | None = None, columns: Sequence[str] = ()) -> Dataset:
    """Load a table of images and check that each can be read.

    Args:
        source (`str`, `Path`, list of them, `datasets.Dataset` or `datasets.DatasetDict`):
            Folder of images, paths of images, or a data set with a column `image`, of several the split `train`.
        limit (`int`, *optional*): Take so many images, the first ones.
        columns (`list[str]`, *optional*): Columns to keep beside the image.

    Returns:
        `datasets.Dataset`: Column `image`, not decoded, and `columns`. Images that cannot be read are left out, with
        one warning that names them.

    Raises:
        ValueError: If there is no image, or the source is something else or has a transform.
    """
    if isinstance(source, DatasetDict):
        source = take_split(source, None)
    if isinstance(source, str | Path):
        source = list_images(source)
    if isinstance(source, list | tuple) and all(isinstance(path, str | Path) for path in source):
        source = Dataset.from_dict({"image": [str(path) for path in source]})
    if not isinstance(source, Dataset):
        raise ValueError(
            f"images must be a folder, a list of paths or a datasets.Dataset, got a {type(source).__name__}. Make one "
            "with from_pandas, from_list or from_generator."
        )
    refuse_transform(source)
    if "image" not in source.column_names:
        raise ValueError(f"images must be in a column 'image', found: {', '.join(source.column_names)}.")
    # Not decoded by `datasets`, which takes any format of Pillow's: EPS would start Ghostscript.
    table = source.select_columns(["image", *columns]).cast_column("image", ImageFeature(decode=False))
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    images = tqdm(table, desc="Checking images")
    # All are decoded once here, or a broken one would end a training after hours.
    readable = [row for row, item in enumerate(images) if decode_image(item["image"]) is not None]
    if not readable:
        raise ValueError(f"none of {len(table)} images can be read.")
    if len(readable) < len(table):
        broken = sorted(set(range(len(table))) - set(readable))
        names = ", ".join(str(table[row]["image"]["path"] or f"row {row + 1}") for row in broken[:20])
        warnings.warn(f"{len(broken)} of {len(table)} images cannot be read and are left out: {names}.", stacklevel=3)
        table = table.select(readable)
    return table


def decode_image(image: dict) -> Image.Image | None:
    """Decode an image of [`load_images`].

    Args:
        image (`dict`): `bytes` or `path`, as `datasets` holds an image that is not decoded.

    Returns:
        `PIL.Image.Image` or `None`: The image in RGB, or `None` where it cannot be read.
    """
    try:
        return RTDProcessor.load_image(image)
    except ValueError:
        return None


def hash_images(table: Dataset) -> str:
    """Hash which images a table holds: their bytes, or where it names files, the names.

    Args:
        table (`datasets.Dataset`): Images of [`load_images`].

    Returns:
        `str`: SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for image in table["image"]:
        digest.update((image["path"] or "").encode() if image["bytes"] is None else image["bytes"])
    return digest.hexdigest()

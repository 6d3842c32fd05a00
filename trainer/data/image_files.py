"""Image files of a folder."""

from __future__ import annotations

from pathlib import Path


__all__ = ["IMAGE_SUFFIXES", "list_images"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def list_images(folder: str | Path) -> list[Path]:
    """List the images of a folder and of its sub-folders, by name.

    Args:
        folder (`str` or `Path`): Folder.

    Returns:
        `list[Path]`: Files with a suffix of `IMAGE_SUFFIXES`, in order.

    Raises:
        ValueError: If there is none, or no such folder.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"'{folder}' is no folder; name a folder of images.")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"'{folder}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); name a folder of images.")
    return paths

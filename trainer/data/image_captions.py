"""Images with captions: matching a folder of images and a table of captions."""

from __future__ import annotations

import warnings
from pathlib import Path

from datasets import Dataset

from trainer.data.image_files import list_images
from trainer.data.tables import load_table


__all__ = ["load_pairs"]


def load_pairs(images: str | Path, captions: str | Path | Dataset) -> Dataset:
    """Match images and captions, by name where the table names images, by order otherwise.

    Args:
        images (`str` or `Path`): Folder of images.
        captions (`str`, `Path` or `datasets.Dataset`):
            Table with `text`, or `subject` and `attribute`; and `image`, the file's path in the folder. Without
            `image` the rows are those of the folder's files in order of their names.

    Returns:
        `datasets.Dataset`: The table, its column `image` made of paths.

    Raises:
        ValueError: If named images are missing (names them), or numbers differ where no image is named.
    """
    paths, table = list_images(images), load_table(captions)
    if "image" not in table.column_names:
        if len(table) != len(paths):
            raise ValueError(
                f"{len(paths)} images in '{images}', but {len(table)} captions; give each caption the name of its "
                "image in a column 'image', or bring as many of the one as of the other."
            )
        return table.add_column("image", [str(path) for path in paths])
    known = {str(path.relative_to(images)): str(path) for path in paths}
    missing = sorted({str(name) for name in table["image"]} - known.keys())
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"the captions name images that are not in '{images}': {', '.join(missing[:5])}{more}. Names are paths "
            "relative to that folder."
        )
    unnamed = len(known.keys() - set(table["image"]))
    if unnamed:
        warnings.warn(
            f"{unnamed} of {len(known)} images in '{images}' have no caption and are left out.", stacklevel=2
        )
    named = [known[str(name)] for name in table["image"]]
    return table.remove_columns("image").add_column("image", named)

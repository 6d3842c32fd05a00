"""Images with captions: matching a folder of images and a table of captions."""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from pathlib import Path

from datasets import Dataset, Image

from trainer.data.image_files import list_images
from trainer.data.row_files import replace_column
from trainer.data.tables import add_column, load_table


__all__ = ["load_pairs"]


def load_pairs(images: str | Path | None, captions: str | Path | Dataset) -> Dataset:
    """Match images and captions, by name where the table names images, by order otherwise.

    Args:
        images (`str` or `Path`, *optional*): Folder of images; `None` where the table holds the images themselves.
        captions (`str`, `Path` or `datasets.Dataset`):
            Table with `text`, or `subject` and `attribute`; and `image` or `file_name`, the file's path in the
            folder. Without a name the rows are those of the folder's files in the order of their names, in which
            `2.png` comes before `10.png`. No other column may name the files in another order.

    Returns:
        `datasets.Dataset`: The table, its column `image` made of paths.

    Raises:
        ValueError: If named images are missing (names them), `image` and `file_name` disagree, or
            numbers differ where no image is named, there are no images, or they come twice.
    """
    table = load_table(captions)
    brings_images = isinstance(table.features.get("image"), Image)
    if images is None:
        if not brings_images:
            raise ValueError("the captions come without their images: name the folder of these (--images).")
        return table
    if brings_images:
        raise ValueError(f"the captions come with their images: leave '{images}' out (--images).")
    paths, table = sorted(list_images(images), key=_split_numbers), _name_images(table)
    # Numbers count as numbers: by letters `10.png` is before `2.png`, and captions would move to other images.
    if "image" not in table.column_names:
        if len(table) != len(paths):
            raise ValueError(
                f"{len(paths)} images in '{images}', but {len(table)} captions. Give each caption the name of its "
                "image in a column 'image', or bring as many of the one as of the other."
            )
        _check_order(table, [path.relative_to(images) for path in paths])
        return add_column(table, "image", [str(path) for path in paths])
    known = {_fold(path.relative_to(images)): str(path) for path in paths}
    names = [_fold(name) for name in table["image"]]
    missing = sorted(set(names) - known.keys())
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"the captions name images that are not in '{images}': {', '.join(missing[:5])}{more}. Names are paths "
            "relative to that folder."
        )
    if len(known) < len(paths):
        raise ValueError(f"names of images in '{images}' differ in how letters with accents are written; rename them.")
    unnamed = len(known.keys() - set(names))
    if unnamed:
        warnings.warn(
            f"{unnamed} of {len(known)} images in '{images}' have no caption and are left out.", stacklevel=2
        )
    return replace_column(table, "image", [known[name] for name in names])


def _fold(name: str | Path) -> str:
    # macOS writes an accent as a letter of its own, and tables do not.
    return unicodedata.normalize("NFC", str(name))


def _check_order(table: Dataset, paths: list[Path]) -> None:
    """Refuse captions in the order of the files where another column names the files in another order."""
    forms = (str, lambda path: path.name, lambda path: path.stem)
    files = [[_fold(form(path)) for path in paths] for form in forms]
    for name, (form, own) in itertools.product(table.column_names, zip(forms, files, strict=True)):
        known = set(own)
        # A column of captions names no file: its first row shows it.
        if _fold(form(Path(str(table[0][name])))) not in known:
            continue
        named = [_fold(form(Path(str(place)))) for place in table[name]]
        if named != own and set(named) <= known:
            raise ValueError(
                f"the column '{name}' names images in another order than that of the files, such as {named[0]!r} "
                f"before {named[-1]!r}. Rename it 'image', and write paths relative to the folder into it."
            )


def _name_images(table: Dataset) -> Dataset:
    """Take the names of `file_name`, the column of Hugging Face's image folders, for `image`."""
    if "file_name" not in table.column_names:
        return table
    if "image" not in table.column_names:
        return table.rename_column("file_name", "image")
    names = enumerate(zip(table["image"], table["file_name"], strict=True), start=1)
    row, pair = next(((row, pair) for row, pair in names if pair[0] != pair[1]), (0, None))
    if row:
        raise ValueError(f"row {row}: `image` says {pair[0]!r}, `file_name` {pair[1]!r}; keep one of the columns.")
    return table.remove_columns("file_name")


def _split_numbers(path: Path) -> list:
    # Pairs, since Python has no order of numbers and texts.
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]

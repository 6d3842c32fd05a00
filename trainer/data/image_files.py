"""Image files of a folder."""

from __future__ import annotations

import functools
import os
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path


__all__ = ["check_folder", "list_images", "list_suffixes", "name_file"]


@functools.cache
def list_suffixes() -> frozenset[str]:
    """List the suffixes of image files, such as `.png`."""
    from modeling_rtd import IMAGE_FORMATS  # takes seconds: a verb refuses its options before

    return frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)


def check_folder(folder: str | Path) -> None:
    """Refuse what is not a folder.

    Args:
        folder (`str` or `Path`): Folder of images.

    Raises:
        ValueError: If there is no such folder.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"'{folder}' is not a folder; name a folder of images.")


def list_images(folder: str | Path) -> list[Path]:
    """List the images of a folder and of its sub-folders, by name.

    An image that is a link has the name of the link. Links to folders are followed; a folder that several links lead
    to is listed once, and a warning names the others. Names that begin with a dot are passed over, as `._x.jpg`.

    Args:
        folder (`str` or `Path`): Folder.

    Returns:
        `list[Path]`: Files with a suffix of [`list_suffixes`], in order. One whose name is not UTF-8 is left out, and
        a warning names it.

    Raises:
        ValueError: If there is none, or no such folder.
    """
    check_folder(folder)

    from modeling_rtd import is_utf8

    paths = sorted(path for path in _walk(Path(folder)) if path.suffix.lower() in list_suffixes())
    unnamed = [path for path in paths if not is_utf8(str(path))]
    if unnamed:
        names = ", ".join(ascii(str(path)) for path in unnamed[:5])
        warnings.warn(f"{len(unnamed)} names of images are not UTF-8 and are left out: {names}.", stacklevel=2)
        paths = [path for path in paths if is_utf8(str(path))]
    if not paths:
        raise ValueError(f"'{folder}' holds no image ({', '.join(sorted(list_suffixes()))}); name a folder of images.")
    return paths


def name_file(path: str | Path) -> str:
    """Name a file by its path from the root on. Links stay what they are: that of a picture is its name.

    Args:
        path (`str` or `Path`): Path of a file.

    Returns:
        `str`: Its path.
    """
    return os.path.abspath(path)  # noqa: PTH100 - pathlib either follows links or keeps `..`


def _walk(folder: Path) -> Iterator[Path]:
    """Go through the files below a folder; what links lead to comes last, so that a folder has its own name."""
    pending, seen = deque([folder]), set()
    while pending:
        folder = pending.popleft()
        place = folder.resolve()
        if place in seen:
            warnings.warn(f"the link '{folder}' leads to a folder that is listed already: left out.", stacklevel=4)
            continue
        seen.add(place)
        # Not `rglob`, which follows no links to folders.
        with os.scandir(folder) as entries:
            for entry in entries:
                # macOS leaves `._x.jpg` beside `x.jpg`, which holds no picture.
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    yield Path(entry.path)
                elif entry.is_symlink():
                    pending.append(Path(entry.path))
                else:
                    pending.appendleft(Path(entry.path))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which its reader refuses by name
        return False

"""Pictures that are published: what a card shows, and images of a gallery."""

from __future__ import annotations

import re
from pathlib import Path

from modeling_rtd import open_image


__all__ = ["check_picture", "refuse_places"]

_NAME = re.compile(r"[\w-][\w.-]*\.png")  # which a card can link to
_MOST_BYTES = 10_000_000  # above, the Hub keeps a file apart, and a page is slow
_GPS = 0x8825  # EXIF's directory of the place where a photograph was taken


def check_picture(path: str | Path) -> Path:
    """Check the picture of a card, which keeps its name in the repository.

    Args:
        path (`str` or `Path`): File.

    Returns:
        `Path`: The same.

    Raises:
        ValueError: If it is missing, not named like a PNG, has more than 10 MB or holds the place where it was taken.
    """
    path = Path(path)
    if not path.is_file() or not _NAME.fullmatch(path.name):
        raise ValueError(
            f"the picture of a card is a file such as results.png, and '{path}' is not: name another with --picture."
        )
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"'{path}' has more than {_MOST_BYTES // 10**6} MB: make the picture of the card smaller.")
    refuse_places([path])
    return path


def refuse_places(paths: list[Path]) -> None:
    """Refuse photographs that hold the place where they were taken.

    Args:
        paths (`list[Path]`): Files of images.

    Raises:
        ValueError: If one cannot be read, or its metadata hold a place.
    """
    for path in paths:
        with open_image(path) as image:
            if image.getexif().get_ifd(_GPS):
                raise ValueError(
                    f"'{path}' holds the place where it was taken (GPS in its metadata): remove the metadata, for "
                    "instance with `exiftool -all=`, and publish again."
                )

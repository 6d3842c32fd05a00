"""The one place where files become images: which formats are decoded, and how large they may be."""

from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path

from huggingface_hub.utils import httpx
from PIL import Image, ImageFile, UnidentifiedImageError


__all__ = ["IMAGE_FORMATS", "MAX_PIXELS", "is_url", "open_image"]

# By Pillow's name, with suffixes. Others may run programs: Pillow starts Ghostscript for an EPS, whatever its name.
IMAGE_FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
# A PNG of 164 kB with 13,000 x 13,000 pixels took 23 seconds and 2.7 GiB.
MAX_PIXELS = 50_000_000
_MAX_BYTES = 20 * 2**20  # of a file with so many pixels
_URL_SECONDS = 10


def open_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Open an image. Its pixels are not decoded yet.

    An image may have 50 million pixels and 20 MiB. The environment variable `RTD_MAX_PIXELS` sets another number of
    pixels, and the bytes grow with it.

    Args:
        source (`str`, `Path`, `bytes` or `PIL.Image.Image`):
            Path, URL, `data:` URL, base64 text, bytes of a file, or an image. A URL has ten seconds to answer.

    Returns:
        `PIL.Image.Image`: The image. Close it, or use it as a context.

    Raises:
        ValueError: If it is too large, or of a format that is not in `IMAGE_FORMATS`.
        OSError: If it cannot be read or fetched.
    """
    max_pixels = _read_limit()
    max_bytes = _MAX_BYTES * max_pixels // MAX_PIXELS
    image = source if isinstance(source, Image.Image) else _open(_find_file(source, max_bytes))
    if isinstance(image, ImageFile.ImageFile) and image.format not in (*IMAGE_FORMATS, "MPO"):  # which is a JPEG
        raise ValueError(f"it is {image.format}, and {', '.join(IMAGE_FORMATS)} are decoded: convert it")
    if isinstance(image, ImageFile.ImageFile) and image.width * image.height > max_pixels:
        raise ValueError(
            f"it has {image.width * image.height:,} pixels, and {max_pixels:,} are allowed: make it smaller, or set "
            "the environment variable RTD_MAX_PIXELS"
        )
    return image


def is_url(place) -> bool:
    """Say whether a place is fetched from elsewhere when it is opened.

    Args:
        place: Path, URL or anything else.

    Returns:
        `bool`: Whether it is a URL.
    """
    return isinstance(place, str) and place.startswith(("http://", "https://"))


def _read_limit() -> int:
    text = os.environ.get("RTD_MAX_PIXELS", "")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or not int(text):
        raise ValueError(f"the environment variable RTD_MAX_PIXELS must be a whole number of pixels, got '{text}'")
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own bound, of which it warns
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(text))
    return int(text)


def _find_file(source: str | Path | bytes, max_bytes: int) -> Path | BytesIO:
    """Find the file that is named, or what a URL or a text holds."""
    if is_url(source):
        source = _fetch(source, max_bytes)
    # Not of pathlib, which raises at the length of a base64 text.
    elif isinstance(source, str | Path) and os.path.isfile(source):  # noqa: PTH113
        source = Path(source)
    elif isinstance(source, str | Path) and os.path.isdir(source):  # noqa: PTH112
        raise IsADirectoryError("it is a folder: name one image")
    elif isinstance(source, str) and not Path(source[:200]).suffix:
        source = base64.b64decode(source.partition(",")[2] if source.startswith("data:image/") else source)
    elif isinstance(source, str | Path):
        raise FileNotFoundError("there is no such file")
    elif not isinstance(source, bytes):
        raise ValueError("it is not an image, a path, a URL, the bytes of a file, or a list of these")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > max_bytes:
        raise ValueError(
            f"it has {size:,} bytes, and {max_bytes:,} are allowed: make it smaller, or set the environment variable "
            "RTD_MAX_PIXELS"
        )
    return BytesIO(source) if isinstance(source, bytes) else source


def _fetch(url: str, max_bytes: int) -> bytes:
    with httpx.stream("GET", url, timeout=_URL_SECONDS, follow_redirects=True) as response:
        response.raise_for_status()
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            # One part too many is enough: the caller refuses it.
            if len(content) > max_bytes:
                break
    return bytes(content)


def _open(file: Path | BytesIO) -> Image.Image:
    try:
        # By what the file holds: no other decoder is tried, whatever its name says.
        return Image.open(file, formats=tuple(IMAGE_FORMATS))
    except UnidentifiedImageError as error:
        raise ValueError(f"its format is not one of {', '.join(IMAGE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        reason = str(error).partition(",")[0]
        raise ValueError(f"{reason}: make it smaller, or set the environment variable RTD_MAX_PIXELS") from error

"""Image preprocessing as published evaluations do it, where that differs from transformers' own."""

from __future__ import annotations

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import SizeDict

from modeling_rtd import open_image


__all__ = ["PublishedCropImageProcessor", "pad_to_target", "read_image"]

_TARGET_RATIO = 1.25  # published by SEARLE


class PublishedCropImageProcessor(CLIPImageProcessorPil):
    """CLIP's preprocessing with the centre crop of torchvision, as SEARLE, Pic2Word and their successors publish with.

    transformers rounds half a pixel down, torchvision to even: the crops of about every fourth image differ by one
    pixel.
    """

    def center_crop(self, image: np.ndarray, size: SizeDict, **kwargs) -> np.ndarray:
        """Crop the centre.

        Args:
            image (`np.ndarray` of shape `(channels, height, width)`): Image, no smaller than the crop.
            size (`SizeDict`): Height and width of the crop.
            kwargs: Not used.

        Returns:
            `np.ndarray` of shape `(channels, size.height, size.width)`.
        """
        # Python's round is to even, as torchvision's.
        top, left = round((image.shape[-2] - size.height) / 2), round((image.shape[-1] - size.width) / 2)
        return image[..., top : top + size.height, left : left + size.width]


def read_image(path: str) -> Image.Image:
    """Read an image as published evaluations do: to RGB, and not turned by its EXIF tag, as boxes are not either.

    Args:
        path (`str`): Path of the image.

    Returns:
        `PIL.Image.Image`: The whole image, decoded.

    Raises:
        ValueError: If it cannot be read; names it.
    """
    try:
        # Not `RTDProcessor.load_image`, which turns images upright.
        with open_image(path) as image:
            return image.convert("RGB")
    except Exception as error:
        raise ValueError(f"the image '{path}' cannot be read: {error}") from error


def pad_to_target(image: Image.Image) -> Image.Image:
    """Pad the short side of a long image with black, so that the centre crop loses less (SEARLE's target padding).

    Args:
        image (`PIL.Image.Image`): Image; one whose sides differ by less than a ratio of 1.25 stays as it is.

    Returns:
        `PIL.Image.Image`: Padded equally on both sides, by whole pixels rounded down.

    Examples:
        >>> pad_to_target(Image.new("RGB", (640, 480))).size
        (640, 512)
    """
    width, height = image.size
    if max(width, height) / min(width, height) < _TARGET_RATIO:
        return image
    wanted = max(width, height) / _TARGET_RATIO
    # Halves are cut off, as published.
    right, down = (max(int((wanted - side) / 2), 0) for side in (width, height))
    padded = Image.new(image.mode, (width + 2 * right, height + 2 * down))
    padded.paste(image, (right, down))
    return padded

"""Contact sheets: references, conditions and results side by side, as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont


__all__ = ["SheetRow", "draw_contact_sheet"]

_CELL, _GAP, _TEXT, _HEAD, _LINE = 96, 8, 190, 22, 16  # pixels
_GREEN, _GREY, _INK = (20, 140, 60), (215, 215, 215), (30, 30, 30)


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet.

    Args:
        reference (`PIL.Image.Image` or `None`): Reference image.
        text (`str`): Condition, wrapped beside it.
        groups (sequence of sequences of `(image, is_hit)`): Results in one or more groups, such as before and after;
            `is_hit` draws a green frame.
        captions (sequence of sequences of `str`, *optional*): A line below each result.
    """

    reference: Image.Image | None
    text: str
    groups: Sequence[Sequence[tuple[Image.Image, bool]]]
    captions: Sequence[Sequence[str]] | None = None


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def draw_contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str]) -> Image.Image:
    """Draw rows of reference, condition and results.

    Args:
        rows (sequence of [`SheetRow`]): Rows, all with as many groups as there are titles.
        titles (sequence of `str`): Heading of each group of results.

    Returns:
        `PIL.Image.Image`: RGB picture.
    """
    widths = [
        max((len(row.groups[i]) for row in rows), default=1) * (_CELL + _GAP) + 2 * _GAP for i in range(len(titles))
    ]
    left = _CELL + _TEXT + 3 * _GAP
    height = _CELL + _GAP + (_LINE if any(row.captions for row in rows) else 0)
    sheet = Image.new("RGB", (left + sum(widths), _HEAD + len(rows) * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 4), "reference", _INK, _font(13))
    draw.text((_CELL + 2 * _GAP, 4), "condition", _INK, _font(13))
    for i, title in enumerate(titles):
        draw.text((left + sum(widths[:i]), 4), title, _INK, _font(13))
    for number, row in enumerate(rows):
        top = _HEAD + number * height
        if row.reference is not None:
            _paste(sheet, draw, row.reference, (_GAP, top), _GREY, 1)
        draw.multiline_text((_CELL + 2 * _GAP, top + 2), textwrap.fill(row.text, 27), _INK, _font(12))
        for i, group in enumerate(row.groups):
            for place, (image, is_hit) in enumerate(group):
                corner = (left + sum(widths[:i]) + place * (_CELL + _GAP), top)
                _paste(sheet, draw, image, corner, _GREEN if is_hit else _GREY, 4 if is_hit else 1)
                if row.captions:
                    draw.text((corner[0], top + _CELL + 2), row.captions[i][place], _INK, _font(11))
    return sheet


def _paste(sheet, draw, image, corner, colour, width) -> None:
    # Small drawings are enlarged pixel by pixel, photographs are fitted.
    fitted = image.convert("RGB")
    scale = _CELL / max(fitted.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    size = tuple(max(1, round(side * scale)) for side in fitted.size)
    fitted = fitted.resize(size, method)
    sheet.paste(fitted, (corner[0] + (_CELL - size[0]) // 2, corner[1] + (_CELL - size[1]) // 2))
    draw.rectangle((*corner, corner[0] + _CELL - 1, corner[1] + _CELL - 1), outline=colour, width=width)

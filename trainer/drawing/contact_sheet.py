"""Contact sheets: references, conditions and results side by side, as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont


__all__ = ["SheetRow", "draw_contact_sheet"]

_WRAP = 27  # letters in a line of a condition
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
    # Pillow's own font: that of a system differs between machines.
    return ImageFont.load_default(size)


def draw_contact_sheet(
    rows: Sequence[SheetRow],
    titles: Sequence[str],
    heads: tuple[str, str] = ("reference", "condition"),
    cell: int = 96,
    font: int = 12,
) -> Image.Image:
    """Draw rows of reference, condition and results.

    Args:
        rows (sequence of [`SheetRow`]): Rows, all with as many groups as there are titles.
        titles (sequence of `str`): Heading of each group of results.
        heads (pair of `str`, defaults to `("reference", "condition")`): Headings of these two.
        cell (`int`, defaults to 96): Most pixels of an image's side.
        font (`int`, defaults to 12): Pixels of a letter.

    Returns:
        `PIL.Image.Image`: RGB picture.
    """
    gap, line, wide = cell // 12, font * 4 // 3, _WRAP * 7 * font // 12
    widths = [
        max((len(row.groups[i]) for row in rows), default=1) * (cell + gap) + 2 * gap for i in range(len(titles))
    ]
    left = cell + wide + 3 * gap
    height = cell + gap + (line if any(row.captions for row in rows) else 0)
    first = line + gap
    sheet = Image.new("RGB", (left + sum(widths), first + len(rows) * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    places = (gap, cell + 2 * gap, *(left + sum(widths[:i]) for i in range(len(titles))))
    for x, title in zip(places, (*heads, *titles), strict=True):
        draw.text((x, gap // 2), title, _INK, _font(font))
    for number, row in enumerate(rows):
        top = first + number * height
        if row.reference is not None:
            _paste(sheet, draw, row.reference, (gap, top, cell), _GREY, 1)
        draw.multiline_text((cell + 2 * gap, top + 2), textwrap.fill(row.text, _WRAP), _INK, _font(font))
        for i, group in enumerate(row.groups):
            for place, (image, is_hit) in enumerate(group):
                corner = places[i + 2] + place * (cell + gap), top
                _paste(sheet, draw, image, (*corner, cell), *((_GREEN, cell // 24) if is_hit else (_GREY, 1)))
                if row.captions:
                    draw.text((corner[0], top + cell + 2), row.captions[i][place], _INK, _font(font))
    return sheet


def _paste(sheet, draw, image, place, colour, width) -> None:
    # Small drawings are enlarged pixel by pixel, photographs are fitted.
    left, top, cell = place
    fitted = image.convert("RGB")
    scale = cell / max(fitted.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    size = tuple(max(1, round(side * scale)) for side in fitted.size)
    fitted = fitted.resize(size, method)
    sheet.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
    draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline=colour, width=width)

"""Outlines of the wardrobe's garments, as polygons in a plane of -1 to 1 whose y runs downwards.

A garment hangs from one height, so that its hem alone shows its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.worlds.wardrobe.scenes import LENGTHS, SLEEVED


__all__ = ["VARIANTS", "Layout", "Part", "lay_out"]

VARIANTS = 3  # cuts of one garment, which differ in flare and in how far the arms are spread

_Point = tuple[float, float]
_TOP, _PIT = -0.66, -0.30  # heights of shoulders and armpits


@dataclass(frozen=True)
class _Cut:
    """Half widths and heights of a garment with shoulders; `hems` are half widths by length."""

    shoulder: float
    chest: float
    waist: float
    waist_y: float
    hems: tuple[float, float, float]
    neck: float
    depth: float
    arm: float


_CUTS = {
    "dress": _Cut(0.27, 0.26, 0.17, -0.06, (0.44, 0.55, 0.62), 0.15, 0.20, 0.095),
    "coat": _Cut(0.38, 0.37, 0.37, 0.00, (0.42, 0.46, 0.50), 0.13, 0.04, 0.14),
    "tee": _Cut(0.34, 0.29, 0.29, 0.00, (0.30, 0.31, 0.32), 0.18, 0.15, 0.12),
    "jumper": _Cut(0.36, 0.42, 0.45, 0.00, (0.40, 0.40, 0.40), 0.15, 0.03, 0.15),
}
_HEMS = (0.12, 0.50, 0.88)
_SKIRT_HEMS = (-0.04, 0.42, 0.88)
_DUNGAREE_HEMS = (0.36, 0.63, 0.90)
_REACH = {"short": 0.34, "long": 0.80}


@dataclass(frozen=True)
class Part:
    """A piece of a garment.

    Args:
        kind (`str`): What it is made of: a key of the drawing's materials.
        points (sequence of pairs): Corners of a polygon, or of a line.
        width (`float`, defaults to 0): Width of a line; a polygon, which has a seam around it, if 0.
    """

    kind: str
    points: Sequence[_Point]
    width: float = 0.0


@dataclass
class Layout:
    """Parts of a garment in painting order, and where its details belong: heights, half widths, columns of buttons."""

    parts: list[Part] = field(default_factory=list)
    waist: float = 0.0
    half: float = 0.0
    buttons: tuple[float, float] = (0.0, 0.0)
    columns: tuple[float, ...] = (0.0,)

    def add(self, kind: str, points: Iterable[Sequence[float]], radius: float = 0.0) -> None:
        """Add a polygon, with rounded corners."""
        self.parts.append(Part(kind, _round(list(points), radius)))

    def draw(self, kind: str, points: Iterable[_Point], width: float = 0.022) -> None:
        """Add a line."""
        self.parts.append(Part(kind, list(points), width))


def lay_out(garment: str, sleeves: str, length: str, detail: str, variant: int) -> Layout:
    """Lay out a garment.

    Args:
        garment (`str`): As in a scene, and so are the next three.
        sleeves (`str`): Sleeves.
        length (`str`): Length.
        detail (`str`): Detail.
        variant (`int`): Cut, below `VARIANTS`.

    Returns:
        [`Layout`]: Its parts.
    """
    level, flare = LENGTHS.index(length), 0.95 + 0.05 * variant
    if garment in SLEEVED:
        layout = _lay_out_top(garment, sleeves, level, flare, math.radians(28 + 3 * variant))
    else:
        layout = {"skirt": _lay_out_skirt, "trousers": _lay_out_trousers, "dungarees": _lay_out_dungarees}[garment](
            level, flare
        )
    _add_detail(layout, detail)
    return layout


def _lay_out_top(garment: str, sleeves: str, level: int, flare: float, angle: float) -> Layout:
    layout, cut = Layout(), _CUTS[garment]
    hem, wide = _HEMS[level], cut.hems[level] * flare
    layout.draw("metal", _hook(_TOP - (0.14 if garment == "jumper" else 0.05)))
    if sleeves in _REACH:
        _add_sleeves(layout, garment, cut, sleeves, angle)
        side = [(cut.neck, _TOP - 0.05, 0.02), (cut.shoulder, _TOP + 0.03, 0.08), (cut.chest, _PIT, 0.02)]
    else:
        edge = 0.78 * cut.shoulder
        side = [(cut.neck, _TOP - 0.05, 0.02), (edge, _TOP, 0.03), (edge - 0.03, _PIT - 0.16, 0.12)]
        side.append((cut.chest, _PIT, 0.04))
    side += [(cut.waist, cut.waist_y, 0.14), (wide, hem, 0.05)]
    sag = {"dress": 0.06, "tee": 0.02}.get(garment, 0.0)
    left, right = (-cut.neck, _TOP - 0.05), (cut.neck, _TOP - 0.05)
    if garment != "jumper":  # the inside of the back, seen through the neck
        layout.add("inside", [*_bow(left, right, -0.035), *_bow(right, left, cut.depth + 0.01)])
    bottom, collar = _bow((wide, hem), (-wide, hem), sag)[1:-1], _bow(left, right, cut.depth)[1:-1]
    layout.add("body", [*side, *bottom, *_flip(side), *collar], 0.03)
    {"dress": _finish_dress, "coat": _finish_coat, "tee": _finish_tee, "jumper": _finish_jumper}[garment](
        layout, cut, hem, wide
    )
    layout.waist, layout.half = cut.waist_y, cut.waist + 0.02
    return layout


def _add_sleeves(layout: Layout, garment: str, cut: _Cut, sleeves: str, angle: float) -> None:
    along = np.array([math.sin(angle), math.cos(angle)])
    across = np.array([math.cos(angle), -math.sin(angle)])
    base = np.array([cut.shoulder - 0.04, _TOP + 0.05])
    width = cut.arm + (0.03 if sleeves == "short" else 0.0)
    outer, inner = (base + along * _REACH[sleeves] + sign * across * width for sign in (1, -1))
    shape = [(cut.shoulder - 0.10, _TOP, 0.02), (cut.shoulder + 0.03, _TOP + 0.05, 0.12)]
    shape += [
        (*outer, 0.03),
        (*inner, 0.03),
        (cut.chest - 0.01, _PIT + 0.05, 0.04),
        (cut.chest - 0.12, _PIT - 0.05, 0),
    ]
    deep = {"jumper": 0.13, "coat": 0.10}.get(garment, 0.0)
    cuff = [outer, inner, inner - along * deep, outer - along * deep]
    for side in (1, -1):
        layout.add("sleeve", [(side * x, *rest) for x, *rest in shape], 0.03)
        if deep:
            layout.add("rib", [(side * x, y) for x, y in cuff], 0.025)


def _finish_dress(layout: Layout, cut: _Cut, hem: float, wide: float) -> None:
    layout.draw("ink", [(-cut.waist, cut.waist_y), (0, cut.waist_y + 0.015), (cut.waist, cut.waist_y)], 0.02)
    for x in (-0.55, 0.0, 0.55):
        layout.draw("fold", [(x * cut.waist, cut.waist_y + 0.05), (x * wide * 1.05, hem + 0.01)], 0.035)
    layout.buttons = (_TOP + 0.24, 0.10)


def _finish_coat(layout: Layout, cut: _Cut, hem: float, wide: float) -> None:
    layout.add("inside", [(-0.02, _TOP + 0.30), (0.02, _TOP + 0.30), (0.10, hem), (-0.10, hem)])
    for side in (1, -1):
        lapel = [(0.0, 0.36), (0.10, -0.07), (0.20, -0.04), (0.27, 0.14), (0.19, 0.17)]
        layout.add("rib", [(side * x, _TOP + y) for x, y in lapel], 0.014)
    layout.buttons, layout.columns = (_TOP + 0.42, min(hem - 0.08, 0.24)), (-0.17, 0.17)


def _finish_tee(layout: Layout, cut: _Cut, hem: float, wide: float) -> None:
    outer, y = cut.neck + 0.045, _TOP - 0.045
    ring = _bow((-cut.neck, _TOP - 0.05), (cut.neck, _TOP - 0.05), cut.depth)
    layout.add("rib", [*ring, *_bow((outer, y), (-outer, y), cut.depth + 0.06)])
    layout.buttons = (_TOP + 0.26, hem - 0.1)


def _finish_jumper(layout: Layout, cut: _Cut, hem: float, wide: float) -> None:
    layout.add("rib", _box(wide + 0.005, hem - 0.14, wide, hem), 0.03)
    layout.add("rib", _box(cut.neck, _TOP - 0.17, cut.neck + 0.05, _TOP + 0.02), 0.04)
    layout.buttons = (_TOP + 0.14, hem - 0.2)


def _lay_out_skirt(level: int, flare: float) -> Layout:
    layout, waist, hem = Layout(), -0.58, _SKIRT_HEMS[level]
    half, wide = 0.25, (0.46, 0.56, 0.64)[level] * flare
    _add_hanger(layout, waist - 0.16, half)
    side = [(half, waist, 0.01), (half + 0.09, waist + 0.24, 0.2), (wide, hem, 0.04)]
    layout.add("body", [*side, *_bow((wide, hem), (-wide, hem), 0.06)[1:-1], *_flip(side)], 0.03)
    layout.add("rib", _box(half + 0.01, waist - 0.1, half + 0.015, waist + 0.02), 0.02)
    for x in (-0.6, -0.2, 0.2, 0.6):
        layout.draw("fold", [(x * half, waist + 0.05), (x * wide * 1.05, hem + 0.02)], 0.035)
    layout.waist, layout.half, layout.buttons = waist - 0.04, half + 0.03, (waist + 0.14, hem - 0.06)
    return layout


def _lay_out_trousers(level: int, flare: float) -> Layout:
    layout = Layout()
    waist = -0.66
    _add_hanger(layout, waist - 0.16, 0.26)
    _add_legs(layout, 0.26, waist, _SKIRT_HEMS[level] + (0.08 if level == 0 else 0), flare)
    layout.add("rib", _box(0.27, waist - 0.1, 0.275, waist + 0.02), 0.02)
    layout.waist, layout.half, layout.buttons = waist - 0.04, 0.29, (waist + 0.12, waist + 0.34)
    return layout


def _lay_out_dungarees(level: int, flare: float) -> Layout:
    layout, waist = Layout(), -0.16
    layout.draw("metal", _hook(-0.80))
    _add_legs(layout, 0.31, waist, _DUNGAREE_HEMS[level], flare)
    for side in (1, -1):
        strap = [(0.13, -0.52), (0.20, -0.54), (0.165, -0.82), (0.085, -0.82)]
        layout.add("rib", [(side * x, y) for x, y in strap], 0.02)
    layout.add("body", _box(0.22, -0.56, 0.28, waist + 0.02), 0.04)
    layout.draw("ink", [(-0.3, waist), (0.3, waist)], 0.02)
    layout.waist, layout.half, layout.buttons = waist, 0.33, (-0.44, 0.04)
    return layout


def _add_legs(layout: Layout, half: float, waist: float, hem: float, flare: float) -> None:
    crotch = waist + 0.42
    hip, out, inner = half + 0.08, (0.37 + 0.09 * (hem - crotch)) * flare, 0.06 + 0.03 * (hem - crotch)
    side = [(half, waist, 0.01), (hip, waist + 0.26, 0.2), (out, hem, 0.03), (inner, hem, 0.03), (0.0, crotch, 0.0)]
    layout.add("body", [*side, *_flip(side[:-1])], 0.03)
    layout.draw("ink", [(0, waist + 0.02), (0, crotch)], 0.02)
    for sign in (-1, 1):
        layout.draw("fold", [(sign * 0.18, crotch - 0.05), (sign * (out + inner) / 2, hem - 0.02)], 0.035)


def _add_hanger(layout: Layout, y: float, half: float) -> None:
    layout.draw("metal", _hook(y))
    layout.draw("metal", [(-half, y), (half, y)])
    for x in (-0.75 * half, 0.75 * half):
        layout.add("metal", [(x - 0.025, y), (x + 0.025, y), (x + 0.025, y + 0.09), (x - 0.025, y + 0.09)])


def _add_detail(layout: Layout, detail: str) -> None:
    if detail == "belt":
        y, half = layout.waist, layout.half
        layout.add("leather", _box(half, y - 0.065, half, y + 0.065), 0.015)
        layout.add("gold", _box(0.085, y - 0.085, 0.085, y + 0.085), 0.02)
        layout.add("leather", _box(0.03, y - 0.03, 0.03, y + 0.03))
    elif detail == "buttons":
        first, last = layout.buttons
        count = max(2, min(5, 1 + round((last - first) / 0.22)))
        reach = max(map(abs, layout.columns)) + 0.10
        if len(layout.columns) == 1:  # a plain strip, or a pattern would hide them
            layout.add("placket", _box(reach, first - 0.1, reach, last + 0.1), 0.02)
        turns = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        for x in layout.columns:
            for y in np.linspace(first, last, count):
                layout.add("button", [(x + 0.066 * math.sin(t), y + 0.066 * math.cos(t)) for t in turns])


def _hook(y: float) -> list[_Point]:
    turns = math.pi - np.linspace(0, 4.3, 14)
    return [(0.0, y + 0.06), *((0.05 * math.sin(t), y - 0.08 - 0.05 * math.cos(t)) for t in turns)]


def _box(top_half: float, top: float, bottom_half: float, bottom: float) -> list[_Point]:
    return [(-top_half, top), (top_half, top), (bottom_half, bottom), (-bottom_half, bottom)]


def _flip(points: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(-x, *rest) for x, *rest in reversed(points)]


def _bow(a: _Point, b: _Point, sag: float, count: int = 9) -> list[tuple[float, ...]]:
    """Points of a shallow bow from a to b, whose corners stay as they are."""
    t = np.linspace(0, 1, count)
    x, y = a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t + sag * 4 * t * (1 - t)
    return [(float(u), float(v), 0.0) for u, v in zip(x, y, strict=True)]


def _round(points: Sequence[Sequence[float]], radius: float) -> list[_Point]:
    """Round the corners of a polygon; a point may bring a radius of its own as a third number."""
    rounded = []
    for i, (x, y, *own) in enumerate(points):
        r = own[0] if own else radius
        (ax, ay), (bx, by) = points[i - 1][:2], points[(i + 1) % len(points)][:2]
        a, b = math.hypot(ax - x, ay - y), math.hypot(bx - x, by - y)
        if r <= 0 or min(a, b) < 1e-6:
            rounded.append((x, y))
            continue
        a, b = min(r / a, 0.48), min(r / b, 0.48)
        ax, ay, bx, by = x + a * (ax - x), y + a * (ay - y), x + b * (bx - x), y + b * (by - y)
        for t in (0, 0.2, 0.4, 0.6, 0.8, 1):
            k, m, n = (1 - t) ** 2, 2 * t * (1 - t), t * t
            rounded.append((k * ax + m * x + n * bx, k * ay + m * y + n * by))
    return rounded

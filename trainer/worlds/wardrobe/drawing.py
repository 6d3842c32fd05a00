"""Drawing of the wardrobe: a garment as a map of materials, posed once, coloured, and laid upon a backdrop.

The map and the pattern are drawn once for each cut at three times the size and kept. A picture turns, shifts and
scales both, looks up a colour for each pair of material and pattern, and shrinks the result.
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.worlds.wardrobe.outlines import VARIANTS, lay_out
from trainer.worlds.wardrobe.scenes import Scene


__all__ = ["render_scene"]

_COLOURS = {
    "red": (206, 36, 44),
    "yellow": (250, 208, 46),
    "green": (30, 128, 66),
    "blue": (40, 92, 214),
    "pink": (246, 130, 184),
    "black": (42, 42, 50),
    "white": (246, 245, 240),
}
_BACKDROPS = {"sand": (226, 204, 164), "sky": (156, 203, 240), "mint": (164, 222, 188)}
_CREAM, _DUSK = (252, 249, 240), (62, 62, 88)
_SECOND = {"yellow": _DUSK, "white": _DUSK, "pink": (140, 30, 84)}  # of patterns, cream where there is no other
_MATERIALS = "nothing body sleeve fold rib inside ink metal leather gold button placket".split()
_FABRICS = {"body": 1.0, "sleeve": 0.93, "fold": 0.84}  # what shows the pattern, and how bright it is
_OVER = 3  # how many times larger than the picture the maps are
_PATTERN_TONES = 3  # none, half and full second colour
_COVERED = [0] * _PATTERN_TONES + [255] * (256 - _PATTERN_TONES)  # all materials but the first, which is nothing
_CHANCES = 20


def render_scene(scene: Scene, image_size_px: int, rng: np.random.Generator) -> bytes:
    """Draw a picture of a scene.

    Turn, shift, scale, width, cut, phase of the pattern, tint, shade, the side of the light and contrast vary from
    picture to picture. The same generator gives the same pose at any size.

    Args:
        scene ([`Scene`]): What to show.
        image_size_px (`int`): Width and height of the picture.
        rng (`numpy.random.Generator`): Source of randomness.

    Returns:
        `bytes`: The picture as PNG, RGB.
    """
    # All at once and first: at another size, whose noise is larger, the picture stays the same.
    chances, n = rng.random(_CHANCES, dtype=np.float32), image_size_px
    noise = rng.standard_normal((n, n, 3), dtype=np.float32)
    cut = int(chances[0] * VARIANTS)
    garment = _map_garment(scene.garment, scene.sleeves, scene.length, scene.detail, cut, n * _OVER)
    pose = _pose(chances[1:6], n * _OVER)
    posed = garment.transform(garment.size, Image.Transform.AFFINE, pose)
    cells = np.asarray(posed)
    if scene.pattern != "plain":
        pattern = _map_pattern(scene.pattern, n * _OVER)
        a, b, c, d, e, f = pose
        phase = ((0.1 + 0.15 * chance) * n * _OVER for chance in chances[6:8])
        moved = (a, b, c + next(phase), d, e, f + next(phase))
        cells = cells + np.asarray(pattern.transform(garment.size, Image.Transform.AFFINE, moved))
    art = Image.fromarray(cells)
    art.putpalette(_mix_palette(scene, chances[8:11] - 0.5, 0.94 + 0.1 * chances[11]))
    art, cover = art.convert("RGB").reduce(_OVER), posed.point(_COVERED).reduce(_OVER)
    side = 1.0 if chances[12] < 0.5 else -1.0
    ground = _light_ground(scene.backdrop, chances[13:16] - 0.5, side, cover)
    x, y = _axes(n)
    light = 1.04 - 0.10 * np.clip(side * x + 0.2, 0, 1) - 0.16 * np.clip(np.abs(x) - 0.1, 0, 1) - 0.04 * y
    open_share = 1 - np.asarray(cover, dtype=np.float32)[..., None] / 255
    pixels = ground * open_share + np.asarray(art, dtype=np.float32) * light[..., None]
    contrast, brightness = np.float32(0.95 + 0.1 * chances[16]), np.float32(14 * (chances[17] - 0.5))
    pixels = (pixels - 128) * contrast + (128 + brightness) + np.float32(3 if n <= 96 else 1.5) * noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@functools.lru_cache(maxsize=1024)
def _map_garment(garment: str, sleeves: str, length: str, detail: str, cut: int, size: int) -> Image.Image:
    """Draw the material of each point of a garment, times the number of tones; 0 where there is none."""
    image = Image.new("L", (size, size))
    draw, ink = ImageDraw.Draw(image), _PATTERN_TONES * _MATERIALS.index("ink")
    seam = max(1, round(0.011 * size))
    for part in lay_out(garment, sleeves, length, detail, cut).parts:
        points = [(place + 1) / 2 * size for point in part.points for place in point[:2]]
        material = _PATTERN_TONES * _MATERIALS.index(part.kind)
        if part.width:
            draw.line(points, fill=material, width=max(1, round(part.width / 2 * size)), joint="curve")
        else:
            draw.polygon(points, fill=material)
            draw.line([*points, *points[:4]], fill=ink, width=seam, joint="curve")
    return image


@functools.lru_cache(maxsize=16)
def _map_pattern(pattern: str, size: int) -> Image.Image:
    """Draw the share of the second colour, 0 to 2, on a plane half again as wide as a garment's."""
    axis = np.arange(size * 3 // 2) * (2 / size)
    u, v = axis[None, :], axis[:, None]
    if pattern == "striped":
        tones = 2 * (v % 0.22 < 0.10) + 0 * u
    elif pattern == "dotted":
        step = 0.24
        row = np.floor(v / step)
        x, y = (u / step + 0.5 * (row % 2)) % 1 - 0.5, (v / step) % 1 - 0.5
        tones = 2 * (x * x + y * y < 0.30**2)
    else:
        tones = (u % 0.30 < 0.15).astype(int) + (v % 0.30 < 0.15)
    return Image.fromarray(tones.astype(np.uint8))


def _pose(chances: np.ndarray, size: int) -> tuple[float, ...]:
    """Coefficients that lead from a point of the picture to one of the maps."""
    turn, scale, wide, dx, dy = (float(chance) - 0.5 for chance in chances)
    turn, tall = 0.14 * turn, 0.98 + 0.08 * scale
    wide = tall * (1 + 0.12 * wide)
    cos, sin, half = math.cos(turn), math.sin(turn), size / 2
    x, y = half * (1 + 0.10 * dx), half * (1 + 0.06 * dy)
    a, b, d, e = cos / wide, sin / wide, -sin / tall, cos / tall
    return a, b, half - a * x - b * y, d, e, half - d * x - e * y


def _mix_palette(scene: Scene, tint: np.ndarray, shade: float) -> bytes:
    """Colours of all materials under all tones of the pattern, as a palette."""
    neutral = scene.colour in ("black", "white")
    colour = ((np.array(_COLOURS[scene.colour]) + (5 if neutral else 14) * tint) * shade).clip(0, 255)
    second = np.array(_SECOND.get(scene.colour, _CREAM)) * shade
    bright = float(colour @ (0.299, 0.587, 0.114))
    is_dark, is_light = bright < 60, bright > 190
    plain = {
        "nothing": np.zeros(3),
        "rib": colour * 1.5 + 22 if is_dark else colour * 0.78,
        "inside": colour * 0.55 + (14 if is_dark else 0),
        "ink": colour * (0.3 if is_dark else 0.42 if not is_light else 0.46),
        "metal": np.array((120, 114, 112)),
        "leather": np.array((112, 66, 34) if is_dark else (48, 34, 32)),
        "gold": np.array((240, 200, 80)),
        "button": np.array(_DUSK if is_light else _CREAM),
        "placket": colour * 0.9,
    }
    tones = np.stack([colour, (colour + second) / 2, second])  # (_PATTERN_TONES, 3)
    rows = [tones * _FABRICS[name] if name in _FABRICS else [plain[name]] * _PATTERN_TONES for name in _MATERIALS]
    return np.concatenate(rows).clip(0, 255).astype(np.uint8).tobytes()


def _light_ground(backdrop: str, tint: np.ndarray, side: float, cover: Image.Image) -> np.ndarray:
    """Light a backdrop from one side, with the garment's soft shadow."""
    n = cover.width
    x, y = _axes(n)
    tone = (np.array(_BACKDROPS[backdrop]) + 8 * tint).astype(np.float32)
    glow = 1.045 - 0.055 * ((x + 0.35 * side) ** 2 + (y + 0.3) ** 2)
    shadow = Image.new("L", (n, n))
    shadow.paste(cover, (round(0.022 * side * n), round(0.03 * n)))
    shadow = np.asarray(shadow.filter(ImageFilter.GaussianBlur(0.022 * n)), dtype=np.float32)
    return (glow * (1 - shadow * np.float32(0.34 / 255)))[..., None] * tone


@functools.cache
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of pixels, -1 to 1, as a row and as a column."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    return axis[None, :], axis[:, None]

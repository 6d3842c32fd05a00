"""Scenes of the small world: their attributes, which of them are held out, and how they are drawn."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from trainer.worlds.world import SIZES, WorldPreset, is_held_out, pick


__all__ = [
    "ATTRIBUTES",
    "PRESETS",
    "Scene",
    "SmallWorldPreset",
    "change_scene",
    "draw_scene",
    "is_sound",
    "list_changeable",
    "render_scene",
]

_COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (40, 90, 225),
    "yellow": (240, 212, 40),
    "orange": (245, 130, 30),
    "purple": (140, 60, 190),
    "pink": (250, 130, 190),
    "cyan": (40, 200, 215),
}
_BACKGROUNDS = {
    "white": (243, 243, 243),
    "black": (18, 18, 18),
    "grey": (128, 128, 128),
    "beige": (222, 200, 160),
    "navy": (25, 30, 85),
    "mint": (175, 230, 200),
}


class Scene(NamedTuple):
    """What a picture shows; two pictures of equal scenes are both right answers to the same query.

    Args:
        shape (`str`): Shape of the objects.
        colour (`str`): Colour of the objects.
        texture (`str`): `"plain"`, `"striped"` or `"dotted"`.
        size (`str`): `"small"` or `"big"`.
        count (`int`): Number of objects, 1 to 3.
        background (`str`): Colour of the background, none of which is an object colour.
        extra (`str`): A further small object as colour and shape, such as `"blue star"`; empty for none.
    """

    shape: str
    colour: str
    texture: str
    size: str
    count: int
    background: str
    extra: str


ATTRIBUTES = Scene._fields


@dataclass(frozen=True)
class SmallWorldPreset(WorldPreset):
    """Sizes of a small world and the values of its attributes.

    Args:
        shapes (`tuple[str, ...]`): Shapes that occur.
        colours (`tuple[str, ...]`): Object colours that occur.
        textures (`tuple[str, ...]`): Textures that occur; with a single one texture is never mentioned.
        backgrounds (`tuple[str, ...]`): Background colours that occur.
    """

    shapes: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "heart")
    colours: tuple[str, ...] = tuple(_COLOURS)
    textures: tuple[str, ...] = ("plain", "striped", "dotted")
    backgrounds: tuple[str, ...] = tuple(_BACKGROUNDS)

    @property
    def values(self) -> dict[str, tuple]:
        """`dict[str, tuple]`: Values of each attribute but the extra object."""
        return {
            "shape": self.shapes,
            "colour": self.colours,
            "texture": self.textures,
            "size": ("small", "big"),
            "count": (1, 2, 3),
            "background": self.backgrounds,
        }

    @property
    def varying(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Attributes that differ between scenes of this world."""
        return tuple(name for name in ATTRIBUTES if name == "extra" or len(self.values[name]) > 1)


_MINI = {
    "image_size_px": 32,
    "shapes": ("circle", "square", "triangle", "star"),
    "colours": tuple(_COLOURS)[:6],
    "textures": ("plain",),
    "backgrounds": tuple(_BACKGROUNDS)[:4],
}
PRESETS = {
    "demo": SmallWorldPreset("demo", 48),
    "mini": SmallWorldPreset("mini", **_MINI, **SIZES["mini"]),
    "toy": SmallWorldPreset("toy", **_MINI, **SIZES["toy"]),
}


def draw_scene(preset: SmallWorldPreset, rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """Draw a random scene.

    Args:
        preset ([`SmallWorldPreset`]): The world.
        rng (`numpy.random.Generator`): Source of randomness.
        held_out (`bool` or `None`, defaults to `False`): Whether the combination is a held-out one; either if `None`.

    Returns:
        [`Scene`]: The scene; one in three has an extra object.
    """
    while True:
        scene = Scene(*(pick(rng, values) for values in preset.values.values()), extra="")
        if held_out is None or is_held_out(scene.shape, scene.colour, scene.background) == held_out:
            return change_scene(preset, scene, ["extra"], rng) if rng.random() < 1 / 3 else scene


def change_scene(preset: SmallWorldPreset, scene: Scene, names, rng: np.random.Generator) -> Scene:
    """Give attributes of a scene other values; an extra object is added, or removed where there is one.

    Args:
        preset ([`SmallWorldPreset`]): The world.
        scene ([`Scene`]): Where to start.
        names (iterable of `str`): Attributes to change.
        rng (`numpy.random.Generator`): Source of randomness.

    Returns:
        [`Scene`]: A scene that differs in exactly these attributes; its extra object has a shape of its own.
    """
    for name in sorted(names, key=ATTRIBUTES.index):  # the extra object last: it avoids the new shape
        if name == "extra":
            shapes = [shape for shape in preset.shapes if shape != scene.shape]
            new = "" if scene.extra else f"{pick(rng, preset.colours)} {pick(rng, shapes)}"
        else:
            # Of another shape than the extra object, or a condition could mean either.
            taken = (getattr(scene, name), *scene.extra.split()[1:])
            new = pick(rng, [value for value in preset.values[name] if value not in taken])
        scene = scene._replace(**{name: new})
    return scene


def list_changeable(preset: SmallWorldPreset, scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """List the attributes that can change: those that vary in the world, whatever the scene."""
    return preset.varying


def is_sound(scene: Scene) -> bool:
    """Check whether the extra object has a shape of its own."""
    return scene.shape not in scene.extra.split()


def render_scene(scene: Scene, image_size_px: int, rng: np.random.Generator) -> bytes:
    """Draw a picture of a scene at twice its size, shrink it, and add noise.

    Position, rotation, radius, colour, brightness and contrast vary from picture to picture.

    Args:
        scene ([`Scene`]): What to show.
        image_size_px (`int`): Width and height of the picture.
        rng (`numpy.random.Generator`): Source of randomness.

    Returns:
        `bytes`: The picture as PNG, RGB.
    """
    # Pillow draws polygons with hard edges, which shrinking smooths.
    size = 2 * image_size_px
    image = Image.new("RGB", (size, size), _jitter(_BACKGROUNDS[scene.background], rng))
    radius = (0.21 if scene.size == "big" else 0.125) * size
    colour = _jitter(_COLOURS[scene.colour], rng)
    objects = [(scene.shape, colour, scene.texture, radius, spot) for spot in _SPOTS[scene.count]]
    if scene.extra:
        extra_colour, shape = scene.extra.split()
        objects.append((shape, _jitter(_COLOURS[extra_colour], rng), "plain", 0.1 * size, _EXTRA_SPOT))
    mirror = rng.random() < 0.5
    for shape, fill, texture, extent, (x, y) in objects:
        dx, dy, stretch, turn = rng.random(4) - 0.5
        centre = ((1 - x if mirror else x) + 0.06 * dx) * size, (y + 0.06 * dy) * size
        _draw_object(image, shape, fill, texture, centre, extent * (1 + 0.16 * stretch), 0.5 * turn)
    pixels = np.asarray(image.reduce(2), dtype=np.float32)
    contrast, brightness = 0.9 + 0.2 * rng.random(), 24 * (rng.random() - 0.5)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels = (pixels - 128) * contrast + (128 + brightness) + 5 * noise
    buffer = io.BytesIO()
    # Noise compresses badly, and each picture would take longer.
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


_SPOTS = {
    1: ((0.5, 0.45),),
    2: ((0.27, 0.4), (0.73, 0.46)),
    3: ((0.26, 0.28), (0.74, 0.3), (0.52, 0.72)),
}
_EXTRA_SPOT = (0.14, 0.86)


def _outline(angles: np.ndarray, radii) -> np.ndarray:
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _heart(t: np.ndarray) -> np.ndarray:
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 16


def _turns(count: int, start: float = 0.0) -> np.ndarray:
    return 2 * math.pi * (np.arange(count) + start) / count


_A, _B = 1.05, 0.34
_OUTLINES = {
    "circle": _outline(_turns(24), 0.95),
    "square": _outline(_turns(4, 0.5), 1.2),
    "triangle": _outline(_turns(3), 1.2),
    "star": _outline(_turns(10), np.tile([1.2, 0.48], 5)),
    "cross": np.array(
        [
            *[(-_B, -_A), (_B, -_A), (_B, -_B), (_A, -_B), (_A, _B), (_B, _B)],
            *[(_B, _A), (-_B, _A), (-_B, _B), (-_A, _B), (-_A, -_B), (-_B, -_B)],
        ]
    ),
    "heart": _heart(_turns(24)),
}


def _draw_object(image: Image.Image, shape, colour, texture, centre, radius, turn) -> None:
    cos, sin = math.cos(turn), math.sin(turn)
    outline = _OUTLINES[shape] @ np.array([[cos, sin], [-sin, cos]]) * radius
    if texture == "plain":
        ImageDraw.Draw(image).polygon((outline + centre).ravel().tolist(), fill=colour)
        return
    half = int(1.25 * radius) + 1
    side = 2 * half
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon((outline + half).ravel().tolist(), fill=255)
    tile = Image.new("RGB", (side, side), colour)
    draw = ImageDraw.Draw(tile)
    dark = tuple(int(0.3 * channel) for channel in colour)
    if texture == "striped":
        for offset in range(-side, side, 8):
            draw.line((offset, 0, offset + side, side), fill=dark, width=4)
    else:
        # So that a dot is in the middle of the object, whatever its size.
        for x in range(half % 9 - 9, side, 9):
            for y in range(half % 9 - 9, side, 9):
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=dark)
    image.paste(tile, (round(centre[0]) - half, round(centre[1]) - half), mask)


def _jitter(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    shifts = 24 * (rng.random(3) - 0.5)
    return tuple(int(min(max(channel + shift, 0), 255)) for channel, shift in zip(colour, shifts, strict=True))

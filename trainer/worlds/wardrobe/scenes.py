"""Scenes of the wardrobe: garments with a few independent attributes, and which combinations are held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainer.worlds.world import SIZES, WorldPreset, is_held_out, pick


__all__ = [
    "ATTRIBUTES",
    "LENGTHS",
    "PRESETS",
    "SLEEVED",
    "Scene",
    "WardrobePreset",
    "change_scene",
    "draw_scene",
    "is_sound",
    "list_changeable",
]

SLEEVED = ("dress", "coat", "tee", "jumper")
_UNSLEEVED = ("skirt", "trousers", "dungarees")
LENGTHS = ("cropped", "midi", "maxi")
_DETAILS = ("", "belt", "buttons")  # pockets are too fine for the demo's CLIP, see docs/worlds.md
_BACKDROP_CHANGES = 0.4  # shoppers seldom ask for another backdrop
_WITHOUT_DETAIL = 0.4


class Scene(NamedTuple):
    """What a picture shows; two pictures of equal scenes are both right answers to the same query.

    Args:
        garment (`str`): Kind of garment.
        colour (`str`): Its colour.
        pattern (`str`): `"plain"`, `"striped"`, `"dotted"` or `"checked"`.
        sleeves (`str`): `"none"`, `"short"` or `"long"`; empty for a garment that cannot have any.
        length (`str`): `"cropped"`, `"midi"` or `"maxi"`.
        detail (`str`): `"belt"` or `"buttons"`; empty for none.
        backdrop (`str`): Colour behind the garment, none of which is a colour of garments.
    """

    garment: str
    colour: str
    pattern: str
    sleeves: str
    length: str
    detail: str
    backdrop: str


ATTRIBUTES = Scene._fields


@dataclass(frozen=True)
class WardrobePreset(WorldPreset):
    """Sizes of a wardrobe and the values of its attributes.

    Args:
        garments (`tuple[str, ...]`): Garments that occur.
        colours (`tuple[str, ...]`): Colours that occur: far apart in hue or in lightness.
        patterns (`tuple[str, ...]`): Patterns that occur.
        backdrops (`tuple[str, ...]`): Backdrops that occur.
    """

    garments: tuple[str, ...] = (*SLEEVED, *_UNSLEEVED)
    colours: tuple[str, ...] = ("red", "yellow", "green", "blue", "pink", "black", "white")
    patterns: tuple[str, ...] = ("plain", "striped", "dotted", "checked")
    backdrops: tuple[str, ...] = ("sand", "sky", "mint")

    @property
    def values(self) -> dict[str, tuple]:
        """`dict[str, tuple]`: Values of each attribute; only some garments have sleeves."""
        return {
            "garment": self.garments,
            "colour": self.colours,
            "pattern": self.patterns,
            "sleeves": ("none", "short", "long"),
            "length": LENGTHS,
            "detail": _DETAILS,
            "backdrop": self.backdrops,
        }


_FEW = {
    "garments": ("dress", "coat", "tee", "skirt", "trousers"),
    "colours": ("red", "yellow", "blue", "pink", "black"),
    "patterns": ("plain", "striped"),
}
PRESETS = {
    "demo": WardrobePreset("demo", 64),
    "mini": WardrobePreset("mini", 48, **_FEW, **SIZES["mini"]),
    "toy": WardrobePreset("toy", 32, **_FEW, **SIZES["toy"]),
}


def draw_scene(preset: WardrobePreset, rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """Draw a random scene.

    Args:
        preset ([`WardrobePreset`]): The world.
        rng (`numpy.random.Generator`): Source of randomness.
        held_out (`bool` or `None`, defaults to `False`): Whether the combination is a held-out one; either if `None`.

    Returns:
        [`Scene`]: The scene; two in five have no detail.
    """
    while True:
        scene = Scene(*(pick(rng, values) for values in preset.values.values()))
        scene = scene._replace(detail="" if rng.random() < _WITHOUT_DETAIL else pick(rng, _DETAILS[1:]))
        if scene.garment not in SLEEVED:
            scene = scene._replace(sleeves="")
        if held_out is None or is_held_out(scene.garment, scene.colour, scene.backdrop) == held_out:
            return scene


def change_scene(preset: WardrobePreset, scene: Scene, names: Iterable[str], rng: np.random.Generator) -> Scene:
    """Give attributes of a scene other values.

    Args:
        preset ([`WardrobePreset`]): The world.
        scene ([`Scene`]): Where to start.
        names (iterable of `str`): Attributes to change.
        rng (`numpy.random.Generator`): Source of randomness.

    Returns:
        [`Scene`]: A scene that differs in exactly these attributes. A garment changes into one that has sleeves as it
        has, so that nothing else needs to change. A detail is as often taken away as replaced by one of the others.
    """
    for name in sorted(names, key=ATTRIBUTES.index):
        old = getattr(scene, name)
        options = [value for value in preset.values[name] if value != old]
        if name == "garment":
            # Sleeves would come or go with the garment: two changes in place of one.
            options = [value for value in options if (value in SLEEVED) == (old in SLEEVED)]
        scene = scene._replace(**{name: pick(rng, options)})
    return scene


def list_changeable(preset: WardrobePreset, scene: Scene, rng: np.random.Generator) -> list[str]:
    """List the attributes that a change is drawn from: no sleeves of a skirt, and the backdrop now and then."""
    return [
        name
        for name in ATTRIBUTES
        if (name != "sleeves" or scene.sleeves) and (name != "backdrop" or rng.random() < _BACKDROP_CHANGES)
    ]


def is_sound(scene: Scene) -> bool:
    """Check whether a scene has sleeves if and only if its garment can have them."""
    return (scene.garment in SLEEVED) == bool(scene.sleeves)

"""Language of the wardrobe: captions, conditions in two splits of wordings, and the words of both.

Lengths have words of their own ("cropped", "midi", "maxi"), so that "short" and "long" are of sleeves alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from trainer.worlds.language import choose_article
from trainer.worlds.wardrobe.scenes import LENGTHS, Scene, WardrobePreset
from trainer.worlds.world import pick


__all__ = ["SYNONYMS", "WORDINGS", "list_concepts", "list_words", "say_value", "tell_kind", "write_caption"]

SYNONYMS = {
    "tee": ("tee", "t-shirt"),
    "jumper": ("jumper", "sweater"),
    "trousers": ("trousers", "pants"),
    "dungarees": ("dungarees", "overalls"),
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
    "midi": ("midi", "knee-length"),
    "maxi": ("maxi", "full-length"),
    "sand": ("sand", "beige"),
    "sky": ("sky", "light blue"),
    "none": ("no sleeves",),
    "short": ("short sleeves",),
    "long": ("long sleeves",),
    "belt": ("a belt",),
    "buttons": ("buttons",),
}
_PAIRS = ("trousers", "dungarees")
_OPENINGS = ("", "", "a photo of ", "a picture of ", "an image of ")
_GROUNDS = ("on a {} backdrop", "on a {} background", "in front of a {} backdrop", "on {}")
_VAGUE = ("garment", "piece of clothing")
# Prompt templates, and what else a condition may say.
_PROMPT_WORDS = "a photo of $ that , with but and the same an pair"

# How conditions speak of each kind of change: training uses split A, queries split B. The words of B occur in A or in
# captions, its phrases do not. Some of B name the old value before the new one, as some of A do in other forms.
_PROPERTY = {
    "A": ("is {new}", "is {new} instead of {old}", "is not {old} but {new}", "goes from {old} to {new}"),
    "B": ("is {new} and not {old}", "is changed from {old} to {new}"),
}
_PATTERN = {
    "A": (*_PROPERTY["A"], "comes {new}", "has the pattern changed to {new}"),
    "B": (*_PROPERTY["B"], "comes {new} instead"),
}
_LENGTH = {
    "A": (*_PROPERTY["A"], "comes in a {new} cut", "has the length changed to {new}"),
    "B": (*_PROPERTY["B"], "has a {new} cut instead"),
}
WORDINGS = {
    "A": {
        "garment": (*_PROPERTY["A"], "is changed to {new}", "comes as {new}"),
        "colour": (*_PROPERTY["A"], "comes in {new}", "has the colour changed to {new}"),
        "pattern": _PATTERN["A"],
        "no pattern": (*_PATTERN["A"], "has no pattern", "is without a pattern"),
        "sleeves": (
            "has {new}",
            "comes with {new}",
            "has {new} instead of {old}",
            "is with {new}",
            "goes from {old} to {new}",
        ),
        "length": _LENGTH["A"],
        "shorter": (*_LENGTH["A"], "is shorter", "comes in a shorter cut"),
        "longer": (*_LENGTH["A"], "is longer", "comes in a longer cut"),
        "added": ("has {new}", "comes with {new}", "has {new} added", "is with {new} as well"),
        "removed": ("is without {old}", "comes with {old} removed", "goes without {old}", "has {old} no more"),
        "replaced": ("has {new} instead of {old}", "comes with {new} and not with {old}", "goes from {old} to {new}"),
        "backdrop": (
            "is on a {new} backdrop",
            "has a {new} background",
            "has a {new} backdrop instead of a {old} one",
            "is on {new} and not on {old}",
            "has the background changed to {new}",
        ),
    },
    "B": {
        "garment": ("comes as {new} instead", "is {new} and not {old}", "has {old} changed to {new}"),
        "colour": (*_PROPERTY["B"], "comes in {new} instead"),
        "pattern": _PATTERN["B"],
        "no pattern": (*_PATTERN["B"], "comes without a pattern"),
        "sleeves": ("comes with {new} instead", "has {new} and not {old}", "has {old} changed to {new}"),
        "length": _LENGTH["B"],
        "shorter": (*_LENGTH["B"], "has a shorter cut"),
        "longer": (*_LENGTH["B"], "has a longer cut"),
        "added": ("has {new} as well", "comes with {new} added", "goes with {new}"),
        "removed": ("has {old} removed", "comes without {old}", "is with {old} no more"),
        "replaced": ("comes with {new} instead of {old}", "has {new} and not {old}", "has {old} changed to {new}"),
        "backdrop": (
            "is in front of a {new} backdrop",
            "comes with a {new} backdrop instead",
            "has the {old} backdrop changed to {new}",
        ),
    },
}


def tell_kind(name: str, reference: Scene, target: Scene) -> str:
    """Find the kind of change of an attribute.

    Args:
        name (`str`): The attribute, which differs.
        reference ([`Scene`]): Where to start.
        target ([`Scene`]): Where to arrive.

    Returns:
        `str`: Its name, or what a shopper has further words for. A detail is added, removed or replaced, a pattern
        given up, and of the middle length there is one shorter and one longer.
    """
    if name == "detail":
        return "removed" if not target.detail else "replaced" if reference.detail else "added"
    if name == "pattern" and target.pattern == "plain":
        return "no pattern"
    if name == "length" and reference.length == LENGTHS[1]:
        return "shorter" if target.length == LENGTHS[0] else "longer"
    return name


def write_caption(
    preset: WardrobePreset,
    scene: Scene,
    rng: np.random.Generator,
    omitted: Collection[str] = (),
    opening: str | None = None,
) -> str:
    """Describe a scene.

    Args:
        preset ([`WardrobePreset`]): The world.
        scene ([`Scene`]): What to describe.
        rng (`numpy.random.Generator`): Source of randomness, which picks the wording.
        omitted (collection of `str`, defaults to none): Attributes that are not mentioned.
        opening (`str`, *optional*): How the caption begins, such as `"a photo of "`. Defaults to a drawn one.

    Returns:
        `str`: Words in lower case: length, colour, pattern and garment, then sleeves, detail and backdrop.

    Examples:
        >>> from trainer.worlds.wardrobe.scenes import PRESETS
        >>> scene = Scene("dress", "red", "striped", "long", "midi", "belt", "sand")
        >>> write_caption(PRESETS["demo"], scene, np.random.default_rng(0), opening="a photo of ")
        'a photo of a midi red striped dress with long sleeves and a belt in front of a beige backdrop'
    """
    told = [name for name in ("length", "colour", "pattern") if name not in omitted]
    noun = pick(rng, _VAGUE) if "garment" in omitted else _say(scene.garment, rng)
    text = " ".join([*(_say(getattr(scene, name), rng) for name in told), noun])
    is_pair = "garment" not in omitted and scene.garment in _PAIRS
    text = f"a pair of {text}" if is_pair else f"{choose_article(text)} {text}"
    text = (pick(rng, _OPENINGS) if opening is None else opening) + text
    extras = [name for name in ("sleeves", "detail") if name not in omitted and getattr(scene, name)]
    if extras:
        text += " with " + " and ".join(_say(getattr(scene, name), rng) for name in extras)
    if "backdrop" not in omitted:
        text += " " + pick(rng, _GROUNDS).format(_say(scene.backdrop, rng))
    return text


def say_value(scene: Scene, name: str, rng: np.random.Generator) -> str:
    """Name the value of an attribute, with an article where it is a garment.

    Args:
        scene ([`Scene`]): The scene.
        name (`str`): The attribute.
        rng (`numpy.random.Generator`): Source of randomness, which picks a synonym.

    Returns:
        `str`: Words; none where the attribute has no value.
    """
    text = _say(getattr(scene, name), rng)
    if name != "garment":
        return text
    return f"a pair of {text}" if scene.garment in _PAIRS else f"{choose_article(text)} {text}"


def list_concepts(preset: WardrobePreset) -> list[str]:
    """Name the concepts of the wardrobe: a colour and a garment.

    Args:
        preset ([`WardrobePreset`]): The world.

    Returns:
        `list[str]`: Names in the words of its captions, synonyms too.
    """
    nouns = [noun for garment in preset.garments for noun in SYNONYMS.get(garment, (garment,))]
    return [f"{colour} {noun}" for colour in preset.colours for noun in nouns]


def list_words() -> list[str]:
    """List every word that captions, conditions and prompt templates can hold, in one order for all presets.

    Returns:
        `list[str]`: Words in lower case, hyphens on their own; `$`, which stands for a pseudo-word, is one of them.

    Examples:
        >>> "backdrop" in list_words(), "$" in list_words()
        (True, True)
    """
    values = [value for known in WardrobePreset("all", 64).values.values() for value in known]
    spoken = [word for value in values for word in SYNONYMS.get(value, (value,))]
    phrases = [text for kinds in WORDINGS.values() for texts in kinds.values() for text in texts]
    texts = [_PROMPT_WORDS, *spoken, *_VAGUE, *_OPENINGS, *_GROUNDS, *phrases]
    return list(dict.fromkeys(word for text in texts for word in re.findall(r"\w+|[^\w\s]", _SLOT.sub(" ", text))))


_SLOT = re.compile(r"\{\w*\}")


def _say(value: str, rng: np.random.Generator) -> str:
    return pick(rng, SYNONYMS.get(value, (value,)))

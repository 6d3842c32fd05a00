"""Language of the small world: captions, conditions in two splits of wordings, and the words of both."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from trainer.worlds.language import choose_article
from trainer.worlds.small_world.scenes import Scene, SmallWorldPreset
from trainer.worlds.world import pick


__all__ = ["SYNONYMS", "WORDINGS", "list_concepts", "list_words", "say_value", "tell_kind", "write_caption"]

SYNONYMS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "heart": ("heart",),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "plain": ("plain", "solid"),
    "striped": ("striped", "lined"),
    "dotted": ("dotted", "spotted"),
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
    "beige": ("beige", "sand"),
    "grey": ("grey", "gray"),
}
_PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
_NUMBERS = {1: "one", 2: "two", 3: "three"}
_GROUPS = {1: ("a", "one", "a single"), 2: ("two", "a pair of"), 3: ("three", "a group of three")}
# Twice, so that two captions in five begin without an opening.
_OPENINGS = ("", "", "a photo of ", "a picture of ", "an image of ")
_EXTRAS = ("with {}", "next to {}", "and {}")
_GROUNDS = ("on a {} background", "on a {} backdrop", "in front of a {} background", "on {}")
# Prompt templates, and what else a condition may say.
_PROMPT_WORDS = "a photo of $ that , with but and"

# How conditions speak of each attribute: training uses split A, queries split B. The words of B occur in A or in
# captions, its phrases do not; `{old}` and `{new}` are values, with an article where they are objects.
_PROPERTY = {
    "A": (
        "is {{new}}",
        "is {{new}} instead of {{old}}",
        "has the {0} {{new}}",
        "is not {{old}} but {{new}}",
        "goes from {{old}} to {{new}}",
        "is changed to {{new}}",
    ),
    "B": ("has {{new}} as the {0}", "is changed from {{old}} to {{new}}", "comes as {{new}} and not {{old}}"),
}
WORDINGS = {
    split: {name: tuple(text.format(name) for text in _PROPERTY[split]) for name in ("colour", "texture", "size")}
    for split in _PROPERTY
}
WORDINGS["A"] |= {
    "shape": (
        "is {new}",
        "shows {new}",
        "has {new} instead of {old}",
        "is changed to {new}",
        "has the shape of {new}",
    ),
    "count": (
        "shows {new} of them",
        "has {new} instead of {old}",
        "comes as a group of {new}",
        "goes to {new} of them",
    ),
    "background": (
        "is on a {new} background",
        "has a {new} background",
        "has a {new} backdrop instead of a {old} one",
        "is on {new} and not on {old}",
        "has the background changed to {new}",
    ),
    "added": ("has {new} added", "comes with {new}", "is next to {new}", "has {new} as well", "has {new} next to it"),
    "removed": ("is without {old}", "comes with {old} removed", "is not next to {old}", "goes without {old}"),
}
WORDINGS["B"] |= {
    "shape": ("shows {new} instead", "shows {new} and not {old}", "has {old} changed to {new}"),
    "count": ("has {new} of them", "shows {new} of them instead of {old}", "is changed to {new} of them"),
    "background": (
        "is in front of a {new} background",
        "shows a {new} background instead",
        "has the {old} background changed to {new}",
    ),
    "added": ("shows {new} as well", "is with {new} added", "shows {new} next to it"),
    "removed": ("has {old} removed", "comes without {old}", "is not with {old}"),
}


def write_caption(
    preset: SmallWorldPreset,
    scene: Scene,
    rng: np.random.Generator,
    omitted: Collection[str] = (),
    opening: str | None = None,
) -> str:
    """Describe a scene.

    Args:
        preset ([`SmallWorldPreset`]): The world; an attribute that never varies in it is not mentioned.
        scene ([`Scene`]): What to describe.
        rng (`numpy.random.Generator`): Source of randomness, which picks the wording.
        omitted (collection of `str`, defaults to none): Attributes that are not mentioned.
        opening (`str`, *optional*): How the caption begins, such as `"a photo of "`. Defaults to a drawn one.

    Returns:
        `str`: Words in lower case, the main objects first, then the extra object and the background.

    Examples:
        >>> from trainer.worlds.small_world.scenes import PRESETS
        >>> scene = Scene("star", "red", "plain", "big", 3, "navy", "blue heart")
        >>> write_caption(PRESETS["mini"], scene, np.random.default_rng(0), opening="a photo of ")
        'a photo of a group of three big red stars and a blue heart in front of a navy background'
    """
    vague = ("a",) if scene.count == 1 else ("some",)
    number = pick(rng, vague if "count" in omitted else _GROUPS[scene.count])
    noun = _say_noun("" if "shape" in omitted else scene.shape, scene.count, rng)
    shown = [name for name in ("size", "colour", "texture") if name in preset.varying and name not in omitted]
    words = [number, *(_say(getattr(scene, name), rng) for name in shown), noun]
    if words[0] == "a":
        words[0] = choose_article(words[1])
    text = (pick(rng, _OPENINGS) if opening is None else opening) + " ".join(words)
    if scene.extra and "extra" not in omitted:
        text += " " + pick(rng, _EXTRAS).format(say_value(scene, "extra", rng))
    if "background" not in omitted:
        text += " " + pick(rng, _GROUNDS).format(_say(scene.background, rng))
    return text


def tell_kind(name: str, reference: Scene, target: Scene) -> str:
    """Find the kind of change of an attribute: an extra object is added or removed."""
    return name if name != "extra" else "added" if target.extra else "removed"


def list_concepts(preset: SmallWorldPreset) -> list[str]:
    """Name the concepts of a small world: a colour and a shape, one or more of them."""
    return [
        f"{colour} {noun}"
        for value in preset.colours
        for colour in SYNONYMS.get(value, (value,))
        for shape in preset.shapes
        for word in SYNONYMS[shape]
        for noun in (word, _say_plural(word))
    ]


def list_words() -> list[str]:
    """List every word that captions, conditions and prompt templates can hold, in one order for all presets.

    Returns:
        `list[str]`: Words in lower case; `$`, which stands for a pseudo-word, is one of them.

    Examples:
        >>> "backdrop" in list_words(), "$" in list_words()
        (True, True)
    """
    values = [value for name, known in _WORLD.values.items() if name != "count" for value in known]
    spoken = [word for value in values for word in SYNONYMS.get(value, (value,))]
    nouns = [*(word for shape in _WORLD.shapes for word in SYNONYMS[shape]), "object", "thing"]
    phrases = [text for kinds in WORDINGS.values() for texts in kinds.values() for text in texts]
    texts = [_PROMPT_WORDS, "an some", *spoken, *nouns, *map(_say_plural, nouns), *_NUMBERS.values(), *_OPENINGS]
    texts += [*(text for group in _GROUPS.values() for text in group), *_EXTRAS, *_GROUNDS, *phrases]
    # In order: a word's place decides its id.
    words = dict.fromkeys(word for text in texts for word in text.split() if "{" not in word)
    return list(words)


# Of all values: smaller presets share the words, and so their ids.
_WORLD = SmallWorldPreset("all", 48)


def _say(value: str, rng: np.random.Generator) -> str:
    return pick(rng, SYNONYMS.get(value, (value,)))


def _say_noun(shape: str, count: int, rng: np.random.Generator) -> str:
    noun = _say(shape, rng) if shape else pick(rng, ("object", "thing"))
    return noun if count == 1 else _say_plural(noun)


def say_value(scene: Scene, name: str, rng: np.random.Generator) -> str:
    """Name the value of an attribute, with an article where it is an object.

    Args:
        scene ([`Scene`]): The scene.
        name (`str`): The attribute.
        rng (`numpy.random.Generator`): Source of randomness, which picks a synonym.

    Returns:
        `str`: Words; none where there is no extra object.
    """
    value = getattr(scene, name)
    if name == "count":
        return _NUMBERS[value]
    if name == "shape":
        text = _say_noun(value, scene.count, rng)
    else:
        text = " ".join(_say(word, rng) for word in value.split())
    is_object = name == "extra" or name == "shape" and scene.count == 1
    return f"{choose_article(text)} {text}" if text and is_object else text


def _say_plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")

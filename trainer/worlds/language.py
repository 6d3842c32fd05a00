"""What the languages of all worlds share: conditions made of wordings, and captions that leave attributes out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from trainer.worlds.world import World, pick


__all__ = ["Phrase", "choose_article", "draw_omissions", "join_phrases", "tell_order", "write_phrases"]


class Phrase(NamedTuple):
    """What a condition says about one attribute.

    Args:
        kind (`str`): Kind of change, a key of the world's wordings.
        wording (`str`): Template, in which `{old}` and `{new}` stand for values.
        text (`str`): The template, filled in.
    """

    kind: str
    wording: str
    text: str


def write_phrases(
    world: World, reference: NamedTuple, target: NamedTuple, split: str, rng: np.random.Generator
) -> list[Phrase]:
    """Say what must change to get from one scene to another.

    Args:
        world ([`World`]): The world.
        reference (`NamedTuple`): Where to start.
        target (`NamedTuple`): Where to arrive, different from the reference.
        split (`str`): `"A"`, the wordings of training, or `"B"`, the held-out wordings of queries.
        rng (`numpy.random.Generator`): Source of randomness, which picks wordings and the order of changes.

    Returns:
        `list[Phrase]`: One for each attribute that differs.
    """
    names = [name for name in world.scene._fields if getattr(reference, name) != getattr(target, name)]
    phrases = []
    # Nothing is drawn where there is no order: more draws would make another world of each seed.
    for name in [names[i] for i in rng.permutation(len(names))] if len(names) > 1 else names:
        kind = world.tell_kind(name, reference, target)
        wording = pick(rng, world.wordings[split][kind])
        values = {"old": world.say_value(reference, name, rng), "new": world.say_value(target, name, rng)}
        phrases.append(Phrase(kind, wording, wording.format(**values)))
    return phrases


def join_phrases(phrases: Iterable[Phrase]) -> str:
    """Join phrases to a condition, which continues "a photo of X that"."""
    return " and ".join(phrase.text for phrase in phrases)


def tell_order(wording: str) -> str:
    """Find which of the old and the new value a wording names, and in which order.

    Args:
        wording (`str`): Template with `{old}`, `{new}` or both.

    Returns:
        `str`: `"old first"`, `"new first"`, `"new alone"` or `"old alone"`.

    Examples:
        >>> tell_order("has {old} changed to {new}")
        'old first'
    """
    old, new = wording.find("{old}"), wording.find("{new}")
    if min(old, new) < 0:
        return "new alone" if old < 0 else "old alone"
    return "old first" if old < new else "new first"


def draw_omissions(world: World, rng: np.random.Generator, probability: float = 0.12) -> set[str]:
    """Draw which attributes a caption leaves out.

    Args:
        world ([`World`]): The world.
        rng (`numpy.random.Generator`): Source of randomness.
        probability (`float`, defaults to `0.12`): Chance of each attribute to be left out.

    Returns:
        `set[str]`: Names of attributes.
    """
    return {name for name in world.scene._fields if rng.random() < probability}


def choose_article(word: str) -> str:
    """Give the indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"

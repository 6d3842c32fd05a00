"""What SEARLE needs of the small world: names of concepts, and phrases about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.worlds.small_world.data import draw_neighbour
from trainer.worlds.small_world.grammar import SYNONYMS, say_plural, write_condition
from trainer.worlds.small_world.scenes import SmallWorldPreset, draw_scene, find_preset


__all__ = ["list_concepts", "list_phrases", "write_searle_files"]

_NUM_PHRASES = 64


def list_concepts(preset: str | SmallWorldPreset = "demo") -> list[str]:
    """Name the concepts of a small world: a colour and a shape, one or more of them.

    Args:
        preset (`str` or [`SmallWorldPreset`], defaults to `"demo"`): The world.

    Returns:
        `list[str]`: Names in the words of its captions, synonyms too.

    Raises:
        ValueError: If the preset is unknown.

    Examples:
        >>> list_concepts("mini")[:4]
        ['red circle', 'red circles', 'red disc', 'red discs']
    """
    preset = find_preset(preset)
    return [
        f"{colour} {noun}"
        for value in preset.colours
        for colour in SYNONYMS.get(value, (value,))
        for shape in preset.shapes
        for word in SYNONYMS[shape]
        for noun in (word, say_plural(word))
    ]


def list_phrases(preset: str | SmallWorldPreset = "demo") -> list[str]:
    """Write 64 phrases about a concept, such as "a photo of {} that is big".

    They end as the conditions of the training triplets do, in wordings that no query uses. None speaks of the
    background: with a concept's colour and shape it could spell out a combination that is held out.

    Args:
        preset (`str` or [`SmallWorldPreset`], defaults to `"demo"`): The world.

    Returns:
        `list[str]`: Distinct phrases, `{}` where the concept's name belongs.

    Raises:
        ValueError: If the preset is unknown.

    Examples:
        >>> list_phrases("mini")[:2]
        ['a photo of {} that comes as a group of one', 'a photo of {} that goes from orange to red']
    """
    preset, rng, phrases = find_preset(preset), np.random.default_rng(0), {}
    while len(phrases) < _NUM_PHRASES:
        scene = draw_scene(preset, rng)
        neighbour, changed = draw_neighbour(preset, scene, rng, single=True)
        if changed != ["background"]:
            phrases[f"a photo of {{}} that {write_condition(scene, neighbour, 'A', rng)}"] = None
    return list(phrases)


def write_searle_files(preset: str | SmallWorldPreset, folder: str | Path) -> dict[str, str]:
    """Write concepts and phrases to files, as arguments of a [`ProjectionTrainer`] for SEARLE.

    Args:
        preset (`str` or [`SmallWorldPreset`]): The world.
        folder (`str` or `Path`): Where to; made where it is missing.

    Returns:
        `dict[str, str]`: Arguments `concepts` and `phrases`, the two files.

    Raises:
        ValueError: If the preset is unknown.
    """
    files = {}
    for name, lines in (("concepts", list_concepts(preset)), ("phrases", list_phrases(preset))):
        path = Path(folder, f"{name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[name] = str(path)
    return files

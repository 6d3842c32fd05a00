"""What SEARLE needs of a world: names of concepts, and phrases about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.worlds.data import draw_neighbour
from trainer.worlds.language import join_phrases, write_phrases
from trainer.worlds.world import World, WorldPreset


__all__ = ["list_phrases", "write_searle_files"]

_NUM_PHRASES = 64


def list_phrases(world: World, preset: str | WorldPreset = "demo") -> list[str]:
    """Write 64 phrases about a concept, such as "a photo of {} that is big".

    They end as the conditions of the training triplets do, in wordings that no query uses. None speaks of the
    last attribute of `held_out_by`, the background: with what a concept names it could spell out a combination that is
    held out.

    Args:
        world ([`World`]): The world.
        preset (`str` or [`WorldPreset`], defaults to `"demo"`): Its sizes.

    Returns:
        `list[str]`: Distinct phrases, `{}` where the concept's name belongs.

    Raises:
        ValueError: If the preset is unknown.
    """
    # A dictionary as an ordered set.
    preset, rng, phrases = world.find_preset(preset), np.random.default_rng(0), {}
    while len(phrases) < _NUM_PHRASES:
        scene = world.draw_scene(preset, rng)
        neighbour, changed = draw_neighbour(world, preset, scene, rng, single=True)
        # Another backdrop says nothing of the concept.
        if changed != [world.held_out_by[-1]]:
            condition = join_phrases(write_phrases(world, scene, neighbour, "A", rng))
            phrases[f"a photo of {{}} that {condition}"] = None
    return list(phrases)


def write_searle_files(world: World, preset: str | WorldPreset, folder: str | Path) -> dict[str, str]:
    """Write concepts and phrases to files, as arguments of a [`ProjectionTrainer`] for SEARLE.

    Args:
        world ([`World`]): The world.
        preset (`str` or [`WorldPreset`]): Its sizes.
        folder (`str` or `Path`): Where to; made where it is missing.

    Returns:
        `dict[str, str]`: Arguments `concepts` and `phrases`, the two files.

    Raises:
        ValueError: If the preset is unknown.
    """
    files, concepts = {}, world.list_concepts(world.find_preset(preset))
    for name, lines in (("concepts", concepts), ("phrases", list_phrases(world, preset))):
        path = Path(folder, f"{name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[name] = str(path)
    return files

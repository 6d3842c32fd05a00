"""Embedded worlds: each a data set and a benchmark, drawn in code."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from modeling_rtd import suggest


if TYPE_CHECKING:
    from trainer.worlds.world import World

__all__ = ["WORLDS", "find_world"]

WORLDS = ("small_world", "wardrobe")


def find_world(name: str) -> World:
    """Find a world by the name of its benchmark.

    Args:
        name (`str`): One of `WORLDS`.

    Returns:
        [`World`]: Its description.

    Raises:
        ValueError: If there is no such world; suggests the nearest.
    """
    if name not in WORLDS:
        raise ValueError(suggest("world", name, WORLDS))
    return importlib.import_module(f"trainer.worlds.{name}.declaration").WORLD

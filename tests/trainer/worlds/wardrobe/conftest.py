from __future__ import annotations

import dataclasses
import functools

import pytest

from trainer.worlds import find_world
from trainer.worlds.data import build_world


WARDROBE = find_world("wardrobe")
PRESET = dataclasses.replace(
    WARDROBE.presets["demo"], image_size_px=16, num_images=600, num_captions=600, num_triplets=1500, num_queries=150
)  # all of the demo's words and combinations, in tiny pictures


@pytest.fixture(scope="session")
def world():
    world = build_world(WARDROBE, PRESET)
    object.__setattr__(world, "benchmark", functools.cache(world.benchmark))  # drawn once for all tests
    return world


@pytest.fixture(scope="session")
def toy():
    return build_world(WARDROBE, "toy")

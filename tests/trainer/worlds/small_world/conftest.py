from __future__ import annotations

import dataclasses
import functools

import pytest

from trainer.worlds.small_world import build_small_world
from trainer.worlds.small_world.scenes import PRESETS


WORLD = dataclasses.replace(
    PRESETS["demo"], image_size_px=16, num_images=600, num_captions=600, num_triplets=1500, num_queries=120
)  # all of the demo's words and combinations, in tiny pictures


@pytest.fixture(scope="session")
def world():
    world = build_small_world(WORLD)
    object.__setattr__(world, "benchmark", functools.cache(world.benchmark))  # drawn once for all tests
    return world


@pytest.fixture(scope="session")
def toy():
    return build_small_world("toy")

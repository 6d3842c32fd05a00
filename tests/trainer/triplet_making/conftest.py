"""Captions of the small world, and triplets from them."""

import pytest

from trainer.triplet_making import make_triplets
from trainer.worlds.small_world import build_small_world


@pytest.fixture(scope="session")
def captions():
    return build_small_world("toy").captions["text"][:]


@pytest.fixture(scope="session")
def triplets(captions):
    return list(make_triplets(captions, per_caption=4))

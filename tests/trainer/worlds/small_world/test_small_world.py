from __future__ import annotations

import numpy as np
import pytest

from trainer.worlds.small_world import build_small_world, build_tokenizer


def test_equal_seeds_give_equal_bytes(toy):
    again = build_small_world("toy")
    for name in ("images", "captions", "triplets"):
        assert getattr(again, name).data.table == getattr(toy, name).data.table


@pytest.mark.parametrize("name", ["images", "captions", "triplets"])
def test_another_seed_gives_other_training_data(toy, name):
    assert getattr(build_small_world("toy", seed=1), name).data.table != getattr(toy, name).data.table


def test_benchmark_does_not_depend_on_the_seed(toy):
    first, second = toy.benchmark("test"), build_small_world("toy", seed=1).benchmark("test")
    assert first.queries.data.table == second.queries.data.table
    assert first.gallery.data.table == second.gallery.data.table


def test_two_changes_are_asked_for_in_about_38_percent(world):
    counts = [len(names) for names in world.benchmark("test").queries["changed"]]
    assert np.mean([count == 2 for count in counts]) == pytest.approx(0.38, abs=0.12)


@pytest.mark.parametrize("build", [build_small_world, build_tokenizer])
def test_an_unknown_preset_is_refused_with_a_suggestion(build):
    with pytest.raises(ValueError, match="did you mean 'mini'"):
        build("minni")


def test_an_unknown_split_is_refused(toy):
    with pytest.raises(ValueError, match="validation and test, got 'train'"):
        toy.benchmark("train")

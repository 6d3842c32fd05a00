"""What the small world promises about held-out data and ground truth, read off the data itself."""

from __future__ import annotations

import numpy as np
import pytest

from tests.factories import list_scenes, map_gallery
from trainer.worlds.small_world.scenes import PRESETS, Scene, is_held_out


SPLITS = ("validation", "test")


def test_one_in_five_combinations_is_held_out():
    for preset in (PRESETS["demo"], PRESETS["mini"]):
        held_out = [is_held_out(s, c, b) for s in preset.shapes for c in preset.colours for b in preset.backgrounds]
        assert 0.17 < np.mean(held_out) < 0.23


def test_no_training_image_shows_a_held_out_combination(world):
    assert not any(is_held_out(scene[0], scene[1], scene[5]) for scene in list_scenes(world.images, Scene))


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_looks_for_a_held_out_combination(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    targets = [scenes[ids[0]] for ids in benchmark.queries["target_ids"]]
    assert all(is_held_out(scene[0], scene[1], scene[5]) for scene in targets)


@pytest.mark.parametrize("split", SPLITS)
def test_ground_truth_is_every_gallery_image_with_the_attributes_of_the_target(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    for target_ids in benchmark.queries["target_ids"]:
        target = scenes[target_ids[0]]
        assert sorted(target_ids) == sorted(i for i, scene in scenes.items() if scene == target)


@pytest.mark.parametrize("split", SPLITS)
def test_subset_holds_a_target_a_look_alike_and_wrong_answers(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    for query in benchmark.queries.remove_columns("reference_image"):
        subset = query["subset_ids"]
        assert len(set(subset)) == len(subset)
        assert len(subset) in (6, 7)
        assert 1 <= len(set(subset) & set(query["target_ids"])) <= 2
        assert tuple(query["reference_scene"].values()) in {scenes[i] for i in subset}


def test_validation_and_test_share_no_target_and_no_picture(world):
    first, second = (world.benchmark(split) for split in SPLITS)
    targets = []
    for benchmark in (first, second):
        scenes = map_gallery(benchmark, Scene)
        targets.append({scenes[ids[0]] for ids in benchmark.queries["target_ids"]})
    assert targets[0].isdisjoint(targets[1])
    pictures = [
        set(b.gallery.data.column("image").combine_chunks().field("bytes").to_pylist()) for b in (first, second)
    ]
    assert pictures[0].isdisjoint(pictures[1])


def test_pictures_are_rgb_of_the_size_of_the_preset(toy):
    image = toy.images[0]["image"]
    assert (image.mode, image.size) == ("RGB", (32, 32))

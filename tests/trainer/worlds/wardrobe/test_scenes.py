"""What the wardrobe promises about held-out data and ground truth, read off the data itself."""

from __future__ import annotations

import numpy as np
import pytest

from tests.factories import list_scenes, map_gallery
from trainer.worlds import find_world
from trainer.worlds.wardrobe.scenes import SLEEVED, Scene, is_sound
from trainer.worlds.world import is_held_out


WARDROBE = find_world("wardrobe")
SPLITS = ("validation", "test")


def test_one_in_five_combinations_is_held_out_and_each_value_takes_part():
    for preset in (WARDROBE.presets["demo"], WARDROBE.presets["mini"]):
        held = np.array(
            [[[is_held_out(g, c, b) for b in preset.backdrops] for c in preset.colours] for g in preset.garments]
        )
        assert 0.15 < held.mean() < 0.26
        for axes in ((1, 2), (0, 2), (0, 1)):
            assert held.any(axes).all()
            assert not held.all(axes).any()


def test_no_training_image_shows_a_held_out_combination(world):
    assert not any(WARDROBE.holds_out(scene) for scene in list_scenes(world.images, Scene))


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_looks_for_a_held_out_combination(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    assert all(WARDROBE.holds_out(scenes[ids[0]]) for ids in benchmark.queries["target_ids"])


@pytest.mark.parametrize("split", SPLITS)
def test_ground_truth_is_every_gallery_image_with_the_attributes_of_the_target(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    for ids in benchmark.queries["target_ids"]:
        assert sorted(ids) == sorted(name for name, scene in scenes.items() if scene == scenes[ids[0]])
    assert max(map(len, benchmark.queries["target_ids"])) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_gallery_and_references_hold_garments_that_exist(world, split):
    benchmark = world.benchmark(split)
    references = [Scene(**scene) for scene in benchmark.queries["reference_scene"]]
    assert all(map(is_sound, [*list_scenes(benchmark.gallery, Scene), *references]))


@pytest.mark.parametrize("split", SPLITS)
def test_subset_holds_a_target_a_look_alike_and_another_garment_for_which_the_condition_is_true(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
    for query in benchmark.queries.remove_columns("reference_image"):
        subset, target = query["subset_ids"], scenes[query["target_ids"][0]]
        assert len(set(subset)) == len(subset)
        assert len(subset) in (6, 7)
        assert Scene(**query["reference_scene"]) in {scenes[i] for i in subset}
        other = scenes[subset[-1]]
        assert other != target
        assert all(getattr(other, name) == getattr(target, name) for name in query["changed"])


def test_backdrops_are_rarer_than_other_changes(world):
    names = [name for row in world.benchmark("test").queries["changed"] for name in row]
    assert 0 < names.count("backdrop") < min(names.count(name) for name in ("colour", "pattern", "length"))


def test_validation_and_test_share_no_target_and_no_picture(world):
    first, second = (world.benchmark(split) for split in SPLITS)
    targets = []
    for benchmark in (first, second):
        scenes = map_gallery(benchmark, Scene)
        targets.append({scenes[ids[0]] for ids in benchmark.queries["target_ids"]})
    assert targets[0].isdisjoint(targets[1])
    pictures = [b.gallery.data.column("image").combine_chunks().field("bytes").to_pylist() for b in (first, second)]
    assert len(set(sum(pictures, []))) == sum(map(len, pictures))


def test_only_garments_with_shoulders_have_sleeves(world):
    assert all(bool(scene.sleeves) == (scene.garment in SLEEVED) for scene in list_scenes(world.images, Scene))

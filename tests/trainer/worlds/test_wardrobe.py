"""The wardrobe: what it promises about held-out data, ground truth, wordings and pictures, read off the data."""

from __future__ import annotations

import dataclasses
import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from trainer.evaluation.benchmarks import load_benchmark
from trainer.worlds import find_world
from trainer.worlds.clip import _HardBatchSampler, build_tokenizer, train_clip
from trainer.worlds.concepts import list_phrases, write_searle_files
from trainer.worlds.data import build_world, draw_picture
from trainer.worlds.files import write_world
from trainer.worlds.language import tell_order
from trainer.worlds.wardrobe.grammar import SYNONYMS, WORDINGS, list_concepts
from trainer.worlds.wardrobe.scenes import ATTRIBUTES, SLEEVED, Scene, draw_scene, is_sound
from trainer.worlds.world import is_held_out


WARDROBE = find_world("wardrobe")
SPLITS = ("validation", "test")
PRESET = dataclasses.replace(
    WARDROBE.presets["demo"], image_size_px=16, num_images=600, num_captions=600, num_triplets=1500, num_queries=150
)  # all of the demo's words and combinations, in tiny pictures
WORDS = {
    word: value for values in PRESET.values.values() for value in values for word in SYNONYMS.get(value, (value,))
}
SPOKEN = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(filter(None, WORDS), key=len, reverse=True)))


@pytest.fixture(scope="module")
def world():
    return build_world(WARDROBE, PRESET)


@pytest.fixture(scope="module")
def toy():
    return build_world(WARDROBE, "toy")


def scenes_of(dataset):
    columns = dataset.select_columns(list(ATTRIBUTES))
    return [Scene(*(row[name] for name in ATTRIBUTES)) for row in columns]


def gallery_of(benchmark):
    return dict(zip(benchmark.gallery["id"], scenes_of(benchmark.gallery), strict=True))


def parse_combinations(text):
    """Read every (garment, colour, backdrop) that a text can be taken to tell of."""
    told = {WORDS[word] for word in SPOKEN.findall(text)}
    groups = [told.intersection(PRESET.values[name]) for name in ("garment", "colour", "backdrop")]
    return {(garment, colour, ground) for garment in groups[0] for colour in groups[1] for ground in groups[2]}


def skeleton(condition):
    """Blank every value out of a condition, so that its wording is left."""
    return re.sub(r"\b(an?|a pair of) _", "_", SPOKEN.sub("_", condition))


def captions_of(world):
    return [text for texts in world.images["captions"] for text in texts]


def trained_skeletons(world):
    texts = [*world.triplets["conditioning_caption"], *(t for t in captions_of(world) if " that " in t)]
    return {skeleton(text) for text in texts}


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
    assert not any(WARDROBE.holds_out(scene) for scene in scenes_of(world.images))


@pytest.mark.parametrize("source", ["images", "captions", "reference_caption", "target_caption"])
def test_no_training_text_tells_of_a_held_out_combination(world, source):
    if source == "images":
        texts = captions_of(world)
    else:
        texts = list(world.captions["text"] if source == "captions" else world.triplets[source])
    combinations = set().union(*map(parse_combinations, texts))
    assert len(combinations) > 100
    assert not any(is_held_out(*combination) for combination in combinations)


def test_no_phrase_about_a_concept_tells_of_a_backdrop():
    phrases = list_phrases(WARDROBE)
    assert len(phrases) == 64
    assert not [text for text in phrases if {WORDS[word] for word in SPOKEN.findall(text)} & set(PRESET.backdrops)]


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_looks_for_a_held_out_combination(world, split):
    benchmark = world.benchmark(split)
    scenes = gallery_of(benchmark)
    assert all(WARDROBE.holds_out(scenes[ids[0]]) for ids in benchmark.queries["target_ids"])


def test_held_out_wordings_reach_no_training_text(world):
    padded = [f" {text} " for text in trained_skeletons(world)]
    held_out = {skeleton(text.format(old="red", new="red")) for texts in WORDINGS["B"].values() for text in texts}
    assert len(held_out) > 20
    assert not [phrase for phrase in held_out if any(f" {phrase} " in text for text in padded)]


def test_every_word_of_the_queries_occurs_in_training(world):
    texts = [*captions_of(world), *world.captions["text"], *world.triplets["conditioning_caption"]]
    trained = {word for text in texts for word in re.findall(r"\w+", text)}
    asked = {word for split in SPLITS for text in world.benchmark(split).queries["condition"] for word in text.split()}
    assert {part for word in asked for part in word.split("-")} <= trained


def test_every_text_is_in_the_vocabulary_and_fits_the_context(world):
    tokenizer = build_tokenizer(WARDROBE, "demo")
    texts = [*captions_of(world), *world.captions["text"], *world.benchmark("test").queries["condition"]]
    texts += [text for row in world.triplets for text in row.values()]
    texts += [
        text.replace("{}", name) for text, name in zip(list_phrases(WARDROBE), list_concepts(PRESET), strict=False)
    ]
    ids = tokenizer(texts)["input_ids"]
    assert not any(tokenizer.unk_token_id in row for row in ids)
    both = [f"{row['reference_caption']} that {row['conditioning_caption']}" for row in world.triplets]
    assert max(map(len, [*ids, *tokenizer(both)["input_ids"]])) <= tokenizer.model_max_length


@pytest.mark.parametrize("split", SPLITS)
def test_ground_truth_is_every_gallery_image_with_the_attributes_of_the_target(world, split):
    benchmark = world.benchmark(split)
    scenes = gallery_of(benchmark)
    for ids in benchmark.queries["target_ids"]:
        assert sorted(ids) == sorted(name for name, scene in scenes.items() if scene == scenes[ids[0]])
    assert max(map(len, benchmark.queries["target_ids"])) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_gallery_and_references_hold_garments_that_exist(world, split):
    benchmark = world.benchmark(split)
    assert all(
        map(is_sound, [*scenes_of(benchmark.gallery), *(Scene(**s) for s in benchmark.queries["reference_scene"])])
    )


@pytest.mark.parametrize("split", SPLITS)
def test_subset_holds_a_target_a_look_alike_and_another_garment_for_which_the_condition_is_true(world, split):
    benchmark = world.benchmark(split)
    scenes = gallery_of(benchmark)
    for query in benchmark.queries.remove_columns("reference_image"):
        subset, target = query["subset_ids"], scenes[query["target_ids"][0]]
        assert len(set(subset)) == len(subset)
        assert len(subset) in (6, 7)
        assert Scene(**query["reference_scene"]) in {scenes[i] for i in subset}
        other = scenes[subset[-1]]
        assert other != target
        assert all(getattr(other, name) == getattr(target, name) for name in query["changed"])


@pytest.mark.parametrize("split", SPLITS)
def test_conditions_name_what_changes_and_nothing_that_stays(world, split):
    benchmark = world.benchmark(split)
    scenes = gallery_of(benchmark)
    for query in benchmark.queries.remove_columns("reference_image"):
        reference, target = Scene(**query["reference_scene"]), scenes[query["target_ids"][0]]
        changed = [name for name in ATTRIBUTES if getattr(reference, name) != getattr(target, name)]
        assert sorted(changed) == query["changed"]
        told = {WORDS[word] for word in SPOKEN.findall(query["condition"])}
        assert told <= {getattr(scene, name) for name in changed for scene in (reference, target)}
        for kind, wording in zip(query["kind"], query["wording"], strict=True):
            assert wording in WORDINGS["B"][kind]
        for name in changed:
            relative = name == "length" and "shorter" in query["condition"] or "longer" in query["condition"]
            without = name == "pattern" and "without a pattern" in query["condition"]
            value = getattr(target, name) or getattr(reference, name)
            assert value in told or relative or without


def test_relative_lengths_leave_one_answer(world):
    queries = world.benchmark("test").queries.remove_columns("reference_image")
    relative = [row for row in queries if set(row["kind"]) & {"shorter", "longer"}]
    assert relative
    assert all(row["reference_scene"]["length"] == "midi" for row in relative)


def test_queries_tell_wordings_that_name_the_old_value_first(world):
    wordings = world.benchmark("test").queries["wording"]
    orders = {tell_order(wording) for row in wordings for wording in row}
    assert orders == {"old first", "new first", "new alone", "old alone"}
    assert any("has the {old} backdrop changed to {new}" in row for row in wordings)


def test_backdrops_are_rarer_than_other_changes(world):
    names = [name for row in world.benchmark("test").queries["changed"] for name in row]
    assert 0 < names.count("backdrop") < min(names.count(name) for name in ("colour", "pattern", "length"))


def test_validation_and_test_share_no_target_and_no_picture(world):
    first, second = (world.benchmark(split) for split in SPLITS)
    targets = []
    for benchmark in (first, second):
        scenes = gallery_of(benchmark)
        targets.append({scenes[ids[0]] for ids in benchmark.queries["target_ids"]})
    assert targets[0].isdisjoint(targets[1])
    pictures = [b.gallery.data.column("image").combine_chunks().field("bytes").to_pylist() for b in (first, second)]
    assert len(set(sum(pictures, []))) == sum(map(len, pictures))


def test_equal_seeds_give_equal_data_and_one_benchmark(toy):
    again, other = build_world(WARDROBE, "toy"), build_world(WARDROBE, "toy", seed=1)
    for name in ("images", "captions", "triplets"):
        assert getattr(again, name).data.table == getattr(toy, name).data.table
        assert getattr(other, name).data.table != getattr(toy, name).data.table
    assert other.benchmark("test").gallery.data.table == toy.benchmark("test").gallery.data.table


def test_no_two_pictures_of_one_scene_are_equal():
    scene = Scene("dress", "red", "striped", "long", "midi", "belt", "sand")
    assert len({draw_picture(WARDROBE, scene, pose, 64) for pose in range(20)}) == 20


@pytest.mark.parametrize("preset", ["toy", "mini", "demo"])
def test_the_large_picture_is_the_small_one_drawn_again(preset):
    size = WARDROBE.presets[preset].image_size_px
    rng = np.random.default_rng(0)
    for pose in range(8):
        scene = draw_scene(WARDROBE.presets[preset], rng, None)
        small, large = (Image.open(io.BytesIO(draw_picture(WARDROBE, scene, pose, n))) for n in (size, 192))
        assert (small.mode, small.size, large.size) == ("RGB", (size, size), (192, 192))
        difference = np.asarray(large.resize((size, size), Image.Resampling.BOX), float) - np.asarray(small, float)
        assert np.abs(difference).mean() < 10


def test_pictures_of_gallery_and_references_can_be_drawn_again(toy):
    benchmark = toy.benchmark("test")
    row = benchmark.gallery[3]
    again = draw_picture(WARDROBE, Scene(*(row[name] for name in ATTRIBUTES)), row["pose"], row["image"].width)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(again))), np.asarray(row["image"]))
    query = benchmark.queries[3]
    scene, image = Scene(**query["reference_scene"]), query["reference_image"]
    again = draw_picture(WARDROBE, scene, query["reference_pose"], image.width)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(again))), np.asarray(image))


def test_every_garment_lies_inside_its_picture():
    rng = np.random.default_rng(0)
    for pose in range(60):
        scene = draw_scene(PRESET, rng, None)._replace(backdrop="sky", colour="red", pattern="plain")
        pixels = np.asarray(Image.open(io.BytesIO(draw_picture(WARDROBE, scene, pose, 64))), int)
        edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[-1]])
        assert (edge[:, 2] > edge[:, 0]).mean() > 0.95  # sky, not red


def test_drawing_is_fast():
    rng = np.random.default_rng(0)
    scenes = [draw_scene(PRESET, rng) for _ in range(150)]
    seconds = []
    for _ in range(3):  # the first round also draws the maps
        start = time.process_time()
        for pose, scene in enumerate(scenes):
            draw_picture(WARDROBE, scene, pose, 64)
        seconds.append(time.process_time() - start)
    assert min(seconds) / len(scenes) < 1 / 250  # half of what it measures, since machines are shared


def test_every_other_batch_holds_one_backdrop_and_two_colours(world):
    sampler = _HardBatchSampler(world, 32, seed=0)
    batches = np.array(list(sampler)).reshape(-1, 32)
    assert len(batches) == 600 // 32
    backdrops, colours = (np.array(world.images[name][:])[batches] for name in ("backdrop", "colour"))
    counts = [(len(set(b)), len(set(c))) for b, c in zip(backdrops, colours, strict=True)]
    assert set(counts[1::2]) == {(1, 2)}
    assert min(counts[::2]) > (1, 2)


def test_clip_trains_and_its_tokenizer_survives(toy, tmp_path):
    _, tokenizer, _ = train_clip(toy, output_dir=tmp_path)
    text = "a knee-length t-shirt that has the sky backdrop changed to $"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).data == tokenizer(text).data


def test_wardrobe_is_a_benchmark_by_name():
    benchmark = load_benchmark("wardrobe/toy")
    assert benchmark.name == "wardrobe"
    assert len(benchmark.queries) == 10


def test_an_unknown_world_or_preset_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'wardrobe'"):
        find_world("wardrob")
    with pytest.raises(ValueError, match="did you mean 'mini'"):
        build_world(WARDROBE, "minni")


def test_world_is_written_to_files(toy, tmp_path):
    write_world(toy, tmp_path)
    files = write_searle_files(WARDROBE, "toy", tmp_path)
    assert len(list((tmp_path / "gallery").iterdir())) == len(toy.benchmark("test").gallery)
    assert set(files) == {"concepts", "phrases"}


def test_only_garments_with_shoulders_have_sleeves(world):
    assert all(bool(scene.sleeves) == (scene.garment in SLEEVED) for scene in scenes_of(world.images))

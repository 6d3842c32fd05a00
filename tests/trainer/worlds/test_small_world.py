"""The small world: what it promises about held-out data, ground truth and determinism, read off the data itself."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from trainer.worlds.small_world import (
    PRESETS,
    build_small_world,
    build_tokenizer,
    list_concepts,
    list_phrases,
    train_clip,
)
from trainer.worlds.small_world.grammar import SYNONYMS, WORDINGS
from trainer.worlds.small_world.scenes import ATTRIBUTES, is_held_out


SPLITS = ("validation", "test")
WORLD = dataclasses.replace(
    PRESETS["demo"], image_size_px=16, num_images=600, num_captions=600, num_triplets=1500, num_queries=120
)  # all of the demo's words and combinations, in tiny pictures
SHAPES = {word: value for value in WORLD.shapes for word in SYNONYMS[value]}
SHAPES |= {word + ending: value for word, value in SHAPES.items() for ending in ("s", "es")}
COLOURS = {word: value for value in WORLD.colours for word in SYNONYMS.get(value, (value,))}
GROUNDS = {word: value for value in WORLD.backgrounds for word in SYNONYMS.get(value, (value,))}
NUMBERS = {"one": 1, "two": 2, "three": 3}


@pytest.fixture(scope="module")
def world():
    return build_small_world(WORLD)


@pytest.fixture(scope="module")
def toy():
    return build_small_world("toy")


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return *train_clip(toy, output_dir=folder), folder


def scenes_of(dataset):
    return [tuple(row[name] for name in ATTRIBUTES) for row in dataset.select_columns(list(ATTRIBUTES))]


def parse_combinations(text):
    """Read every (shape, colour, background) that a text ascribes to its main object, knowing only single words.

    The first noun is the main object; a colour straight before a later noun is the extra object's.
    """
    words = text.split()
    nouns = [i for i, word in enumerate(words) if word in SHAPES or word.rstrip("s") in ("object", "thing")]
    extras = {i for i in nouns[1:] if words[i - 1] in COLOURS}
    shapes = {SHAPES[words[i]] for i in nouns if i not in extras and words[i] in SHAPES}
    colours = {COLOURS[word] for i, word in enumerate(words) if word in COLOURS and i + 1 not in extras}
    grounds = {GROUNDS[word] for word in words if word in GROUNDS}
    return {(shape, colour, ground) for shape in shapes for colour in colours for ground in grounds}


def skeleton(condition):
    """Blank every value out of a condition, so that its wording is left."""
    values = {**SHAPES, **COLOURS, **GROUNDS, **NUMBERS}
    values |= {word: name for name in ("plain", "striped", "dotted", "small", "big") for word in SYNONYMS[name]}
    text = " ".join("_" if word in values else word for word in condition.split())
    return re.sub(r"(an? )?_( _)*", "_", text)


def training_texts(world):
    captions = [text for texts in world.images["captions"] for text in texts]
    return captions + [
        text for dataset in (world.captions, world.triplets) for row in dataset for text in row.values()
    ]


def test_parser_of_this_test_reads_captions():
    text = "a pair of big purple boxes with a red star on a sand background that is changed to crosses"
    assert parse_combinations(text) == {("square", "purple", "beige"), ("cross", "purple", "beige")}


def test_one_in_five_combinations_is_held_out():
    for preset in (PRESETS["demo"], PRESETS["mini"]):
        held_out = [is_held_out(s, c, b) for s in preset.shapes for c in preset.colours for b in preset.backgrounds]
        assert 0.17 < np.mean(held_out) < 0.23


def test_no_training_image_shows_a_held_out_combination(world):
    assert not any(is_held_out(scene[0], scene[1], scene[5]) for scene in scenes_of(world.images))


@pytest.mark.parametrize("source", ["images", "captions", "reference_caption", "target_caption"])
def test_no_training_text_tells_of_a_held_out_combination(world, source):
    if source == "images":
        texts = [text for texts in world.images["captions"] for text in texts]
    else:
        texts = list(world.captions["text"] if source == "captions" else world.triplets[source])
    combinations = set().union(*map(parse_combinations, texts))
    assert len(combinations) > 150
    assert not any(is_held_out(*combination) for combination in combinations)


def test_no_phrase_about_a_concept_tells_of_a_held_out_combination():
    texts = [phrase.replace("{}", name) for name in list_concepts(WORLD) for phrase in list_phrases(WORLD)]
    assert not [text for text in texts if any(is_held_out(*found) for found in parse_combinations(text))]


@pytest.mark.parametrize("preset", ["toy", "mini", "demo"])
def test_concepts_and_phrases_are_in_the_words_of_the_world(preset):
    tokenizer, concepts, phrases = build_tokenizer(preset), list_concepts(preset), list_phrases(preset)
    assert len(set(concepts)) == len(concepts)
    assert len(set(phrases)) == len(phrases) == 64
    for text in [*concepts, *(phrase.replace("{}", "star") for phrase in phrases)]:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_looks_for_a_held_out_combination(world, split):
    benchmark = world.benchmark(split)
    scenes = dict(zip(benchmark.gallery["id"], scenes_of(benchmark.gallery), strict=True))
    targets = [scenes[ids[0]] for ids in benchmark.queries["target_ids"]]
    assert all(is_held_out(scene[0], scene[1], scene[5]) for scene in targets)


def test_held_out_wordings_reach_no_training_text(world):
    trained = {skeleton(text) for text in world.triplets["conditioning_caption"]}
    trained |= {skeleton(text) for texts in world.images["captions"] for text in texts if " that " in text}
    held_out = {skeleton(text.format(old="red", new="red")) for texts in WORDINGS["B"].values() for text in texts}
    padded = [f" {text} " for text in trained]
    assert not [phrase for phrase in held_out if any(f" {phrase} " in text for text in padded)]


@pytest.mark.parametrize("split", SPLITS)
def test_no_query_condition_has_the_wording_of_a_training_condition(world, split):
    trained = {skeleton(text) for text in world.triplets["conditioning_caption"]}
    assert trained.isdisjoint(skeleton(text) for text in world.benchmark(split).queries["condition"])


def test_every_word_of_the_queries_occurs_in_training(world):
    trained = {word for text in training_texts(world) for word in text.split()}
    asked = {word for split in SPLITS for text in world.benchmark(split).queries["condition"] for word in text.split()}
    assert asked <= trained


def test_every_word_of_the_world_is_in_the_vocabulary(world):
    tokenizer = build_tokenizer("demo")
    texts = training_texts(world) + list(world.benchmark("test").queries["condition"])
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def test_no_text_speaks_of_left_or_right(world):
    words = {word for text in training_texts(world) for word in text.split()}
    assert words.isdisjoint(["left", "right"])


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


@pytest.mark.parametrize("split", SPLITS)
def test_ground_truth_is_every_gallery_image_with_the_attributes_of_the_target(world, split):
    benchmark = world.benchmark(split)
    ids, scenes = list(benchmark.gallery["id"]), scenes_of(benchmark.gallery)
    for target_ids in benchmark.queries["target_ids"]:
        target = scenes[ids.index(target_ids[0])]
        assert sorted(target_ids) == sorted(i for i, scene in zip(ids, scenes, strict=True) if scene == target)


@pytest.mark.parametrize("split", SPLITS)
def test_subset_holds_a_target_a_look_alike_and_wrong_answers(world, split):
    benchmark = world.benchmark(split)
    scenes = dict(zip(benchmark.gallery["id"], scenes_of(benchmark.gallery), strict=True))
    for query in benchmark.queries.remove_columns("reference_image"):
        subset = query["subset_ids"]
        assert len(set(subset)) == len(subset)
        assert len(subset) in (6, 7)
        assert 1 <= len(set(subset) & set(query["target_ids"])) <= 2
        assert tuple(query["reference_scene"].values()) in {scenes[i] for i in subset}


@pytest.mark.parametrize("split", SPLITS)
def test_condition_names_the_new_value_of_exactly_the_attributes_that_differ(world, split):
    benchmark = world.benchmark(split)
    scenes = dict(zip(benchmark.gallery["id"], scenes_of(benchmark.gallery), strict=True))
    spoken = {name: value for value, words in SYNONYMS.items() for name in words} | NUMBERS | SHAPES
    for query in benchmark.queries.remove_columns("reference_image"):
        reference = query["reference_scene"]
        target = dict(zip(ATTRIBUTES, scenes[query["target_ids"][0]], strict=True))
        changed = [name for name in ATTRIBUTES if reference[name] != target[name]]
        assert sorted(changed) == query["changed"]
        assert len(changed) in (1, 2)
        told = {spoken.get(word, word) for word in query["condition"].split()}
        for name in changed:
            values = (reference[name] or target[name]).split() if name == "extra" else [target[name]]
            assert told.issuperset(values)
        for name in set(ATTRIBUTES) - {*changed, "extra", "colour", "shape"}:  # an extra object has colour and shape
            assert told.isdisjoint([reference[name]])


def test_queries_tell_the_kind_and_the_wording_of_each_phrase(world):
    for query in world.benchmark("test").queries.remove_columns("reference_image"):
        assert all(text in WORDINGS["B"][kind] for kind, text in zip(query["kind"], query["wording"], strict=True))
        assert len(query["kind"]) == len(query["changed"])
        pattern = " and ".join(re.sub(r"\{(old|new)\}", ".+", text) for text in query["wording"])
        assert re.fullmatch(pattern, query["condition"])


def test_target_caption_mentions_what_the_condition_changes(world):
    spoken = {name: value for value, words in SYNONYMS.items() for name in words}
    for row in world.triplets:
        asked = re.search(r"is not (\w+) but (\w+)", row["conditioning_caption"])
        if asked:
            old, new = (spoken.get(word, word) for word in asked.groups())
            assert new in {spoken.get(word, word) for word in row["target_caption"].split()}


def test_two_changes_are_asked_for_in_about_38_percent(world):
    counts = [len(names) for names in world.benchmark("test").queries["changed"]]
    assert np.mean([count == 2 for count in counts]) == pytest.approx(0.38, abs=0.12)


def test_validation_and_test_share_no_target_and_no_picture(world):
    first, second = (world.benchmark(split) for split in SPLITS)
    targets = []
    for benchmark in (first, second):
        scenes = dict(zip(benchmark.gallery["id"], scenes_of(benchmark.gallery), strict=True))
        targets.append({scenes[ids[0]] for ids in benchmark.queries["target_ids"]})
    assert targets[0].isdisjoint(targets[1])
    pictures = [
        set(b.gallery.data.column("image").combine_chunks().field("bytes").to_pylist()) for b in (first, second)
    ]
    assert pictures[0].isdisjoint(pictures[1])


def test_pictures_are_rgb_of_the_size_of_the_preset(toy):
    image = toy.images[0]["image"]
    assert (image.mode, image.size) == ("RGB", (32, 32))


@pytest.mark.parametrize("build", [build_small_world, build_tokenizer])
def test_an_unknown_preset_is_refused_with_a_suggestion(build):
    with pytest.raises(ValueError, match="did you mean 'mini'"):
        build("minni")


def test_an_unknown_split_is_refused(toy):
    with pytest.raises(ValueError, match="validation and test, got 'train'"):
        toy.benchmark("train")


def test_tokenizer_has_the_ids_that_clip_needs():
    tokenizer = build_tokenizer("demo")
    ids = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id
    assert ids == (0, 1, 2, 3)
    assert tokenizer.model_max_length == 40


def test_placeholder_is_an_ordinary_word():
    tokenizer = build_tokenizer("demo")
    assert "$" not in tokenizer.all_special_tokens
    assert len(tokenizer("$", add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_in_a_text_can_be_split_like_any_text():
    tokenizer = build_tokenizer("demo")
    ids = tokenizer(["A red <eos> STAR"], add_special_tokens=False, split_special_tokens=True)["input_ids"][0]
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.convert_ids_to_tokens([*ids[:2], ids[-1]]) == ["a", "red", "star"]


def test_tokenizer_survives_saving(tmp_path):
    tokenizer, text = build_tokenizer("demo"), "a photo of $ that has a navy backdrop"
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text).data == tokenizer(text).data
    assert loaded.model_max_length == 40


def test_clip_training_moves_every_tensor(toy, trained):
    model = trained[0]
    torch.manual_seed(0)
    frozen = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    untrained = train_clip(dataclasses.replace(toy, preset=dataclasses.replace(toy.preset, clip_steps=1)))[0]
    same = [n for (n, a), b in zip(model.named_parameters(), untrained.parameters(), strict=True) if torch.equal(a, b)]
    assert not frozen
    assert not same


def test_clip_training_is_deterministic(toy, trained):
    again = train_clip(toy)[0]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained[0].parameters(), strict=True))


def test_trained_clip_reloads_with_equal_embeddings(trained):
    model, tokenizer, _, folder = trained
    inputs = tokenizer(["a red star", "two big blue circles on white"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(**inputs).pooler_output
        loaded = CLIPModel.from_pretrained(folder).get_text_features(**inputs).pooler_output
    assert torch.equal(loaded, expected)


def test_text_embedding_does_not_depend_on_padding(trained):
    model, tokenizer, *_ = trained
    short, padded = (tokenizer("a red star", padding=p, return_tensors="pt") for p in (False, "max_length"))
    with torch.no_grad():
        difference = model.get_text_features(**short).pooler_output - model.get_text_features(**padded).pooler_output
    assert difference.abs().max() < 1e-5


def test_image_processor_changes_no_geometry(toy, trained):
    image, processor = toy.images[0]["image"], trained[2]
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    pixels = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs((pixels * std + mean) * 255 - np.asarray(image)).max() < 1e-3


@pytest.mark.parametrize(("name", "split"), [("other held-out wording", "B"), ("training wording", "A")])
def test_paraphrases_are_in_the_wordings_they_are_named_after(world, name, split):
    phrases = [text for texts in WORDINGS[split].values() for text in texts]
    one = "|".join(re.escape(text).replace(r"\{old\}", ".+").replace(r"\{new\}", ".+") for text in phrases)
    for query in world.benchmark("test").queries:
        assert re.fullmatch(f"({one})( and ({one}))*", query["paraphrases"][name])
        assert query["paraphrases"][name] != query["condition"]
        assert len(query["changed"]) == 1 or " and " in query["paraphrases"][name]

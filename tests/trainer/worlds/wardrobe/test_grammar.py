"""What the wardrobe promises about held-out data and its texts, read off the data itself."""

from __future__ import annotations

import re

import pytest

from tests.factories import map_gallery
from trainer.worlds import find_world
from trainer.worlds.clip import build_tokenizer
from trainer.worlds.concepts import list_phrases
from trainer.worlds.language import tell_order
from trainer.worlds.wardrobe.grammar import SYNONYMS, WORDINGS, list_concepts
from trainer.worlds.wardrobe.scenes import ATTRIBUTES, Scene
from trainer.worlds.world import is_held_out


WARDROBE = find_world("wardrobe")
SPLITS = ("validation", "test")
PRESET = WARDROBE.presets["demo"]
WORDS = {
    word: value for values in PRESET.values.values() for value in values for word in SYNONYMS.get(value, (value,))
}
SPOKEN = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(filter(None, WORDS), key=len, reverse=True)))


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
def test_conditions_name_what_changes_and_nothing_that_stays(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
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

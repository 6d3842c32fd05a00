"""What the small world promises about held-out data and its texts, read off the data itself."""

from __future__ import annotations

import re

import pytest

from tests.factories import map_gallery
from trainer.worlds.concepts import list_phrases
from trainer.worlds.small_world import build_tokenizer
from trainer.worlds.small_world.declaration import WORLD
from trainer.worlds.small_world.grammar import SYNONYMS, WORDINGS
from trainer.worlds.small_world.scenes import ATTRIBUTES, PRESETS, Scene, is_held_out


SPLITS = ("validation", "test")
DEMO = PRESETS["demo"]
SHAPES = {word: value for value in DEMO.shapes for word in SYNONYMS[value]}
SHAPES |= {word + ending: value for word, value in SHAPES.items() for ending in ("s", "es")}
COLOURS = {word: value for value in DEMO.colours for word in SYNONYMS.get(value, (value,))}
GROUNDS = {word: value for value in DEMO.backgrounds for word in SYNONYMS.get(value, (value,))}
NUMBERS = {"one": 1, "two": 2, "three": 3}


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
    texts = [phrase.replace("{}", name) for name in WORLD.list_concepts(DEMO) for phrase in list_phrases(WORLD, DEMO)]
    assert not [text for text in texts if any(is_held_out(*found) for found in parse_combinations(text))]


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


@pytest.mark.parametrize("split", SPLITS)
def test_condition_names_the_new_value_of_exactly_the_attributes_that_differ(world, split):
    benchmark = world.benchmark(split)
    scenes = map_gallery(benchmark, Scene)
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


@pytest.mark.parametrize(("name", "split"), [("other held-out wording", "B"), ("training wording", "A")])
def test_paraphrases_are_in_the_wordings_they_are_named_after(world, name, split):
    phrases = [text for texts in WORDINGS[split].values() for text in texts]
    one = "|".join(re.escape(text).replace(r"\{old\}", ".+").replace(r"\{new\}", ".+") for text in phrases)
    for query in world.benchmark("test").queries:
        assert re.fullmatch(f"({one})( and ({one}))*", query["paraphrases"][name])
        assert query["paraphrases"][name] != query["condition"]
        assert len(query["changed"]) == 1 or " and " in query["paraphrases"][name]

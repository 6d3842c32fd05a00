import importlib

import pytest

from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.training.condition_augmentation import (
    CONDITION_AUGMENTATIONS,
    ConditionAugmentation,
    count_unread,
    parse_augmentations,
)


TEXTS = [
    ("a red dog on grass", "is blue instead of red", "a blue dog on grass"),
    ("a cat with a hat", "without the hat", "a cat"),
    ("two cups on a table", "the table should be wooden and has a plate", "two cups and a plate on a wooden table"),
    ("a tinted window in a house", "make the window not tinted", "a window in a house"),
    ("a car near a tree", "closer", "a truck near a tree"),
]
ROWS = [dict(zip(TRIPLET_COLUMNS, texts, strict=True)) | {"row": row} for row, texts in enumerate(TEXTS)]
NOTHING = [name for name, one in CONDITION_AUGMENTATIONS.items() if one.changes_nothing]


def draw(name, rows=ROWS, epochs=200, **options):
    """List what an augmentation makes of rows over many epochs, changed ones alone."""
    augmentation, drawn = ConditionAugmentation(name, seed=0, **options), []
    for epoch in range(epochs):
        augmentation.begin_epoch(epoch)
        drawn += [new for new, old in zip(augmentation(rows), rows, strict=True) if new != old]
    return drawn


def conditions(drawn, row):
    return {new["conditioning_caption"] for new in drawn if new["row"] == row}


def test_the_same_edit_is_said_in_other_wordings():
    drawn = draw("rewording")
    assert {"is not red but blue", "replace red with blue", "is blue rather than red"} <= conditions(drawn, 0)
    assert {"no longer has the hat", "remove the hat", "no hat"} <= conditions(drawn, 1)
    assert {"make the table wooden and has a plate", "the table should be wooden and add a plate"} <= conditions(
        drawn, 2
    )
    assert "the window is no longer tinted" in conditions(drawn, 3)
    assert not conditions(drawn, 4)  # no rule reads it


@pytest.mark.parametrize("text", ["make the dog blue instead of red", "there are two dogs instead of one dog"])
def test_a_whole_sentence_is_not_what_comes_instead(text):
    texts = conditions(draw("rewording,negation", [ROWS[0] | {"conditioning_caption": text}]), 0)
    assert not [new for new in texts if text.partition(" instead")[0] in new]
    assert "no red but blue" in texts  # from the captions


def test_negations_name_what_the_reference_alone_has():
    drawn = draw("negation")
    assert {"is not red", "not red", "is not red but blue"} <= conditions(drawn, 0)
    assert {"no hat", "without the hat"} & conditions(drawn, 1)
    assert "no car but truck" in conditions(drawn, 4)  # from the captions, since the condition does not say it
    assert all(new["target_caption"] == ROWS[new["row"]]["target_caption"] for new in drawn)


@pytest.mark.parametrize("name", NOTHING)
def test_a_condition_that_asks_for_nothing_asks_for_the_reference(name):
    drawn = draw(name)
    assert drawn
    assert all(new["target_caption"] == new["reference_caption"] for new in drawn)


def test_repeated_words_of_the_reference_are_true_of_the_target():
    added = {text.replace("is blue instead of red", "").strip() for text in conditions(draw("reference_words"), 0)}
    assert added == {"dog on", "dog on grass", "on grass"}


def test_a_dropped_word_is_never_a_not():
    texts = conditions(draw("dropped_words"), 3)
    assert "make window not tinted" in texts
    assert all("not" in text.split() for text in texts)


def test_letters_are_dropped_doubled_and_swapped_and_case_changes():
    texts = conditions(draw("typo"), 4)
    assert {"CLOSER", "cloer", "clooser", "colser"} <= texts


def test_a_row_draws_the_same_in_any_batch_and_beside_any_other_augmentation():
    everything = ConditionAugmentation(list(CONDITION_AUGMENTATIONS), seed=3)
    everything.begin_epoch(2)
    assert everything(ROWS) == [everything([row])[0] for row in ROWS]
    alone = draw("empty")
    beside = [new for new in draw("typo,empty") if new["target_caption"] == new["reference_caption"]]
    assert alone == beside
    assert draw("typo", epochs=1) != draw("typo", epochs=2)[-len(draw("typo", epochs=1)) :]


def test_each_augmentation_takes_its_share_of_the_visits():
    rows = [ROWS[0] | {"row": row} for row in range(2000)]
    for name, augmentation in CONDITION_AUGMENTATIONS.items():
        if name == "dropped_words":  # whose only droppable word here stays by half
            continue
        assert len(draw(name, rows, epochs=1)) / 2000 == pytest.approx(augmentation.share, abs=0.04), name


def test_wordings_beyond_the_tokenizer_are_not_used():
    words = "is not red but blue instead of".split()
    texts = conditions(draw("rewording", is_known=words.__contains__), 0)
    assert texts == {"is not red but blue"}


@pytest.mark.parametrize(
    "texts",
    [
        ("ein roter hund auf einer wiese", "ist blau", "ein blauer hund auf einer wiese"),
        ("un chien rouge", "est bleu", "un chien bleu"),
        ("een rode hond", "is blauw", "een blauwe hond"),
        ("红色的狗", "是蓝色的", "蓝色的狗"),
    ],
)
def test_another_language_is_left_alone_and_counted(texts):
    row = dict(zip(TRIPLET_COLUMNS, texts, strict=True)) | {"row": 0}
    assert count_unread([row, *ROWS]) == 1
    assert not draw(list(CONDITION_AUGMENTATIONS), [row], epochs=20)


@pytest.mark.parametrize("world", ["small_world", "wardrobe"])
def test_no_rule_writes_a_held_out_wording_of_a_world(world):
    wordings = importlib.import_module(f"trainer.worlds.{world}.grammar").WORDINGS
    training, held_out = (
        {text.format(old="red", new="blue") for group in wordings[split].values() for text in group}
        for split in ("A", "B")
    )
    rows = [ROWS[0] | {"conditioning_caption": text, "row": row} for row, text in enumerate(sorted(training))]
    assert not held_out & {new["conditioning_caption"] for new in draw("rewording,negation", rows, epochs=60)}


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'typos'; did you mean 'typo'"):
        parse_augmentations("rewording,typos")

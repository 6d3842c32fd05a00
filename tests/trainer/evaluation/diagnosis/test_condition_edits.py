import pytest
from datasets import Dataset

from trainer.evaluation.diagnosis.condition_edits import CONDITION_EDITS, edit_queries, exchange, misspell, negate


CONDITIONS = ["is blue instead of red", "has no sleeves", "more formal, and longer", "is red"]


def test_a_typo_is_one_letter_less_inside_one_word():
    for before, after in zip(CONDITIONS, misspell(CONDITIONS), strict=True):
        changed = [(a, b) for a, b in zip(before.split(), after.split(), strict=True) if a != b]
        assert len(changed) == 1
        (word, typo) = changed[0]
        assert len(typo) == len(word) - 1
        assert (typo[0], typo[-1]) == (word[0], word[-1])
        assert any(word[:i] + word[i + 1 :] == typo for i in range(len(word)))


def test_typos_are_the_same_every_time_and_leave_short_words():
    assert misspell(CONDITIONS) == misspell(CONDITIONS)
    assert misspell(["is 4", ""]) == ["is 4", ""]


def test_other_conditions_are_all_used_and_none_is_the_own():
    many = [f"condition {i}" for i in range(50)]
    other = exchange(many)
    assert sorted(other) == sorted(many)
    assert all(a != b for a, b in zip(many, other, strict=True))


@pytest.mark.parametrize(
    ("condition", "negation"),
    [
        ("is blue instead of red", "is not blue instead of red"),
        ("the dog has a hat", "the dog has not a hat"),
        ("Is blue", "Is not blue"),
        ("this one", "not this one"),
        ("", "not "),
    ],
)
def test_a_negation_denies_the_first_verb(condition, negation):
    assert negate(condition) == negation


def test_the_negation_of_a_negated_condition_is_the_condition():
    assert negate(negate("is blue and has dots")) == "is blue and has dots"


@pytest.mark.parametrize("name", CONDITION_EDITS)
def test_every_edit_keeps_the_number_of_conditions_and_changes_each(name):
    edited = CONDITION_EDITS[name](CONDITIONS)
    assert len(edited) == len(CONDITIONS)
    assert all(a != b for a, b in zip(CONDITIONS, edited, strict=True))


def test_edited_queries_keep_all_else():
    queries = Dataset.from_dict({"id": ["a", "b"], "condition": ["is blue", "is red"], "target_ids": [["x"], ["y"]]})
    edited = edit_queries(queries, CONDITION_EDITS["negated"])
    assert edited["condition"][:] == ["is not blue", "is not red"]
    assert (edited["id"][:], edited["target_ids"][:]) == (["a", "b"], [["x"], ["y"]])
    assert queries["condition"][:] == ["is blue", "is red"]


def test_all_wordings_of_a_query_are_edited_alike():
    columns = {"condition": ["red", "blue", "old"], "wordings": [["red a", "a red"], ["blue b", "b blue"], ["c", "d"]]}
    edited = edit_queries(Dataset.from_dict(columns), exchange)
    pairs = dict(zip(columns["condition"], columns["wordings"], strict=True))
    assert [pairs[condition] for condition in edited["condition"]] == edited["wordings"][:]

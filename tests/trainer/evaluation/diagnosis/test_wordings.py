import numpy as np
import pytest
from datasets import Dataset

from trainer.evaluation.diagnosis.wordings import average_wordings, compute_wordings, write_wordings


QUERIES = Dataset.from_dict(
    {
        "kind": [["colour"], ["colour"], ["size"], ["colour", "size"]],
        "wording": [["is {new}"], ["in {new}"], ["is {new}"], ["is {new}", "in {new}"]],
    }
)


def test_queries_of_several_phrases_are_one_group_and_the_last():
    found = compute_wordings(QUERIES, np.array([1, 9, 5, 6]), k=5)
    assert list(found["kind"].items()) == [
        ("colour", {"count": 2, "recall": 0.5}),
        ("size", {"count": 1, "recall": 1.0}),
        ("two changes", {"count": 1, "recall": 0.0}),
    ]
    assert {name: group["recall"] for name, group in found["wording"].items()} == {
        "colour: is {new}": 1.0,
        "colour: in {new}": 0.0,
        "size: is {new}": 1.0,
        "two changes": 0.0,
    }


def test_queries_without_wordings_have_no_groups():
    assert compute_wordings(QUERIES.remove_columns("wording"), np.ones(4), k=5) == {}


def test_recalls_are_averaged_over_runs_and_losses_are_named():
    runs = [compute_wordings(QUERIES, np.array(ranks), k=5) for ranks in ([1, 1, 1, 1], [1, 9, 1, 1])]
    mean = average_wordings(runs)
    assert mean["wording"]["colour: in {new}"] == {"count": 1, "recall": pytest.approx(0.5)}
    lines = write_wordings({"before": runs[0], "after": mean}, 5)
    assert "| colour | 2 | 100 | 75 |" in lines
    assert "Wordings that find less after RTD than before: `colour: in {new}`." in lines

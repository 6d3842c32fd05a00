import numpy as np
from datasets import Dataset

from trainer.evaluation.diagnosis.wordings import average_wordings, compute_wordings, write_wordings


QUERIES = Dataset.from_dict(
    {
        "kind": [["colour"], ["colour"], ["length"], ["colour", "length"]],
        "wording": [["is {new}"], ["has {old} changed to {new}"], ["is {new}"], ["is {new}", "is {new}"]],
    }
)


def compute(*ranks):
    return compute_wordings(QUERIES, np.array(ranks), k=5)


def test_queries_of_one_change_are_told_apart_and_those_of_two_are_one_group():
    groups = compute(1, 6, 5, 9)
    assert {name: (group["count"], group["recall"]) for name, group in groups["kind"].items()} == {
        "colour": (2, 0.5),
        "length": (1, 1.0),
        "two changes": (1, 0.0),
    }
    assert list(groups["wording"]) == [
        "colour: has {old} changed to {new}",
        "colour: is {new}",
        "length: is {new}",
        "two changes",
    ]


def test_a_benchmark_that_tells_no_wordings_has_no_groups():
    assert compute_wordings(QUERIES.remove_columns("wording"), np.ones(4), k=5) == {}


def test_runs_are_averaged():
    assert average_wordings([compute(1, 1, 1, 1), compute(9, 1, 9, 1)])["kind"]["colour"] == {
        "count": 2,
        "recall": 0.75,
    }


def test_a_wording_that_rtd_inverts_is_named():
    lines = write_wordings({"before": compute(9, 1, 9, 9), "after": compute(1, 9, 1, 1)}, k=5)
    assert "| colour: has {old} changed to {new} | 1 | 100 | 0 |" in lines
    assert lines[-1].endswith("before: `colour: has {old} changed to {new}`.")


def test_without_a_before_there_is_one_column_and_nothing_is_compared():
    lines = write_wordings({"after": compute(1, 1, 1, 1)}, k=5)
    assert "| two changes | 1 | 100 |" in lines
    assert not any("before" in line for line in lines)

"""The folders that the library evaluate loads, against the pure functions."""

import evaluate
import numpy as np
import pytest

from trainer.evaluation.evaluate_metrics import path_of


PREDICTIONS, REFERENCES = [["a", "b", "c"], ["c", "a", "b"]], [["b"], ["b", "z"]]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("recall_at_k", {"k": 2}, 0.5),
        ("recall_at_k", {"k": 9}, 1.0),
        ("map_at_k", {"k": 3}, np.mean([1 / 2, 1 / 3 / 2])),
        ("subset_recall_at_k", {"k": 1, "subset_ids": [["a", "b"], ["a", "b", "c"]]}, 0.0),
        ("subset_recall_at_k", {"k": 1, "subset_ids": [["a", "b"], ["b", "c"]], "reference_ids": ["a", "c"]}, 1.0),
        ("set_recall_at_k", {"k": 3}, np.mean([1 / (1 + 1e-5), 1 / (2 + 1e-5)])),
        ("precision_at_k", {"k": 2}, 1 / 4),
        (
            "semantic_map_at_k",
            {"k": 3, "aspects": [["negation"], ["negation", "addition"]]},
            {"addition": 1 / 3 / 2, "negation": np.mean([1 / 2, 1 / 3 / 2])},
        ),
    ],
)
def test_a_metric_loads_from_its_folder_and_computes(name, options, expected, tmp_path):
    metric = evaluate.load(path_of(name), cache_dir=str(tmp_path))
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES, **options)[name] == pytest.approx(expected)


def test_no_predictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no predictions"):
        evaluate.load(path_of("recall_at_k"), cache_dir=str(tmp_path)).compute(predictions=[], references=[])


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="recall_at_k"):
        path_of("recal_at_k")

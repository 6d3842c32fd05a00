"""What the library evaluate loads, against the pure functions."""

import evaluate
import numpy as np
import pytest

from trainer.evaluation import evaluate_metrics


PREDICTIONS, REFERENCES = [["a", "b", "c"], ["c", "a", "b"]], [["b"], ["b", "z"]]


@pytest.fixture
def load(tmp_path):
    return lambda name: evaluate.load(evaluate_metrics.__file__, name, cache_dir=str(tmp_path))


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
def test_a_metric_loads_by_its_name_and_computes(name, options, expected, load):
    metric = load(name)
    assert metric.citation.startswith("https://huggingface.co/papers/")
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES, **options)[name] == pytest.approx(expected)


def test_no_predictions_are_refused(load):
    with pytest.raises(ValueError, match="no predictions"):
        load("recall_at_k").compute(predictions=[], references=[])


def test_an_unknown_metric_is_named(load):
    with pytest.raises(ValueError, match="did you mean 'recall_at_k'"):
        load("recal_at_k")

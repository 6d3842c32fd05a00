"""`evaluate` from Python: a model or a place in, a record out."""

import pytest
import torch

import trainer
from modeling_rtd import RTDModel
from tests.factories import build_processor, build_stand_in
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.evaluate import compare
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.evaluation.systems import ModelSystem


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_stand_in("cirr", tmp_path_factory.mktemp("cirr"))


@pytest.fixture
def place(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_model_and_its_place_give_one_record(place, root):
    model = RTDModel.from_pretrained(place, dtype=torch.float32)
    records = [trainer.evaluate(what, "cirr", root=root) for what in (model, place, ModelSystem(place))]
    for record in records:
        assert {**record, "seconds": 0} == {**records[0], "seconds": 0}
    assert records[0]["system"]["name_or_path"] == place
    metrics = RetrievalEvaluator(model, build_processor(), load_benchmark("cirr", root=root))(model)
    assert {name: records[0]["metrics"][name] for name in metrics} == metrics


def test_two_systems_are_compared_on_the_same_queries(place, root):
    record, other, changes = compare(ModelSystem(place), ModelSystem(place, mode="image"), "cirr", root=root)
    assert list(changes) == ["recall@1", "recall@5", "recall@10", "recall@50"]
    for name, change in changes.items():
        assert change["recall_change"] == pytest.approx(record["metrics"][name] - other["metrics"][name])
        assert change["gained"] - change["lost"] == pytest.approx(8 * change["recall_change"])


def test_a_model_that_was_put_together_needs_its_processor(model, processor, root):
    with pytest.raises(ValueError, match="processing_class"):
        trainer.evaluate(model, "cirr", root=root)
    record = trainer.evaluate(model.train(), "cirr", root=root, processing_class=processor, mode="text")
    assert (record["system"]["name_or_path"], record["system"]["mode"]) == (None, "text")
    assert not model.training


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cir", {}, "did you mean 'cirr'"),
        ("cirr", {}, "its root"),
        ("cirr", {"root": ".", "split": "vall"}, "did you mean 'val'"),
        ("cirr", {"root": ".", "caption_oder": "both"}, "did you mean 'caption_order'"),
        ("cirr", {"root": ".", "crop": "round"}, "'round'"),
    ],
)
def test_what_is_not_accepted_is_refused_before_a_model_is_loaded(name, options, message):
    with pytest.raises(ValueError, match=message):
        trainer.evaluate("org/nowhere", name, **options)


def test_something_else_than_a_model_is_refused(model, root):
    with pytest.raises(ValueError, match="RTDTextModel"):
        trainer.evaluate(model.text_model, "cirr", root=root)

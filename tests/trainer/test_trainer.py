import ast
import inspect

import pytest

import trainer
from trainer.loading import load_model_and_processor
from trainer.publishing.publication import prepare_publication
from trainer.triplet_making.writing import write_triplets


def test_public_names_of_the_training_room_load():
    for name in trainer.__all__:
        assert getattr(trainer, name) is not None


def test_the_names_for_editors_are_those_that_load():
    (block,) = (node for node in ast.parse(inspect.getsource(trainer)).body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == trainer._MODULES
    assert set(trainer.__all__) == {"refuse_other_trainer", *imported}


def test_another_distribution_named_trainer_is_refused(monkeypatch):
    monkeypatch.setattr(trainer, "version", lambda name: "0.0.36")
    with pytest.raises(ImportError, match="'trainer' 0.0.36 .*rtd-cir"):
        trainer.refuse_other_trainer()


@pytest.mark.parametrize("place", [3, None, b"x", ["a"], {}], ids=str)
@pytest.mark.parametrize(
    "use",
    [
        load_model_and_processor,
        trainer.merge_adapter,
        trainer.load_benchmark,
        lambda place: trainer.evaluate("model", place),
        lambda place: trainer.run_diagnosis(None, None, place, "out"),
        lambda place: write_triplets(["a dog"], place),
        lambda place: prepare_publication(place, "org/name"),
        lambda place: trainer.save_rtd_model(None, None, place),
    ],
)
def test_what_is_not_a_place_is_named(use, place):
    with pytest.raises(ValueError, match=f"must be a .*, got .*{type(place).__name__}"):
        use(place)


def test_what_is_not_a_model_is_not_evaluated(tmp_path):
    with pytest.raises(ValueError, match="`model` must be an RTDModel.*got int"):
        trainer.evaluate(3, "small_world/demo")

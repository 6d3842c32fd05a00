import ast
import inspect

import pytest

import trainer


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

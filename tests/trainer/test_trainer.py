import pytest

import trainer


def test_public_names_of_the_training_room_load():
    for name in trainer.__all__:
        assert getattr(trainer, name) is not None


def test_another_distribution_named_trainer_is_refused(monkeypatch):
    monkeypatch.setattr(trainer, "version", lambda name: "0.0.36")
    with pytest.raises(ImportError, match="'trainer' 0.0.36 .*rtd-cir"):
        trainer.refuse_other_trainer()

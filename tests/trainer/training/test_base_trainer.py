from pathlib import Path

import pytest
import torch

from tests.factories import build_triplets, hold_in_another_process
from trainer.training.arguments import RTDTrainingArguments


def test_a_finished_run_is_not_trained_further_by_a_resume(build):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    first = build(**settings)
    first.train()
    again = build(**settings)
    assert again.train(resume_from_checkpoint=True).global_step == 4
    for ours, theirs in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_output_folder_with_a_run_is_never_overwritten(build):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build(**settings).train()
    with pytest.raises(ValueError, match="holds an earlier run.*resume_from_checkpoint=True"):
        build(**settings).train()


def test_a_run_on_other_data_is_foreign(build):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build(**settings).train()
    with pytest.raises(ValueError, match=r"of another run: triplets differ\(s\)"):
        build(rows=build_triplets(32), **settings).train(resume_from_checkpoint=True)


def test_resuming_where_nothing_is_says_so(build):
    with pytest.raises(ValueError, match="no complete checkpoint.*which holds none"):
        build().train(resume_from_checkpoint=True)


def test_a_run_with_another_recipe_is_foreign(build):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build(**settings).train()
    with pytest.raises(ValueError, match=r"of another run: learning_rate, loss_type differ\(s\)"):
        build(**settings | {"loss_type": "info_nce", "learning_rate": 0.5}).train(resume_from_checkpoint=True)


def test_half_precision_weights_are_not_trained(build, model):
    model.text_model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="half precision"):
        build()


def test_rows_that_do_not_fill_a_batch_are_refused(build):
    with pytest.raises(ValueError, match="48 rows .* 64.*--per-device-train-batch-size"):
        build(per_device_train_batch_size=64)


def test_several_gpus_in_one_process_are_refused(build, monkeypatch):
    monkeypatch.setattr(RTDTrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="torchrun --nproc_per_node 2"):
        build()


def test_train_refuses_a_folder_in_which_another_process_trains(build):
    trainer = build()
    lock = Path(trainer.args.output_dir) / ".lock"
    lock.parent.mkdir(exist_ok=True)
    refusal = pytest.raises(ValueError, match="another process trains in '.*run'")
    with hold_in_another_process(lock), refusal:
        trainer.train()
    assert trainer.train().global_step == 2


def test_the_folder_is_held_once_however_often_it_is_asked_for(build):
    trainer = build()
    with trainer.hold_folder(), trainer.hold_folder():
        assert trainer.train().global_step == 2

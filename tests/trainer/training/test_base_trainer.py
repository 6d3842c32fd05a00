from pathlib import Path

import pytest
import torch
from datasets import Dataset

from tests.factories import StopAt, build_triplets, hold_in_another_process
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


def test_batches_of_texts_are_not_sent_to_other_processes(build):
    with pytest.raises(ValueError, match="`dispatch_batches`"):
        build(accelerator_config={"dispatch_batches": True})


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


def build_stream(rows=None, seed=3):
    stream = Dataset.from_list(rows or build_triplets(48)).to_iterable_dataset(num_shards=2)
    return stream if seed is None else stream.shuffle(seed, buffer_size=20)


def get_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_stream_trains_as_the_table_of_its_rows(build):
    rows = build_triplets(16)
    streamed, held = build(rows=build_stream(rows, seed=None), name="a"), build(rows=rows, name="b")
    streamed.train()
    held.train()
    assert get_losses(streamed)[0] == pytest.approx(get_losses(held)[0], abs=1e-6)
    assert get_losses(streamed)[1] != pytest.approx(get_losses(held)[1], abs=1e-6)  # noise goes by pass in both


@pytest.mark.parametrize(
    "settings",
    [
        {"condition_augmentation": "rewording,typo", "dataloader_num_workers": 2},
        pytest.param({"condition_augmentation": "rewording,typo"}, marks=pytest.mark.slow),
        pytest.param({"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"dataloader_num_workers": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_stream_goes_on_bit_for_bit(build, settings):
    settings = settings | {"max_steps": 8, "save_strategy": "steps", "save_steps": 5}
    straight = build(rows=build_stream(), name="a", **settings)
    straight.train()
    build(rows=build_stream(), name="b", callbacks=[StopAt(6)], **settings).train()
    resumed = build(rows=build_stream(), name="b", **settings)  # 48 rows in batches of 16: in its second pass
    resumed.train(resume_from_checkpoint=True)
    assert get_losses(resumed)[-3:] == get_losses(straight)[-3:]
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_a_run_that_a_row_stops_goes_on_without_it(build):
    rows = build_triplets(1300)
    bad = [*rows[:1004], rows[0] | {"target_caption": ""}, *rows[1004:]]
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_train_batch_size": 250}
    with pytest.raises(ValueError, match=r"row 1005: `target_caption`.*--bad-rows skip.*last checkpoint"):
        build(rows=build_stream(bad, seed=None), **settings).train()
    resumed = build(rows=build_stream(bad, seed=None), bad_rows="skip", **settings)
    assert resumed.train(resume_from_checkpoint=True).global_step == 6
    assert resumed.train_dataset.count_skipped() == 1
    straight = build(rows=build_stream(rows, seed=None), name="straight", **settings)
    straight.train()
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_steps": -1}, "no length.*--max-steps"), ({"anchor_cache": "always"}, "a stream is not kept")],
)
def test_what_a_stream_cannot_have_is_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(rows=build_stream(), **arguments)


def test_a_stream_of_other_rows_is_foreign(build):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build(rows=build_stream(), **settings).train()
    with pytest.raises(ValueError, match=r"of another run: triplets differ\(s\)"):
        build(rows=build_stream(build_triplets(32)), **settings).train(resume_from_checkpoint=True)

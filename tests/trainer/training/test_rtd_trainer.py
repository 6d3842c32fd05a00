import contextlib
import copy
import errno
import json
import resource
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from modeling_rtd import RTDModel, RTDTextModel, build_projection, hash_tensors
from modeling_rtd.configuration_rtd import RTDProjectionConfig
from tests.factories import StopAt, build_triplets, shake
from trainer.data.triplets import prepare_triplets
from trainer.encoding.noise import draw_noise
from trainer.publishing.provenance import read_stages, write_stages
from trainer.training.checkpoints import find_last_complete_checkpoint
from trainer.training.lora import add_lora
from trainer.training.rtd_trainer import _add_contexts


pytestmark = pytest.mark.usefixtures("undrawn")
ROWS = build_triplets(48)
# Renamed in transformers 5.23.
CHECKPOINTING = next(
    n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, n)
)


def get_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_by_hand(model, processor, rows, steps, learning_rate, seed):
    """Write out the published recipe: two padded prompts, three frozen passes, plain AdamW, no clipping."""
    frozen, tower = copy.deepcopy(model.text_model), copy.deepcopy(model.text_model).requires_grad_(True)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=learning_rate, weight_decay=0.01)
    tokenizer = processor.tokenizer

    def encode(encoder, texts, words=None):
        batch = tokenizer(texts, padding="max_length", max_length=20, return_tensors="pt")
        return encoder(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            placeholder_mask=batch["input_ids"] == 4,
            pseudo_token_embeds=words,
        ).text_embeds

    losses = []
    for step in range(steps):
        with torch.no_grad():
            target = encode(frozen, [row["target_caption"] for row in rows]).float()
            reference = encode(frozen, [row["reference_caption"] for row in rows]).float()
            noise = draw_noise(range(len(rows)), 24, seed, epoch=step)
            words = model.projection.eval().layers(reference + 0.5 * noise)[:, None]
        composed = encode(tower, [f"a photo of $ that {row['conditioning_caption']}" for row in rows], words)
        alone = encode(tower, ["a photo of $"] * len(rows), words)
        z = torch.nn.functional.normalize(torch.cat([target, reference, composed, alone]), dim=-1)
        similarities = torch.exp(z @ z.T / 0.07)
        pairs = 2 * len(rows)
        positives = torch.cat([similarities.diagonal(pairs), similarities.diagonal(-pairs)])
        loss = -torch.log(positives / (similarities.sum(1) - similarities.diagonal())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tower, losses


def test_two_steps_equal_the_published_recipe_written_by_hand(build, model, processor):
    # In float64, since AdamW divides each gradient by its own size: where it is nil in truth (the bias of keys),
    # float32 would compare rounding with rounding. Anchors and pseudo-words are float32 in both.
    model.text_model.double()
    trainer = build(rows=ROWS[:16])
    trainer.train()
    by_hand, losses = train_by_hand(model, processor, ROWS[:16], 2, 1e-3, trainer.args.seed)
    assert get_losses(trainer) == pytest.approx(losses, abs=1e-5)
    start = dict(model.text_model.named_parameters())
    for (name, ours), theirs in zip(trainer.model.named_parameters(), by_hand.parameters(), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * (theirs - start[name]).norm(), name


def test_weight_decay_applies_to_every_parameter(build):
    trainer = build()
    assert set(trainer.get_decay_parameter_names(trainer.model)) == {n for n, _ in trainer.model.named_parameters()}


def test_every_trainable_tensor_moves_and_no_companion_does(build, model):
    before = copy.deepcopy(model.state_dict())
    trainer = build(anchor_cache="never")
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(parameter, before[f"text_model.{name}"]), name
    for name, tensor in model.state_dict().items():  # vision tower, projection, and the tower the copy was made of
        assert torch.equal(tensor, before[name]), name
    for name, tensor in trainer._frozen.state_dict().items():
        assert torch.equal(tensor, before[f"text_model.{name}"]), name


def test_cached_anchors_equal_anchors_on_the_fly(build):
    cached, fresh = build(name="a", anchor_cache="always"), build(name="b", anchor_cache="never")
    cached.train()
    fresh.train()
    assert "reference_embeds" in cached.data_collator(list(cached.train_dataset.select(range(2))))
    assert get_losses(cached) == pytest.approx(get_losses(fresh), abs=1e-6)


def test_cached_anchors_equal_anchors_on_the_fly_in_float64(build, model):
    model.double()
    trainers = [build(name=str(wants), anchor_cache=wants, rows=ROWS[:16]) for wants in ("always", "never")]
    pairs = []
    for trainer in trainers:
        inputs = trainer.data_collator(list(trainer.train_dataset))
        pairs.append(trainer._encode_anchors(inputs))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)  # anchors are kept in float32


@pytest.mark.parametrize(("max_steps", "caches"), [(3, False), (4, True)])
def test_anchors_are_cached_only_where_rows_repeat(build, max_steps, caches):
    trainer = build(max_steps=max_steps)  # 3 steps of 16 see each of 48 rows once
    assert (trainer.data_collator.caption_embeddings is not None) is caches
    assert trainer._frozen is not None


def test_the_anchor_cache_is_read_by_the_same_tower_only(build, model):
    first = build(name="a", max_steps=9).data_collator.caption_embeddings
    assert build(name="b", max_steps=9).data_collator.caption_embeddings.path == first.path
    other = copy.deepcopy(model.text_model)
    with torch.no_grad():
        other.text_projection.weight.mul_(1.001)
    assert build(name="c", max_steps=9, tower=other).data_collator.caption_embeddings.path != first.path


@pytest.mark.parametrize(
    "ablation",
    [
        {"refined_batch": False},
        {"refined_concatenation": False},
        {"target_anchored": False},
        {"composition": False},
        {"loss_type": "info_nce"},
        {"bf16": True},
        {CHECKPOINTING: True},
    ],
    ids=lambda ablation: next(iter(ablation)),
)
def test_each_part_can_be_switched_and_still_learns(build, ablation):
    trainer = build(max_steps=9, logging_steps=3, **ablation)
    trainer.train()
    losses = get_losses(trainer)
    assert losses[-1] < losses[0]


def test_mixed_precision_is_near_full_precision_and_is_not_it(build):
    losses = []
    for bf16 in (True, False):
        trainer = build(name=str(bf16), bf16=bf16, max_steps=1)
        trainer.train()
        losses += get_losses(trainer)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_accumulated_batches_do_not_see_each_others_negatives(build, model):
    model.text_model.double()
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "weight_decay": 0.0, "anchor_cache": "always"}
    accumulated = build(name="two", per_device_train_batch_size=8, gradient_accumulation_steps=2, **settings)
    batches = []
    collate = accumulated.data_collator
    accumulated.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    accumulated.train()
    by_hand = build(name="hand", per_device_train_batch_size=8, **settings)
    tower = by_hand.model
    loss = sum(by_hand.compute_loss(tower, batch) for batch in batches[:2]) / 2
    loss.backward()
    for (name, ours), theirs in zip(accumulated.model.named_parameters(), tower.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, atol=1e-9, rtol=0, msg=name)


def test_contexts_of_a_stream_are_those_of_the_table(processor):
    table = _add_contexts(prepare_triplets(ROWS[:4]), processor)
    stream = _add_contexts(
        prepare_triplets(Dataset.from_list(ROWS[:4]).to_iterable_dataset(), batch_size=4), processor
    )
    assert [row for row, _ in zip(stream, range(4), strict=False)] == table.to_list()


def test_an_evaluation_is_no_stream(build):
    with pytest.raises(ValueError, match="streaming=False"):
        build(eval_dataset=Dataset.from_list(ROWS).to_iterable_dataset())


def test_switching_a_part_off_changes_the_loss(build):
    losses = set()
    for name in ("refined_batch", "refined_concatenation", "target_anchored", "composition", None):
        trainer = build(name=str(name), max_steps=1, learning_rate=0.1, **({name: False} if name else {}))
        trainer.train()
        losses.add(round(get_losses(trainer)[0], 5))
    assert len(losses) == 4  # before the first update trained and frozen anchors are the same tower


def measure_drift_by_hand(frozen, tower, processor, rows):
    """Write out the term of plain captions: each caption alone, padded by the tokenizer."""
    losses = []
    for text in [row[name] for row in rows for name in ("reference_caption", "target_caption")]:
        ids = processor.tokenizer([text], padding="max_length", max_length=20, return_tensors="pt")["input_ids"]
        ours, anchor = (one(ids).text_embeds[0] for one in (tower, frozen))
        losses.append(1 - (ours @ anchor.detach().float().double()) / (ours.norm() * anchor.detach().norm()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("wants", ["always", "never"])
def test_plain_captions_are_kept_by_the_term_written_by_hand(build, model, processor, interval, wants):
    model.text_model.double()
    tower = copy.deepcopy(model.text_model)
    settings = {"anchor_cache": wants, "per_device_train_batch_size": 12, "length_groups": 3}
    ours = build(tower=tower, name="ours", caption_weight=3.0, caption_interval=interval, **settings)
    published = build(name="published", **settings)
    shake(tower)
    published.model.load_state_dict(tower.state_dict())
    rows = list(ours.train_dataset.select(range(12)))
    drift = measure_drift_by_hand(model.text_model, tower, processor, rows[::interval])
    losses = [one.compute_loss(one.model, one.data_collator(rows)) for one in (ours, published)]
    assert losses[0].item() == pytest.approx(losses[1].item() + 3 * drift.item(), abs=1e-5)
    weights = list(tower.parameters())
    wanted = torch.autograd.grad(3 * drift, weights)
    with_term = torch.autograd.grad(losses[0], weights)
    without = torch.autograd.grad(losses[1], list(published.model.parameters()))
    for term, one, other in zip(wanted, with_term, without, strict=True):
        torch.testing.assert_close(one - other, term, atol=1e-5, rtol=1e-4)


def test_the_term_of_a_joined_batch_is_the_mean_of_its_parts(build):
    trainer = build(caption_weight=1.0, caption_interval=2)
    shake(trainer.model)

    def measure(rows):
        batch = trainer.data_collator(rows)
        return trainer._measure_drift(trainer.model, batch["plain"], *trainer._encode_anchors(batch)[:2]).item()

    rows = list(trainer.train_dataset.select(range(16)))
    assert measure(rows) == pytest.approx((measure(rows[:8]) + measure(rows[8:])) / 2, abs=1e-6)


def measure_drift(trainer, processor):
    rows = list(trainer.train_dataset.select(range(8)))
    tower = trainer.model.eval()
    with trainer._frozen_tower(tower) as frozen:
        captions = processor(text=[row["target_caption"] for row in rows])
        anchors = frozen(input_ids=captions["input_ids"]).text_embeds
    embeds = tower(input_ids=captions["input_ids"]).text_embeds
    return 1 - torch.nn.functional.cosine_similarity(embeds, anchors).mean().item()


SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("target_anchored", "bf16")]


@pytest.mark.parametrize("kind", ["all weights", "lora", *SLOW_KINDS])
def test_plain_captions_drift_less_with_the_term(build, model, processor, kind):
    drifts, arguments = [], {"target_anchored": False} if kind == "target_anchored" else {"bf16": kind == "bf16"}
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        tower = copy.deepcopy(model.text_model)
        if kind == "lora":
            add_lora(tower, r=4)
        trainer = build(tower=tower, name=str(weight), max_steps=8, caption_weight=weight, **arguments)
        trainer.train()
        drifts.append(measure_drift(trainer, processor))
    assert drifts[1] < drifts[0] / 2


def test_an_interval_without_a_weight_changes_nothing(build):
    trainers = [build(name=str(interval), caption_interval=interval) for interval in (1, 4)]
    for trainer in trainers:
        trainer.train()
    assert hash_tensors(trainers[0].model) == hash_tensors(trainers[1].model)


@pytest.mark.parametrize(
    "ours",
    [
        {"caption_weight": 10.0, "condition_augmentation": "typo,rewording"},
        pytest.param({}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(build, ours):
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2} | ours
    straight = build(name="straight", **settings)
    straight.train()
    build(name="broken", callbacks=[StopAt(5)], **settings).train()
    resumed = build(name="broken", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert get_losses(resumed) == get_losses(straight)


def test_a_checkpoint_is_a_text_tower_with_its_companions_named(build, model, processor):
    trainer = build(save_strategy="steps", save_steps=2)
    trainer.train()
    folder = Path(trainer.args.output_dir, "checkpoint-2")
    tower, report = RTDTextModel.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    for ours, theirs in zip(tower.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert set(json.loads((folder / "run.json").read_text())) >= {
        "projection",
        "text_model",
        "triplets",
        "learning_rate",
    }


class FillDisk(TrainerCallback):
    """Leaves room for small files only, after a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_leaves_the_last_good_checkpoint(build, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "anchor_cache": "never"}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            OSError, match="(?s)saving checkpoint-4 failed.*checkpoint-2 is complete: free some space"
        ) as caught:
            build(callbacks=[FillDisk()], **settings).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert not (tmp_path / "run/checkpoint-4").exists()
    assert find_last_complete_checkpoint(tmp_path / "run").name == "checkpoint-2"


@pytest.mark.parametrize(("logging_steps", "step"), [(2, 2), (4, 4), (100, 6)])
def test_a_loss_that_is_not_finite_stops_the_run_at_the_next_log_or_at_its_end(build, logging_steps, step):
    where = f"the loss became nan at or before step {step}; .* resume from the start"
    with pytest.raises(FloatingPointError, match=where):
        build(max_steps=6, learning_rate=1e38, logging_steps=logging_steps).train()


def test_a_step_never_waits_for_its_device(build, monkeypatch):
    # Tensors without values stand in for a device that is still busy: whatever needs a value of theirs fails.
    trainer = build(anchor_cache="never", max_steps=1)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    batch = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in batch.items()}
    for network in (trainer.model, trainer.projection, trainer._frozen):
        network.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no such device
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.is_meta
    with pytest.raises(RuntimeError):
        loss.item()


@pytest.mark.parametrize("names", ["typo,rewording", pytest.param(None, marks=pytest.mark.slow)])
def test_processes_that_tokenise_change_no_result(build, names):
    workers = [{}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}]
    trainers = [
        build(name=f"{place}", max_steps=7, condition_augmentation=names, **options)
        for place, options in enumerate(workers)
    ]
    for trainer in trainers:
        trainer.train()
    assert [trainer.args.dataloader_num_workers for trainer in trainers] == [0, 2]
    assert get_losses(trainers[0]) == get_losses(trainers[1])


def test_conditions_are_changed_on_request_and_anew_in_each_epoch(build, monkeypatch):
    trainer, seen = build(max_steps=6, condition_augmentation="typo"), []
    build_prompts = type(trainer.data_collator)._build_prompts

    def record(self, rows):
        seen.extend((row["row"], row["conditioning_caption"]) for row in rows)
        return build_prompts(self, rows)

    monkeypatch.setattr(type(trainer.data_collator), "_build_prompts", record)
    trainer.train()
    changed = [
        {row for row, text in epoch if text != ROWS[row]["conditioning_caption"]} for epoch in (seen[:48], seen[48:])
    ]
    assert all(3 < len(rows) < 24 for rows in changed)
    assert changed[0] != changed[1]


def test_triplets_in_another_language_are_counted(build):
    rows = [*ROWS, dict.fromkeys(("reference_caption", "conditioning_caption", "target_caption"), "der hund")]
    with pytest.warns(UserWarning, match="1 of 49 triplets are not in English"):
        build(rows, condition_augmentation="typo")


def test_groups_by_length_change_no_result(build, model):
    trainers = [build(name=str(groups), length_groups=groups, max_steps=3, optim="sgd") for groups in (1, 3)]
    for trainer in trainers:
        trainer.model.double()
        trainer.train()
    whole, parts = trainers
    assert len({length for _, _, length in parts.data_collator(list(parts.train_dataset))["length_groups"]}) > 1
    assert get_losses(parts) == pytest.approx(get_losses(whole), abs=1e-6)
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0, msg=name)


def test_weights_that_are_not_finite_are_never_saved(build, model):
    trainer = build(max_steps=6, save_strategy="steps", save_steps=1)
    step = trainer.training_step

    def poison(network, *arguments):
        loss = step(network, *arguments)
        if trainer.state.global_step == 2:  # a gradient that the third update turns into weights
            network.text_projection.weight.grad.fill_(float("nan"))
        return loss

    trainer.training_step = poison
    with pytest.raises(FloatingPointError, match="not finite after step 3.*checkpoint-2"):
        trainer.train()
    last = find_last_complete_checkpoint(trainer.args.output_dir)
    assert last.name == "checkpoint-2"
    assert all(torch.isfinite(p).all() for p in RTDTextModel.from_pretrained(last).parameters())


def test_long_texts_are_cut_with_one_warning_and_their_count_in_each_run(build):
    rows = [dict(row) for row in ROWS]
    rows[30]["conditioning_caption"] = "is red and " * 20
    for name in ("first", "second"):
        with pytest.warns(UserWarning, match="1 of 16 texts .* 20 tokens") as caught:
            build(rows=rows, anchor_cache="never", max_steps=6, name=name).train()
        assert sum("texts are longer" in str(warning.message) for warning in caught) == 1


def test_the_best_tower_comes_back_when_a_finished_run_is_resumed(build):
    settings = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "text_recall@10",
        "greater_is_better": False,
        "learning_rate": 3e-2,
    }
    first = build(eval_dataset=Dataset.from_list(ROWS[:30]), **settings)
    first.train()
    assert not first.state.best_model_checkpoint.endswith("-4")
    again = build(eval_dataset=Dataset.from_list(ROWS[:30]), **settings)
    again.train(resume_from_checkpoint=True)
    for ours, theirs in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_projection_of_another_size_is_refused(build, model):
    model.projection = build_projection(RTDProjectionConfig(projection_dim=12, text_hidden_size=32))
    with pytest.raises(ValueError, match="{'projection_dim': 12.*{'projection_dim': 24"):
        build()


def test_what_is_trained_in_python_is_saved_with_its_record(build, model, processor, tmp_path):
    model.save_pretrained(tmp_path / "lincir")
    write_stages([{"stage": "lincir", "data": {"captions": "org/captions"}}], tmp_path / "lincir")
    model = RTDModel.from_pretrained(tmp_path / "lincir")
    trainer = build(max_steps=1)
    trainer.earlier = read_stages(tmp_path / "lincir")
    trainer.train()
    folder = trainer.save_model(model=model)
    assert folder == tmp_path / "run/model"
    first, second = read_stages(folder)
    assert (first["stage"], second["stage"], second["steps"]) == ("lincir", "rtd", 1)
    assert second["data"] == {"triplets": "48 rows from memory"}
    assert second["versions"].keys() >= {"python", "torch", "transformers"}
    assert "RTD" in (folder / "README.md").read_text()
    assert (tmp_path / "run/training.json").exists()
    saved = RTDModel.from_pretrained(folder)
    assert hash_tensors(saved.text_model) == hash_tensors(trainer.model)
    before = RTDModel.from_pretrained(tmp_path / "lincir")
    assert hash_tensors(saved.original_text_model) == hash_tensors(before.text_model)
    trainer.save_model(tmp_path / "again")
    assert [stage["stage"] for stage in read_stages(tmp_path / "again")] == ["lincir", "rtd"]
    assert hash_tensors(RTDModel.from_pretrained(tmp_path / "again").text_model) == hash_tensors(trainer.model)

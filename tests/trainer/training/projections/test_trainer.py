import copy

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from modeling_rtd import (
    RTDModel,
    build_projection,
)
from modeling_rtd.configuration_rtd import RTDProjectionConfig
from tests.factories import FEW_STEPS, build_triplets
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.pic2word import Pic2WordTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = [row["target_caption"] for row in build_triplets(40)]


def test_only_the_projection_moves(build, model):
    before = copy.deepcopy(model.state_dict())
    build().train()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) is not name.startswith("projection."), name


def test_the_loss_falls(build):
    trainer = build(max_steps=60, logging_steps=15)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < 0.8 * losses[0]


def test_cached_embeddings_equal_embeddings_on_the_fly(build, model):
    start, losses = copy.deepcopy(model.projection.state_dict()), []
    for wants in ("always", "never"):
        model.projection.load_state_dict(start)
        trainer = build(name=wants, anchor_cache=wants)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_projection_of_another_size_is_refused(build):
    other = build_projection(RTDProjectionConfig(projection_dim=24, text_hidden_size=16))
    with pytest.raises(ValueError, match="made for .*'text_hidden_size': 16.*backbone has .*'text_hidden_size': 32"):
        build(projection=other)


@pytest.mark.parametrize("args", [TrainingArguments, ProjectionTrainingArguments, Pic2WordTrainingArguments])
def test_arguments_of_another_class_are_refused(model, processor, tmp_path, args):
    with pytest.raises(ValueError, match=f"LinCIRTrainingArguments, got {args.__name__}"):
        ProjectionTrainer(model, args(str(tmp_path)), train_dataset="captions.txt", processing_class=processor)


def test_the_three_lines_of_python_run_as_they_are(clip, tokenizer, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in (clip, tokenizer, processor.image_processor):
        part.save_pretrained("clip")
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    model = RTDModel.from_clip("clip", "lincir")
    args = LinCIRTrainingArguments("runs/phi", **FEW_STEPS, keyword_fn="rule")
    trainer = ProjectionTrainer(model, args, train_dataset="captions.txt")
    assert trainer.train().global_step == 2
    model.save_pretrained("phi")
    processor.save_pretrained("phi")
    trainer = ProjectionTrainer("phi", train_dataset="captions.txt", args=args)
    assert trainer.rtd_model.projection.config.projection_type == "lincir"


def test_a_model_without_a_place_needs_a_processor(model, tmp_path):
    with pytest.raises(ValueError, match="processing_class"):
        ProjectionTrainer(model, LinCIRTrainingArguments(str(tmp_path), **FEW_STEPS), train_dataset="captions.txt")


def test_no_arguments_are_those_of_the_method(model, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_dict({"text": CAPTIONS})
    with pytest.raises(ValueError, match="40 rows .* 512"):
        ProjectionTrainer(model, train_dataset=rows, processing_class=processor)


def test_a_plain_clip_and_a_collator_are_refused_by_name(clip, model, processor):
    with pytest.raises(ValueError, match=r"`model` is a CLIPModel.*from_clip.*method='lincir'"):
        ProjectionTrainer(clip, train_dataset=CAPTIONS, processing_class=processor)
    with pytest.raises(ValueError, match="`data_collator` has no effect"):
        ProjectionTrainer(model, train_dataset=CAPTIONS, processing_class=processor, data_collator=len)

import copy

import pytest
import torch
from datasets import Dataset

from modeling_rtd import build_projection
from modeling_rtd.configuration_rtd import RTDProjectionConfig
from tests.factories import build_triplets
from trainer.encoding.noise import draw_noise
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = [row["target_caption"] for row in build_triplets(40)]


@pytest.fixture
def build(model, processor, tmp_path):
    """Build a trainer of the model's projection."""

    def build(captions=CAPTIONS, projection=None, name="run", **arguments):
        defaults = {
            "output_dir": str(tmp_path / name),
            "max_steps": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "keyword_fn": "rule",
            "anchor_cache_dir": str(tmp_path / "anchors"),
        }
        model.projection = projection or model.projection
        return ProjectionTrainer(
            model,
            LinCIRTrainingArguments(**(defaults | arguments)),
            train_dataset=Dataset.from_dict({"text": captions}),
            processing_class=processor,
        )

    return build


@pytest.mark.parametrize("arguments", [LinCIRTrainingArguments, RTDTrainingArguments])
@pytest.mark.parametrize("there", [True, False])
def test_memory_is_pinned_where_there_is_an_accelerator(arguments, there, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    args = arguments()
    assert args.dataloader_pin_memory == args.accelerator_config.non_blocking == there
    assert arguments(dataloader_pin_memory=not there).dataloader_pin_memory != there


def test_the_loss_is_lincirs_formula(build, model, processor):
    trainer = build(captions=["a red dress with the dog", "the small cat"], per_device_train_batch_size=2)
    model.projection.eval()
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.objective.compute_loss(model.projection, batch, epoch=4)
    with torch.no_grad():
        embeds = model.text_model(**processor(text=["a red dress with the dog", "the small cat"])).text_embeds
        noise = draw_noise([0, 1], 24, trainer.args.seed, epoch=4)
        words = model.projection.layers(embeds + noise)
        # "[a red dress] with [the dog]" and "[the small cat]", the same word at every mask
        first = model.text_model(torch.tensor([[1, 4, 12, 4, 3]]), pseudo_token_embeds=words[:1, None]).text_embeds
        second = model.text_model(torch.tensor([[1, 4, 3]]), pseudo_token_embeds=words[1:, None]).text_embeds
    expected = ((torch.cat([first, second]) - embeds) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_caption_without_words_to_mask_falls_back_to_the_prompt(build, processor):
    trainer = build(captions=["...", "a dog"], per_device_train_batch_size=2)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["row"] == [1, 0]  # by rising length
    assert batch["input_ids"][1].tolist() == [1, 5, 6, 7, 4, 3]


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


def test_the_keyword_function_is_recorded(build):
    facts = build(keyword_fn="lexicon", mask_on="substrings").run_facts
    assert facts["keyword_fn"] == "lexicon"
    assert facts["mask_on"] == "substrings"


@pytest.mark.parametrize("caption", ["", " $ ", None])
def test_an_empty_caption_is_refused_with_its_row(build, caption):
    with pytest.raises(ValueError, match="row 3: `text` must be a non-empty string"):
        build(captions=["a dog", "a cat", caption])


def test_a_projection_of_another_size_is_refused(build):
    other = build_projection(RTDProjectionConfig(projection_dim=24, text_hidden_size=16))
    with pytest.raises(ValueError, match="made for .*'text_hidden_size': 16.*backbone has .*'text_hidden_size': 32"):
        build(projection=other)

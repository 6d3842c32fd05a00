"""Context-I2W's training: contexts without objects, Pic2Word's loss, and nothing trained but the projection."""

from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, build_images, build_tokenizer
from trainer.training.projections.context_i2w import ContextI2WTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = ["a red dress on a beach", "is the dog of that car", "a cat and no dog", "with a large blue house"] * 3


def build_pairs():
    return Dataset.from_dict({"image": build_images(12), "text": CAPTIONS})


@pytest.fixture
def build(tmp_path):
    def build(source=None, **arguments):
        clip, tokenizer = build_clip(projection_dim=32, max_position_embeddings=40), build_tokenizer(40)
        torch.manual_seed(0)
        model = RTDModel.from_clip(clip, "context_i2w", tokenizer=tokenizer)
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "augment": False,
        }
        return ProjectionTrainer(
            model,
            ContextI2WTrainingArguments(**(defaults | arguments)),
            train_dataset=build_pairs() if source is None else source,
            processing_class=RTDProcessor(build_image_processor(), tokenizer, default_template="context_i2w"),
        )

    return build


def test_objects_give_way_to_the_context_word(build):
    # The tiny vocabulary has no "jekyll", so the placeholder stands for it.
    assert build().train_dataset["text"][:2] == ["a $ on a $", "is the $ of that $"]


@pytest.mark.parametrize("anchor_cache", ["always", "never"])
def test_the_loss_is_symmetric_info_nce_of_images_and_prompts_with_their_context(build, anchor_cache):
    trainer = build(anchor_cache=anchor_cache)
    model, projection = trainer.objective.model, trainer.model.eval()
    batch = trainer.data_collator(list(trainer.train_dataset.select(range(6))))
    loss = trainer.objective.compute_loss(projection, batch, epoch=0).item()
    with torch.no_grad():
        image = model.get_image_features(trainer.processor(images=build_images(12)[:6])["pixel_values"])
        contexts = trainer.processor(text=trainer.train_dataset["text"][:6])
        context = model.text_model(contexts["input_ids"]).text_embeds
        words = projection(image_tokens=image.last_hidden_state, context_embeds=context)[0]
        prompts = torch.tensor([[1, 5, 6, 7, 4, 3]] * 6)
        text = model.text_model(prompts, pseudo_token_embeds=words).text_embeds
    u, t = (x.double().numpy() / x.double().norm(dim=1, keepdim=True).numpy() for x in (image.pooler_output, text))
    scores = np.exp(np.exp(float(model.logit_scale)) * u @ t.T)
    expected = -(np.log(np.diag(scores) / scores.sum(1)).mean() + np.log(np.diag(scores) / scores.sum(0)).mean()) / 2
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("augment", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_moves_the_projection_alone_and_lowers_the_loss(build, augment):
    trainer = build(augment=augment, max_steps=30, logging_steps=10)
    before = {name: tensor.clone() for name, tensor in trainer.objective.model.state_dict().items()}
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    changed = {n for n, tensor in trainer.objective.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed
    assert all(name.startswith("projection.") for name in changed)


def test_features_are_computed_once_and_found_again(build):
    first = build()
    trainer = build()
    assert trainer.objective.features.paths == first.objective.features.paths
    calls = []
    trainer.objective.model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert not calls


def test_a_caption_that_is_missing_is_named(build, monkeypatch):
    monkeypatch.setitem(globals(), "CAPTIONS", [*CAPTIONS[:11], " "])
    with pytest.raises(ValueError, match="row 12: `text`"):
        build()


def test_a_stream_gives_the_contexts_of_the_table(build):
    batches = []
    for source in (build_pairs(), build_pairs().to_iterable_dataset()):
        trainer = build(source, augment=True, anchor_cache="never")
        batches.append(trainer.data_collator(list(islice(trainer.train_dataset, 6))))
    ours, theirs = ([batch["caption_input_ids"], batch["context_index"]] for batch in batches)
    assert all(map(torch.equal, ours, theirs))
    trainer.train()

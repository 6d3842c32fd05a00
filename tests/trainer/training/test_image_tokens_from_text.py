"""Lifted tokens: fed from text, fitted to do what real tokens do, and RTD over the projections that read them."""

import copy

import pytest
import torch
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, build_images, build_tokenizer, build_triplets
from trainer.data.images import load_images
from trainer.encoding.captions import encode_captions
from trainer.encoding.image_features import ImageFeatures
from trainer.encoding.noise import draw_noise
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.image_tokens_from_text import TokenLift, fit_token_lift
from trainer.training.rtd_trainer import RTDTrainer


methods = pytest.mark.parametrize("method", ["context_i2w", "fti4cir"])


def build_model(method):
    clip, tokenizer = build_clip(projection_dim=32, max_position_embeddings=40), build_tokenizer(40)
    torch.manual_seed(0)
    model = RTDModel.from_clip(clip, method, tokenizer=tokenizer)
    return model, RTDProcessor(build_image_processor(), tokenizer, default_template=method)


def build_trainer(method, folder, **arguments):
    model, processor = build_model(method)
    defaults = {
        "output_dir": str(folder / "run"),
        "anchor_cache_dir": str(folder / "anchors"),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return RTDTrainer(
        copy.deepcopy(model.text_model),
        RTDTrainingArguments(**(defaults | arguments)),
        projection=model.projection,
        train_dataset=Dataset.from_list(build_triplets(32)),
        eval_dataset=Dataset.from_list(build_triplets(8, seed=1)),
        processing_class=processor,
        token_lift=TokenLift(32, 48).requires_grad_(False),
    )


def test_a_fitted_lift_answers_more_like_the_image_and_is_kept(tmp_path):
    model, processor = build_model("context_i2w")
    features = ImageFeatures(model, processor, load_images(Dataset.from_dict({"image": build_images(16)})), tmp_path)
    conditions = ["is red", "with no sleeves"]

    def fit(steps):
        return fit_token_lift(model, processor, features, conditions, tmp_path, 0.1, steps=steps, batch_size=8)

    @torch.no_grad()
    def measure(lift):
        prompts = processor(conditions=["is red"] * 16)
        context = model.encode_context(**prompts) if "context_embeds" in model.projection.consumes else None
        part = features(range(16))

        def encode(tokens):
            words, mask = model.projection(part["image_embeds"], tokens, context)
            return model.text_model(**prompts, pseudo_token_embeds=words, pseudo_token_mask=mask).text_embeds

        return (encode(part["image_tokens"]) - encode(lift(part["image_embeds"]))).square().mean().item()

    fitted = fit(60)
    assert measure(fitted) < 0.5 * measure(fit(0))
    again = fit(60)
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), again.parameters(), strict=True))
    assert len(list(tmp_path.glob("lift-*.safetensors"))) == 2
    assert all(parameter.grad is None for parameter in model.parameters())


@methods
@pytest.mark.parametrize("anchor_cache", ["always", "never"])
@torch.no_grad()
def test_words_of_a_step_come_from_lifted_tokens_and_the_prompts_context(method, anchor_cache, tmp_path):
    trainer = build_trainer(method, tmp_path, anchor_cache=anchor_cache)
    seen = []
    trainer.projection.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    trainer.compute_loss(trainer.model, batch)
    rows = [trainer.train_dataset[i] for i in batch["row"]]  # by length
    tower = trainer._frozen or trainer.model
    embeds = encode_captions(tower, trainer.processor, [row["reference_caption"] for row in rows])
    embeds += 0.5 * draw_noise([row["row"] for row in rows], 32, 12345, 0)
    torch.testing.assert_close(seen[0][0][0], embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][0][1], trainer.token_lift(embeds), atol=1e-4, rtol=0)
    if method == "context_i2w":
        contexts = [f"a photo of $ , {row['conditioning_caption']}" for row in rows]
        expected = encode_captions(tower, trainer.processor, contexts)
        torch.testing.assert_close(seen[0][0][2], expected, atol=1e-5, rtol=0)


@methods
@torch.no_grad()
def test_both_prompts_of_a_triplet_travel_as_one_sequence(method, tmp_path):
    trainer = build_trainer(method, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    passes = []

    def record(module, args, kwargs, output):
        passes.append((kwargs, output.text_embeds))

    trainer.model.register_forward_hook(record, with_kwargs=True)
    trainer.compute_loss(trainer.model, batch)
    prompts, embeds = zip(*passes, strict=True)  # a pass for each group of similar lengths
    names = [name for name in ("pseudo_token_embeds", "pseudo_token_mask") if prompts[0].get(name) is not None]
    given, embeds = {name: torch.cat([prompt[name] for prompt in prompts]) for name in names}, torch.cat(embeds)
    triplets = [trainer.train_dataset[i] for i in batch["row"]]  # by length
    for place, conditions in enumerate(([row["conditioning_caption"] for row in triplets], [""] * 8)):
        padded = trainer.processor.pad(trainer.processor.build_prompts(conditions)[0])
        alone = trainer.model(**padded, **given).text_embeds
        torch.testing.assert_close(embeds[:, place], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["fti4cir", pytest.param("context_i2w", marks=pytest.mark.slow)])
def test_rtd_trains_and_judges_over_them(method, tmp_path):
    trainer = build_trainer(method, tmp_path, max_steps=30, logging_steps=10)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    assert 0 <= trainer.evaluate()["eval_text_recall@1"] <= 1


def test_without_a_lift_they_are_refused(tmp_path):
    model, processor = build_model("fti4cir")
    with pytest.raises(ValueError, match="reads image tokens"):
        RTDTrainer(
            model.text_model,
            RTDTrainingArguments(output_dir=str(tmp_path)),
            projection=model.projection,
            train_dataset=Dataset.from_list(build_triplets(8)),
            processing_class=processor,
        )

"""FTI4CIR's training: split captions, each term of the loss, and the one drop of the learning rate."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, build_images, build_tokenizer
from trainer.data.image_captions import load_pairs
from trainer.training.projections.fti4cir import FTI4CIRTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = ["a red dress on a beach", "a small blue car with the dog", "a cat and a dog", "a large house with a tree"]


@pytest.fixture
def build(tmp_path):
    def build(captions=CAPTIONS * 3, columns=None, pairs=None, **arguments):
        clip, tokenizer = build_clip(projection_dim=32, max_position_embeddings=40), build_tokenizer(40)
        torch.manual_seed(0)
        model = RTDModel.from_clip(clip, "fti4cir", tokenizer=tokenizer)
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "lr_drop_epoch": None,
            "padding": "none",
            "seed": 12345,
        }
        data = columns or {"text": captions}
        count = len(next(iter(data.values())))
        return ProjectionTrainer(
            model,
            FTI4CIRTrainingArguments(**(defaults | arguments)),
            train_dataset=pairs or Dataset.from_dict({"image": build_images(count), **data}),
            processing_class=RTDProcessor(build_image_processor(), tokenizer, default_template="fti4cir"),
        )

    return build


def cosines(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("anchor_cache", ["always", "never"])
@torch.no_grad()
def test_the_loss_is_the_sum_of_its_terms_computed_one_by_one(build, anchor_cache):
    trainer = build(anchor_cache=anchor_cache)
    model, projection, processor = trainer.objective.model, trainer.model.eval(), trainer.processor
    # Spread, so that images of one batch have different numbers of words.
    trainer.objective.features._arrays["image_embeds"] = (
        trainer.objective.features._arrays["image_embeds"] * np.geomspace(0.05, 5, 12, dtype="float32")[:, None]
    )
    rows = list(trainer.train_dataset.select(range(0, 12, 2)))
    batch = trainer.data_collator(rows)
    loss = trainer.objective.compute_loss(projection, batch, epoch=0).item()
    images = model.get_image_features(processor(images=build_images(12)[::2])["pixel_values"])
    g = images.pooler_output * torch.from_numpy(np.geomspace(0.05, 5, 12, dtype="float32"))[::2, None]
    words, mask, features = projection(g, images.last_hidden_state, return_features=True)
    counts = (mask.sum(1) - 1).tolist()
    assert len(set(counts)) > 2

    def encode(pieces, words):
        padded = processor.pad(processor.tokenize_pieces([pieces]))
        return model.text_model(**padded, pseudo_token_embeds=words[None]).text_embeds

    whole, subjects, attributes, texts = [], [], [], []
    for row, word, count in zip(rows, words, counts, strict=True):
        stars = [" "] * (count - 1)
        whole.append(encode(["a photo of ", " with ", *stars, ""], word[: 1 + count]))
        subjects.append(encode(["a photo of ", f" with {row['attribute']}"], word[:1]))
        attributes.append(encode([f"a photo of {row['subject']} with ", *stars, ""], word[1 : 1 + count]))
        inputs = processor(text=f"a photo of {row['subject']} with {row['attribute']}")
        texts.append(model.text_model(**inputs).text_embeds)
    whole, subjects, attributes, texts = map(torch.cat, (whole, subjects, attributes, texts))
    z = torch.cat([g, whole]).double().numpy()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.exp(z @ z.T / 0.2) * (1 - np.eye(12))
    partner = np.roll(np.arange(12), 6)
    contrast = -np.log(scores[np.arange(12), partner] / scores.sum(1)).mean()
    f = features.double().numpy()
    orthogonality = np.mean([(row @ row.T - np.eye(12)) ** 2 for row in f])
    captions = sum((1 - cosines(part, texts)).mean() for part in (whole, subjects, attributes))
    assert loss == pytest.approx(contrast + orthogonality + 1.4 * captions, rel=1e-5)


def test_training_moves_the_projection_alone_and_lowers_the_loss(build):
    trainer = build(max_steps=20, logging_steps=10)
    before = {name: tensor.clone() for name, tensor in trainer.objective.model.state_dict().items()}
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    changed = {n for n, tensor in trainer.objective.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed
    assert all(name.startswith("projection.") for name in changed)


def test_captions_without_a_noun_are_counted_and_left_out(build):
    with pytest.warns(UserWarning, match="2 of 14 captions have no noun"):
        trainer = build([*CAPTIONS * 3, "is that and that", "a dress"])
    assert len(trainer.train_dataset) == 12
    assert trainer.train_dataset[0]["text"] == "a photo of a red dress with on a beach"


def test_captions_of_files_are_split_where_all_of_them_can_be(build, tmp_path):
    for number, image in enumerate(build_images(6)):
        image.save(tmp_path / f"{number}.png")
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join(json.dumps({"image": f"{i}.png", "text": CAPTIONS[i % 4]}) for i in range(6)))
    trainer = build(pairs=load_pairs(tmp_path, table))
    assert trainer.train_dataset["subject"][:2] == ["a red dress", "a small blue car"]


def test_captions_of_which_none_can_be_split_are_refused(build):
    with pytest.raises(ValueError, match="none of 6 captions has a noun"):
        build(["is that and that"] * 6)


def test_given_subjects_and_attributes_are_taken_as_they_are(build):
    trainer = build(columns={"subject": ["a dog"] * 6, "attribute": ["red sleeves"] * 6})
    assert trainer.train_dataset["text"][0] == "a photo of a dog with red sleeves"


def test_the_learning_rate_drops_once_to_a_tenth(build):
    trainer = build(max_steps=6, lr_drop_epoch=2)
    trainer.train()
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 2)  # two steps an epoch

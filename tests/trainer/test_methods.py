import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional

from modeling_rtd import PROJECTIONS, Paper, RTDModel, RTDProcessor, RTDProjection, register_projection
from tests.factories import build_images, build_triplets
from trainer import methods
from trainer.cli.main import main
from trainer.data.tables import hash_rows, load_table
from trainer.encoding.captions import encode_captions
from trainer.methods import Method, find_method, list_methods, register_method
from trainer.publishing.provenance import read_stages
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.projections.objective import Objective


# What the papers, or where they are silent the authors' code, state.
ADAMW = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "warmup_steps": 0, "max_grad_norm": 0}
OPEN_CLIP = {"adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-6, "warmup_steps": 10000, "max_steps": -1}
OTI = {
    "oti_steps": 350,
    "oti_batch_size": 32,
    "oti_learning_rate": 2e-2,
    "oti_ema_decay": 0.99,
    "oti_num_concepts": 15,
}
PUBLISHED = {
    "lincir": {
        **ADAMW,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
        "max_steps": 20000,
        "per_device_train_batch_size": 512,
        "noise_scale": 1.0,
        "seed": 12345,
    },
    "pic2word": {
        **OPEN_CLIP,
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 30,
        "per_device_train_batch_size": 128,
        "augment": True,
        "padding": "none",
    },
    "context_i2w": {
        **OPEN_CLIP,
        "learning_rate": 5e-4,
        "weight_decay": 0.2,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 32,
        "per_device_train_batch_size": 64,
        "augment": True,
        "padding": "none",
    },
    "fti4cir": {
        **ADAMW,
        "learning_rate": 4e-5,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
        "lr_drop_epoch": 10,
        "max_steps": -1,
        "num_train_epochs": 60,
        "per_device_train_batch_size": 256,
        "temperature": 0.2,
        "caption_weight": 1.4,
        "padding": "target",
        "seed": 42,
    },
    "searle": {
        **ADAMW,
        **OTI,
        "oti_num_concepts": 15,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
        "max_steps": -1,
        "num_train_epochs": 100,
        "per_device_train_batch_size": 256,
        "temperature": 0.25,
        "phrase_weight": 0.75,
        "num_concepts": 150,
        "phrases_per_concept": 256,
        "padding": "target",
        "seed": 42,
    },
}
CAPTIONS = [row["target_caption"] for row in build_triplets(12)]
every_method = pytest.mark.parametrize("name", PUBLISHED)


@every_method
def test_the_defaults_are_the_published_recipe(name):
    args = find_method(name).arguments(use_cpu=True)
    assert {key: getattr(args, key) for key in PUBLISHED[name]} == PUBLISHED[name]


def test_every_projection_has_a_method():
    assert set(PUBLISHED) == set(list_methods())
    for name in list_methods():
        record = find_method(name)
        assert record.name == name
        assert record.protocol in list_methods()
        assert record.paper.key.strip("abcdefghijklmnopqrstuvwxyz").startswith(f"20{record.paper.arxiv[:2]}")
        assert f"year = {{20{record.paper.arxiv[:2]}}}" in record.paper.bibtex


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="'linccir'; did you mean 'lincir'"):
        find_method("linccir")


class ToyProjection(RTDProjection):
    """One linear layer from an image's embedding to one word."""

    paper = Paper("Toy", "me2026toy", "A Toy", "Me, Myself", "2601.00001")

    consumes = ("image_embeds",)
    prompt_template = "a photo of $ that {condition}"

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(config.projection_dim, config.text_hidden_size)
        self.post_init()

    def project(self, image_embeds):
        return self.layer(image_embeds)[:, None], None


@dataclasses.dataclass
class ToyTrainingArguments(ProjectionTrainingArguments):
    max_steps: int = dataclasses.field(default=3, metadata={"help": "Steps."})
    toy_strength: float = dataclasses.field(default=0.5, metadata={"help": "Strength of the toy."})


class ToyObjective(Objective):
    def prepare(self, source):
        texts = load_table(source)["text"][:]
        self.embeds = encode_captions(self.model.text_model, self.processor, texts, desc=None)
        return Dataset.from_dict({"caption": texts, "row": range(len(texts))})

    def collate(self, rows):
        return {"embeds": self.embeds[[row["row"] for row in rows]]}

    def compute_loss(self, projection, batch, epoch):
        words, _ = projection(batch["embeds"])
        return self.args.toy_strength * functional.mse_loss(words[:, 0].mean(1), batch["embeds"].mean(1))

    def describe(self, dataset):
        return {"captions": hash_rows(dataset, ["caption"])}


TOY = Method(
    "toy",
    "captions",
    ToyTrainingArguments,
    ToyObjective,
)


@pytest.fixture
def toy(monkeypatch):
    """The sixth projection, registered for one test."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    register_projection("toy", ToyProjection)
    register_method(TOY)
    yield
    del PROJECTIONS["toy"]


def test_a_method_without_a_projection_is_refused():
    with pytest.raises(ValueError, match="register_projection"):
        register_method(dataclasses.replace(TOY, name="nothing"))
    with pytest.raises(TypeError, match="RTDProjection"):
        register_projection("nothing", nn.Linear)


def test_a_sixth_projection_trains_saves_loads_composes_and_has_a_card(toy, clip, tokenizer, processor, tmp_path):
    for part in (clip, tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    command = ["train-projection", str(tmp_path / "clip"), "--method", "toy", "--toy-strength", "0.7"]
    fast = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 6".split()
    out = tmp_path / "run"
    assert main([*command, "--captions", str(tmp_path / "captions.txt"), "-o", str(out), *fast]) == 0
    model = RTDModel.from_pretrained(out / "model")
    assert isinstance(model.projection, ToyProjection)
    assert json.loads((out / "model/config.json").read_text())["projection_config"]["projection_type"] == "toy"
    inputs = RTDProcessor.from_pretrained(out / "model")(images=build_images(2), conditions=["is red", "is blue"])
    composed = model.get_composed_features(**inputs)
    assert torch.isfinite(getattr(composed, "pooler_output", composed)).all()
    assert read_stages(out / "model")[-1]["toy_strength"] == 0.7
    card = (out / "model/README.md").read_text()
    assert "[Toy](https://arxiv.org/abs/2601.00001)" in card
    assert "| toy_strength | 0.7 |" in card
    assert TOY.paper.bibtex in card

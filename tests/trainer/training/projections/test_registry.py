import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import TrainingArguments

from modeling_rtd import PROJECTIONS, Paper, RTDModel, RTDProcessor, RTDProjection, register_projection
from tests.factories import build_clip, build_images, build_triplets
from trainer import methods
from trainer.cli.main import main
from trainer.data.tables import hash_rows, load_table
from trainer.encoding.captions import encode_captions
from trainer.methods import Method, find_method, list_methods, register_method
from trainer.publishing.model_card import describe_model, render_card
from trainer.publishing.provenance import describe_stage, read_stages
from trainer.publishing.saving import record_run
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.objective import Objective
from trainer.training.projections.pic2word import Pic2WordTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


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
FAST = {
    "max_steps": 2,
    "per_device_train_batch_size": 6,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "anchor_cache": "never",
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


def build_run(name, folder):
    """A model, arguments and data for a tiny run of a method."""
    (folder / "names.txt").write_text("dress\nshirt\ndog")
    for part in (build_clip(projection_dim=32), RTDProcessor.from_pretrained(folder / "processor").tokenizer):
        part.save_pretrained(folder / "clip")
    RTDProcessor.from_pretrained(folder / "processor").image_processor.save_pretrained(folder / "clip")
    own = {"lincir": {"keyword_fn": "rule"}, "context_i2w": {"keyword_fn": "rule"}, "fti4cir": {"keyword_fn": "rule"}}
    own["searle"] = {"concepts": str(folder / "names.txt"), "phrases": "templates", "oti_steps": 1, "num_concepts": 2}
    record = find_method(name)
    args = record.arguments(str(folder / "run"), **FAST, **own.get(name, {}))
    columns = {"text": CAPTIONS, "image": build_images(12), "subject": ["a dog"] * 12, "attribute": ["a cat"] * 12}
    read = {"captions": ["text"], "images": ["image"], "pairs": list(columns)}[record.reads]
    return str(folder / "clip"), args, Dataset.from_dict({column: columns[column] for column in read})


def render(trainer):
    """The card of what a trainer made."""
    stages = [describe_stage(record_run(trainer, trainer.data))]
    return str(render_card(describe_model(trainer.rtd_model, trainer.processor, "org/name", stages=stages)))


@every_method
def test_a_card_lists_the_settings_of_its_own_method_alone(name, processor, tmp_path):
    processor.save_pretrained(tmp_path / "processor")
    clip, args, rows = build_run(name, tmp_path)
    trainer = ProjectionTrainer(clip, args, train_dataset=rows, method=name)
    trainer.train()
    card = render(trainer)
    fields = {method: {f.name for f in dataclasses.fields(find_method(method).arguments)} for method in PUBLISHED}
    foreign = set().union(*fields.values()) - fields[name]
    assert [setting for setting in foreign if f"| {setting} |" in card] == []
    assert foreign.isdisjoint(trainer.run_facts)
    for setting in {"lincir": ["noise_scale"], "searle": ["oti_steps"], "fti4cir": ["lr_drop_epoch"]}.get(name, []):
        assert f"| {setting} |" in card
    assert find_method(name).paper.bibtex in card


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
    args = LinCIRTrainingArguments("runs/phi", **FAST, keyword_fn="rule")
    trainer = ProjectionTrainer(model, args, train_dataset="captions.txt")
    assert trainer.train().global_step == 2
    model.save_pretrained("phi")
    processor.save_pretrained("phi")
    trainer = ProjectionTrainer("phi", train_dataset="captions.txt", args=args)
    assert trainer.rtd_model.projection.config.projection_type == "lincir"


def test_a_model_without_a_place_needs_a_processor(model, tmp_path):
    with pytest.raises(ValueError, match="processing_class"):
        ProjectionTrainer(model, LinCIRTrainingArguments(str(tmp_path), **FAST), train_dataset="captions.txt")


def test_no_arguments_are_those_of_the_method(model, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_dict({"text": CAPTIONS})
    with pytest.raises(ValueError, match="12 rows do not fill one batch of 512"):
        ProjectionTrainer(model, train_dataset=rows, processing_class=processor)


# A sixth projection, from outside the package: a network, arguments, an objective and a record.


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
    def __init__(self, args, model, processor):
        self.args, self.model, self.processor = args, model, processor

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

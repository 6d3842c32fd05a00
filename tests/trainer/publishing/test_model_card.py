import copy
import dataclasses

import pytest
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import FEW_STEPS, STAGES, build_clip, build_images, build_triplets, shake
from trainer.methods import find_method, list_methods
from trainer.publishing.model_card import CardFacts, describe_model, render_card
from trainer.publishing.provenance import describe_stage
from trainer.publishing.saving import record_run
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = [row["target_caption"] for row in build_triplets(12)]


def build_run(name, folder):
    """A model, arguments and data for a tiny run of a method."""
    (folder / "names.txt").write_text("dress\nshirt\ndog")
    for part in (build_clip(projection_dim=32), RTDProcessor.from_pretrained(folder / "processor").tokenizer):
        part.save_pretrained(folder / "clip")
    RTDProcessor.from_pretrained(folder / "processor").image_processor.save_pretrained(folder / "clip")
    own = {"lincir": {"keyword_fn": "rule"}, "context_i2w": {"keyword_fn": "rule"}, "fti4cir": {"keyword_fn": "rule"}}
    own["searle"] = {"concepts": str(folder / "names.txt"), "phrases": "templates", "oti_steps": 1, "num_concepts": 2}
    record = find_method(name)
    args = record.arguments(str(folder / "run"), **FEW_STEPS, **own.get(name, {}))
    columns = {"text": CAPTIONS, "image": build_images(12), "subject": ["a dog"] * 12, "attribute": ["a cat"] * 12}
    read = {"captions": ["text"], "images": ["image"], "pairs": list(columns)}[record.reads]
    return str(folder / "clip"), args, Dataset.from_dict({column: columns[column] for column in read})


def render(trainer):
    """The card of what a trainer made."""
    stages = [describe_stage(record_run(trainer, trainer.data))]
    return str(render_card(describe_model(trainer.rtd_model, trainer.processor, "org/name", stages=stages)))


@pytest.mark.parametrize(
    "name",
    [name if name in ("lincir", "searle") else pytest.param(name, marks=pytest.mark.slow) for name in list_methods()],
)
def test_a_card_lists_the_settings_of_its_own_method_alone(name, processor, tmp_path):
    processor.save_pretrained(tmp_path / "processor")
    clip, args, rows = build_run(name, tmp_path)
    trainer = ProjectionTrainer(clip, args, train_dataset=rows, method=name)
    trainer.train()
    card = render(trainer)
    fields = {method: {f.name for f in dataclasses.fields(find_method(method).arguments)} for method in list_methods()}
    foreign = set().union(*fields.values()) - fields[name]
    assert [setting for setting in foreign if f"| {setting} |" in card] == []
    assert foreign.isdisjoint(trainer.run_facts)
    for setting in {"lincir": ["noise_scale"], "searle": ["oti_steps"], "fti4cir": ["lr_drop_epoch"]}.get(name, []):
        assert f"| {setting} |" in card
    assert find_method(name).paper.bibtex in card


REPO = "someone/rtd-tiny"


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_a_card_tells_the_term_of_plain_captions_where_there_was_one(folder, processor, weight):
    stages = [STAGES[1] | {"caption_weight": weight, "caption_interval": 4}]
    text = render_card(describe_model(RTDModel.from_pretrained(folder), processor, REPO, stages=stages)).text
    assert ("ours: times the mean of 1 - cosine" in text) is ("caption_interval | 4" in text) is bool(weight)


def test_a_card_tells_which_tower_reads_plain_text(folder, processor, adapter_folder):
    def render(model):
        return render_card(describe_model(model, processor, REPO, base_model="org/clip")).text

    adapter, clip = map(str, adapter_folder)
    model = RTDModel.from_clip(clip, "lincir")
    assert "before RTD" not in render(model)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)), original_repo=clip)
    assert "before RTD: that of `org/clip`, which is fetched from there." in render(model)
    carrying, adapted = RTDModel.from_pretrained(folder), RTDModel.from_adapter(adapter)
    assert "before RTD: the one in `original_text`, which this repository carries." in render(carrying)
    assert "before RTD: that of the base, with the adapter switched off." in render(adapted)
    one = carrying.without_original_text_model({"k": 5, "after": 0.936})
    assert "The same text tower reads plain text queries" in render(one)
    assert "Plain captions of targets: k 5, after 93.6 %" in render(one)


@pytest.mark.parametrize(
    ("facts", "reader"),
    [
        ({}, "That is why plain text queries go to the tower from before."),
        (
            {"one_tower": "not measured"},
            "Plain text queries still go to the tower from after RTD, the only one in this",
        ),
        ({"is_adapter": True}, "That is why plain text queries go to the base, with the adapter switched off."),
    ],
)
def test_what_plain_captions_lost_tells_which_tower_reads_them(facts, reader):
    cosines, recall = {"own": 0.3, "margin": 0.1}, {"recall_before": 0.9, "recall_after": 0.8}
    about = {"benchmark": "cirr", "split": "val", "k": 5}
    diagnosis = {"about": about, "alignment": {"before": cosines, "after": cosines, "recall": recall}}
    made = CardFacts(**{"repo": REPO, "projection": "lincir", "prompt": "$", "is_adapter": False} | facts)
    card = render_card(dataclasses.replace(made, plain_tower="some", diagnosis=diagnosis)).text
    assert f"R@5 90.0 before and 80.0 after. {reader}" in card


def test_a_rank_is_no_percentage(folder, processor):
    record = {
        "benchmark": "coco",
        "split": "val",
        "metrics": {"recall@1": 0.125, "mean_rank": 12.5},
        "parts": {},
        "numbers": {"coco": {"queries": 8, "gallery": 9}},
        "protocol": {"ties": "gallery"},
        "comparable": True,
        "deviations": [],
        "data": {"license": "CC BY 4.0"},
    }
    card = render_card(describe_model(RTDModel.from_pretrained(folder), processor, REPO, evaluations=[record]))
    assert "| recall@1 | 12.50 % |" in card.text
    assert "| mean_rank | 12.50 |" in card.text

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rtd import RTDModel, RTDProcessor
from speed.query_study import QueryStudy, format_study, run_query_study
from tests.factories import build_clip, build_image_processor
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.worlds.small_world import build_benchmark, build_tokenizer


@pytest.fixture(scope="module")
def parts():
    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40, projection_dim=32)
    torch.manual_seed(0)
    return RTDModel.from_clip(clip, "lincir", tokenizer=processor.tokenizer), processor


@pytest.fixture(scope="module")
def study(parts):
    return QueryStudy(*parts, "toy", "test")


def test_queries_as_they_are_have_the_numbers_of_the_evaluation(parts, study):
    model, processor = parts
    expected = RetrievalEvaluator(model, processor, build_benchmark("toy", "test"))(model)
    facts = study.judge(study.composed, study.ranks)
    for name in ("recall@1", "recall@5", "recall@10"):
        assert facts[name] == pytest.approx(expected[name])
    assert (facts["change"], facts["interval"]) == (0, (0, 0))


def test_attributes_are_counted_among_the_first_five(study):
    targets = torch.stack([study.gallery[study.place[names[0]]] for names in study.queries["target_ids"]])
    facts = study.judge(targets, study.ranks, unwanted=[("colour", "red")] * len(targets))
    assert facts["recall@1"] == 1
    obeyed, kept, red = [], [], []
    for row, query in enumerate(study.queries):
        order = np.argsort(-(study.gallery @ targets[row]).numpy(), kind="stable")[:5]
        target = study.scenes[study.place[query["target_ids"][0]]]
        for place in order:
            shown = study.scenes[place]._asdict()
            hits = {name: shown[name] == value for name, value in target._asdict().items()}
            obeyed.append(np.mean([hits[name] for name in query["changed"]]))
            kept.append(np.mean([hits[name] for name in hits if name not in query["changed"]]))
            red.append(shown["colour"] == "red")
    assert facts["obeyed"] == pytest.approx(np.mean(obeyed))
    assert facts["kept"] == pytest.approx(np.mean(kept))
    assert facts["unwanted"] == pytest.approx(np.mean(red))


@pytest.mark.parametrize("kind", ["old", "seen"])
def test_what_is_not_wanted_is_never_what_the_target_shows(study, kind):
    rng = np.random.default_rng(1)
    find = {"old": study._find_old, "seen": study._find_seen}[kind]
    found = [(row, find(row, rng)) for row in range(len(study.targets))]
    found = [(row, one) for row, one in found if one is not None]
    assert len(found) > len(study.targets) / 2
    assert all(getattr(study.targets[row], name) != value for row, (name, value) in found)


@pytest.mark.slow
def test_a_study_writes_tables_and_a_picture(parts, tmp_path):
    facts = run_query_study(*parts, tmp_path, "toy", "validation")
    assert json.loads((tmp_path / "queries.json").read_text()).keys() == facts.keys()
    ends = [facts["strength"]["1"], *(facts[name]["0"] for name in facts if name != "strength")]
    assert all(row["change"] == 0 for row in ends)
    text = (tmp_path / "queries.md").read_text()
    assert text == format_study(facts)
    assert text.count("| 0.25 |") == 5
    with Image.open(tmp_path / "queries.png") as picture:
        assert picture.width > 1000

import copy
import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from PIL import Image

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, shake
from trainer.evaluation.diagnosis import ALPHAS, find_plain_retrieval, run_diagnosis
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.training.lora import add_lora
from trainer.worlds.small_world import build_benchmark, build_small_world, build_tokenizer


pytestmark = pytest.mark.usefixtures("undrawn")
PICTURES = {
    "alignment.png",
    "interpolation.png",
    "modality_gap.png",
    "single_modality.png",
    "conditions.png",
    "triplets.png",
}


@pytest.fixture(scope="module")
def processor():
    return RTDProcessor(build_image_processor(), build_tokenizer("toy"))


@pytest.fixture(scope="module")
def benchmark():
    return build_benchmark("toy", "test")


@pytest.fixture(scope="module")
def triplets():
    return build_small_world("toy").triplets


def build_model(processor, projection="lincir"):
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40, projection_dim=32)
    torch.manual_seed(0)
    return RTDModel.from_clip(clip, projection, tokenizer=processor.tokenizer)


@pytest.fixture
def model(processor):
    return build_model(processor)


def tune(model):
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    return model


@pytest.fixture(scope="module")
def diagnosed(processor, benchmark, triplets, tmp_path_factory):
    """A tuned model, and the folder of its diagnosis with all parts."""
    folder = tmp_path_factory.mktemp("diagnosis")
    model = tune(build_model(processor))
    return model, run_diagnosis(model, processor, benchmark, folder, triplets), folder


def drop(benchmark, *columns):
    return dataclasses.replace(benchmark, queries=benchmark.queries.remove_columns(list(columns)))


def test_a_diagnosis_leaves_a_report_facts_and_pictures(diagnosed):
    _, facts, folder = diagnosed
    assert {path.name for path in folder.iterdir()} == {"report.md", "diagnosis.json", *PICTURES}
    assert json.loads((folder / "diagnosis.json").read_text()) == json.loads(json.dumps(facts))
    report = (folder / "report.md").read_text()
    assert "ot available" not in report
    for name in PICTURES:
        assert f"({name})" in report
        with Image.open(folder / name) as picture:
            assert picture.width > 400


def test_recalls_are_those_of_the_evaluator(diagnosed, processor, benchmark):
    model, facts, _ = diagnosed
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    rows = {row["alpha"]: row["composed"] for row in facts["interpolation"]["rows"]}
    assert tuple(rows) == ALPHAS
    before = copy.deepcopy(model)
    before.text_model = model.original_text_model
    for alpha, judged in ((0, before), (1, model)):
        metrics = evaluator(judged)
        assert rows[alpha] == {name: metrics[name] for name in rows[alpha]}
    for mode in ("text", "image", "sum"):
        metrics = evaluator(model, mode)
        assert facts["single_modality"]["recall"][mode]["recall@5"] == metrics["recall@5"]


def test_changes_of_recall_agree_between_the_parts(diagnosed):
    _, facts, _ = diagnosed
    rows, variants = facts["interpolation"]["rows"], facts["conditions"]["variants"]
    assert facts["alignment"]["target_captions"]["recall"]["recall_before"] == rows[0]["captions"]["recall@5"]
    assert facts["alignment"]["target_captions"]["recall"]["recall_after"] == rows[-1]["captions"]["recall@5"]
    assert {change["recall_before"] for change in variants.values()} == {rows[-1]["composed"]["recall@5"]}
    for when, row in (("before", 0), ("after", -1)):
        kinds = facts["wordings"]["groups"][when]["kind"].values()
        found = sum(group["count"] * group["recall"] for group in kinds) / sum(group["count"] for group in kinds)
        assert found == pytest.approx(rows[row]["composed"]["recall@5"])
    for groups in facts["single_modality"]["groups"].values():
        assert sum(groups[name]["share"] for name in groups if name != "lost") == pytest.approx(1)


@pytest.mark.slow
def test_equal_arguments_give_an_equal_diagnosis(diagnosed, processor, benchmark, triplets, tmp_path):
    model, facts, _ = diagnosed
    assert run_diagnosis(model, processor, benchmark, tmp_path, triplets) == facts


def test_one_tower_is_compared_with_the_clip_underneath(diagnosed, processor, benchmark, triplets, tmp_path):
    model, facts, _ = diagnosed
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40, projection_dim=32)
    clip.save_pretrained(tmp_path / "clip")
    model = copy.copy(model)
    model.config = copy.copy(model.config)
    model.config.base_model = str(tmp_path / "clip")
    model.without_original_text_model({}).save_pretrained(tmp_path / "one")
    one = RTDModel.from_pretrained(tmp_path / "one")
    found = run_diagnosis(one, processor, benchmark, tmp_path / "found", triplets, name=facts["about"]["model"])
    assert found["about"].pop("one_tower")
    assert not facts["about"]["one_tower"]
    for part in ("alignment", "interpolation"):
        assert found[part] == facts[part]
    assert "reads plain text too" in (tmp_path / "found/report.md").read_text()


@pytest.mark.slow
def test_one_tower_is_judged_as_it_reads_contexts(processor, benchmark, tmp_path):
    template = processor.with_template("context_i2w")
    one = tune(shake(build_model(template, "context_i2w"))).without_original_text_model({})
    facts = run_diagnosis(one, template, benchmark, tmp_path)
    recall = RetrievalEvaluator(one, template, benchmark)(one)["recall@5"]
    assert {change["recall_before"] for change in facts["conditions"]["variants"].values()} == {recall}
    assert facts["interpolation"]["rows"][-1]["composed"]["recall@5"] != recall


def test_a_model_of_one_tower_without_its_clip_has_no_before(diagnosed, processor, benchmark, tmp_path):
    model, facts, _ = diagnosed
    model.without_original_text_model({}).save_pretrained(tmp_path / "one")
    found = run_diagnosis(RTDModel.from_pretrained(tmp_path / "one"), processor, benchmark, tmp_path / "found")
    assert found["about"]["trained_with_rtd"]
    assert "could not be loaded" in found["alignment"]["not_available"]
    assert found["conditions"]["variants"] == facts["conditions"]["variants"]
    assert found["wordings"]["groups"] == {"after": facts["wordings"]["groups"]["after"]}
    assert set(found["single_modality"]["groups"]) == {"after"}


def test_plain_retrieval_is_found_of_the_same_tower_only(diagnosed):
    model, facts, _ = diagnosed
    rows = facts["interpolation"]["rows"]
    found = find_plain_retrieval(facts, model, 0.5)
    assert (found["before"], found["after"]) == (rows[0]["captions"]["recall@5"], rows[2]["captions"]["recall@5"])
    with pytest.raises(ValueError, match="another text tower"):
        find_plain_retrieval(facts | {"about": {}}, model)
    with pytest.raises(ValueError, match="not 0.3: choose one"):
        find_plain_retrieval(facts, model, 0.3)
    with pytest.raises(ValueError, match="no plain captions"):
        find_plain_retrieval(facts | {"interpolation": {"not_available": "no"}}, model)


def test_a_paraphrase_in_the_same_words_changes_nothing(model, processor, benchmark, tmp_path):
    same = [{"as it is": condition} for condition in benchmark.queries["condition"]]
    queries = benchmark.queries.remove_columns("paraphrases").add_column("paraphrases", same)
    facts = run_diagnosis(model, processor, dataclasses.replace(benchmark, queries=queries), tmp_path)
    change = facts["conditions"]["variants"]["as it is"]
    assert (change["gained"], change["lost"], change["better"], change["worse"]) == (0, 0, 0, 0)
    assert (change["cosine"], change["same_first"]) == (pytest.approx(1), 1)


def test_an_empty_condition_asks_for_the_reference_alone(diagnosed, processor, benchmark):
    model, facts, folder = diagnosed
    queries = benchmark.queries
    with pytest.warns(UserWarning, match="conditions are empty"):
        inputs = processor(images=list(queries["reference_image"]), conditions=[""] * len(queries))
    with torch.no_grad():
        embeds = model(**inputs).composed_embeds
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == "<bos> a photo of $ <eos>"
    recall = RetrievalEvaluator(model, processor, benchmark).score(embeds)["recall@5"]
    assert facts["conditions"]["variants"]["empty"]["recall_after"] == recall
    assert facts["conditions"]["variants"]["empty"]["example"] == [queries[0]["condition"], None]
    assert "- empty: nothing" in (folder / "report.md").read_text()


def test_noise_moves_texts_and_not_images(diagnosed, processor, benchmark, tmp_path):
    model, facts, _ = diagnosed
    louder = run_diagnosis(model, processor, benchmark, tmp_path, noise_scale=50.0)["modality_gap"]["words"]
    quiet = facts["modality_gap"]["words"]
    assert (louder["image"], louder["text"]) == (quiet["image"], quiet["text"])
    assert louder["text with noise"]["norm"]["mean"] > 2 * quiet["text with noise"]["norm"]["mean"]


def test_a_benchmark_without_captions_or_paraphrases_says_so(processor, benchmark, triplets, tmp_path):
    bare = drop(benchmark, "target_caption", "paraphrases", "reference_scene", "changed", "kind", "wording")
    model = tune(build_model(processor))
    facts = run_diagnosis(model, processor, bare, tmp_path / "bare")
    assert facts["alignment"] == facts["modality_gap"]
    assert "no captions of its targets, and no triplets" in facts["alignment"]["not_available"]
    assert all(row["captions"] is None for row in facts["interpolation"]["rows"])
    report = (tmp_path / "bare/report.md").read_text()
    assert facts["wordings"] == {"not_available": "the benchmark does not name the wording of its conditions"}
    for part in ("Paraphrases: not available", "Plain captions: not available", "no triplets were given"):
        assert part in report
    facts = run_diagnosis(model, processor, bare, tmp_path / "triplets", triplets)
    assert facts["alignment"]["triplet_captions"]["count"] > 100
    assert facts["modality_gap"]["paired"] is False
    assert facts["modality_gap"]["against_image"]["text"]["pair_cosine"] is None
    assert "they are no pairs" in (tmp_path / "triplets/report.md").read_text()


def test_a_model_without_rtd_has_no_before_and_after(model, processor, benchmark, tmp_path):
    facts = run_diagnosis(model, processor, benchmark, tmp_path)
    assert "from before RTD" in facts["alignment"]["not_available"]
    assert "from before RTD" in facts["interpolation"]["not_available"]
    assert set(facts["single_modality"]["groups"]) == {"after"}
    assert not (tmp_path / "alignment.png").exists()
    assert "not trained with RTD" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("projection", ["fti4cir", pytest.param("context_i2w", marks=pytest.mark.slow)])
def test_a_projection_that_no_text_can_feed_has_no_modality_gap(projection, processor, benchmark, tmp_path):
    template = processor.with_template(projection)
    facts = run_diagnosis(tune(build_model(template, projection)), template, benchmark, tmp_path)
    assert "which no text has" in facts["modality_gap"]["not_available"]
    assert {name for name, part in facts.items() if "not_available" in part} == {"modality_gap", "triplets"}


def test_an_adapter_is_diagnosed_between_its_base_and_itself(processor, benchmark, tmp_path):
    model = build_model(processor)
    add_lora(model.text_model, r=4)
    with torch.no_grad():
        for name, parameter in model.text_model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.05)
    facts = run_diagnosis(model, processor, benchmark, tmp_path)
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    for row, judged in ((0, build_model(processor)), (-1, model)):
        recalls = facts["interpolation"]["rows"][row]["composed"]
        assert recalls == {name: evaluator(judged)[name] for name in recalls}
    assert facts["alignment"]["target_captions"]["drift"]["mean"] < 0.999


def test_a_folder_with_something_else_is_left_alone(model, processor, benchmark, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something that is not a diagnosis"):
        run_diagnosis(model, processor, benchmark, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_hidden_targets_are_refused(model, processor, benchmark, tmp_path):
    queries = benchmark.queries.remove_columns("target_ids").add_column("target_ids", [[]] * len(benchmark.queries))
    with pytest.raises(ValueError, match="of small_world are not public"):
        run_diagnosis(model, processor, dataclasses.replace(benchmark, queries=queries), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("k", [0, 10_000])
def test_a_depth_beyond_the_gallery_is_refused(model, processor, benchmark, tmp_path, k):
    with pytest.raises(ValueError, match=f"size of the gallery .*, got {k}"):
        run_diagnosis(model, processor, benchmark, tmp_path, k=k)


def test_triplets_that_are_none_are_refused_before_anything_is_written(model, processor, benchmark, tmp_path):
    rows = Dataset.from_dict({"reference_caption": ["a"], "target_caption": ["b"]})
    with pytest.raises(ValueError, match="lack the column"):
        run_diagnosis(model, processor, benchmark, tmp_path / "out", rows)
    assert not (tmp_path / "out").exists()

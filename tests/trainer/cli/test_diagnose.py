import copy
import json

import pytest

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, build_stand_in, shake
from trainer.cli.main import main
from trainer.evaluation.evaluate import evaluate
from trainer.worlds.small_world import build_small_world, build_tokenizer


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directory of a tuned model of the toy world."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
    model = RTDModel.from_clip(clip, "lincir", tokenizer=processor.tokenizer)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def searle(tmp_path_factory):
    """Directory of a SEARLE model, not trained with RTD, which is published with padded images."""
    folder, processor = (
        tmp_path_factory.mktemp("searle"),
        RTDProcessor(build_image_processor(), build_tokenizer("toy")),
    )
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
    RTDModel.from_clip(clip, "searle", tokenizer=processor.tokenizer).save_pretrained(folder)
    processor.with_template("searle").save_pretrained(folder)
    return str(folder)


def test_diagnose_leaves_a_report_and_says_where(place, tmp_path, capsys):
    triplets, out = tmp_path / "triplets.jsonl", tmp_path / "out"
    build_small_world("toy").triplets.to_json(triplets)
    command = ["diagnose", place, "--benchmark", "small_world/toy", "--split", "test", "-o", str(out)]
    assert main([*command, "--triplets", str(triplets), "-k", "3"]) == 0
    assert f"report: {out}/report.md" in capsys.readouterr().out
    facts = json.loads((out / "diagnosis.json").read_text())
    assert (facts["about"]["k"], facts["about"]["split"], facts["about"]["model"]) == (3, "test", place)
    assert facts["triplets"]["texts"]["count"] == 240


@pytest.mark.slow
def test_diagnose_says_what_is_not_available(place, tmp_path, capsys):
    assert main(["diagnose", place, "--benchmark", "small_world/toy", "-o", str(tmp_path / "out")]) == 0
    assert "triplets: not available, no triplets were given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("cirr", "recall@10"),
        ("imagenet_r/origami", None),
        pytest.param("circo", None, marks=pytest.mark.slow),
        pytest.param("fashioniq/dress", "recall@10", marks=pytest.mark.slow),
        pytest.param("genecis/focus_attribute", "recall@1", marks=pytest.mark.slow),
        pytest.param("coco", "recall@10", marks=pytest.mark.slow),
    ],
)
def test_every_benchmark_is_diagnosed_in_the_protocol_it_is_judged_in(searle, tmp_path, name, metric):
    root = build_stand_in(name.partition("/")[0], tmp_path / "data")
    assert main(["diagnose", searle, "--benchmark", name, "--root", str(root), "-o", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out/diagnosis.json").read_text())
    record = evaluate(searle, name, root=root)
    about = facts["about"]
    assert (about["protocol"], about["files"]) == (record["protocol"], record["data"]["files"])
    assert about["deviations"] == record["deviations"]
    assert about["protocol"]["padding"] == ("target" if name in ("cirr", "circo", "fashioniq/dress") else "none")
    if metric:
        assert facts["single_modality"]["recall"]["composed"][metric] == record["metrics"][metric]
    assert "Not comparable with published numbers: " in (tmp_path / "out/report.md").read_text()


def test_a_diagnosis_goes_on_without_missing_images_only_where_allowed(searle, tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path / "data")
    path = next((root / "dev").glob("*.png"))
    path.unlink()
    command = ["diagnose", searle, "--benchmark", "cirr", "--root", str(root), "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "1 images of cirr are missing" in capsys.readouterr().err
    assert main([*command, "--allow-missing", "--padding", "none"]) == 0
    about = json.loads((tmp_path / "out/diagnosis.json").read_text())["about"]
    assert about["missing_images"] == [str(path)]
    assert about["num_gallery"] == 11
    assert "padding is 'none', published 'target'" in about["deviations"]


def test_captions_of_targets_come_from_a_file(place, tmp_path, capsys):
    root, captions = build_stand_in("cirr", tmp_path / "data"), tmp_path / "captions.json"
    names = json.loads((root / "cirr/image_splits/split.rc2.val.json").read_text())
    command = ["diagnose", place, "--benchmark", "cirr", "--root", str(root), "-o", str(tmp_path / "out")]
    command += ["--captions", str(captions)]
    captions.write_text(json.dumps({}))
    assert main(command) == 2
    assert "lack 8 targets of cirr val" in capsys.readouterr().err
    captions.write_text("[]")
    assert main(command) == 2
    assert "an object of image id to caption" in capsys.readouterr().err
    captions.write_text(json.dumps({name: f"a red circle {i}" for i, name in enumerate(names)}))
    assert main(command) == 0
    facts = json.loads((tmp_path / "out/diagnosis.json").read_text())
    assert set(facts["alignment"]["target_captions"]["recall"]) > {"recall_before", "recall_after"}
    assert facts["modality_gap"]["paired"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--benchmark", "fashioniq", "--root", "."],
            "name one of fashioniq/shirt, fashioniq/dress, fashioniq/toptee",
        ),
        (["--benchmark", "cirr"], "its root, which was not named"),
        (["--benchmark", "small_wrold"], "did you mean"),
        (["--benchmark", "small_world/toy", "--split", "train"], "'train'"),
        (["--benchmark", "small_world/toy", "--triplets", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_diagnose_refuses_what_is_not_there(place, tmp_path, capsys, options, message):
    assert main(["diagnose", place, *options, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err

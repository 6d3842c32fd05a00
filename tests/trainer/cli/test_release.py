import json
import re

import datasets
import pytest
import torch
from huggingface_hub import ModelCard

from modeling_rtd import RTDModel
from tests.factories import build_clip, build_processor, build_stand_in, build_triplets
from trainer.cli import release as release_verb
from trainer.cli.main import main
from trainer.release import steps
from trainer.release.steps import Request


CLIP = "openai/clip-vit-large-patch14"
PHI = "navervision/zeroshot-cir-models"
FEW = ["--max-steps", "2", "--per-device-train-batch-size", "16", "--use-cpu", "--disable-tqdm", "True"]


@pytest.fixture
def connected(hub, tmp_path, monkeypatch):
    """A machine with a Hub that holds what the recipe takes, under its real names and with small random weights."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    processor = build_processor()
    for part in (build_clip(projection_dim=32), processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    hub.repos[CLIP] = {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}
    torch.save({"Phi": RTDModel.from_clip("clip", "lincir").projection.state_dict()}, "lincir_large.pt")
    hub.repos[PHI] = {"lincir_large.pt": (tmp_path / "lincir_large.pt").read_bytes()}
    rows = "\n".join(json.dumps(row) for row in build_triplets(200))
    hub.repos["datasets/org/triplets"] = {"triplets.jsonl": rows.encode()}
    (tmp_path / "triplets.jsonl").write_text(rows)
    return hub


def release(*more):
    return main(["release", "rtd-vitl", "org", "--license", "mit", "--without-gpu", *more])


@pytest.mark.slow
def test_a_recipe_is_released_and_continues_where_it_stopped(connected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(steps, "_WORLD", "wardrobe/toy")
    for name in ("cirr", "circo"):
        build_stand_in(name, tmp_path / "data" / name)
    weights = connected.repos[PHI].pop("lincir_large.pt")
    assert release("--triplets", "org/triplets", "--", *FEW) == 2
    out, err = capsys.readouterr()
    assert re.search(r"NOT READY +projection +navervision\S+ is not there", out)
    assert "not ready (projection)" in err
    connected.repos[PHI]["lincir_large.pt"] = weights

    connected.user["auth"]["accessToken"]["role"] = "read"
    assert release("--triplets", "org/triplets", "--", *FEW) == 2
    assert re.search(r"NOT READY +token +it may only read", capsys.readouterr().out)
    connected.user["auth"]["accessToken"]["role"] = "write"

    assert release("--triplets", "org/triplets", "--dry-run", "--", *FEW) == 0
    first = capsys.readouterr().out
    assert "Step 5 of 5" in first
    assert "org/rtd-vitl" not in connected.repos
    (tmp_path / "runs/release/rtd-vitl/card.md").unlink()
    assert release("--triplets", "org/triplets", "--", *FEW) == 0
    out = capsys.readouterr().out
    assert re.findall(r"Step (\d) of 6: .*: done before", out) == ["1", "2", "3", "4"]

    files = connected.repos["org/rtd-vitl"]
    data = ModelCard(files["README.md"].decode()).data
    assert (data.base_model, data.license, data.datasets) == (CLIP, "mit", ["org/triplets"])
    assert {result.dataset_type for result in data.eval_results} == {"cirr", "circo"}
    stages = json.loads(files["provenance.json"])["stages"]
    assert stages[0]["converted_from"] == f"{PHI}/lincir_large.pt"
    assert RTDModel.from_pretrained("org/rtd-vitl").config.base_model == CLIP

    assert release("--triplets", "org/triplets", "--", *FEW) == 0
    assert len(re.findall("done before", capsys.readouterr().out)) == 6


def test_the_error_of_an_earlier_call_is_gone_once_its_step_is_done(tmp_path, monkeypatch):
    request, step = Request("rtd-vitl", "org/a", tmp_path, "t", license="mit"), steps.Step("a", "", lambda: ["a"])
    monkeypatch.setattr(release_verb, "_call", lambda command: 1 / 0)
    with pytest.raises(ValueError, match="step 1, a, stopped"):
        release_verb._do_steps(request, [step])
    assert (tmp_path / "error.txt").exists()
    monkeypatch.setattr(release_verb, "_call", lambda command: None)
    release_verb._do_steps(request, [step])
    assert not (tmp_path / "error.txt").exists()


@pytest.mark.slow
def test_a_smoke_run_says_whether_a_machine_can_do_it_and_keeps_nothing(connected, tmp_path, capsys):
    assert release("--triplets", "triplets.jsonl", "--smoke") == 0
    assert "This machine can make the release" in capsys.readouterr().out
    folder = tmp_path / "runs/release/rtd-vitl"
    assert {path.name for path in folder.iterdir()} == {".release.lock", "smoke.json"}
    assert json.loads((folder / "smoke.json").read_text())["seconds_per_step"] > 0
    assert "org/rtd-vitl" not in connected.repos

    (tmp_path / "triplets.jsonl").write_text('{"reference_caption": "a dog"}')
    assert release("--triplets", "triplets.jsonl", "--smoke") == 2
    out, err = capsys.readouterr()
    assert re.search(r"NOT READY +triplets", out)
    assert re.search(r"ok +time +at most \d+ min|about five minutes", out)
    assert f"attach {folder.relative_to(tmp_path)}/smoke.json" in err
    record = json.loads((folder / "smoke.json").read_text())
    assert "not ready: triplets" in record["error"]
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    ("recipe", "options", "missing"),
    [
        ("rtd-vitl", [], ["--license", "--triplets"]),
        ("rtd-vith", ["--license", "mit", "--triplets", "t"], ["--captions"]),
        ("rtd-vith-searle", ["--license", "mit", "--triplets", "t"], ["--projection"]),
        ("rtd-vitl-fti4cir", ["--license", "mit", "--triplets", "t", "--projection", "p"], ["--images"]),
    ],
)
def test_all_that_is_missing_is_named_at_once(recipe, options, missing, capsys):
    assert main(["release", recipe, "org", *options]) == 2
    assert re.findall(r"^  (--\w+):", capsys.readouterr().err, re.MULTILINE) == missing


def test_an_unknown_recipe_is_refused_with_the_nearest(capsys):
    assert main(["release", "rtd-vit-l", "org"]) == 2
    assert "did you mean 'rtd-vitl'" in capsys.readouterr().err

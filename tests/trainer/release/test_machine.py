import json

import pytest
import torch

from tests.factories import build_clip, build_triplets
from trainer.release import machine
from trainer.release.machine import Examination, describe_machine
from trainer.release.steps import Request


CLIP = "openai/clip-vit-large-patch14"


@pytest.fixture
def look(hub, tmp_path, monkeypatch):
    """Look at this machine, beside a Hub with a small CLIP under the name of a large one; findings by name."""
    monkeypatch.setattr(machine, "_CACHE_GB", 0)
    build_clip().save_pretrained(tmp_path / "clip")
    hub.repos[CLIP] = {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}
    hub.repos["navervision/zeroshot-cir-models"] = {"lincir_large.pt": b""}
    (tmp_path / "triplets.jsonl").write_text("\n".join(map(json.dumps, build_triplets(130))))

    def look(**options):
        known = {"triplets": str(tmp_path / "triplets.jsonl"), "license": "mit", "root": tmp_path / "data"}
        request = Request("rtd-vitl", "org/rtd-vitl", tmp_path, **(known | {"needs_gpu": False} | options))
        return {finding.name: finding for finding in Examination(request).look()}

    return look


def test_a_machine_that_has_everything_is_ready(look):
    findings = look()
    assert all(finding.is_fine for finding in findings.values()), findings
    assert findings["network"].text.startswith(CLIP)
    assert findings["token"].text == "owner, may write to org"
    assert findings["benchmarks"].text.startswith("none in ")


def test_the_sizes_are_those_of_the_backbone(look, clip):
    whole, text = (part.num_parameters() for part in (clip, clip.text_model))
    assert Examination(Request("rtd-vitl", "a/b", "", "t", license="mit")).parameters == (whole, text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_a_machine_is_not_ready(look):
    assert "sees no GPU" in look(needs_gpu=True)["GPU"].text
    assert not look(needs_gpu=True)["GPU"].is_fine


def test_a_full_disk_is_found_before_anything_starts(look, monkeypatch):
    monkeypatch.setattr(machine, "_CACHE_GB", 10**9)
    assert not look()["disk"].is_fine


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ({"auth": {"accessToken": {"role": "read"}}}, "may only read"),
        ({"orgs": [], "name": "guest"}, "guest is not a member of 'org'"),
    ],
)
def test_a_token_that_cannot_publish_is_found_before_anything_starts(look, hub, monkeypatch, user, complaint):
    monkeypatch.setattr(hub, "user", hub.user | user)
    assert complaint in look()["token"].text
    assert not look()["token"].is_fine
    assert look(is_dry=True)["token"].is_fine


def test_a_hub_that_is_away_is_a_finding_and_not_a_traceback(look, hub):
    hub.repos.clear()
    assert {"network", "projection"} <= {name for name, one in look().items() if not one.is_fine}


def test_triplets_that_are_too_few_for_a_batch_are_found(look, tmp_path):
    (tmp_path / "triplets.jsonl").write_text("\n".join(map(json.dumps, build_triplets(20))))
    assert not look()["triplets"].is_fine


def test_time_is_what_a_smoke_run_has_measured(look, tmp_path):
    assert "not measured" in look()["time"].text
    (tmp_path / "smoke.json").write_text('{"seconds_per_step": 3}')
    assert look()["time"].text.startswith("at most 100 min")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (2000, 128, 128, 4)),
        (["--max_steps", "500", "--per-device-train-batch-size=64"], (500, 64, 64, 1)),
        (
            ["--gradient-accumulation-steps", "4", "--save-steps", "0.1", "--save-total-limit", "2"],
            (2000, 128, 512, 2),
        ),
        (["--max-steps", "-1", "--save-strategy", "no", "--lora-r", "8"], (-1, 128, 128, 0)),
    ],
)
def test_the_schedule_is_that_of_the_options(options, expected):
    assert machine.read_schedule(options) == expected


def test_estimates_are_those_of_the_options(look, tmp_path):
    (tmp_path / "smoke.json").write_text('{"seconds_per_step": 3, "triplets_per_step": 64}')
    findings = look(train=["--max-steps", "40", "--per-device-train-batch-size", "64"])
    assert findings["time"].text.startswith("at most 2 min")
    assert findings["triplets"].text.endswith("reads 2,560")
    assert "not measured with 128 triplets" in look()["time"].text
    assert not look(train=["--max-steps", "many"])["time"].is_fine


def test_the_description_of_a_machine_is_json():
    assert {"hardware", "versions", "system"} <= json.loads(json.dumps(describe_machine())).keys()

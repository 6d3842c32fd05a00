"""Checks of the directory of a benchmark."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories import build_stand_in
from trainer.cli.main import main


def test_a_directory_is_checked_before_any_model_runs(data, place, tmp_path, capsys, run_evaluate):
    root = build_stand_in("fashioniq", tmp_path)
    (root / "images/B00DRE003.jpg").unlink()
    (root / "images/B00SHI001.png").write_bytes((root / "images/B00SHI001.png").read_bytes()[:200])
    (root / "images/unknown.jpg").write_bytes(b"")
    check = ["evaluate", "--check", "--benchmark", "fashioniq", "--root", str(root)]
    assert main(check) == 2
    shown = capsys.readouterr()
    assert "missing  1 images are not there, such as images/B00DRE003.jpg" in shown.out
    assert "corrupt  1 images cannot be read, such as images/B00SHI001.png" in shown.out
    assert "such as images/unknown.jpg" in shown.out
    assert "fashioniq/dress val: 5 queries, officially 2017" in shown.out
    assert "cap.dress.val.json is not the official file" in shown.out
    assert "not in order: fashioniq" in shown.err
    (root / "captions/cap.toptee.val.json").unlink()
    assert main(check) == 2
    shown = capsys.readouterr()
    assert "missing  val toptee:" in shown.out
    assert "clone https://github.com/XiaoxiaoGuo/fashion-iq" in shown.out
    assert "extra" not in shown.out
    run_evaluate(place, "--benchmark", "fashioniq/shirt", "--root", root, out=tmp_path / "out", code=2)
    assert "B00SHI001.png' cannot be read" in capsys.readouterr().err


def test_a_directory_in_order_is_said_to_be(data, monkeypatch, capsys):
    from trainer.evaluation.benchmarks import cirr

    counts = {split: {"": {"queries": 8, "gallery": 12}} for split in ("val", "test1")}
    monkeypatch.setattr(cirr, "INFO", replace(cirr.INFO, counts=counts, digests={}))
    assert main(["evaluate", "--check", "--benchmark", "cirr,small_world", "--root", str(data / "cirr")]) == 0
    shown = capsys.readouterr().out
    assert "cirr val: 8 queries, 12 gallery images, the official numbers" in shown
    assert "all 24 images are there" in shown
    assert "small_world is drawn" in shown


def test_a_check_tells_all_that_is_missing_and_counts_what_is_there(tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path)
    for name in ("dev", "test1"):
        (root / name).rename(root / f"{name}-elsewhere")
    assert main(["evaluate", "--check", "--benchmark", "cirr", "--root", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "holds no dev" in shown
    assert "holds no test1" in shown
    assert "differs  cirr val: 8 queries, officially 4181" in shown
    assert "missing  24 images are not there" in shown


def test_a_check_refuses_what_judging_refuses(tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path)
    path = root / "cirr/captions/cap.rc2.val.json"
    rows = json.loads(path.read_text())
    rows[0]["target_hard"] = "x"
    path.write_text(json.dumps(rows))
    assert main(["evaluate", "--check", "--benchmark", "cirr", "--root", str(root)]) == 2
    assert "corrupt  val: cirr val: query 12060 names 'x' (target_ids)" in capsys.readouterr().out


def test_a_part_is_checked_alone(data, capsys):
    check = ["evaluate", "--check", "--root", str(data / "fashioniq"), "--benchmark"]
    assert main([*check, "fashioniq/shirt"]) == 2
    shown = capsys.readouterr().out
    assert "all 14 images are there" in shown
    assert "dress" not in shown.partition("should hold")[2].partition("\n\n")[2]
    assert main([*check, "fashioniq/skirt"]) == 2
    assert "did you mean 'shirt'" in capsys.readouterr().err


def test_missing_images_are_named_and_counted_and_scored_only_when_allowed(place, tmp_path, capsys, run_evaluate):
    root = build_stand_in("cirr", tmp_path / "cirr")
    rows = json.loads((root / "cirr/captions/cap.rc2.val.json").read_text())
    reference, target = rows[0]["reference"], rows[1]["target_hard"]
    for name in (reference, target):
        (root / f"dev/{name}.png").unlink()
    command = (place, "--benchmark", "cirr", "--root", root)
    run_evaluate(*command, out=tmp_path, code=2)
    message = capsys.readouterr().err
    assert "2 images of cirr are missing" in message
    assert f"{reference}.png" in message
    with pytest.warns(UserWarning, match="of 1 of 7 queries of cirr val no target is in the gallery"):
        record = run_evaluate(*command, "--allow-missing", out=tmp_path / "out")["cirr-val"]
    left = sum(row["reference"] not in (reference, target) for row in rows)
    assert record["numbers"]["cirr val"] == {"queries": left, "gallery": 10}
    assert record["comparable"] is False
    assert record["deviations"][0] == "2 images are missing"
    assert {Path(path).stem for path in record["missing_images"]} == {reference, target}

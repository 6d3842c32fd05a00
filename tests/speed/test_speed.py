"""Every speed script runs at toy size; no times are asserted."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rtd import RTDModel, RTDProcessor
from speed import comparing, conditions, one_tower, query_algebra, train_memory, train_step
from speed.count_lengths import LENGTHS, count_lengths
from speed.gallery import build, search
from speed.synthetic import build_model, build_processor, draw_triplets
from speed.triplets import measure as measure_triplets
from tests.factories import build_clip, build_image_processor
from trainer.worlds.small_world import build_tokenizer


def run(script, *options):
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"speed/{script}", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Run a comparison at toy size, in this process; it fails by itself where results differ."""

    def compare(script, *options):
        out = tmp_path / "out.json"
        options = ["--size", "toy", "--batch_size", "4", "--repeats", "1", "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", [script, *options])
        importlib.import_module(f"speed.{script}").main()
        rows = json.loads(out.read_text())["rows"]
        shown = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("| ") for line in shown) == 1 + len(rows)  # the table and its head
        return rows

    return compare


@pytest.mark.parametrize("engine", ["exact", "exact float16", "faiss Flat", "pgvector"])
def test_gallery_measures_an_engine(engine, tmp_path, request):
    if engine == "pgvector":
        request.getfixturevalue("postgres")
    row = build(engine, 64, 16, str(tmp_path)) | search(engine, 64, 16, str(tmp_path))
    assert row["recall"] == 1
    assert all(row[name] > 0 for name in ("build_s", "save_s", "load_s", "disk_mib"))
    assert all(row[name][0] > 0 for name in ("search_64_s", "search_1_s"))
    assert ("ratio" in row) == engine.startswith("exact")
    assert row.get("same", 1) == 1


def test_a_table_is_searched_as_the_exact_engine_does(postgres):
    attached = importlib.import_module("speed.attached")
    rows = np.random.default_rng(0).standard_normal((80, 8)).astype(np.float32)
    attached.fill(postgres, rows)
    results = attached.measure(postgres, rows, repeats=1)
    assert [row["same"] for row in results[:2]] == [1, 1]
    assert all(row["unchanged"] for row in results)


@pytest.mark.slow
def test_train_memory_takes_the_same_first_step_each_way():
    options = argparse.Namespace(size="toy", batch_size=4, repeats=1, device="cpu", precision="float32")
    modes = ("published", "anchors cached", "anchors on the fly", "on the fly, LoRA")
    rows = [train_memory.measure(mode, options) for mode in modes]
    assert [row["loss"] for row in rows] == pytest.approx([rows[0]["loss"]] * 4, abs=1e-4)
    assert rows[0]["trainable"] == rows[1]["trainable"] > 2 * rows[3]["trainable"]


@pytest.mark.slow
def test_train_memory_measures_each_way_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "out.json"
    options = ("--size", "toy", "--batch_size", "4", "--repeats", "1", "--modes", "on the fly, LoRA")
    run("train_memory.py", *options, "--out", str(out))
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["published", "on the fly, LoRA"]
    assert all(row["peak MiB"] > 0 for row in rows)


@pytest.mark.slow
def test_train_projection_compares_all_methods(compare):
    rows = compare("train_projection")
    assert {row["method"] for row in rows} == {"lincir", "searle", "oti", "pic2word", "context_i2w", "fti4cir"}
    assert all(row["difference"] < 1e-4 for row in rows)


@pytest.mark.slow
def test_query_algebra_writes_its_tables(tmp_path, capsys):
    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
    RTDModel.from_clip(clip, "lincir", tokenizer=processor.tokenizer).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    query_algebra.main([str(tmp_path / "model"), "--preset", "toy", "--output_dir", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("### Strength")
    assert (tmp_path / "out/queries.png").exists()


def test_train_step_compares_all_ways_with_the_published_one(compare):
    rows = compare("train_step")
    assert rows[0]["ours"] == "published"
    assert len(rows) > 6
    assert all(row["difference"] < 1e-4 for row in rows)


@pytest.mark.slow
def test_train_step_compares_a_siglip_with_the_published_way_of_two_rows(compare):
    rows = compare("train_step", "--family", "siglip", "--arms", "anchors cached", "anchors on the fly")
    assert [row["ours"] for row in rows] == ["published", "anchors cached", "anchors on the fly"]
    assert all(row["difference"] < 1e-4 for row in rows)


@pytest.mark.slow
def test_train_step_compares_steps_that_keep_captions_with_our_own(compare):
    arms = ["anchors cached", "captions kept", "captions kept, every 4th"]
    rows = compare("train_step", "--without_published", "--arms", *arms)
    assert [row["ours"] for row in rows] == arms
    assert rows[1]["results"][0] == pytest.approx(rows[0]["results"][0], abs=1e-5)  # nothing has drifted yet
    assert rows[1]["results"][1] > rows[0]["results"][1] + 1e-4


@pytest.mark.slow
def test_one_tower_keeps_what_it_measured(tmp_path, capsys):
    options = ["--preset", "toy", "--seeds", "0", "--output_dir", str(tmp_path), "--at_most"]
    one_tower.main([*options, "2"])
    assert "| before RTD |" in capsys.readouterr().out
    one_tower.main([*options, "1", "--variants", "contrast, weight 1"])
    rows = json.loads((tmp_path / "seed0/lincir.json").read_text())
    assert list(rows) == ["before RTD", "RTD as published", "contrast, weight 1"]


def test_the_table_of_one_tower_has_means_and_spreads():
    rows = [{"RTD as published": dict.fromkeys(one_tower.MEASURES, value) | {"seconds": 2.0}} for value in (0.2, 0.4)]
    assert "| RTD as published | 30.0 ± 14.1 |" in one_tower.format_table(rows)


@pytest.mark.slow
def test_conditions_are_judged_as_they_are_and_edited(tmp_path, capsys):
    conditions.main(
        ["--preset", "toy", "--seeds", "0", "--variants", "typo", "--at_most", "2", "--output_dir", str(tmp_path)]
    )
    rows = json.loads((tmp_path / "seed0/conditions.json").read_text())
    assert list(rows) == ["RTD as published", "typo"]
    assert {"as it is", "notes", "typo", "training wording"} <= set(rows["typo"]["ranks"])
    assert len(rows["typo"]["moved"]["asked"]) == len(rows["typo"]["moved"]["fulfilled"])
    assert capsys.readouterr().out.count("\n| typo |") == 2


def test_the_checkpointing_arm_checkpoints(tmp_path):
    processor = build_processor()
    options = argparse.Namespace(device="cpu", precision="float32", batch_size=4)
    arguments = train_step.ARMS["cached, checkpointing"]
    model = build_model("toy", "lincir", processor)
    trainer = train_step.build_trainer(model, processor, draw_triplets(4), options, tmp_path, **arguments)
    comparing.build_step(trainer, [])
    assert any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())


def test_rows_are_written_before_a_difference_stops_the_script(tmp_path):
    options = argparse.Namespace(out=tmp_path / "out.json", plot=tmp_path / "out.png")
    rows = comparing.compare({"theirs": lambda turn: 1.0, "ours": lambda turn: 1.0 + turn}, repeats=1)
    with pytest.raises(AssertionError, match="differ"):
        comparing.report(list(rows.values()), ("ratio",), options)
    assert [row["difference"] for row in json.loads(options.out.read_text())["rows"]] == [0, 1]
    with Image.open(options.plot) as picture:
        assert picture.width > 400


@pytest.mark.slow
def test_train_recipe_times_a_whole_run(compare):
    (row,) = compare("train_recipe", "--steps", "2", "--rows", "16")
    assert row["ours seconds"] > row["of it training"] > 0
    assert row["difference"] < 1e-4


def test_query_has_all_parts(compare):
    (row,) = compare("query", "--galleries", "50", "--batch_sizes", "2")
    assert {"preprocessing", "vision", "text", "search", "bare vision", "bare text", "scan", "overhead"} <= row.keys()


@pytest.mark.slow
def test_onnx_files_are_compared_with_torch(compare):
    rows = compare("query_onnx", "--precisions", "fp32", "int8")
    assert [row["by"] for row in rows] == ["torch", "fp32", "int8"] * 2
    assert all(row["MiB"] > 0 and row["difference"] < (1e-5 if row["by"] == "fp32" else 0.2) for row in rows)


def test_encode_gallery_gives_the_bare_tower_the_same_cores(compare, monkeypatch):
    held = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: held.append(len(cores)))
    rows = compare("encode_gallery", "--images", "4", "--workers", "1", "2")
    assert held == [1]  # as many cores as torch has threads
    assert [(row["cores"], row["workers"]) for row in rows] == [(1, 1), (1, 2)]


@pytest.mark.slow
def test_scaling_goes_along_its_axes(compare):
    axes = ("batch", "length", "triplets", "gallery", "benchmark")
    rows = compare("scaling", "--toy", "--axes", *axes)
    assert {row["axis"] for row in rows} == set(axes)
    assert all(row["per unit"] > 0 for row in rows)


@pytest.mark.slow
def test_scaling_measures_several_processes(tmp_path):
    out = tmp_path / "out.json"
    options = ("--size", "toy", "--batch_size", "4", "--repeats", "1", "--toy", "--axes", "processes")
    run("scaling.py", *options, "--out", str(out))
    assert [row["value"] for row in json.loads(out.read_text())["rows"]] == [1, 2]


@pytest.mark.slow
def test_one_call_makes_the_measures_of_a_gpu(tmp_path):
    run("gpu.py", "--toy", "--out", str(tmp_path / "out.json"), "--parts", "query")
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["parts"]["query"]["result"]["rows"][0]["gallery"] == 50
    assert results["machine"]["cores"] > 0


def test_a_part_without_time_is_recorded_and_named(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "speed/gpu.py", "--toy", "--out", str(out), "--parts", "query", "--seconds", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "not measured: query" in result.stderr
    assert json.loads(out.read_text())["parts"]["query"]["error"] == "no time was left"


@pytest.mark.slow
def test_lengths_are_of_the_real_triplets(shared):
    triplets, merges = "data/text_triplets/real_triplets.jsonl", "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz"
    assert json.loads(LENGTHS.read_text()) == count_lengths(shared / triplets, shared / merges)


def test_triplets_are_made_and_counted():
    row = measure_triplets(300, 1)
    assert (row["captions"], row["num_proc"]) == (300, 1)
    assert 0 < row["triplets"] <= 300
    assert row["seconds"] > row["lexicon_s"] > 0

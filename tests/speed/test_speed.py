"""Every speed script runs at toy size; no times are asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_rtd import RTDModel, RTDProcessor
from speed import query_algebra
from speed.count_lengths import LENGTHS, count_lengths
from speed.gallery import build, search
from tests.builders import build_clip, build_image_processor
from trainer.small_world import build_tokenizer


def run(script, *options):
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"speed/{script}", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_train_memory_compares_four_ways(tmp_path):
    shown = run("train_memory.py", "--hidden_size", "64", "--batch_size", "4", "--out", str(tmp_path / "out.json"))
    assert "LoRA, anchors on the fly" in shown
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len({row["loss"] for row in rows[:2]}) == 1  # cached anchors are the same anchors
    assert rows[2]["trainable"] < rows[0]["trainable"] / 2


@pytest.mark.parametrize("engine", ["exact", "exact float16", "faiss Flat"])
def test_gallery_measures_an_engine(engine, tmp_path):
    row = build(engine, 64, 16, str(tmp_path)) | search(engine, 64, 16, str(tmp_path))
    assert row["recall"] == 1
    assert all(row[name] > 0 for name in ("build_s", "save_s", "load_s", "search_64_s", "search_1_s", "disk_mib"))
    assert ("ratio" in row) == engine.startswith("exact")


def run_rows(script, tmp_path, *options):
    """Run a comparison at toy size; it fails by itself where results differ."""
    out = tmp_path / "rows.json"
    run(script, "--size", "toy", "--batch_size", "4", "--repeats", "1", "--out", str(out), *options)
    return json.loads(out.read_text())["rows"]


def test_train_projection_compares_all_methods(tmp_path):
    rows = run_rows("train_projection.py", tmp_path)
    assert {row["method"] for row in rows} == {"lincir", "searle", "oti", "pic2word", "context_i2w", "fti4cir"}
    assert all(row["difference"] < 1e-4 for row in rows)


def test_query_algebra_writes_its_tables(tmp_path, capsys):
    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
    RTDModel.from_clip(clip, "lincir", tokenizer=processor.tokenizer).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    query_algebra.main([str(tmp_path / "model"), "--preset", "toy", "--output_dir", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("### Strength")
    assert (tmp_path / "out/queries.png").exists()


def test_train_step_compares_all_ways_with_the_published_one(tmp_path):
    rows = run_rows("train_step.py", tmp_path)
    assert rows[0]["ours"] == "published"
    assert len(rows) > 6
    assert all(row["difference"] < 1e-4 for row in rows)


def test_train_recipe_times_a_whole_run(tmp_path):
    (row,) = run_rows("train_recipe.py", tmp_path, "--steps", "2", "--rows", "16")
    assert row["ours seconds"] > row["of it training"] > 0
    assert row["difference"] < 1e-4


def test_query_has_all_parts(tmp_path):
    (row,) = run_rows("query.py", tmp_path, "--galleries", "50", "--batch_sizes", "2")
    assert {"preprocessing", "model", "search", "bare vision", "bare text", "scan", "overhead"} <= row.keys()


def test_encode_gallery_relates_to_the_bare_tower(tmp_path):
    rows = run_rows("encode_gallery.py", tmp_path, "--images", "4", "--workers", "1", "2")
    assert [row["workers"] for row in rows] == [1, 2]


def test_scaling_goes_along_all_axes(tmp_path):
    rows = run_rows("scaling.py", tmp_path, "--toy")
    assert {row["axis"] for row in rows} == {"batch", "length", "triplets", "gallery", "processes"}
    assert all(row["per unit"] > 0 for row in rows)


def test_one_call_makes_all_measures_of_a_gpu(tmp_path):
    parts = ("recipe, best precision", "search")  # the scripts are tried above
    run("gpu.py", "--toy", "--out", str(tmp_path / "out.json"), "--parts", *parts)
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results["parts"]) == set(parts)
    assert all("error" not in part for part in results["parts"].values())
    assert results["machine"]["cores"] > 0


def test_lengths_are_of_the_real_triplets(shared):
    counted = count_lengths(
        shared / "data/text_triplets/real_triplets.jsonl", shared / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz"
    )
    assert json.loads(LENGTHS.read_text()) == counted

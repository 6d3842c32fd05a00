"""Every speed script runs at toy size; no times are asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speed.gallery import build, search


def run(script, *options):
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"speed/{script}", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_train_memory_compares_three_ways(tmp_path):
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

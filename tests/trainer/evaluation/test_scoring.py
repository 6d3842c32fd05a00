"""Scores of whole benchmarks against recorded ones."""

import json

import numpy as np
import pytest

from tests.factories import write_embeddings
from trainer.cli.main import main
from trainer.evaluation.benchmarks import find_benchmark
from trainer.evaluation.scoring import average_parts


def test_circos_example_submission_scores_as_recorded(shared, circo_root, oracle, tmp_path, capsys):
    example = str(shared / "data/circo/submission_examples/submission_val.json")
    command = ["evaluate", "--rankings", example, "--benchmark", "circo", "--root", str(circo_root)]
    assert main([*command, "--output-dir", str(tmp_path)]) == 0
    record, recorded = (
        json.loads(next(tmp_path.glob("circo-val-*.json")).read_text()),
        oracle("circo_val_example_submission"),
    )
    expected = {f"map@{k}": value for k, value in recorded["mAP"].items()}
    expected |= {f"target_recall@{k}": value for k, value in recorded["recall"].items()}
    expected |= {f"semantic_map@10/{aspect}": value for aspect, value in recorded["semantic_mAP@10"].items()}
    assert {name: 100 * value for name, value in record["metrics"].items()} == pytest.approx(expected, abs=1e-6)
    assert "map@5                                             0.49" in capsys.readouterr().out


def test_fashioniqs_average_is_not_weighted(oracle):
    case = oracle("toy_metric_cases")["fashioniq_average"]
    parts = {
        name: {"recall@10": case["R@10"][name], "recall@50": case["R@50"][name]}
        for name in ("dress", "shirt", "toptee")
    }
    means = average_parts(find_benchmark("fashioniq"), parts)
    assert "average" not in average_parts(find_benchmark("fashioniq"), {"dress": parts["dress"]})
    expected = {"recall@10": case["average_R@10"], "recall@50": case["average_R@50"], "average": case["overall"]}
    assert means == pytest.approx(expected)


def test_candidates_that_are_all_alike_are_never_right_by_their_order(data, computed, tmp_path, run_evaluate):
    parts = [pair for name, pair in computed.items() if name.startswith("genecis")]
    file = write_embeddings(
        tmp_path / "e.npz", parts, lambda arrays: arrays.update(gallery_embeds=np.ones_like(arrays["gallery_embeds"]))
    )
    command = ("--embeddings", file, "--benchmark", "genecis", "--root", data / "genecis")
    assert run_evaluate(*command, out=tmp_path / "a")["genecis-v0"]["metrics"]["recall@3"] == 0
    by_order = run_evaluate(*command, "--ties", "gallery", out=tmp_path / "b")["genecis-v0"]
    assert by_order["metrics"]["recall@1"] == 1  # the published code's way

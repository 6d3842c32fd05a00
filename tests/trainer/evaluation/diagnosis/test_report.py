import numpy as np
import pytest

from trainer.evaluation.diagnosis.alignment import compute_alignment
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.diagnosis.report import format_report, write_report
from trainer.evaluation.diagnosis.single_modality import compute_single_modality


PARTS = ("alignment", "interpolation", "modality_gap", "single_modality", "conditions", "wordings", "triplets")


@pytest.fixture
def facts():
    about = {"model": "org/name", "benchmark": "cirr", "split": "val", "k": 5, "trained_with_rtd": True}
    about |= {
        "num_queries": 4,
        "num_gallery": 9,
        "projection": "lincir",
        "protocol": {"ties": "gallery"},
        "seed": None,
    }
    return {"about": about} | {name: {"not_available": f"no {name}"} for name in PARTS}


def test_a_part_without_data_says_so(facts, tmp_path):
    write_report(facts, tmp_path / "report.md")
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# Diagnosis of org/name on cirr (val)\n\n4 queries, 9 gallery images, projection lincir")
    assert [line for line in report.splitlines() if line.startswith("Not available")] == [
        f"Not available: no {name}." for name in PARTS
    ]
    assert "- protocol: ties gallery" in report
    assert "- seed" not in report


def test_deviations_stand_at_the_top(facts):
    facts["about"]["deviations"] = ["padding is 'none'", "ties are 'reference'"]
    assert "Not comparable with published numbers: padding is 'none'; ties are 'reference'." in format_report(facts)


def test_queries_are_told_apart_in_percent(facts):
    groups = compute_single_modality([1, 9, 1, 9], [1, 1, 9, 9], [1, 1, 9, 9], k=5)
    facts["single_modality"] = {"recall": {"composed": {"recall@5": 0.5}}, "groups": {"after": groups}}
    report = format_report(facts)
    assert "| composed | 50.0 |" in report
    assert "| text only | 25.0 | 0.0 |" in report
    assert "25.0 % of the queries are found by one side alone" in report


@pytest.mark.parametrize(
    ("about", "reader"),
    [
        ({}, "the tower from before RTD, which the model keeps"),
        ({"one_tower": True}, "the tower from after RTD, the only one that the model keeps"),
        ({"is_adapter": True}, "the base, with the adapter switched off"),
    ],
)
def test_the_report_names_what_reads_plain_text(facts, about, reader):
    captions = np.eye(4)
    found = compute_alignment(captions, captions[::-1], captions, captions)
    found["recall"] = compare_ranks(np.array([1, 2, 9, 9]), np.array([9, 9, 9, 1]), 5)
    facts["alignment"] = {"target_captions": found, "triplet_captions": {"not_available": "no triplets"}}
    facts["about"] |= about
    assert f"Plain text queries go to {reader}." in format_report(facts)

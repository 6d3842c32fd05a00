"""GeneCIS against its real annotations and recorded prompts."""

import pytest

from tests.factories import TASKS, build_stand_in, edit_json, split_prompt
from trainer.evaluation.benchmarks import find_benchmark, load_benchmark
from trainer.evaluation.benchmarks.genecis import crop_box


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"


TASK, COCO = f"genecis/{TASKS[0]}.json", "id,query_regions,query_class,classes\n"


def set_side(rows, side):
    rows[0]["target"]["instance_bbox"][2] = side


def test_crop_boxes_of_genecis(oracle):
    for case in oracle("genecis_crop_boxes")["cases"]:
        box = crop_box(tuple(case["image_size"]), case["instance_bbox_xywh"])
        assert box == pytest.approx(tuple(case["reference_code_crop_ltrb"]))


def test_only_the_attribute_tasks_of_genecis_cut(tmp_path):
    root = build_stand_in("genecis", tmp_path)
    assert [load_benchmark(f"genecis/{task}", root=root).cut is not None for task in TASKS] == [
        True,
        True,
        False,
        False,
    ]


def test_the_published_prompt_of_geneciss_object_tasks_may_be_asked_for():
    protocol = find_benchmark("genecis").find_protocol("lincir", template="a photo of $ that 0")
    assert split_prompt(protocol.template, "car") == ["a photo of ", " that 0"]


def test_numbers_inside_the_annotations(load, oracle):
    for part in load("genecis")[0]:
        facts = oracle("dataset_sizes")["genecis"][part.part]
        columns = (part.queries[name][:] for name in ("id", "candidate_ids", "target_ids"))
        rows = [name for name, ids, targets in zip(*columns, strict=True) if ids.count(targets[0]) > 1]
        assert rows == [f"{part.part}-{i}" for i in facts["rows_target_also_in_gallery"]]
        assert len(set(part.queries["condition"][:])) == facts["distinct_conditions"]


def test_prompts_of_genecis(load, oracle, digest):
    for part in load("genecis")[0]:
        own = oracle("prompts")["genecis"]["all_lincir_style"][part.part]
        assert digest(RTD, part.queries["condition"]) == own


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda r: edit_json(
                r, f"genecis/{TASKS[0]}.json", lambda c: c[0]["target"]["instance_bbox"].__setitem__(2, 0)
            ),
            "x, y, width and height",
        ),
        (
            lambda r: edit_json(r, f"genecis/{TASKS[0]}.json", lambda c: c[0]["target"].pop("image_id")),
            "image_id",
        ),
        (lambda r: (r / "VG_100K_all").rename(r / "VG"), "both image parts of Visual Genome"),
        (lambda r: edit_json(r, TASK, lambda c: set_side(c, float("inf"))), "x, y, width and height"),
        (lambda r: edit_json(r, TASK, lambda c: set_side(c, float("nan"))), "x, y, width and height"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("genecis", spoil, message)

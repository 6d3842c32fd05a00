"""COCO object composition against its real annotations and recorded prompts."""

import pytest

from tests.factories import TASKS
from trainer.evaluation.benchmarks import find_benchmark


TASK, COCO = f"genecis/{TASKS[0]}.json", "id,query_regions,query_class,classes\n"


def test_prompts_of_coco(load, oracle, digest):
    template = find_benchmark("coco").protocol.template
    own = oracle("prompts")["coco_object_composition_all"]["composed_with_query_class"]
    assert digest(template, load("coco")[0][0].queries["condition"], "*") == own


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "coco_eval.csv").write_text("a,b\n"), "must have the columns id, query_regions"),
        (lambda r: (r / "val2017_masked").rename(r / "m"), "run data/coco/prepare_data.py"),
        (lambda r: (r / "coco_eval.csv").write_text(COCO + "a.jpg,inf;3;9;9 ,dog,\n"), "no region .* a.jpg"),
        (lambda r: (r / "coco_eval.csv").write_text(COCO + "a" * 200_000), "coco_eval.csv' is not a CSV"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("coco", spoil, message)

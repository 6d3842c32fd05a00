"""CIRCO against its real annotations and recorded prompts."""

import pytest

from tests.factories import edit_json


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"


VAL, IMAGES = "annotations/val.json", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def test_numbers_inside_the_annotations(load, oracle):
    sizes, queries = oracle("dataset_sizes")["circo"], load("circo")[0][0].queries
    assert sum(map(len, queries["target_ids"])) == sizes["val_ground_truths"]
    for aspect, count in sizes["val_semantic_aspect_counts"].items():
        assert sum(aspect in row for row in queries["aspects"]) == count


@pytest.mark.parametrize("split", ["val", "test"])
def test_prompts_of_circo(load, oracle, digest, split):
    assert digest(RTD, load("circo", split)[0][0].queries["condition"]) == oracle("prompts")["circo"][f"{split}_all"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda r: edit_json(r, "annotations/val.json", lambda c: c[1]["gt_img_ids"].append("7")),
            "nothing but int",
        ),
        (lambda r: edit_json(r, "annotations/val.json", lambda c: c[1]["gt_img_ids"].reverse()), "first in"),
        (lambda r: edit_json(r, "annotations/val.json", lambda c: c[0].update(reference_img_id=1)), "image 1"),
        (lambda r: edit_json(r, IMAGES, lambda c: c.update(images=5)), "must hold a list of objects, got '5'"),
        (lambda r: edit_json(r, VAL, lambda c: c[0].update(semantic_aspects="x")), "nothing but list, but .* 'x'"),
        (lambda r: edit_json(r, VAL, lambda c: c[0].update(semantic_aspects=[1])), "nothing but str, but holds"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("circo", spoil, message)

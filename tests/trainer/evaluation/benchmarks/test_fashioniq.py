"""FashionIQ against its real annotations and recorded prompts."""

import pytest

from tests.factories import edit_json
from trainer.evaluation.benchmarks import Protocol, find_benchmark
from trainer.evaluation.benchmarks.checking import compare_with_official
from trainer.evaluation.benchmarks.fashioniq import write_conditions


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"


def test_the_gallery_of_val_is_smaller(load, oracle):
    parts, _ = load("fashioniq", protocol=Protocol(gallery="val"))
    assert [text for part in parts for text in compare_with_official(find_benchmark("fashioniq"), part)] == []
    for part in parts:
        facts = oracle("dataset_sizes")["fashioniq"]["per_category"][f"{part.part}.val"]
        assert len(part.gallery) == facts["val_protocol_gallery"]


def test_prompts_of_fashioniq(load, oracle, digest):
    recorded = oracle("prompts")
    averaged = load("fashioniq")[0]
    reversed_ = load("fashioniq", protocol=Protocol(caption_order="reversed"))[0]
    for part, other in zip(averaged, reversed_, strict=True):
        own = recorded["fashioniq_val_all"][part.part]
        for i, name in enumerate(("forward", "reversed")):
            texts = [wordings[i] for wordings in part.queries["wordings"]]
            assert digest(RTD, texts) == own[f"searle_lincir_rtd_{name}"]
        assert digest(PIC2WORD, other.queries["condition"], "*") == own["pic2word"]
    for row in recorded["fashioniq"]:
        assert f"a photo of $ that {write_conditions(row['captions'])[0]}" == row["searle_lincir_rtd_forward"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: edit_json(r, "image_splits/split.shirt.val.json", lambda c: c.append(None)), "but str"),
        (lambda r: edit_json(r, "captions/cap.shirt.val.json", lambda c: c[0]["captions"].pop()), "two capt"),
        (lambda r: (r / "images").rename(r / "img"), "holds no images/shirt"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("fashioniq", spoil, message)

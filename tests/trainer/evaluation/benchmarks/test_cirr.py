"""CIRR against its real annotations and recorded prompts."""

import gzip

import pytest

from tests.factories import (
    edit_json,
)


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"


CAPTIONS, SPLIT = "cirr/captions/cap.rc2.val.json", "cirr/image_splits/split.rc2.val.json"


def replace_by(path, content):
    """Put a gzipped file in the place of a plain one."""
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content)


@pytest.mark.parametrize("split", ["val", "test1"])
def test_prompts_of_cirr(load, oracle, digest, split):
    conditions, recorded = load("cirr", split)[0][0].queries["condition"], oracle("prompts")["cirr_all"][split]
    assert digest(RTD, conditions) == recorded["searle_lincir_rtd"]
    assert digest(PIC2WORD, conditions, "*") == recorded["pic2word"]


def test_numbers_inside_the_annotations(load, oracle):
    sizes = oracle("dataset_sizes")["cirr"]
    val, test1 = (load("cirr", split)[0][0] for split in ("val", "test1"))
    assert len(set(val.queries["reference_id"])) == sizes["val_unique_references"]
    blank = [row["id"] for row in test1.queries if not row["condition"].strip()]
    assert [int(name) for name in blank] == sizes["test1_blank_caption_pairids"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / CAPTIONS).unlink(), "holds no cirr/captions.*clone the branch `cirr_dataset`"),
        (lambda r: (r / CAPTIONS).write_text("{"), "is not JSON"),
        (lambda r: (r / CAPTIONS).write_text("{}"), "holds a dict"),
        (lambda r: (r / CAPTIONS).write_bytes(b"\xff\xfe"), "not text in UTF-8"),
        (
            lambda r: edit_json(r, CAPTIONS, lambda c: c[2].pop("caption")),
            "`caption` .str. in every row, but row 2",
        ),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c.append(7)), "must hold objects, but row 8 is '7'"),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c[0].update(pairid=True)), "`pairid` .int."),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c[0].update(reference="x")), "1 references .* such as 'x'"),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c[0].update(target_hard="x")), "names 'x' .target_ids."),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c[0].update(pairid=c[1]["pairid"])), "ids of queries repeat"),
        (lambda r: edit_json(r, CAPTIONS, lambda c: c[0]["img_set"]["members"].append(1)), "nothing but str"),
        (lambda r: edit_json(r, SPLIT, lambda c: c.update(where=3)), "must hold nothing but str, but holds '3'"),
        (lambda r: edit_json(r, SPLIT, lambda c: c.update(x="../../../etc/passwd")), "leads out of"),
        (lambda r: edit_json(r, SPLIT, lambda c: c.update(x="/etc/passwd")), "leads out of"),
        (lambda r: (r / "dev").rename(r / "elsewhere"), "holds no dev .*raw images of NLVR2"),
        (lambda r: (r / CAPTIONS).write_text("[" * 100_000), "cap.rc2.val.json' is damaged"),
        (lambda r: replace_by(r / CAPTIONS, b"no gzip"), "cap.rc2.val.json.gz' cannot be read: Not a gzipped"),
        (lambda r: replace_by(r / CAPTIONS, gzip.compress(b"[{}]")[:-6]), "val.json.gz' cannot be read"),
        (lambda r: replace_by(r / CAPTIONS, gzip.compress(b"[]")[:10] + b"\xff" * 9), "gz' cannot be read"),
        (lambda r: [(r / CAPTIONS).unlink(), (r / CAPTIONS).mkdir()], "cap.rc2.val.json' cannot be read"),
        (
            lambda r: edit_json(r, CAPTIONS, lambda c: c[0]["img_set"]["members"].remove(c[0]["target_hard"])),
            "query 12060 has its target .* outside of its subset",
        ),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("cirr", spoil, message)

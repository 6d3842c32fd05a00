"""Directories of benchmarks."""

import pytest

from tests.factories import build_stand_in, edit_json
from trainer.evaluation.benchmarks import load_benchmark


CAPTIONS, SPLIT = "cirr/captions/cap.rc2.val.json", "cirr/image_splits/split.rc2.val.json"


@pytest.mark.parametrize("root", [".", ".."])
def test_a_root_may_be_named_from_where_one_is_and_nothing_leads_out_of_it(tmp_path, monkeypatch, root):
    place = build_stand_in("cirr", tmp_path / "data")
    (place / "sub").mkdir()
    monkeypatch.chdir(place if root == "." else place / "sub")
    benchmark = load_benchmark("cirr", root=root)
    assert benchmark.gallery["image"][:] == load_benchmark("cirr", root=place).gallery["image"][:]
    edit_json(place, SPLIT, lambda c: c.update(x="../secret.png"))
    with pytest.raises(ValueError, match=r"'../secret.png' leads out of"):
        load_benchmark("cirr", root=root)

import numpy as np
import pytest
from PIL import Image

from trainer.evaluation.diagnosis.pictures import draw_interpolation, draw_single_modality, draw_triplets
from trainer.evaluation.diagnosis.single_modality import compute_single_modality


@pytest.mark.parametrize(("captions", "panels"), [(None, 1), ({"recall@5": 0.5}, 2)])
def test_the_trade_is_drawn_only_where_there_are_captions(tmp_path, captions, panels):
    rows = [{"alpha": alpha, "composed": {"recall@5": alpha}, "captions": captions} for alpha in (0, 1)]
    draw_interpolation(rows, 5, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (panels * 5 * 110, 4 * 110)


@pytest.mark.parametrize("labels", [("after",), ("before", "after")])
def test_groups_of_queries_are_drawn_with_and_without_a_before(tmp_path, labels):
    groups = compute_single_modality(np.array([1, 9]), np.array([9, 9]), np.array([9, 1]), k=5)
    draw_single_modality(dict.fromkeys(labels, groups), 5, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1100, 440)


def test_captions_of_a_thousand_words_are_drawn(tmp_path):
    lengths = {"target_caption": [1, 1000], "conditioning_caption": [2, 3]}
    draw_triplets(lengths, np.array([0.1, 0.2]), np.array([0.3, 0.4]), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1100, 440)

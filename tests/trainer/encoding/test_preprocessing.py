"""Preprocessing as published evaluations do it."""

import numpy as np
import pytest
from PIL import Image

from tests.builders import build_image_processor
from trainer.encoding.preprocessing import pad_to_target


def test_target_padding(oracle):
    for case in oracle("toy_metric_cases")["target_pad_1.25"]:
        padded = pad_to_target(Image.new("RGB", tuple(case["image_wh"]), "white"))
        left, top, right, bottom = case["pad_left_top_right_bottom"]
        assert padded.size == tuple(case["padded_wh"])
        assert padded.getbbox() == (left, top, padded.width - right, padded.height - bottom)


@pytest.mark.parametrize(("long", "published", "stock"), [(35, 2, 1), (37, 2, 2), (39, 4, 3), (40, 4, 4)])
def test_the_published_crop_rounds_half_to_even(long, published, stock):
    from trainer.encoding.preprocessing import PublishedCropImageProcessor

    columns = np.broadcast_to(np.arange(long, dtype=np.uint8)[None, :, None], (32, long, 3))
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    image = Image.fromarray(np.ascontiguousarray(columns))
    first = [
        kind.from_dict(build_image_processor().to_dict())(images=image, **options)["pixel_values"][0, 0, 0, 0]
        for kind in (PublishedCropImageProcessor, type(build_image_processor()))
    ]
    assert first == [published, stock]

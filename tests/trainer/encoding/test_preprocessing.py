import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import SizeDict

from trainer.encoding.preprocessing import PublishedCropImageProcessor, pad_to_target, read_image


@pytest.mark.parametrize(("height", "first"), [(4, 0), (5, 0), (6, 1), (7, 2), (8, 2), (9, 2), (11, 4)])
def test_half_a_pixel_is_rounded_to_even(height, first):
    image = np.arange(height, dtype=np.float32).reshape(1, height, 1).repeat(4, axis=2)
    crop = PublishedCropImageProcessor().center_crop(image, SizeDict(height=4, width=4))
    assert crop[0, :, 0].tolist() == list(range(first, first + 4))


@pytest.mark.parametrize(
    ("size", "padded"),
    [((100, 100), (100, 100)), ((124, 100), (124, 100)), ((200, 100), (200, 160)), ((50, 201), (160, 201))],
)
def test_long_images_are_padded_to_a_ratio_of_five_to_four(size, padded):
    image = pad_to_target(Image.new("RGB", size, "white"))
    assert image.size == padded
    assert np.asarray(image).sum() == 3 * 255 * size[0] * size[1]  # the rest is black


def test_target_padding(oracle):
    for case in oracle("toy_metric_cases")["target_pad_1.25"]:
        padded = pad_to_target(Image.new("RGB", tuple(case["image_wh"]), "white"))
        left, top, right, bottom = case["pad_left_top_right_bottom"]
        assert padded.size == tuple(case["padded_wh"])
        assert padded.getbbox() == (left, top, padded.width - right, padded.height - bottom)


def test_an_image_is_not_turned_by_its_exif_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    image = read_image(str(tmp_path / "turned.jpg"))
    assert (image.size, image.mode) == ((8, 4), "RGB")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        read_image(str(tmp_path / "broken.jpg"))

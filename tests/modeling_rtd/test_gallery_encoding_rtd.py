import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from modeling_rtd import Gallery, encode_images
from tests.factories import build_images


def test_images_are_added_as_they_are_encoded(model, processor, photos, index):
    gallery = Gallery.load(index)
    embeds = encode_images(model, processor, photos)
    assert gallery.ids == [str(path) for path in photos]
    for name, hits in zip(gallery.ids, gallery.search(embeds, 1), strict=True):
        assert hits[0]["id"] == name
        assert hits[0]["score"] == pytest.approx(1, abs=1e-6)


def test_a_column_of_pandas_is_read_by_position_and_not_by_label(model, processor, photos):
    backwards = pd.Series(photos).iloc[::-1]
    expected = encode_images(model, processor, photos[::-1])
    assert torch.equal(encode_images(model, processor, backwards), expected)
    gallery = Gallery.from_images(model, processor, backwards, [path.stem for path in backwards])
    for path, hits in zip(backwards, gallery.search(expected, 1), strict=True):
        assert hits[0]["id"] == path.stem


def test_a_plain_clip_encodes_a_gallery_too(model, clip, processor, photos):
    gallery = Gallery.from_images(clip, processor, photos)
    assert gallery.check_tower(model, processor) > 0.9999


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda photos: photos[0], "got the one '.*'; put it into a list"),
        (lambda photos: Image.new("RGB", (2, 2)), "another sequence, got a Image"),
        (lambda photos: (photo for photo in photos), "another sequence, got a generator"),
        (lambda photos: set(photos), "another sequence, got a set"),
        (lambda photos: {"a": photos[0]}, "another sequence, got a dict"),
        (lambda photos: Dataset.from_dict({"image": ["a"]}), r"a data set with the columns \['image'\]"),
        (lambda photos: pd.DataFrame({"image": ["a"]}), r"a data set with the columns \['image'\]"),
    ],
)
def test_what_is_not_a_list_of_images_is_refused(model, processor, photos, images, message):
    for encode in (encode_images, Gallery.from_images):
        with pytest.raises(ValueError, match=message):
            encode(model, processor, images(photos))


def test_model_and_processor_in_another_order_are_refused(model, processor, photos):
    with pytest.raises(ValueError, match="in this order, got a RTDProcessor and a RTDModel"):
        Gallery.from_images(processor, model, photos)


def test_the_test_images_are_the_same_with_every_library():
    from modeling_rtd.gallery_encoding_rtd import _draw_test_images

    pixels = b"".join(image.tobytes() for image in _draw_test_images())
    assert hashlib.sha256(pixels).hexdigest() == "267c2c73038ee0152ce177df953a281e51a3594dbc665f088d45b39c9c0cf2cd"


def test_odd_images_are_taken_and_turned_upright(model, processor, tmp_path):
    image = build_images(1, size=(40, 60))[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 270 degrees to stand upright
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.save(tmp_path / "animated.gif", save_all=True, append_images=build_images(3, seed=1, size=(40, 60)))
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    grey = np.asarray(image.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image.save(tmp_path / "plain.png")
    paths = sorted(path for path in tmp_path.iterdir() if path.is_file())
    gallery = Gallery.from_images(model, processor, paths, [path.stem for path in paths])
    assert not gallery.skipped
    embeds = dict(zip(gallery.ids, gallery._store.engine.get(gallery.ids), strict=True))
    for name, other, at_least in [
        ("turned", "plain", 0.999999),
        ("deep", "grey", 0.999999),
        ("cmyk", "plain", 0.999),
        ("animated", "plain", 0.9),
    ]:
        assert embeds[name] @ embeds[other] >= at_least, name


def test_a_huge_image_and_a_corrupt_one_are_named_and_the_others_kept(model, processor, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    Image.new("RGB", (200, 200)).save(tmp_path / "huge.png")
    (tmp_path / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    paths = [*photos[:3], tmp_path / "huge.png", tmp_path / "corrupt.jpg", *photos[3:]]
    gallery = Gallery.from_images(model, processor, paths, batch_size=4)
    assert gallery.ids == [str(path) for path in photos]
    assert len(gallery.skipped) == 2
    assert "huge.png' cannot be read: Image size (40000 pixels) exceeds limit" in gallery.skipped[0]
    assert "corrupt.jpg' cannot be read" in gallery.skipped[1]


def test_a_row_of_images_may_be_lazy(model, processor):
    images = build_images(5)
    rows = Dataset.from_dict({"image": images})
    gallery = Gallery.from_images(model, processor, rows["image"], [f"{i}" for i in range(5)], batch_size=2)
    assert gallery.search(encode_images(model, processor, images[3:4]), 1)[0][0]["id"] == "3"


def test_a_row_that_a_data_set_cannot_decode_is_named(model, processor, photos):
    photos[1].write_bytes(b"no image")
    rows = Dataset.from_dict({"image": [str(path) for path in photos]}).cast_column("image", ImageFeature())
    gallery = Gallery.from_images(model, processor, rows["image"], [f"{i}" for i in range(6)])
    assert gallery.ids == ["0", "2", "3", "4", "5"]
    assert "the image at position 1 cannot be read" in gallery.skipped[0]


def test_a_row_too_large_to_decode_is_named(model, processor, photos, tmp_path, monkeypatch):
    Image.new("RGB", (200, 200)).save(photos[1])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    rows = Dataset.from_dict({"image": [str(path) for path in photos]}).cast_column("image", ImageFeature())
    gallery = Gallery.from_images(model, processor, rows["image"], [f"{i}" for i in range(6)])
    assert gallery.ids == ["0", "2", "3", "4", "5"]
    assert "the image at position 1 cannot be read: Image size (40000 pixels) exceeds" in gallery.skipped[0]

import pytest
from PIL import Image

from tests.factories import build_images
from trainer.data.images import decode_image


def test_an_image_too_large_to_be_decoded_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    build_images(1)[0].save(tmp_path / "large.png")
    assert decode_image({"path": str(tmp_path / "large.png"), "bytes": None}) is None


def test_a_url_that_a_data_set_names_is_not_fetched(monkeypatch):
    monkeypatch.setattr("modeling_rtd.images_rtd._fetch", lambda url, most: pytest.fail(f"fetched {url}"))
    row = {"image": {"path": "https://example.com/a.png", "bytes": None}}
    assert decode_image(row["image"]) is None

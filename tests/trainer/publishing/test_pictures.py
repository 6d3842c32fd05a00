import pytest
from PIL import Image

from tests.factories import build_images
from trainer.publishing import pictures
from trainer.publishing.pictures import check_picture, refuse_places


@pytest.mark.parametrize(("name", "complaint"), [("a.jpg", "such as"), ("none.png", "such as"), ("a.png", "more")])
def test_what_a_page_cannot_show_is_refused(tmp_path, monkeypatch, name, complaint):
    monkeypatch.setattr(pictures, "_MOST_BYTES", 10)
    for suffix in ("jpg", "png"):
        build_images(1)[0].save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match=complaint):
        check_picture(tmp_path / name)


def test_a_photograph_that_tells_where_it_was_taken_is_refused(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    build_images(1)[0].save(tmp_path / "there.jpg", exif=exif)
    build_images(1)[0].save(tmp_path / "nowhere.jpg")
    refuse_places([tmp_path / "nowhere.jpg"])
    with pytest.raises(ValueError, match="there.jpg' holds the place"):
        refuse_places([tmp_path / "nowhere.jpg", tmp_path / "there.jpg"])

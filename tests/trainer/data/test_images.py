import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from tests.factories import build_images
from trainer.data.images import decode_image, load_images


def test_an_image_too_large_to_be_decoded_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    build_images(1)[0].save(tmp_path / "large.png")
    assert decode_image({"path": str(tmp_path / "large.png"), "bytes": None}) is None


def test_images_come_as_a_folder_paths_and_data_sets(tmp_path):
    for i, image in enumerate(build_images(2)):
        image.save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    rows = Dataset.from_dict({"image": list(map(str, paths))})
    expected = load_images(tmp_path)[:]
    for source in (paths, rows, DatasetDict(train=rows)):
        assert load_images(source)[:] == expected
    for source, message in ((build_images(1), "got a list"), (rows.to_pandas(), "got a DataFrame")):
        with pytest.raises(ValueError, match=f"a folder, a list of paths or a datasets.Dataset, {message}"):
            load_images(source)
    with pytest.raises(ValueError, match="has a transform"):
        load_images(rows.with_transform(lambda batch: batch))

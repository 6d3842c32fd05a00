import pytest

from modeling_rtd import Gallery
from tests.factories import build_images


@pytest.fixture
def photos(tmp_path):
    """Six image files."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, build_images(6), strict=True):
        image.save(path)
    return paths


@pytest.fixture
def index(model, processor, photos, tmp_path):
    """Folder of a gallery of the six photographs."""
    Gallery(folder=tmp_path / "index").add(model, processor, photos)
    return tmp_path / "index"

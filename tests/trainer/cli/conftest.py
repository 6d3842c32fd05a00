"""What the verbs of training and search take."""

import json

import pytest

from tests.factories import build_images, build_triplets


@pytest.fixture
def triplets(tmp_path):
    path = tmp_path / "triplets.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in build_triplets(48)))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Folder of six images, one of them in a sub-folder."""
    folder = tmp_path / "gallery"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(build_images(6)):
        image.save(folder / ("more" if i == 5 else "") / f"{i}.png")
    return folder

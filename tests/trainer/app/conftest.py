import copy

import pytest

from tests.trainer.app import desks


@pytest.fixture
def photos(tmp_path):
    """Folder of fifteen images."""
    return desks.write_photos(tmp_path / "photos")


@pytest.fixture
def tuned():
    """A model whose text tower is another than the one from before RTD."""
    return copy.deepcopy(desks.build_tuned())


@pytest.fixture
def desk(tuned, processor, photos):
    return desks.build_desk(tuned, processor, photos)

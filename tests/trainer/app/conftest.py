import copy

import pytest

from tests.trainer.app import desks


@pytest.fixture
def tuned():
    """A model whose text tower is another than the one from before RTD."""
    return copy.deepcopy(desks.build_tuned())


@pytest.fixture
def desk(tuned, processor, photos):
    return desks.build_desk(tuned, processor, photos)

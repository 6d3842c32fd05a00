import pytest

from modeling_rtd import Gallery, RTDModel
from tests.factories import build_clip, build_tokenizer, shake
from trainer.app import SearchDesk, list_voices


@pytest.fixture
def tuned(model):
    """A model whose text tower is another than the one from before RTD."""
    tower = RTDModel.from_clip(build_clip(seed=3), "lincir", tokenizer=build_tokenizer()).text_model
    model.replace_text_model(shake(tower))
    return model


@pytest.fixture
def desk(tuned, processor, photos):
    paths = sorted(str(path) for path in photos.iterdir())
    gallery = Gallery.from_images(tuned, processor, paths)
    return SearchDesk(list_voices(tuned, processor, gallery), photos, top_k=5)

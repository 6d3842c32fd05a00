"""A desk on a folder of photographs, asked by a page, a server or in Python."""

import functools

from modeling_rtd import Gallery, RTDModel
from tests.factories import build_clip, build_tokenizer, shake
from trainer.app import SearchDesk, list_voices


@functools.cache
def build_tuned():
    """A model whose text tower is another than the one from before RTD; to be copied."""
    model, other = (RTDModel.from_clip(build_clip(seed), "lincir", tokenizer=build_tokenizer()) for seed in (0, 3))
    model.replace_text_model(shake(other.text_model))
    return model


def build_desk(tuned, processor, photos):
    paths = sorted(str(path) for path in photos.iterdir())
    gallery = Gallery.from_images(tuned, processor, paths)
    return SearchDesk(list_voices(tuned, processor, gallery), photos, top_k=5)

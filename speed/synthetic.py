"""What the scripts measure with: text as long as real text, images of noise, and a tokenizer of one token a word."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from modeling_rtd import RTDModel, RTDProcessor
from speed.build_clip import build_clip, build_siglip
from speed.count_lengths import LENGTHS
from trainer.data.triplets import TRIPLET_COLUMNS


__all__ = ["build_model", "build_processor", "draw_images", "draw_texts", "draw_triplets"]

_NOUNS = np.array([f"n{i}" for i in range(2000)])
_BETWEEN = np.array("is in of on with near under behind".split())


def build_processor(projection: str = "lincir", family: str = "clip") -> RTDProcessor:
    """Build a processor whose tokenizer has CLIP's special ids and makes one token of each word, known or not.

    Args:
        projection (`str`, defaults to `"lincir"`): Whose prompt template is the default.
        family (`str`, defaults to `"clip"`): `"clip"`, of 77 tokens, or `"siglip"`, of 64.

    Returns:
        [`RTDProcessor`]: With CLIP's preprocessing, 224 pixels.
    """
    words = ["unknown", "jekyll", *_BETWEEN.tolist(), *_NOUNS.tolist()]
    vocabulary = {word: 1000 + i for i, word in enumerate(words)}
    vocabulary |= {"$": 259, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="unknown"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = [(token, vocabulary[token]) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $0 {end}", special_tokens=special)
    ends = {"bos_token": start, "eos_token": end, "pad_token": end}
    length = 64 if family == "siglip" else 77
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="unknown", model_max_length=length, **ends
    )
    return RTDProcessor(CLIPImageProcessorPil(), tokenizer, default_template=projection, family=family)


def build_model(size: str, projection: str, processor: RTDProcessor, with_vision: bool = True) -> RTDModel:
    """Put a fresh projection on a backbone of random weights, of the processor's family.

    Args:
        size (`str`): A key of [`SIZES`].
        projection (`str`): Name of a method.
        processor ([`RTDProcessor`]): Of `build_processor`.
        with_vision (`bool`, defaults to `True`): See [`build_clip`]; a SigLIP has none.

    Returns:
        [`RTDModel`]: In evaluation mode, float32.
    """
    is_siglip = processor.family == "siglip"
    backbone = build_siglip(size) if is_siglip else build_clip(size, with_vision=with_vision)
    return RTDModel.from_clip(backbone, projection, tokenizer=processor.tokenizer)


@cache
def _read_lengths(column: str) -> tuple[np.ndarray, np.ndarray]:
    counts = json.loads(LENGTHS.read_text())[column]
    shares = np.array(list(counts.values()), float)
    return np.array([int(length) for length in counts]), shares / shares.sum()


def draw_texts(column: str, count: int, rng: np.random.Generator) -> list[str]:
    """Draw texts with as many tokens as real ones: nouns with words between them, so that masking shortens nothing.

    Args:
        column (`str`): A column of `lengths.json`.
        count (`int`): Texts.
        rng (`np.random.Generator`): Decides.

    Returns:
        `list[str]`: Texts.
    """
    lengths, shares = _read_lengths(column)
    drawn = rng.choice(lengths, count, p=shares)
    shape = count, drawn.max()
    words = np.where(np.arange(shape[1]) % 2, rng.choice(_BETWEEN, shape), rng.choice(_NOUNS, shape)).tolist()
    return [" ".join(row[:length]) for row, length in zip(words, drawn, strict=True)]


def draw_triplets(count: int, seed: int = 0) -> Dataset:
    """Draw text triplets.

    Args:
        count (`int`): Triplets.
        seed (`int`, defaults to 0): Decides.

    Returns:
        `datasets.Dataset`: With the three columns.
    """
    rng = np.random.default_rng(seed)
    return Dataset.from_dict({name: draw_texts(name, count, rng) for name in TRIPLET_COLUMNS})


def draw_images(count: int, size: tuple[int, int] = (224, 224), seed: int = 0) -> list[Image.Image]:
    """Draw smooth noise, which compresses about as photographs do.

    Args:
        count (`int`): Images.
        size (`tuple[int, int]`, defaults to `(224, 224)`): Width and height, in pixels.
        seed (`int`, defaults to 0): Decides.

    Returns:
        `list[PIL.Image.Image]`: Images in RGB.
    """
    rng = np.random.default_rng(seed)
    shape = (count, size[1] // 8, size[0] // 8, 3)
    return [
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        for pixels in rng.integers(0, 256, shape, np.uint8)
    ]

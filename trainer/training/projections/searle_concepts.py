"""Concepts: names of things, and which of them an image is nearest to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor, RTDTextTower
from trainer.data.captions import has_words, read_captions
from trainer.encoding.captions import encode_captions


__all__ = ["CONCEPT_TEMPLATES", "embed_concepts", "find_concepts", "find_templates", "read_concepts", "read_lines"]

_KINDS = ("photo", "image", "illustration")
# PALAVRA's, in which SEARLE embeds a concept and inverts an image. "An illustrations" is published so.
CONCEPT_TEMPLATES = (
    "This is a photo of a {}",
    "This photo contains a {}",
    "A photo of a {}",
    "This is an illustration of a {}",
    "This illustration contains a {}",
    "An illustrations of a {}",
    "This is a sketch of a {}",
    "This sketch contains a {}",
    "A sketch of a {}",
    "This is a diagram of a {}",
    "This diagram contains a {}",
    "A diagram of a {}",
    "A {}",
    "We see a {}",
    "{}",
    *(f"We see a {{}} in this {kind}" for kind in _KINDS),
    *(f"We see a {{}} {kind}" for kind in _KINDS),
    *(f"{{}} {kind}" for kind in _KINDS),
)


def read_lines(source: str | Path, what: str, columns: Sequence[str]) -> list[str]:
    """Read distinct short texts, without the blanks around them.

    Args:
        source (`str` or `Path`): A txt file, one a line; or a table with one of `columns`, see [`read_captions`].
        what (`str`): What they are, for messages.
        columns (sequence of `str`): Columns they may be in.

    Returns:
        `list[str]`: In order, each once. Rows that are not text are left out, with a warning where they are not blank.

    Raises:
        ValueError: If there is no such file, it is not text, or nothing is left.
    """
    lines, skipped = read_captions(source, columns)
    if bad := sorted(skipped["too_long"] + skipped["binary"]):
        rows = ", ".join(map(str, bad[:20]))
        warnings.warn(f"{len(bad)} rows of '{source}' are not {what} and are left out: {rows}.", stacklevel=3)
    found = list(dict.fromkeys(line.strip() for line in lines if line is not None))
    if not found:
        raise ValueError(f"'{source}' holds no {what}; give a text file with one a line.")
    return found


def read_concepts(source: str | Path) -> list[str]:
    """Read names of concepts, such as those of Open Images V7 that SEARLE published with.

    Args:
        source (`str` or `Path`): A txt file, one a line; or a table with a column `DisplayName`, `concept` or `text`.

    Returns:
        `list[str]`: Names in order, each once.

    Raises:
        ValueError: If there is no such file, it is not text, or it holds no name.
    """
    return read_lines(source, "concept", ("DisplayName", "concept", "text"))


def find_templates(processor: RTDProcessor) -> list[str]:
    """Find the templates whose words a tokenizer has: with byte pairs, as CLIP's are, all of them.

    Args:
        processor ([`RTDProcessor`]): Whose tokenizer to ask.

    Returns:
        `list[str]`: Those of `CONCEPT_TEMPLATES`; `"{}"` is always one.
    """
    return [text for text in CONCEPT_TEMPLATES if has_words(processor.tokenizer, text.replace("{}", ""))]


def embed_concepts(
    text_model: RTDTextTower, processor: RTDProcessor, names: Sequence[str], chunk_size: int = 1024
) -> torch.Tensor:
    """Embed concepts as SEARLE does: the mean of the normalised embeddings of a name in 24 templates, normalised.

    Templates with words that a word-level tokenizer lacks are left out, see [`find_templates`].

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        names (`list[str]`): Names.
        chunk_size (`int`, defaults to 1024): Names whose texts are held at a time.

    Returns:
        `torch.Tensor` of shape `(len(names), projection_dim)`: L2-normalised, float32, on the CPU.
    """
    means, templates = [], find_templates(processor)
    for start in tqdm(range(0, len(names), chunk_size), desc="Embedding concepts"):
        chunk = names[start : start + chunk_size]
        # With spaces around a name, as published.
        texts = [template.replace("{}", f" {name} ") for name in chunk for template in templates]
        embeds = normalize(encode_captions(text_model, processor, texts, desc=None), dim=-1)
        means.append(embeds.view(len(chunk), len(templates), -1).mean(1))
    return normalize(torch.cat(means), dim=-1)


def find_concepts(
    image_embeds: torch.Tensor, concept_embeds: torch.Tensor, count: int, chunk_size: int = 4096
) -> torch.Tensor:
    """Find the concepts nearest to each image, by cosine.

    Args:
        image_embeds (`torch.Tensor` of shape `(num_images, projection_dim)`): Of any norm.
        concept_embeds (`torch.Tensor` of shape `(num_concepts, projection_dim)`): L2-normalised.
        count (`int`): How many for each image; all of them where there are fewer.
        chunk_size (`int`, defaults to 4096): Images compared at a time.

    Returns:
        `torch.Tensor` of shape `(num_images, count)`: Rows of `concept_embeds`, nearest first, int32.
    """
    count = min(count, len(concept_embeds))
    chunks = (normalize(chunk, dim=-1) @ concept_embeds.T for chunk in image_embeds.split(chunk_size))
    # int32, since the result is kept on disk.
    return torch.cat([similarities.topk(count).indices.int() for similarities in chunks])

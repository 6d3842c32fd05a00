"""Phrases about concepts, in which a pseudo-word must do what the concept's name does: SEARLE's regularisation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor, RTDTextTower, parse_json
from trainer.data.language_model import LanguageModel
from trainer.encoding.array_cache import place_result
from trainer.encoding.captions import CaptionEmbeddings, encode_batch
from trainer.training.losses import cosine_loss
from trainer.training.projections.searle_concepts import read_lines
from trainer.training.rtd_collator import WarningOnce, collate_captions


__all__ = [
    "PHRASE_TEMPLATES",
    "PhraseBank",
    "compute_phrase_loss",
    "fill_templates",
    "read_templates",
    "write_phrases",
]

# Ours, for where no language model is at hand.
PHRASE_TEMPLATES = tuple(
    f"a photo of {{}} that {ending}"
    for ending in (
        "is on a table",
        "is in the middle of the street",
        "is standing in front of a white wall",
        "is lying on the grass",
        "is held by a person",
        "is seen from above",
        "is seen from far away",
        "is next to a window",
        "is being used by a group of people",
        "is made of wood",
        "is much bigger than the others",
        "is red and white",
        "is old and broken",
        "has a black background",
        "has people in the background",
        "was taken at night",
    )
)
_SAMPLING = {"temperature": 0.5, "no_repeat_ngram_size": 2}
_MAX_TOKENS = 35  # published, as the sampling is


def read_templates(source: str | Path) -> list[str]:
    """Read templates of phrases, one a line, each with `{}` where the concept's name belongs.

    Args:
        source (`str` or `Path`): A text file, or `"templates"` for `PHRASE_TEMPLATES`.

    Returns:
        `list[str]`: Templates in order, each once.

    Raises:
        ValueError: If there is no such file, it is not text, or a template lacks `{}`.
    """
    if source == "templates":
        return list(PHRASE_TEMPLATES)
    templates = read_lines(source, "template of a phrase", ("phrase", "text"))
    if lacking := [template for template in templates if "{}" not in template]:
        raise ValueError(
            f"each template of '{source}' must hold {{}} where the concept's name belongs, but {len(lacking)} do not, "
            f"such as {lacking[0]!r}."
        )
    return templates


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> dict[str, list[str]]:
    """Fill concepts into templates.

    Args:
        names (`list[str]`): Names of concepts.
        templates (`list[str]`): Templates of [`read_templates`].

    Returns:
        `dict[str, list[str]]`: For each name its phrases.
    """
    return {name: [template.replace("{}", name) for template in templates] for name in names}


def write_phrases(
    names: Sequence[str], language_model: str, folder: str | Path, count: int = 256, seed: int = 0
) -> dict[str, list[str]]:
    """Let a language model continue "a photo of NAME that" for each concept, as SEARLE published.

    Sampled at temperature 0.5, up to 35 tokens with the prompt, no pair of tokens twice in a phrase
    (https://huggingface.co/papers/2303.15247; published with EleutherAI/gpt-neo-2.7B). What is written is kept in the
    folder as it comes, and an interrupted call continues with the concepts that are left. The draws of a concept do
    not depend on the other concepts.

    Args:
        names (`list[str]`): Names of concepts.
        language_model (`str`): Directory or Hub id of a causal language model.
        folder (`str` or `Path`): Where phrases are kept.
        count (`int`, defaults to 256): Phrases for each concept.
        seed (`int`, defaults to 0): Decides the draws, with the name.

    Returns:
        `dict[str, list[str]]`: For each name its phrases.

    Raises:
        ValueError: If the language model cannot be loaded.
    """
    settings = {"language_model": language_model, "count": count, "seed": seed, "max_tokens": _MAX_TOKENS}
    path = place_result(folder, "phrases", ".jsonl", **settings, **_SAMPLING)
    path.touch()
    with path.open("r+b") as file:
        written, end = {}, 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # of a run that was interrupted
            written |= parse_json(line, path, "remove it to have the phrases written again")
            end += len(line)
        file.seek(end)
        file.truncate()
        missing = [name for name in names if name not in written]
        model = _load_language_model(language_model) if missing else None
        for name in tqdm(missing, desc="Writing phrases", disable=not missing):
            # By name: phrases do not depend on which other concepts a run has.
            own_seed = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4])
            prompt = f"a photo of {name} that"
            texts = model.continue_prompt(prompt, count, own_seed, _MAX_TOKENS, **_SAMPLING)
            # As published: ends of lines become dots, and runs of dots one.
            written[name] = [re.sub(r"\.+", ".", re.sub(r"\n+", ". ", text)) for text in texts]
            file.write(json.dumps({name: written[name]}, ensure_ascii=False).encode() + b"\n")
            file.flush()
    return {name: written[name] for name in names}


def _load_language_model(name: str) -> LanguageModel:
    try:
        return LanguageModel(name)
    except (OSError, ValueError) as error:  # ValueError where a directory holds another kind of model
        reason = str(error).partition("\n")[0][:200]  # the rest lists every kind of model there is
        raise ValueError(
            f"'{name}' cannot be loaded as a causal language model; give a directory or Hub id: {reason}"
        ) from error


class PhraseBank:
    """Phrases of concepts, ready to be drawn: spliced around a placeholder, with their frozen embeddings.

    Args:
        processor ([`RTDProcessor`]): Tokenises.
        phrases (`dict[str, list[str]]`): For each name of a concept its phrases, equally many.

    Attributes:
        names (`list[str]`): Names of the concepts.
        count (`int`): Phrases of each.
        usable (`np.ndarray` of shape `(num_concepts,)`):
            False for SEARLE's problem concepts: a phrase of theirs does not hold the name letter by letter.
        embeddings ([`CaptionEmbeddings`], *optional*): Frozen embeddings of the phrases. Defaults to computing
            them as they are drawn.
    """

    def __init__(self, processor: RTDProcessor, phrases: dict[str, list[str]]):
        self.processor = processor
        self.names = list(phrases)
        self.phrases = list(phrases.values())
        self.count = len(self.phrases[0])
        # SEARLE leaves a concept out as soon as one of its phrases does not hold its name.
        self.usable = np.array([all(name in text for text in texts) for name, texts in phrases.items()])
        self.embeddings = None
        self._warning_once = WarningOnce()

    def hash(self) -> str:
        """Hash names and phrases: SHA-256 in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, texts in zip(self.names, self.phrases, strict=True):
            digest.update("\0".join(["", name, *texts]).encode())
        return digest.hexdigest()

    def embed(self, text_model: RTDTextTower, model_key: str, cache_dir: str | None) -> None:
        """Embed the phrases of all usable concepts once; see [`CaptionEmbeddings`] for the arguments."""
        texts = (text for texts, fits in zip(self.phrases, self.usable, strict=True) if fits for text in texts)
        self.embeddings = CaptionEmbeddings(text_model, self.processor, texts, model_key, cache_dir)

    def collate(
        self, concepts: Sequence[int], phrases: Sequence[int], every_occurrence: bool = False
    ) -> dict[str, torch.Tensor]:
        """Collate phrases in which the name of the concept gives way to a pseudo-word.

        Args:
            concepts (sequence of `int`): Concepts, as rows of `names`.
            phrases (sequence of `int`): For each one of its phrases.
            every_occurrence (`bool`, defaults to `False`):
                Replace every occurrence of the name by `$`, as SEARLE does where it trains its projection; otherwise
                the first alone, as where it inverts images. Either way the first alone takes the pseudo-word, and
                further ones keep the embedding that CLIP has for `$`.

        Returns:
            `dict`: `input_ids` and `placeholder_mask` of shape `(batch_size, seq_len)`, and `text_embeds` of shape
            `(batch_size, projection_dim)` of the phrases themselves, or the tokens to compute them from.
        """
        texts = [self.phrases[concept][phrase] for concept, phrase in zip(concepts, phrases, strict=True)]
        pieces = []
        for concept, text in zip(concepts, texts, strict=True):
            head, _, tail = text.partition(self.names[concept])
            # As published: in the training every occurrence gives way, but the first alone takes the pseudo-word.
            pieces.append([head, tail.replace(self.names[concept], " $ ") if every_occurrence else tail])
        batch = self.processor.pad(self.processor.tokenize_pieces(pieces))
        del batch["attention_mask"]  # padding is on the right and attention is causal
        if self.embeddings is not None:
            return batch | {"text_embeds": self.embeddings(texts)}
        return batch | collate_captions(self.processor, self._warning_once, text=texts)


def compute_phrase_loss(
    text_model: RTDTextTower, pseudo_token_embeds: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Compare phrases with a pseudo-word in place of the concept to the phrases themselves.

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        pseudo_token_embeds (`torch.Tensor` of shape `(batch_size, 1, text_hidden_size)`): Pseudo-words.
        batch (`dict`): A batch of [`PhraseBank.collate`], on the tower's device.

    Returns:
        `torch.Tensor`: Scalar, the mean of 1 - cosine.
    """
    if "text_embeds" in batch:
        targets = batch["text_embeds"]
    else:
        targets = encode_batch(text_model, batch["caption_input_ids"])[batch["text_index"]]
    spliced = text_model(
        input_ids=batch["input_ids"],
        placeholder_mask=batch["placeholder_mask"],
        pseudo_token_embeds=pseudo_token_embeds,
    )
    return cosine_loss(spliced.text_embeds.float(), targets)

"""Frozen embeddings of captions: constants of a data set, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import config as datasets_config
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor, RTDTextModel
from trainer.encoding.array_cache import save_array
from trainer.encoding.length_groups import run_in_groups


__all__ = ["CaptionEmbeddings", "encode_batch", "encode_captions"]


@torch.no_grad()
def encode_batch(
    text_model: RTDTextModel, input_ids: torch.Tensor, length_groups: Sequence[tuple[int, int, int]] | None = None
) -> torch.Tensor:
    """Encode a batch of captions with a frozen text tower, outside autocast, so that all ways to an anchor agree.

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        input_ids (`torch.Tensor` of shape `(batch_size, seq_len)`): Captions, padded on the right.
        length_groups (`list[tuple]`, *optional*): Groups to run them in, see [`group_by_length`].

    Returns:
        `torch.Tensor` of shape `(batch_size, projection_dim)`: Projected, not normalised, float32.
    """
    with torch.autocast(input_ids.device.type, enabled=False):
        # No attention mask: attention is causal, so padding on the right is never seen.
        return run_in_groups(text_model, length_groups, input_ids=input_ids).float()


def encode_captions(
    text_model: RTDTextModel,
    processor: RTDProcessor,
    captions: Sequence[str],
    batch_size: int = 256,
    desc: str | None = "Encoding captions",
) -> torch.Tensor:
    """Encode captions with a frozen text tower, in float32 and without computing padding twice.

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        captions (`list[str]`): Captions.
        batch_size (`int`, defaults to 256): Captions in one pass; captions of similar length share one.
        desc (`str`, *optional*): Title of the progress bar; `None` shows none.

    Returns:
        `torch.Tensor` of shape `(len(captions), projection_dim)`: Projected, not normalised, float32, on the CPU.
    """
    rows = processor.tokenize_texts(captions)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    embeds = torch.empty(len(rows), text_model.config.projection_dim)
    device = text_model.text_projection.weight.device
    steps = range(0, len(order), batch_size)
    for start in tqdm(steps, desc=desc, disable=desc is None or len(steps) < 2):
        index = order[start : start + batch_size]
        input_ids = processor.pad([rows[i] for i in index])["input_ids"].to(device)
        embeds[index] = encode_batch(text_model, input_ids).cpu()
    return embeds


class CaptionEmbeddings:
    """Embeddings of the distinct captions of a data set, looked up by caption and mapped from disk.

    The file is keyed by the tower's fingerprint, the tokenizer and the captions: with any other it is not read.

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        captions (iterable of `str`): Captions, repeats allowed.
        model_key (`str`): Fingerprint of the tower.
        cache_dir (`str`, *optional*): Folder; `rtd_caption_embeddings` in the cache of `datasets` by default.
    """

    def __init__(
        self,
        text_model: RTDTextModel,
        processor: RTDProcessor,
        captions: Iterable[str],
        model_key: str,
        cache_dir: str | None = None,
    ):
        unique = sorted(set(captions))
        self._index = {caption: i for i, caption in enumerate(unique)}
        reading = [model_key, processor.tokenizer.backend_tokenizer.to_str(), str(processor.max_length)]
        key = hashlib.sha256("\0".join([*reading, *unique]).encode()).hexdigest()
        folder = Path(cache_dir or Path(datasets_config.HF_DATASETS_CACHE) / "rtd_caption_embeddings")
        self.path = folder / f"{key[:32]}.npy"
        if not self.path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_array(self.path, encode_captions(text_model, processor, unique).numpy())
        self._table = np.load(self.path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Look captions up.

        Args:
            captions (`list[str]`): Captions of the data set.

        Returns:
            `torch.Tensor` of shape `(len(captions), projection_dim)`: float32, on the CPU.
        """
        return torch.from_numpy(self._table[[self._index[caption] for caption in captions]])

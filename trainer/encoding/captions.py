"""Frozen embeddings of captions: constants of a data set, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import config as datasets_config
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor, RTDTextTower, read_array
from trainer.encoding.array_cache import save_array
from trainer.encoding.length_groups import run_in_groups


__all__ = ["CaptionEmbeddings", "describe_reading", "encode_batch", "encode_captions"]


@torch.no_grad()
def encode_batch(
    text_model: RTDTextTower, input_ids: torch.Tensor, length_groups: Sequence[tuple[int, int, int]] | None = None
) -> torch.Tensor:
    """Encode a batch of captions with a frozen text tower, outside autocast, so that all ways to an anchor agree.

    Args:
        text_model ([`RTDTextTower`]): The frozen tower.
        input_ids (`torch.Tensor` of shape `(batch_size, seq_len)`): Captions, padded on the right.
        length_groups (`list[tuple]`, *optional*): Groups to run them in, see [`group_by_length`].

    Returns:
        `torch.Tensor` of shape `(batch_size, projection_dim)`: Projected, not normalised, float32.
    """
    with torch.autocast(input_ids.device.type, enabled=False):
        # No attention mask: in no tower does padding on the right change an embedding.
        return run_in_groups(text_model, length_groups, input_ids=input_ids).float()


def encode_captions(
    text_model: RTDTextTower,
    processor: RTDProcessor,
    captions: Sequence[str],
    batch_size: int = 256,
    desc: str | None = "Encoding captions",
) -> torch.Tensor:
    """Encode captions with a frozen text tower, in float32 and without computing padding twice.

    Args:
        text_model ([`RTDTextTower`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        captions (`list[str]`): Captions.
        batch_size (`int`, defaults to 256): Captions in one pass; captions of similar length share one.
        desc (`str`, *optional*): Title of the progress bar; `None` shows none.

    Returns:
        `torch.Tensor` of shape `(len(captions), projection_dim)`: Projected, not normalised, float32, on the CPU.
    """
    rows = processor.tokenize_texts(captions)
    # By length, so that rows of a batch have little padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    embeds = torch.empty(len(rows), text_model.config.projection_dim)
    device = text_model.device
    steps = range(0, len(order), batch_size)
    for start in tqdm(steps, desc=desc, disable=desc is None or len(steps) < 2):
        index = order[start : start + batch_size]
        input_ids = processor.pad([rows[i] for i in index])["input_ids"].to(device)
        embeds[index] = encode_batch(text_model, input_ids).cpu()
    return embeds


def describe_reading(processor: RTDProcessor) -> str:
    """Describe how a processor reads a text, so that what was read otherwise is not taken from a cache.

    Args:
        processor ([`RTDProcessor`]): The processor.

    Returns:
        `str`: The same for two processors only if they give the same ids.
    """
    tokenizer = processor.tokenizer
    if tokenizer.is_fast:
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    return "\0".join([words, str(processor.max_length), processor.family])


class CaptionEmbeddings:
    """Embeddings of the distinct captions of a data set, looked up by caption and mapped from disk.

    The folder is keyed by the tower's fingerprint, the tokenizer and the captions: with any other it is not read. It
    is written in blocks, so that a stopped run continues. No caption is held: a lookup goes by the hash of the
    caption, 16 bytes a distinct caption in memory.

    Args:
        text_model ([`RTDTextTower`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        captions (iterable of `str`, or of `pyarrow.Table` of columns of captions): Captions, repeats allowed.
        model_key (`str`): Fingerprint of the tower.
        cache_dir (`str`, *optional*): Folder; `rtd_caption_embeddings` in the cache of `datasets` by default.
        block_size (`int`, defaults to 65536): Captions in one file.
    """

    def __init__(
        self,
        text_model: RTDTextTower,
        processor: RTDProcessor,
        captions: Iterable[str] | Iterable[pa.Table],
        model_key: str,
        cache_dir: str | None = None,
        block_size: int = 65536,
    ):
        unique = _find_distinct(captions)
        hashes = np.fromiter((_hash(text) for part in _cut(unique, block_size) for text in part), np.uint64)
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]
        # Among ten million captions the chance of a collision is 3 in a million.
        if (self._hashes[1:] == self._hashes[:-1]).any():
            raise RuntimeError("two captions have the same 64-bit hash; remove one of them, or use anchor_cache=never")
        reading = [model_key, describe_reading(processor)]
        key = hashlib.sha256("\0".join([*reading, str(block_size)]).encode())
        for part in _cut(unique, block_size):
            key.update("\0".join(["", *part]).encode())
        root = Path(cache_dir or Path(datasets_config.HF_DATASETS_CACHE) / "rtd_caption_embeddings")
        self.path, self._block_size = root / key.hexdigest()[:32], block_size
        self.path.mkdir(parents=True, exist_ok=True)
        blocks = [self.path / f"{start:012}.npy" for start in range(0, len(unique), block_size)]
        is_long = len(blocks) > 1
        for block, part in zip(
            tqdm(blocks, desc="Encoding captions", disable=not is_long), _cut(unique, block_size), strict=True
        ):
            # One file a block, so that a killed run goes on with the next one.
            if not block.is_file():
                options = {"desc": None} if is_long else {}
                save_array(block, encode_captions(text_model, processor, part, **options).numpy())
        self._blocks = [read_array(block, "remove it to have it made again", "r") for block in blocks]

    def __len__(self) -> int:
        return len(self._hashes)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Look captions up.

        Args:
            captions (`list[str]`): Captions of the data set.

        Returns:
            `torch.Tensor` of shape `(len(captions), projection_dim)`: float32, on the CPU.

        Raises:
            KeyError: If a caption is not of the data set.
        """
        hashes = np.fromiter(map(_hash, captions), np.uint64, len(captions))
        # A hash beyond the last gets the last place, and is found to be foreign below.
        places = np.searchsorted(self._hashes, hashes).clip(max=len(self) - 1)
        foreign = np.flatnonzero(self._hashes[places] != hashes)
        if len(foreign):
            raise KeyError(captions[foreign[0]])
        rows = (divmod(row, self._block_size) for row in self._rows[places])
        return torch.from_numpy(np.stack([self._blocks[block][row] for block, row in rows]))


def _hash(caption: str) -> int:
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "little")


def _find_distinct(captions: Iterable[str] | Iterable[pa.Table]) -> pa.Array:
    """Find distinct captions, in the order of Python's sort, as an Arrow column."""
    captions = iter(captions)
    first = next(captions)
    if isinstance(first, pa.Table):
        tables = itertools.chain([first], captions)
        chunks = [pc.unique(column).cast(pa.large_string()) for table in tables for column in table.columns]
    else:
        chunks = [pa.array(itertools.chain([first], captions), pa.large_string())]
    unique = pc.unique(pa.chunked_array(chunks))
    return unique.take(pc.array_sort_indices(unique))  # UTF-8 sorts as code points do


def _cut(captions: pa.Array, size: int) -> Iterator[list[str]]:
    return (captions.slice(start, size).to_pylist() for start in range(0, len(captions), size))

"""Reading embeddings that were made elsewhere: arrays, parquet files and FAISS indexes, with their ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .faiss_engine_rtd import require_faiss


__all__ = ["read_embeddings"]

_FAISS_SUFFIXES = (".faiss", ".index")


def read_embeddings(
    source, ids=None, columns: tuple[str, str] = ("id", "embedding")
) -> tuple[np.ndarray, list[str], list[dict] | None]:
    """Read embeddings and ids.

    Args:
        source, ids, columns: See [`Gallery.from_embeddings`].

    Returns:
        `tuple`: Embeddings of shape `(num_images, dim)`, ids as strings, and metadata (`None` where there is none).

    Raises:
        ValueError: If a file cannot be read, or there are no ids.
    """
    ids, metadata = _read_ids(ids), None
    if torch.is_tensor(source):
        source = source.detach().float().cpu().numpy()
    if not isinstance(source, str | Path):
        embeddings = np.asarray(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; name embeddings as .npy, .parquet, .faiss or .index.")
        if path.suffix == ".npy":
            embeddings = _load_array(path, "r")
        elif path.suffix == ".parquet":
            embeddings, ids, metadata = _read_parquet(path, columns)
        elif path.suffix in _FAISS_SUFFIXES:
            embeddings, own = _read_faiss(path)
            ids = own if ids is None else ids
        else:
            raise ValueError(f"'{path}' is none of .npy, .parquet, .faiss and .index.")
    if ids is None:
        raise ValueError("the embeddings come without ids: pass a list, or a .json, .npy or text file of them.")
    return embeddings, ids, metadata


def _load_array(path: Path, mode: str | None = None) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"'{path}' is no array that numpy reads: {error}.") from error


def _read_ids(ids) -> list[str] | None:
    if ids is None:
        return None
    if not isinstance(ids, str | Path):
        return [str(name) for name in ids]
    path = Path(ids)
    if not path.is_file():
        raise ValueError(f"there is no file of ids '{path}'.")
    if path.suffix == ".npy":
        return [str(name) for name in _load_array(path).tolist()]
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text.splitlines()
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON: {error}.") from error
    if not isinstance(names, list):
        raise ValueError(f"'{path}' must hold a list of ids, got a {type(names).__name__}.")
    return [str(name) for name in names]


def _read_parquet(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, list[str], list[dict] | None]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("parquet files need pyarrow: pip install pyarrow, or save a .npy file.") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' is no parquet file that pyarrow reads: {error}.") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(
            f"'{path}' has no column '{missing[0]}' but {', '.join(table.column_names)}; name the columns of ids and "
            "embeddings."
        )
    try:
        embeddings = np.stack(table[columns[1]].to_numpy())
    except (ValueError, TypeError) as error:
        raise ValueError(f"the column '{columns[1]}' of '{path}' holds no rows of one length: {error}.") from error
    others = table.drop_columns(list(columns))
    metadata = others.to_pylist() if others.column_names else None
    return embeddings, [str(name) for name in table[columns[0]].to_pylist()], metadata


def _read_faiss(path: Path) -> tuple[np.ndarray, list[str] | None]:
    faiss = require_faiss()
    try:
        whole = index = faiss.read_index(str(path))  # which owns the index inside it
        ids = None
        if isinstance(index, faiss.IndexIDMap):  # IndexIDMap2 is one too
            ids = [str(number) for number in faiss.vector_to_array(whole.id_map)]
            index = faiss.downcast_index(whole.index)
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        return index.reconstruct_n(0, index.ntotal), ids
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot give back the embeddings of '{path}': {error}.") from error

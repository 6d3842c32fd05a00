"""Reading embeddings that were made elsewhere: arrays, parquet files and FAISS indexes, with their ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .files_rtd import read_array, read_json
from .gallery_faiss_rtd import require_faiss
from .gallery_folder_rtd import make_array, settle_ids


__all__ = ["read_embeddings"]

_FAISS_SUFFIXES = (".faiss", ".index")
_SAVE_AGAIN = "save it again, or copy it again from where it was made"
_ROWS_IN_ORDER = "IndexFlat, IndexFlatIP, IndexFlatL2, IndexHNSWFlat, IndexHNSWSQ, IndexScalarQuantizer".split(", ")
_ROWS_IN_LISTS = ["IndexIVFFlat", "IndexIVFScalarQuantizer"]


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
    if not isinstance(source, str | Path):
        embeddings = make_array(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; name embeddings as .npy, .parquet, .faiss or .index.")
        suffix = path.suffix.lower()
        if suffix == ".npy":
            embeddings = read_array(path, _SAVE_AGAIN, "r")
        elif suffix == ".parquet":
            embeddings, ids, metadata = _read_parquet(path, columns, ids)
        elif suffix in _FAISS_SUFFIXES:
            embeddings, ids = _read_faiss(path, ids)
        else:
            raise ValueError(f"'{path}' is none of .npy, .parquet, .faiss and .index.")
    if ids is None:
        raise ValueError(
            "the embeddings come without ids: name a .txt, .json or .npy file of them (`--ids`), or pass a list."
        )
    return embeddings, ids, metadata


def _read_ids(ids) -> list[str] | None:
    if ids is None:
        return None
    if not isinstance(ids, str | Path):
        return settle_ids(ids)
    path = Path(ids)
    if not path.is_file():
        raise ValueError(f"there is no file of ids '{path}'.")
    if path.suffix.lower() == ".npy":
        names = read_array(path, _SAVE_AGAIN)
        if names.ndim != 1:
            raise ValueError(f"'{path}' must hold one row of ids, got an array of the shape {names.shape}.")
        names = names.tolist()
        try:  # numpy makes strings of codes that no character has
            "".join(map(str, names)).encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise ValueError(f"'{path}' is damaged, its ids are not text ({error}): {_SAVE_AGAIN}.") from error
        return settle_ids(names, f" of '{path}'")
    if path.suffix.lower() == ".json":
        return settle_ids(read_json(path, _SAVE_AGAIN, list), f" of '{path}'")
    return settle_ids(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), f" of '{path}'")


def _read_parquet(
    path: Path, columns: Sequence[str], ids: list[str] | None
) -> tuple[np.ndarray, list[str], list[dict] | None]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("parquet files need pyarrow: pip install pyarrow, or save a .npy file.") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"'{path}' is not a parquet file that pyarrow reads: {error}.") from error
    if ids is not None and columns[0] in table.column_names:
        raise ValueError(f"'{path}' has ids of its own, in the column '{columns[0]}': leave the ids out.")
    missing = [name for name in columns[ids is not None :] if name not in table.column_names]
    if missing:
        raise ValueError(
            f"'{path}' has no column '{missing[0]}', only {', '.join(table.column_names)}; name the columns of ids "
            "and embeddings (--columns, columns=)."
        )
    try:
        embeddings = np.stack(table[columns[1]].to_numpy())
    except (ValueError, TypeError) as error:
        raise ValueError(f"the column '{columns[1]}' of '{path}' holds no rows of one length: {error}.") from error
    if ids is None:
        ids = settle_ids(_list_values(table[columns[0]]), f" in the column '{columns[0]}' of '{path}'")
    others = table.drop_columns([name for name in columns if name in table.column_names])
    lists = {name: _list_values(others[name]) for name in others.column_names}
    metadata = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)] if lists else None
    return embeddings, ids, metadata


def _list_values(column) -> list:
    """List the values of a column; one that Python cannot hold, such as text that is not UTF-8, as its bytes."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast("binary").to_pylist()


def _read_faiss(path: Path, ids: list[str] | None) -> tuple[np.ndarray, list[str] | None]:
    faiss = require_faiss()
    try:
        whole = index = faiss.read_index(str(path))  # which owns the index inside it
    except RuntimeError as error:
        raise ValueError(f"'{path}' is not an index that FAISS reads: {error}.") from error
    numbers = None
    if type(index) in (faiss.IndexIDMap, faiss.IndexIDMap2):
        numbers = faiss.vector_to_array(whole.id_map)
        index = faiss.downcast_index(whole.index)
    kind = type(index).__name__
    # By name: FAISS ends the whole process where it is asked for rows that an index of another kind does not have.
    if kind in _ROWS_IN_LISTS:
        embeddings, own = _read_lists(faiss, index)
        numbers = own if numbers is None else numbers[own]
    elif kind in _ROWS_IN_ORDER:
        embeddings = index.reconstruct_n(0, index.ntotal)
    else:
        raise ValueError(
            f"'{path}' holds an {kind}, from which the embeddings do not come back as they were. Flat, HNSW, IVF and "
            "SQ are taken, and IDMap over them. Save the embeddings as .npy or .parquet."
        )
    return embeddings, _name_numbers(path, numbers, ids)


def _read_lists(faiss, index) -> tuple[np.ndarray, np.ndarray]:
    """Read rows and their numbers list by list; FAISS's own way takes numbers for places."""
    lists, rows, numbers = index.invlists, [], []
    for place in range(index.nlist):
        size = lists.list_size(place)
        if not size:
            continue
        # Names for all of these, since FAISS is given bare addresses.
        codes = faiss.rev_swig_ptr(lists.get_codes(place), size * index.code_size).copy()
        places, part = np.full(size, place, np.int64), np.empty((size, index.d), np.float32)
        index.decode_vectors(size, faiss.swig_ptr(codes), faiss.swig_ptr(places), faiss.swig_ptr(part))
        rows.append(part)
        numbers.append(faiss.rev_swig_ptr(lists.get_ids(place), size).copy())
    if not rows:
        return np.empty((0, index.d), np.float32), np.empty(0, np.int64)
    order = np.argsort(np.concatenate(numbers), kind="stable")
    return np.concatenate(rows)[order], np.concatenate(numbers)[order]


def _name_numbers(path: Path, numbers: np.ndarray | None, ids: list[str] | None) -> list[str] | None:
    """Name rows by a list of ids, in which FAISS's numbers are places, or by the numbers themselves."""
    if numbers is None:
        return ids
    if ids is None:
        return [str(number) for number in numbers]
    if not np.array_equal(np.sort(numbers), np.arange(len(ids))):
        raise ValueError(
            f"'{path}' has {len(numbers)} rows with ids of its own, such as {numbers[:1].tolist()}, which are "
            f"not the places 0 to {len(ids) - 1} of the given ids. Leave the ids out."
        )
    return [ids[number] for number in numbers]

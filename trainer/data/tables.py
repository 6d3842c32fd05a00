"""Tables of rows: reading files, data sets and Hub data sets, checking texts, and hashing."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from trainer.data.row_files import (
    FORMATS,
    find_files,
    is_stream,
    load_files,
    load_repository,
    take_split,
    word_full_disk,
)


__all__ = [
    "WHITESPACE",
    "add_column",
    "are_files",
    "check_columns",
    "check_texts",
    "hash_rows",
    "iterate_columns",
    "keep_texts",
    "load_table",
    "map_blocks",
    "mark_rows",
    "mark_texts",
    "refuse_no_text",
    "refuse_transform",
    "take_rows",
]

_BLOCK = 65536  # rows at once
# What str.strip takes away. Arrow's own notion of white space is another one.
WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x110000))))


def load_table(source, split: str | None = None) -> Dataset:
    """Load rows from files, from a Hub data set, from rows in memory, or take a data set as it is.

    Args:
        source (`str`, `Path`, list of them or of rows, `datasets.Dataset` or `datasets.DatasetDict`):
            jsonl, json, csv, parquet or txt file, or tar of a web data set (a text `txt`, or a row `json`, beside each
            image), or several of one type, also as a pattern (`shards/*.parquet`); folder that `datasets` reads, Hub
            id, data set, list of dicts, or list of texts, which become the column `text`.
        split (`str`, *optional*): Split of a folder, a Hub data set or a `DatasetDict`; `train` by default.

    Returns:
        `datasets.Dataset`: The rows.

    Raises:
        ValueError: If a file is missing, not whole, of another type, or cannot be parsed, or changes while it is read.
            If there is no such split, or the data are a stream, have a transform, or are none of these.
        OSError: If the disk with the cache is full.
    """
    if isinstance(source, Dataset):
        refuse_transform(source)
        return source
    if is_stream(source):
        raise ValueError(
            "the data are a stream (IterableDataset), which can be trained on with RTD and LinCIR, and nothing else. "
            "Load them with streaming=False, which keeps them on disk and not in memory."
        )
    if isinstance(source, DatasetDict):
        return take_split(source, split)
    if isinstance(source, list | tuple) and not are_files(source):
        return _load_list(list(source))
    if not isinstance(source, str | Path | list | tuple):
        raise ValueError(
            f"the data are a {type(source).__name__}: give a data set, a list of dicts, or the place of a file. "
            "Make one with from_pandas, from_polars, from_dict or from_generator of datasets.Dataset."
        )
    files = find_files(source)
    with word_full_disk():
        return (load_files if isinstance(files, list) else load_repository)(files, split)


def refuse_transform(table: Dataset) -> None:
    """Refuse a data set with a transform: rows are read as they are kept.

    Args:
        table (`datasets.Dataset`): Rows.

    Raises:
        ValueError: If it has one.
    """
    if table.format["type"] == "custom":
        raise ValueError(
            "the data set has a transform (with_transform, set_transform), which is not followed: apply it with `map` "
            "in place of that."
        )


def are_files(source: Sequence) -> bool:
    """Check whether a list names files: paths, or texts with the ending of a file of rows.

    Args:
        source (`list`): Data, as [`load_table`] takes them.

    Returns:
        `bool`: Whether it does.
    """
    is_file = (
        isinstance(row, Path) or (isinstance(row, str) and Path(row).suffix.lower() in FORMATS) for row in source
    )
    return bool(source) and all(is_file)


def _load_list(rows: list) -> Dataset:
    if not rows:
        raise ValueError("the data are an empty list; give rows, texts or files.")
    _check_encoding(rows)
    if all(isinstance(row, Mapping) for row in rows):
        try:
            return Dataset.from_list(rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"the rows are not of one type: {error}") from error
    if all(isinstance(row, str | Path) for row in rows):
        return Dataset.from_dict({"text": list(map(str, rows))})
    row, other = next(
        (i, r) for i, r in enumerate(rows, 1) if not isinstance(r, Mapping | str) or type(r) is not type(rows[0])
    )
    raise ValueError(f"row {row} is a {type(other).__name__}; give a list of dicts, of texts, or of files.")


def _check_encoding(rows: list) -> None:
    # Arrow refuses it too, and names no row.
    for number, row in enumerate(rows, start=1):
        texts = row.values() if isinstance(row, Mapping) else (row,)
        try:
            "".join(text for text in texts if isinstance(text, str)).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"row {number} holds half an emoji, which is not text: correct or remove it.") from error


def iterate_columns(table: Dataset, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Go through columns in blocks of rows, as Arrow tables.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (iterable of `str`): Names of the columns.

    Yields:
        `pyarrow.Table`: The next rows, in order.
    """
    yield from table.select_columns(list(columns)).with_format("arrow").iter(batch_size=_BLOCK)


def check_columns(found: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Args:
        found (`list[str]`): Columns that there are.
        columns (`list[str]`): Columns that must be there.

    Raises:
        ValueError: If one is missing.
    """
    missing = [name for name in columns if name not in found]
    if missing:
        raise ValueError(
            f"the data lack the column(s) {', '.join(missing)}; found: {', '.join(found) or 'none'}. "
            "Rename yours in the file (in Python: datasets' rename_column)."
        )


def check_texts(table: Dataset, columns: Sequence[str]) -> None:
    """Refuse rows in which a text is missing.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (`list[str]`): Columns that must hold texts.

    Raises:
        ValueError: If a column is missing, or a text is empty or no string; names the row, counted from 1.
    """
    check_columns(table.column_names, columns)
    for name in columns:
        start = 0
        for block in iterate_columns(table, [name]):
            refuse_no_text(block, [name], start)
            start += len(block)


def refuse_no_text(block: pa.Table, columns: Sequence[str], start: int = 0) -> None:
    """Refuse a block of rows in which a text is missing.

    Args:
        block (`pyarrow.Table`): Rows.
        columns (`list[str]`): Columns that must hold texts.
        start (`int`, defaults to 0): Rows before these.

    Raises:
        ValueError: If a text is empty or no string; names the row, counted from 1.
    """
    for name in columns:
        place = pc.index(mark_texts(block[name]), False).as_py()
        if place >= 0:
            value = _read_value(block[name][place])
            came = f"{type(value).__name__} {value!r}"
            if isinstance(value, datetime):
                came = f"the date {value} (of json files a stream reads texts such as '2024-01-01' as dates)"
            if isinstance(value, str):
                # A stream reads a column of several types as JSON, which is not a column of texts.
                came = f"{value} in a column of several types" if value.strip() else "an empty string"
            raise ValueError(
                f"row {start + place + 1}: `{name}` must be a non-empty string, got {came}; correct or remove that "
                "row, or leave such rows out with bad_rows='skip' (--bad-rows skip)."
            )


def keep_texts(table: Dataset, columns: Sequence[str], bad_rows: str = "refuse") -> Dataset:
    """Keep the rows that have all their texts.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (`list[str]`): Columns that must hold texts.
        bad_rows (`str`, defaults to `"refuse"`): `"skip"` leaves rows without a text out, with one warning that counts
            them.

    Returns:
        `datasets.Dataset`: The rows.

    Raises:
        ValueError: If a column is missing, no row is left, or `bad_rows` is `"refuse"` and a text is missing.
    """
    if bad_rows != "skip":
        check_texts(table, columns)
        return table
    check_columns(table.column_names, columns)
    marks = [mark_rows(block, columns) for block in iterate_columns(table, columns)]
    # `concatenate` refuses an empty list.
    kept = np.flatnonzero(np.concatenate([mark.to_numpy(zero_copy_only=False) for mark in marks] or [[]]))
    if len(kept) == len(table):
        return table
    first = int(np.setdiff1d(np.arange(len(table)), kept)[0]) + 1
    if not len(kept):
        raise ValueError(f"none of {len(table)} rows has texts in {', '.join(columns)}.")
    warnings.warn(
        f"{len(table) - len(kept)} of {len(table)} rows lack a text and are left out, the first of them row {first}.",
        stacklevel=3,
    )
    return table.select(kept)


def mark_rows(block: pa.Table, columns: Sequence[str]) -> pa.BooleanArray:
    """Mark the rows of a block that have all their texts, see [`mark_texts`]."""
    marks = np.ones(len(block), bool)
    for name in columns:
        marks &= mark_texts(block[name]).to_numpy(zero_copy_only=False)
    return pa.array(marks)


def mark_texts(column: pa.ChunkedArray) -> pa.BooleanArray:
    """Mark the values of a column that are strings and hold more than white space.

    Args:
        column (`pyarrow.ChunkedArray`): Values.

    Returns:
        `pyarrow.BooleanArray`: A mark for each.
    """
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return pa.array(np.zeros(len(column), bool))
    try:
        # In full: otherwise Arrow does not look whether the bytes are UTF-8.
        column.validate(full=True)
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        return pa.array([_holds_text(value.as_py()) for value in column.cast(pa.binary())], pa.bool_())
    marks = pc.greater(pc.binary_length(pc.utf8_trim(column, characters=WHITESPACE)), 0).fill_null(False)
    return pa.concat_arrays(marks.chunks) if marks.num_chunks else pa.array([], pa.bool_())


def _holds_text(value: bytes | None) -> bool:
    try:
        return bool((value or b"").decode().strip())
    except UnicodeDecodeError:
        return False


def _read_value(value: pa.Scalar):
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.cast(pa.binary()).as_py()


def map_blocks(table: Dataset, function: Callable[[pa.Table, list[int]], pa.Table], desc: str) -> Dataset:
    """Make a table of another, in blocks of rows; kept in the cache of `datasets` where the rows are.

    Args:
        table (`datasets.Dataset`): Rows.
        function (callable): From a block of rows (`pyarrow.Table`) and their numbers to the new block.
        desc (`str`): Title of the progress bar.

    Returns:
        `datasets.Dataset`: The new rows.

    Raises:
        OSError: If the disk is full; what was written is removed.
    """
    with word_full_disk():
        try:
            options = {"with_indices": True, "batched": True, "batch_size": 20_000, "desc": desc}
            mapped = table.with_format("arrow").map(function, **options)
        except OSError as error:
            # `datasets` leaves its file behind, in a folder where other processes have theirs.
            for frame, _ in traceback.walk_tb(error.__traceback__):
                if partial := frame.f_locals.get("tmp_file"):
                    Path(partial.name).unlink(missing_ok=True)
            raise
    return mapped.with_format(None)


def add_column(table: Dataset, name: str, values: Sequence) -> Dataset:
    """Add a column, as [`~datasets.Dataset.add_column`] does.

    Args:
        table (`datasets.Dataset`): Rows.
        name (`str`): Name of the column.
        values (`list`): One a row.

    Returns:
        `datasets.Dataset`: The rows with the column.
    """
    with _without_bars():  # a table of which rows were left out is copied first
        return table.add_column(name, values)


def take_rows(table: Dataset, rows: Sequence[int]) -> Dataset:
    """Copy some rows, so that they follow one another.

    Args:
        table (`datasets.Dataset`): Rows.
        rows (`list[int]`): Numbers of those to copy.

    Returns:
        `datasets.Dataset`: The copy.
    """
    with _without_bars():
        return table.select(rows).flatten_indices()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide a progress bar that says "Flattening the indices"."""
    shows_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shows_bars:
            enable_progress_bars()


def hash_rows(table: Dataset, columns: Iterable[str]) -> str:
    """Hash columns of text, in order.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (iterable of `str`): Names of the columns to hash.

    Returns:
        `str`: SHA-256 in hexadecimal digits.
    """
    digests = []
    for name in columns:
        # Lengths apart from texts: "ab", "c" and "a", "bc" have the same bytes.
        lengths, texts = hashlib.sha256(), hashlib.sha256()
        for block in iterate_columns(table, [name]):
            # With offsets of 64 bits, as `_view_bytes` reads them.
            column = pa.concat_arrays(block[name].cast(pa.large_string()).chunks)
            # A missing text is another one than an empty one.
            lengths.update(pc.binary_length(column).cast(pa.int64()).fill_null(-1).to_numpy().tobytes())
            texts.update(_view_bytes(column.fill_null("")))
        digests += [name, lengths.hexdigest(), texts.hexdigest()]
    return hashlib.sha256("\0".join(digests).encode()).hexdigest()


def _view_bytes(column: pa.Array) -> memoryview:
    """Look at the bytes of all texts, one behind the other, without a copy."""
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]] if len(column) else memoryview(b"")

"""Tables of rows: reading files, data sets and Hub data sets, checking texts, and hashing."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value, load_dataset


__all__ = ["WHITESPACE", "check_texts", "hash_rows", "iterate_columns", "load_table"]

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_BLOCK = 65536  # rows at once
# What str.strip takes away. Arrow's own notion of white space is another one.
WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x110000))))


def load_table(source, split: str | None = None) -> Dataset:
    """Load rows from files, from a Hub data set, from rows in memory, or take a data set as it is.

    Args:
        source (`str`, `Path`, list of them or of rows, `datasets.Dataset` or `datasets.DatasetDict`):
            jsonl, json, csv, parquet or txt file, or several of one type, also as a pattern (`shards/*.parquet`); Hub
            id; data set; list of dicts; or list of texts, which become the column `text`.
        split (`str`, *optional*): Split of a Hub data set or a `DatasetDict`; `train` by default.

    Returns:
        `datasets.Dataset`: The rows.

    Raises:
        ValueError: If a file is missing, of another type, or cannot be parsed; there is no such split; or the data
            set is a stream.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, IterableDataset | IterableDatasetDict):
        raise ValueError(
            "the data are a stream (IterableDataset), whose rows have no number and no count: load them with "
            "streaming=False, which keeps them on disk and not in memory, or write a part of them to a parquet file."
        )
    if isinstance(source, DatasetDict):
        return _take_split(source, split or "train")
    if isinstance(source, list | tuple):
        return _load_list(list(source), split)
    path = Path(source)
    kind = _FORMATS.get(path.suffix.lower())
    is_pattern = any(sign in str(source) for sign in "*?[") and not path.exists()
    # `org/name` is an id of the Hub unless there is such a file.
    if kind is None and not path.exists() and str(source).count("/") == 1 and not is_pattern:
        return _load_from_hub(str(source), split or "train")
    if is_pattern:
        paths = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not paths:
            raise ValueError(f"'{source}' matches no file.")
        return _load_files(paths)
    return _load_files([source])


def _take_split(splits: Mapping[str, Dataset], split: str) -> Dataset:
    if split not in splits:
        raise ValueError(f"there is no split '{split}', only {', '.join(map(repr, splits))}; pass one as `split`.")
    return splits[split]


def _load_from_hub(name: str, split: str) -> Dataset:
    try:
        return load_dataset(name, split=split)
    except ValueError as error:
        if "split" not in str(error).lower():
            raise
        raise ValueError(f"'{name}' has no split '{split}': {error}") from error


def _load_list(rows: list, split: str | None) -> Dataset:
    if not rows:
        raise ValueError("the data are an empty list; give rows, texts or files.")
    _check_encoding(rows)
    if all(isinstance(row, Mapping) for row in rows):
        try:
            return Dataset.from_list(rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"the rows are not of one type: {error}") from error
    if all(isinstance(row, str | Path) for row in rows):
        if all(isinstance(row, Path) or Path(row).suffix.lower() in _FORMATS for row in rows):
            return _load_files(rows)
        return Dataset.from_dict({"text": list(map(str, rows))})
    row, other = next((i, r) for i, r in enumerate(rows, 1) if not isinstance(r, type(rows[0])) or r is None)
    raise ValueError(f"row {row} is a {type(other).__name__}; give a list of dicts, of texts, or of files.")


def _check_encoding(rows: list) -> None:
    for number, row in enumerate(rows, start=1):
        texts = row.values() if isinstance(row, Mapping) else (row,)
        try:
            "".join(text for text in texts if isinstance(text, str)).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"row {number} holds half an emoji, which is not text: correct or remove it.") from error


def _load_files(paths: Sequence[str | Path]) -> Dataset:
    kinds = set()
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"'{path}' is neither a file nor a Hub data set id (org/name).")
        if path.suffix.lower() not in _FORMATS:
            raise ValueError(f"'{path}' is not a {', '.join(_FORMATS)} file; convert it to one of these.")
        kinds.add(_FORMATS[path.suffix.lower()])
        _check_start(path, _FORMATS[path.suffix.lower()])
    if len(kinds) > 1:
        raise ValueError(f"the files are of several types ({', '.join(sorted(kinds))}); give files of one type.")
    kind, source = kinds.pop(), "', '".join(map(str, paths[:3]))
    try:
        options = {"features": _read_header(paths), "keep_default_na": False} if kind == "csv" else {}
        table = load_dataset(kind, data_files=list(map(str, paths)), split="train", **options)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"'{source}' cannot be read as {kind}: {cause}{_find_broken(paths, kind)}") from error
    if len(table) == 1 and all(pa.types.is_list(field.type) for field in table.data.schema):
        table = Dataset.from_dict(table[0])  # a json file of columns instead of rows
    return table


def _check_start(path: Path, kind: str) -> None:
    """Refuse a json file that does not start with a row: Arrow dies of `null`, without an exception."""
    if kind != "json":
        return
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start and start not in b"{[":
        raise ValueError(f"'{path}' cannot be read as json: it starts with {start!r}; a row is an object, {{...}}.")


def _read_header(paths: Sequence[str | Path]) -> Features:
    """Read the names of csv files' columns; all are texts: `null`, `NA` and `3` stay what they are."""
    names = None
    for path in map(Path, paths):
        # Excel writes a byte order mark, which would belong to the name of the first column.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            names = names or header
            for number, row in enumerate(rows, start=1):
                if row and len(row) != len(header):
                    raise ValueError(
                        f"row {number} of '{path}' has {len(row)} values for {len(header)} columns; put a text that "
                        "holds a comma in double quotes."
                    )
    return Features({name: Value("string") for name in names})


def _find_broken(paths: Sequence[str | Path], kind: str) -> str:
    """Name the parquet files of several that are not whole."""
    if kind != "parquet" or len(paths) < 2:
        return ""
    broken = []
    for path in paths:
        try:
            pa.parquet.read_metadata(path)
        except (OSError, pa.ArrowException):
            broken.append(str(path))
    return f" (not whole: {', '.join(broken)})" if broken else ""


def iterate_columns(table: Dataset, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Go through columns in blocks of rows, as Arrow tables.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (iterable of `str`): Names of the columns.

    Yields:
        `pyarrow.Table`: The next rows, in order.
    """
    yield from table.select_columns(list(columns)).with_format("arrow").iter(batch_size=_BLOCK)


def check_texts(table: Dataset, columns: Sequence[str]) -> None:
    """Refuse rows in which a text is missing.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (`list[str]`): Columns that must hold texts.

    Raises:
        ValueError: If a column is missing, or a text is empty or no string; names the row, counted from 1.
    """
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(
            f"the data lack the column(s) {', '.join(missing)}; found: {', '.join(table.column_names) or 'none'}. "
            "Rename yours in the file (in Python: datasets' rename_column)."
        )
    for name in columns:
        start = 0
        for block in iterate_columns(table, [name]):
            place = _find_no_text(block[name])
            if place is not None:
                value = _read_value(block[name][place])
                came = "an empty string" if isinstance(value, str) else f"{type(value).__name__} {value!r}"
                raise ValueError(
                    f"row {start + place + 1}: `{name}` must be a non-empty string, got "
                    f"{came}; correct or remove that "
                    "row."
                )
            start += len(block)


def _find_no_text(column: pa.ChunkedArray) -> int | None:
    """Find the first value that is not a string or holds nothing but white space."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return 0 if len(column) else None
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        return next(i for i, value in enumerate(column.cast(pa.binary())) if not _holds_text(value.as_py()))
    is_text = pc.greater(pc.binary_length(pc.utf8_trim(column, characters=WHITESPACE)), 0).fill_null(False)
    place = pc.index(is_text, False).as_py()
    return None if place < 0 else place


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
            column = pa.concat_arrays(block[name].cast(pa.large_string()).chunks)
            lengths.update(pc.binary_length(column).cast(pa.int64()).fill_null(-1).to_numpy().tobytes())
            texts.update(_view_bytes(column.fill_null("")))
        digests += [name, lengths.hexdigest(), texts.hexdigest()]
    return hashlib.sha256("\0".join(digests).encode()).hexdigest()


def _view_bytes(column: pa.Array) -> memoryview:
    """Look at the bytes of all texts, one behind the other, without a copy."""
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]] if len(column) else memoryview(b"")

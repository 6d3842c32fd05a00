"""Tables of rows: reading files, data sets and Hub data sets, checking texts, and hashing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets import Dataset, load_dataset


__all__ = ["check_texts", "hash_rows", "load_table"]

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def load_table(source: str | Path | Dataset, split: str = "train") -> Dataset:
    """Load rows from a jsonl, json, csv, parquet or txt file, from a Hub data set, or take a data set as it is.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): File, Hub id, or data set.
        split (`str`, defaults to `"train"`): Split of a Hub data set.

    Returns:
        `datasets.Dataset`: The rows.

    Raises:
        ValueError: If the file is missing, of another type, or cannot be parsed.
    """
    if isinstance(source, Dataset):
        return source
    path = Path(source)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None and not path.exists() and str(source).count("/") == 1:
        return load_dataset(str(source), split=split)
    if not path.is_file():
        raise ValueError(f"'{source}' is neither a file nor a Hub data set id (org/name).")
    if kind is None:
        raise ValueError(f"'{source}' is no {', '.join(_FORMATS)} file; convert it to one of these.")
    try:
        table = load_dataset(kind, data_files=str(path), split="train")
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"'{source}' cannot be read as {kind}: {cause}") from error
    if len(table) == 1 and all(isinstance(value, list) for value in table[0].values()):
        table = Dataset.from_dict(table[0])  # a json file of columns instead of rows
    return table


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
        for row, value in enumerate(table[name], start=1):
            if not isinstance(value, str) or not value.strip():
                came = "an empty string" if isinstance(value, str) else f"{type(value).__name__} {value!r}"
                raise ValueError(
                    f"row {row}: `{name}` must be a non-empty string, got {came}; mend or remove that row."
                )


def hash_rows(table: Dataset, columns: Iterable[str]) -> str:
    """Hash columns of text, in order.

    Args:
        table (`datasets.Dataset`): Rows.
        columns (iterable of `str`): Names of the columns to hash.

    Returns:
        `str`: SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in columns:
        digest.update("\0".join(["", name, *table[name]]).encode())
    return digest.hexdigest()

"""Text triplets: reading them from files, data sets or the Hub, and checking them row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets import Dataset, load_dataset

from trainer.data.captions import clean_caption


__all__ = ["TRIPLET_COLUMNS", "check_texts", "hash_rows", "load_table", "load_triplets", "prepare_triplets"]

TRIPLET_COLUMNS = ("reference_caption", "conditioning_caption", "target_caption")
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


def load_triplets(source: str | Path | Dataset, split: str = "train") -> Dataset:
    """Load text triplets and check every row.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): See [`load_table`].
        split (`str`, defaults to `"train"`): Split of a Hub data set.

    Returns:
        `datasets.Dataset`: Columns `reference_caption`, `conditioning_caption` and `target_caption`, as they came.

    Raises:
        ValueError: If a column is missing, as of plain captions, or a caption is empty or no string; names the row,
            counted from 1.
    """
    table = load_table(source, split)
    if table.column_names == ["text"]:
        raise ValueError(
            "these are plain captions and no triplets (one column `text`): give them to `rtd train` with --captions, "
            "or make triplets of them with `rtd triplets`."
        )
    check_texts(table, TRIPLET_COLUMNS)
    table = table.select_columns(list(TRIPLET_COLUMNS))
    if not len(table):
        raise ValueError("the triplets are empty: no row was found.")
    return table


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


def prepare_triplets(source: str | Path | Dataset) -> Dataset:
    """Make triplets ready for training: checked, captions cleaned as published, rows numbered.

    Reference and target captions are cleaned; the condition is left as it is, as in the published code.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): See [`load_table`].

    Returns:
        `datasets.Dataset`: The three columns, and `row`, which keys the noise.

    Raises:
        ValueError: As [`load_triplets`], also where cleaning leaves nothing of a caption.
    """

    def clean(rows: dict, indices: list[int]) -> dict:
        for name in ("reference_caption", "target_caption"):
            rows[name] = [clean_caption(caption) for caption in rows[name]]
        return rows | {"row": indices}

    prepared = load_triplets(source).map(clean, batched=True, with_indices=True, desc="Preparing triplets")
    load_triplets(prepared)
    return prepared

"""Text triplets: reading them from files, data sets or the Hub, and checking them row by row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from trainer.data.captions import clean_captions
from trainer.data.tables import check_texts, load_table


__all__ = ["TRIPLET_COLUMNS", "load_triplets", "prepare_triplets"]

TRIPLET_COLUMNS = ("reference_caption", "conditioning_caption", "target_caption")


def load_triplets(source: str | Path | Dataset, split: str | None = None) -> Dataset:
    """Load text triplets and check every row.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): See [`load_table`].
        split (`str`, *optional*): Split of a Hub data set or a `DatasetDict`; `train` by default.

    Returns:
        `datasets.Dataset`: Columns `reference_caption`, `conditioning_caption` and `target_caption`, as they came.

    Raises:
        ValueError: If a column is missing, as of plain captions, or a caption is empty or no string; names the row,
            counted from 1.
    """
    table = load_table(source, split)
    place = f"'{source}': " if isinstance(source, str | Path) else ""
    if table.column_names == ["text"]:
        raise ValueError(
            f"{place}these are plain captions and no triplets (one column `text`): give them to `rtd train` with "
            "--captions, or make triplets of them with `rtd triplets`."
        )
    try:
        check_texts(table, TRIPLET_COLUMNS)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error
    table = table.select_columns(list(TRIPLET_COLUMNS))
    if not len(table):
        raise ValueError(f"{place}the triplets are empty: no row was found.")
    return table


def prepare_triplets(source: str | Path | Dataset, split: str | None = None) -> Dataset:
    """Make triplets ready for training: checked, captions cleaned as published, rows numbered.

    Reference and target captions are cleaned; the condition is left as it is, as in the published code.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): See [`load_table`].
        split (`str`, *optional*): See [`load_table`].

    Returns:
        `datasets.Dataset`: The three columns, and `row`, which keys the noise.

    Raises:
        ValueError: As [`load_triplets`], also where cleaning leaves nothing of a caption.
    """
    table = load_triplets(source, split).with_format("arrow")
    prepared = table.map(_clean, batched=True, with_indices=True, batch_size=20_000, desc="Preparing triplets")
    prepared = prepared.with_format(None)
    # Of a caption such as "$" cleaning leaves nothing.
    check_texts(prepared, ("reference_caption", "target_caption"))
    return prepared


def _clean(rows: pa.Table, indices: list[int]) -> pa.Table:
    columns = {name: rows[name] for name in TRIPLET_COLUMNS}
    for name in ("reference_caption", "target_caption"):
        columns[name] = clean_captions(columns[name])
    return pa.table(columns | {"row": pa.array(indices, pa.int64())})

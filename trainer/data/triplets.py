"""Text triplets: reading them from files, data sets or the Hub, and checking them row by row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from trainer.data.captions import clean_captions
from trainer.data.row_files import is_stream
from trainer.data.streams import RowStream
from trainer.data.tables import keep_texts, load_table, map_blocks


__all__ = ["TRIPLET_COLUMNS", "load_triplets", "prepare_triplets"]

TRIPLET_COLUMNS = ("reference_caption", "conditioning_caption", "target_caption")


def load_triplets(source: str | Path | Dataset, split: str | None = None, bad_rows: str = "refuse") -> Dataset:
    """Load text triplets and check every row.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): See [`load_table`].
        split (`str`, *optional*): Split of a Hub data set or a `DatasetDict`; `train` by default.
        bad_rows (`str`, defaults to `"refuse"`): `"skip"` leaves rows without a text out, see [`keep_texts`].

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
        table = keep_texts(table, TRIPLET_COLUMNS, bad_rows)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error
    table = table.select_columns(list(TRIPLET_COLUMNS))
    if not len(table):
        raise ValueError(f"{place}the triplets are empty: no row was found.")
    return table


def prepare_triplets(
    source, split: str | None = None, bad_rows: str = "refuse", batch_size: int = 1
) -> Dataset | RowStream:
    """Make triplets ready for training: checked, captions cleaned as published, rows numbered.

    Reference and target captions are cleaned; the condition is left as it is, as in the published code.

    Args:
        source (`str`, `Path`, `datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`]): See [`load_table`].
        split (`str`, *optional*): See [`load_table`].
        bad_rows (`str`, defaults to `"refuse"`): `"skip"` leaves rows without a text out, and counts them.
        batch_size (`int`, defaults to 1): Of a stream: rows of a step, of all processes together.

    Returns:
        `datasets.Dataset` or [`RowStream`]: The three columns, and `row`, which keys the noise.

    Raises:
        ValueError: As [`load_triplets`], also where cleaning leaves nothing of a caption.
    """
    if is_stream(source):
        return RowStream(source, TRIPLET_COLUMNS, _clean, batch_size, bad_rows)
    prepared = map_blocks(load_triplets(source, split, bad_rows), _clean_and_number, "Preparing triplets")
    # Of a caption such as "$" cleaning leaves nothing.
    return keep_texts(prepared, ("reference_caption", "target_caption"), bad_rows)


def _clean(rows: pa.Table) -> pa.Table:
    columns = {name: rows[name] for name in TRIPLET_COLUMNS}
    for name in ("reference_caption", "target_caption"):
        columns[name] = clean_captions(columns[name])
    return pa.table(columns)


def _clean_and_number(rows: pa.Table, indices: list[int]) -> pa.Table:
    return _clean(rows).append_column("row", pa.array(indices, pa.int64()))

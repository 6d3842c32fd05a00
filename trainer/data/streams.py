"""Streams of rows: read in order, checked and cleaned in blocks, and never held."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset, IterableDatasetDict
from datasets import Image as ImageFeature
from torch.utils.data import get_worker_info

from modeling_rtd import IMAGE_FORMATS, is_url, open_image
from trainer.data.image_files import list_images
from trainer.data.row_files import (
    FileStream,
    FileWatch,
    find_broken,
    find_files,
    leave_encoded,
    load_files,
    load_repository,
    take_split,
)
from trainer.data.tables import check_columns, hash_rows, load_table, mark_rows, refuse_no_text


__all__ = ["BrokenStreamError", "RowStream", "identify_rows", "open_rows", "open_stream", "sample_rows"]

_BLOCK, _IMAGES = 1000, 100  # rows at once, and rows with images
_SHUFFLED, _SHUFFLED_IMAGES = 10_000, 1000  # rows among which the next one is drawn; images are held in memory


class BrokenStreamError(ValueError):
    """A stream cannot be read on. In a process that loads data, torch puts a traceback before the message."""

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def open_stream(
    source: str | Path | Sequence[str | Path],
    split: str | None = None,
    seed: int | None = None,
    images: bool = False,
) -> FileStream:
    """Open files or a Hub data set as a stream, of which nothing is kept on disk.

    Args:
        source (`str`, `Path`, or list of them): Files, patterns, a folder or a Hub id, as [`load_table`] takes them.
        split (`str`, *optional*): Split of a folder or a Hub data set; `train` by default.
        seed (`int`, *optional*):
            Shuffle files by this seed, and rows within a window of 10,000, in each pass anew. The window of images is
            1,000, since it is held in memory. Without a seed rows come in order.
        images (`bool`, defaults to `False`): Rows have images. A folder may be one of image files.

    Returns:
        [`FileStream`]: The stream, for `train_dataset` of a trainer.

    Raises:
        ValueError: If a file is missing, cut off or of another type, or there is no such split.
    """
    files = find_files(source)
    watch = FileWatch(files if isinstance(files, list) else ())
    if images and isinstance(files, str) and Path(files).is_dir() and _holds_images(Path(files)):
        if split is not None:
            raise ValueError(f"'{files}' is a folder of images, which has no splits: leave --split out.")
        paths = list(map(str, list_images(files)))
        rows = Dataset.from_dict({"image": paths}).to_iterable_dataset(num_shards=min(len(paths), 1024))
    else:
        rows = (load_files if watch.sizes else load_repository)(files, split, streaming=True)
    if seed is None:
        return FileStream(rows, watch)
    window = _SHUFFLED_IMAGES if images else _SHUFFLED
    return FileStream(rows.shuffle(seed, buffer_size=window), watch, is_shuffled=True)


def open_rows(
    places: Sequence[str | Path],
    split: str | None = None,
    streaming: bool = False,
    seed: int = 0,
    images: bool = False,
):
    """Open what a command line names, for `train_dataset` of a trainer.

    Args:
        places (`list[str]`): Files, patterns, a folder or a Hub id.
        split (`str`, *optional*): Split of a folder or a Hub data set; `train` by default.
        streaming (`bool`, defaults to `False`): As a stream, which is shuffled.
        seed (`int`, defaults to 0): Of that.
        images (`bool`, defaults to `False`): Rows have images, see [`open_stream`].

    Returns:
        [`FileStream`], `datasets.Dataset`, or `places` themselves, which trainers read.
    """
    # As paths: several texts that are not named like files would be captions themselves.
    source = places[0] if len(places) == 1 else list(map(Path, places))
    if streaming:
        return open_stream(source, split, seed, images)
    return source if split is None else load_table(source, split)


def sample_rows(rows: Dataset | RowStream) -> Dataset:
    """Take rows to measure something on: all of a table, the first ones of a stream.

    Args:
        rows (`datasets.Dataset` or [`RowStream`]): What is trained on.

    Returns:
        `datasets.Dataset`: The rows.
    """
    return rows.head if isinstance(rows, RowStream) else rows


def identify_rows(rows: Dataset | RowStream, columns: Sequence[str]) -> str:
    """Say which rows these are: a stream as far as its first rows and the sizes of its files show.

    Args:
        rows (`datasets.Dataset` or [`RowStream`]): What is trained on.
        columns (`list[str]`): Columns that are read.

    Returns:
        `str`: SHA-256 in hexadecimal digits.
    """
    if isinstance(rows, Dataset):
        return hash_rows(rows, columns)
    sizes = [str(size) for size, _ in rows.watch.sizes.values()]
    return hashlib.sha256("\0".join([hash_rows(rows.head, columns), *sizes]).encode()).hexdigest()


class RowStream(torch.utils.data.IterableDataset):
    """Rows of a stream in batches that are full, one pass behind the other, without an end.

    Each process and each worker reads the whole stream; a worker prepares its own batches only. So batches are the
    same for any number of either, and after a resume. Rows are numbered through all passes. What does not fill a batch
    at the end of a pass is left out. So are rows whose image cannot be opened; pixels are not decoded here.

    Args:
        source (`datasets.IterableDataset`, `datasets.IterableDatasetDict` or [`FileStream`]):
            The stream; of several splits `train`.
        columns (`list[str]`): Columns that must hold texts; others are left out.
        clean (callable): From a block of these columns (`pyarrow.Table`) to what is trained on.
        batch_size (`int`): Rows of a step, of all processes together.
        bad_rows (`str`, defaults to `"refuse"`): `"skip"` leaves rows without a text out, see [`count_skipped`].
        images (`bool`, defaults to `False`): Keep the column `image` beside those of texts, not decoded.

    Attributes:
        head (`datasets.Dataset`): The first rows, cleaned; up to 1,000, with images up to 100.
        start (`int`): Batches to pass over, as a resumed run does.
        finish (callable, *optional*): From a batch of rows to the rows that are yielded.

    Raises:
        ValueError: If a column is missing, the stream is empty, or its first rows are refused.
    """

    def __init__(
        self,
        source: IterableDataset | IterableDatasetDict | FileStream,
        columns: Sequence[str],
        clean: Callable[[pa.Table], pa.Table],
        batch_size: int,
        bad_rows: str = "refuse",
        images: bool = False,
    ):
        stream = source if isinstance(source, FileStream) else FileStream(source, FileWatch())
        source, self.watch = stream.rows, stream.watch
        # Else somebody would look for the row with that number in the file.
        self._order = " (rows are counted in their shuffled order)" if stream.is_shuffled else ""
        rows = take_split(source, None) if isinstance(source, IterableDatasetDict) else source
        # Others, such as images, are not even read from a parquet file.
        self._needed = [*columns, "image"] if images else list(columns)
        unread = set(rows.column_names or []) - set(self._needed)
        check_columns(rows.column_names or self._needed, self._needed)
        if images and rows.features:
            rows = rows.cast_column("image", ImageFeature(decode=False))
        rows = leave_encoded(rows)
        self._block = _IMAGES if images else _BLOCK
        self.source = (rows.remove_columns(sorted(unread)) if unread else rows).with_format("arrow")
        self.columns, self.clean, self.batch_size, self.bad_rows = columns, clean, batch_size, bad_rows
        self.start, self.finish, self._counts, self._has_warned = 0, None, False, False
        self._skipped = torch.zeros(1, dtype=torch.int64).share_memory_()  # counted by workers too
        self.head = leave_encoded(Dataset(next(self._read_pass(self.source), pa.table({}))))
        if not len(self.head):
            raise ValueError("the stream is empty: no row was found.")

    def count_skipped(self) -> int:
        """Count the rows that were left out since the stream was made, those of a resumed run among them.

        Returns:
            `int`: Rows without a text or a readable image.
        """
        return int(self._skipped)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        place, every = (worker.id, worker.num_workers) if worker else (0, 1)
        if place == 0:
            self._skipped.zero_()
        self._counts = place == 0
        for number, batch in enumerate(self._read_batches()):
            if number < self.start or (number - self.start) % every != place:
                continue
            rows = [row | {"row": number * self.batch_size + i} for i, row in enumerate(batch.to_pylist())]
            yield from rows if self.finish is None else self.finish(rows)

    def _read_batches(self) -> Iterator[pa.Table]:
        size = self.batch_size
        # An object of its own: workers share the epoch of a data set, and one may be a pass ahead.
        source = self.source.with_format("arrow")
        for epoch in itertools.count():
            source.set_epoch(epoch)
            rest, filled = None, 0
            for block in self._read_pass(source):
                rest = block if rest is None else pa.concat_tables([rest, block])
                while len(rest) >= size:
                    yield rest.slice(0, size)
                    rest, filled = rest.slice(size), filled + 1
            if not filled:
                raise BrokenStreamError(
                    f"{0 if rest is None else len(rest)} rows do not fill one batch of {size}: lower "
                    "per_device_train_batch_size (--per-device-train-batch-size), or bring more rows."
                )

    def _read_pass(self, source: IterableDataset) -> Iterator[pa.Table]:
        """Go through the stream once, in blocks of rows that were checked and cleaned."""
        blocks, start = source.iter(batch_size=self._block), 0
        while True:
            try:
                block = next(blocks, None)
                if block is None:
                    break
            except Exception as error:
                raise BrokenStreamError(self._word_break(error, start)) from error
            if len(rows := self._check(block, start)):
                yield rows
            start += len(block)
        try:
            self.watch.check()
        except ValueError as error:
            raise BrokenStreamError(str(error)) from error

    def _check(self, block: pa.Table, start: int) -> pa.Table:
        check_columns(block.column_names, self._needed)
        read, block = len(block), block.select(self._needed)
        # Of a caption such as "$" cleaning leaves nothing.
        for change in (None, self.clean) if self.columns else ():
            if change is not None:
                texts = block.select(list(self.columns)).cast(
                    pa.schema([(name, pa.string()) for name in self.columns])
                )
                block = _put_beside(change(texts), block)
            if self.bad_rows == "skip":
                block = block.filter(mark_rows(block, self.columns))
                continue
            try:
                refuse_no_text(block, self.columns, start)
            except ValueError as error:
                raise BrokenStreamError(
                    f"the stream stopped{self._order}: {error} With that the same run continues from its last "
                    "checkpoint."
                ) from error
        if "image" in self._needed and len(block):
            readable = list(map(_can_be_opened, block["image"].to_pylist()))
            if start == 0 and not any(readable):
                first = str(block["image"][0].as_py())[:100]
                raise BrokenStreamError(
                    f"none of the first {len(block)} images can be opened, of which the first is {first}. A stream "
                    "fetches nothing that its rows name: bring the images in the rows, or files of this machine."
                )
            if not (all(readable) or self._has_warned):
                self._has_warned = True
                first = str(block["image"][readable.index(False)].as_py())[:100]
                warnings.warn(
                    f"an image of the stream cannot be opened and is left out: {first}. Others like it are counted.",
                    stacklevel=2,
                )
            block = block.filter(pa.array(readable, pa.bool_()))
        if self._counts:
            self._skipped += read - len(block)
        return block

    def _word_break(self, error: Exception, rows: int) -> str:
        broken = find_broken(list(self.watch.sizes))
        place = "".join(f" '{path}': {flaw}." for path, flaw in list(broken.items())[:1])
        return (
            f"the stream broke behind row {rows}{self._order}:{place} {error.__cause__ or error}. Restore it "
            "and start the same run again: it continues from its last checkpoint."
        )


def _holds_images(folder: Path) -> bool:
    """Check whether a folder is one of image files, and not of tables that hold images or that name them."""
    if any(folder.glob("metadata.*")):  # captions of a Hugging Face image folder, which `datasets` reads
        return False
    suffixes = {suffix for names in IMAGE_FORMATS.values() for suffix in names}
    return any(path.suffix.lower() in suffixes for path in folder.rglob("*"))


def _put_beside(texts: pa.Table, block: pa.Table) -> pa.Table:
    return texts.append_column("image", block["image"]) if "image" in block.column_names else texts


def _can_be_opened(image: dict | str | bytes | None) -> bool:
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    place = image
    if not isinstance(place, str | bytes) or not place or is_url(place):  # nothing is fetched that a data set names
        return False
    try:
        open_image(place).close()
    except (ValueError, OSError):
        return False
    return True

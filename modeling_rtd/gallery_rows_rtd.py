"""What a gallery stores of its rows: arrays that grow at their end, and ids and metadata as bytes in two of them."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np


__all__ = ["AppendedArray", "RowNames"]

_RECORD = np.dtype([("hash", "<u8"), ("id", "<u8"), ("metadata", "<u8")])  # of an id; where both end
_NONE = b"null\n"
_BLOCK = 1024  # rows whose metadata are parsed at a time: other threads wait for one call of json
_FILTERS = 8  # whose rows are remembered
_NO_ROWS = np.zeros(0, bool)


class AppendedArray:
    """An array that grows at its end: in memory, or in a file that is mapped.

    Args:
        dtype (`np.dtype`): Of a number.
        shape (`tuple[int, ...]`): Of an entry.
        place (`Path`, *optional*): The file, of nothing but the numbers. Defaults to in memory.
    """

    def __init__(self, dtype, shape: tuple[int, ...] = (), place: Path | None = None):
        self.place, self._array = place, np.empty((0, *shape), dtype)
        self._entry_bytes = int(np.prod(shape)) * self._array.itemsize

    def append(self, start: int, entries: np.ndarray) -> None:
        """Add entries behind the first `start`, over what an interrupted process may have left there.

        Args:
            start (`int`): Entries that are there.
            entries (`np.ndarray` of shape `(num, *shape)`): Those that come behind them.
        """
        if self.place is not None:
            write_at(self.place, start * self._entry_bytes, entries.tobytes())
            return
        stop = start + len(entries)
        if len(self._array) < stop:
            # A new array, since what was read of the old one may be in use; room that is not written takes no memory.
            longer = np.empty((max(stop, 2 * len(self._array)), *self._array.shape[1:]), self._array.dtype)
            longer[:start] = self._array[:start]
            self._array = longer
        self._array[start:stop] = entries

    def read(self, count: int) -> np.ndarray:
        """Read the first entries; those of a file are mapped, not loaded.

        Args:
            count (`int`): Entries.

        Returns:
            `np.ndarray` of shape `(count, *shape)`: Not to be written to.
        """
        array = self._array  # another thread may map fewer entries
        if len(array) < count:
            # Copy on write, since torch warns of arrays that cannot be written to; nothing here writes.
            shape = (count, *array.shape[1:])
            array = self._array = np.memmap(self.place, array.dtype, "c", shape=shape).view(np.ndarray)
        return array[:count]

    def count(self) -> int:
        """Count the entries that are in the file, be they of an interrupted process.

        Returns:
            `int`: Whole ones.
        """
        return self.place.stat().st_size // self._entry_bytes if self.place.exists() else 0


def write_at(place: Path, end: int, data: bytes) -> None:
    """Write bytes to a place of a file that is its new end, and wait until they are on the disk.

    Args:
        place (`Path`): File, made where it is missing.
        end (`int`): Bytes of it that stay.
        data (`bytes`): Those that follow.
    """
    with place.open("r+b" if place.exists() else "w+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class RowNames:
    """Ids and metadata of rows that are appended and never changed, without a Python object for each row.

    `ids.bin` holds the ids, one behind the other. `metadata.jsonl` has a line of JSON a row, and `rows.bin` for each
    row a hash of its id and where both end. Rows are found by sorted hashes, whose parts are merged as they grow.

    Args:
        folder (`Path`, *optional*): Where the files are. Defaults to in memory.
    """

    def __init__(self, folder: Path | None = None):
        def place(name: str) -> Path | None:
            return folder and folder / name

        self._records = AppendedArray(_RECORD, place=place("rows.bin"))
        self._texts = {
            "id": AppendedArray("u1", place=place("ids.bin")),
            "metadata": AppendedArray("u1", place=place("metadata.jsonl")),
        }
        self.count = self.num_removed = 0
        self._flags = np.zeros(0, bool)  # of removed rows, with room for more
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # sorted hashes and their rows
        self._num_sorted = self._num_checked = 0
        self._sums: list[tuple[int, int, int]] = []
        self._matches: dict[str, np.ndarray] = {}

    def append(self, ids: Sequence[str], metadata: Sequence[dict | None]) -> int:
        """Write rows behind those that are here; `note` makes them count.

        Args:
            ids (`list[str]`): Ids.
            metadata (`list[dict]`): For each row a dictionary, or `None`.

        Returns:
            `int`: Checksum of what was written.
        """
        records = np.empty(len(ids), _RECORD)
        records["hash"], start = _hash(ids), self.count
        lines = [_NONE if row is None else json.dumps(row).encode() + b"\n" for row in metadata]
        texts = {"id": [name.encode() for name in ids], "metadata": lines}
        parts = []
        for name, column in self._texts.items():
            end = self._find_end(name, start)
            records[name] = end + np.cumsum([len(text) for text in texts[name]], dtype=np.uint64)
            parts.append(np.frombuffer(b"".join(texts[name]), np.uint8))
            column.append(end, parts[-1])
        self._records.append(start, records)
        return _sum(records, *parts)

    def note(self, rows: int, removed: np.ndarray, checksum: int | None = None) -> None:
        """Count rows that were written, and those of all rows that were removed.

        Args:
            rows (`int`): How many were written.
            removed (`np.ndarray` of shape `(num_removed,)`): Rows that are here.
            checksum (`int`, *optional*): As `append` returned it. Defaults to what is read is not checked.

        Raises:
            ValueError: If a removed row is not here.
        """
        if len(removed):
            is_here = removed.min() >= 0 and removed.max() < self.count and len(np.unique(removed)) == len(removed)
            if not is_here or self._flags[removed].any():
                raise ValueError("a row was removed that is not here")
            self._flags[removed] = True
            self.num_removed += len(removed)
        if checksum is not None:
            self._sums.append((self.count, self.count + rows, checksum))
        self.count += rows
        if len(self._flags) < self.count:
            self._flags = np.concatenate([self._flags, np.zeros(2 * self.count - len(self._flags), bool)])

    @property
    def live(self) -> np.ndarray:
        """`np.ndarray` of shape `(count,)`: Which rows were not removed."""
        return ~self._flags[: self.count]

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Find the rows of ids.

        Args:
            ids (`list[str]`): Ids.

        Returns:
            `np.ndarray` of shape `(len(ids),)`: Row numbers, -1 where there is no such id.
        """
        self._sort()
        hashes, found = _hash(ids), np.full(len(ids), -1)
        for run, rows in self._runs:
            starts, ends = np.searchsorted(run, hashes, "left"), np.searchsorted(run, hashes, "right")
            for i in np.flatnonzero(ends > starts).tolist():
                same = rows[starts[i] : ends[i]]
                same = same[~self._flags[same]]
                # Other ids may have the same hash.
                found[i] = max(same[[name == ids[i] for name in self.read_ids(same)]], default=found[i])
        return found

    def _sort(self) -> None:
        """Sort the hashes of new rows, and merge parts of like length: each is merged as often as it doubles."""
        if self._num_sorted == self.count:
            return
        rows = np.arange(self._num_sorted, self.count)
        self._runs.append((self._read_records()["hash"][rows], rows))
        self._num_sorted = self.count
        while True:
            hashes, rows = self._runs.pop()
            order = np.argsort(hashes, kind="stable")  # which merges what is sorted in parts
            order = order[~self._flags[rows[order]]]
            self._runs.append((hashes[order], rows[order]))
            if len(self._runs) < 2 or len(self._runs[-2][0]) > 2 * len(order):
                return
            self._runs[-2:] = [tuple(map(np.concatenate, zip(*self._runs[-2:], strict=True)))]

    def read_ids(self, rows: np.ndarray) -> list[str]:
        """Read ids.

        Args:
            rows (`np.ndarray` of shape `(num_rows,)`): Row numbers.

        Returns:
            `list[str]`: Ids.
        """
        return [text.decode() for text in self._read("id", rows)]

    def read_metadata(self, rows: np.ndarray) -> list[dict | None]:
        """Read metadata.

        Args:
            rows (`np.ndarray` of shape `(num_rows,)`): Row numbers.

        Returns:
            `list[dict]`: Of each row a dictionary, or `None`.
        """
        return [_parse(text) for text in self._read("metadata", rows)]

    def _read(self, name: str, rows: np.ndarray) -> Iterator[bytes]:
        ends = self._read_records()[name]
        # At once: a file is mapped anew as it grows.
        text = memoryview(self._texts[name].read(self._find_end(name, self.count)))
        starts, stops = ends[rows - 1] * (rows > 0), ends[rows]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            yield text[start:stop].tobytes()

    def _read_records(self) -> np.ndarray:
        self._check()
        return self._records.read(self.count)

    def _find_end(self, name: str, count: int) -> int:
        return int(self._records.read(count)[name][-1]) if count else 0

    def match(self, where: dict[str, list]) -> np.ndarray:
        """Mark the rows whose metadata have certain values; the last eight filters are remembered.

        Args:
            where (`dict[str, list]`): For each field the values that count.

        Returns:
            `np.ndarray` of shape `(count,)`: Whether a row has one of the values of every field.
        """
        key = repr(where)
        known = self._matches.pop(key, _NO_ROWS)  # so that it comes last
        return self._keep_match(key, self._take_lines()(where, known) if len(known) < self.count else known)

    def begin_match(self, where: dict[str, list]) -> Callable[[], object] | None:
        """Take what `match` would parse, without parsing it.

        Args:
            where (`dict[str, list]`): See `match`.

        Returns:
            `callable` or `None`: Parses and remembers it while other threads read or append; `None` if it is known.
        """
        key = repr(where)
        if len(self._matches.get(key, _NO_ROWS)) == self.count:
            return None
        parse = self._take_lines()
        return lambda: self._keep_match(key, parse(where, self._matches.get(key, _NO_ROWS)))

    def _take_lines(self) -> Callable[[dict, np.ndarray], np.ndarray]:
        count, ends = self.count, self._read_records()["metadata"]
        text = self._texts["metadata"].read(self._find_end("metadata", count))

        def parse(where: dict, known: np.ndarray) -> np.ndarray:
            parts = [known]
            for start in range(len(known), count, _BLOCK):
                stop = min(start + _BLOCK, count)
                lines = text[int(ends[start - 1]) if start else 0 : int(ends[stop - 1])].tobytes()
                rows = json.loads(b"[" + lines[:-1].replace(b"\n", b",") + b"]")  # faster than one by one
                parts.append([_is_match(row, where) for row in rows])
            return np.concatenate(parts).astype(bool)

        return parse

    def _keep_match(self, key: str, rows: np.ndarray) -> np.ndarray:
        self._matches[key] = rows
        if len(self._matches) > _FILTERS:
            self._matches.pop(list(self._matches)[0], None)  # in one step each, for other threads
        return rows

    def find_short(self, rows: int) -> tuple[str, int] | None:
        """Find a file that holds less than some rows.

        Args:
            rows (`int`): How many there should be.

        Returns:
            `tuple[str, int]` or `None`: Its name, and how many rows it holds.
        """
        if (found := self._records.count()) < rows:
            return self._records.place.name, found
        for name, column in self._texts.items():
            if (size := column.count()) < self._find_end(name, rows):
                return column.place.name, int((self._records.read(rows)[name] <= size).sum())
        return None

    def _check(self) -> None:
        """Refuse ids and metadata that are not those that were written."""
        for start, stop, expected in self._sums[self._num_checked :]:
            parts = [self._records.read(self.count)[start:stop]]
            for name, column in self._texts.items():
                first, end = self._find_end(name, start), self._find_end(name, stop)
                parts.append(column.read(self._find_end(name, self.count))[first:end])
            if _sum(*parts) != expected:
                raise ValueError(
                    f"the ids or metadata of the images {start + 1} to {stop} of '{self._records.place.parent}' are "
                    "not those that were written (another checksum). Restore the folder from a copy, or index the "
                    "images again into a new one."
                )
        self._num_checked = len(self._sums)


def _is_match(row: dict | None, where: dict[str, list]) -> bool:
    return row is not None and all(row.get(name) in values for name, values in where.items())


def _parse(line: bytes) -> dict | None:
    return None if line == _NONE else json.loads(line)


def _hash(ids: Sequence[str]) -> np.ndarray:
    # What is not a text, or not UTF-8, is asked for as well, and is in no gallery.
    texts = (name.encode(errors="surrogatepass") if isinstance(name, str) else b"" for name in ids)
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8")


def _sum(*parts: np.ndarray) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(np.ascontiguousarray(part).view("u1"), total)
    return total

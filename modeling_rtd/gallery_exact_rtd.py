"""Rows in memory or in a folder, appended and never changed; and the default engine, exact search over them."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from .files_rtd import replace_file
from .gallery_engine_rtd import Engine
from .gallery_quantised_rtd import RowCodes, check_multiplier
from .gallery_rows_rtd import AppendedArray, RowNames, write_at


__all__ = ["ExactEngine", "StoredEngine"]

_EMBEDDINGS, _JOURNAL = "embeddings.bin", "journal.jsonl"
_BLOCK = 8192  # rows at a time, where a layout is changed
_QUERIES = 1024  # at a time
_CPU_BLOCK, _DEVICE_BLOCK = 32_768, 262_144  # rows at a time
_CONVERTED = 1024  # rows at a time: what is converted stays in a CPU's cache, ten times as fast as a whole block


class StoredEngine(Engine):
    """Rows that are appended, and never changed; embeddings, ids and metadata stay in mapped files.

    A batch is written to `embeddings.bin` and the files of [`RowNames`] first. It is there once its line is in
    `journal.jsonl`. A process that is killed leaves whole batches only. The line counts the rows, has their checksums,
    and lists the rows that they replace or that were removed. These stay in the files and are passed over, until the
    gallery is saved to another folder. Checksums of embeddings are compared at the first search after opening, which
    reads the file once. That takes about 0.1 seconds a gigabyte of what is in memory.

    A folder of 0.1.0.dev0 has ids and metadata in the journal. It is read into memory, and changed to this layout
    before anything else is written to it.

    Args:
        dim (`int`): Size of an embedding.
        dtype (`str`, defaults to `"float32"`): `"float32"`, or `"float16"` for half the memory.
        folder (`Path`, *optional*): Folder of the files. Defaults to memory.
        state (`dict`, *optional*): As the manifest keeps it; left out for a gallery that is being made.

    Raises:
        ValueError: If a file is cut short or is not a journal, or files are where a gallery is being made.
    """

    def __init__(self, dim: int, dtype: str = "float32", folder: Path | None = None, state: dict | None = None):
        self.dim, self.dtype, self.folder = dim, np.dtype(dtype).newbyteorder("<"), folder
        self._forget()
        if folder is not None and state is None:
            self._refuse_leftovers()
        elif folder is not None:
            self.refresh()
            expected = state.get("rows", 0)
            if not isinstance(expected, int):
                raise ValueError(
                    f"the manifest in '{self.folder}' is damaged, its rows are {expected!r}; index again."
                )
            if self._num_rows < expected:
                self._refuse_short(_JOURNAL, self._num_rows, expected)

    def _forget(self) -> None:
        self._embeddings = AppendedArray(self.dtype, (self.dim,), self.folder and self.folder / _EMBEDDINGS)
        self._names, self._is_old, self._journal_end, self._last_line = RowNames(self.folder), False, 0, b""
        self._sums: list[tuple[int, int, int, int]] = []  # of batches: rows, checksum to go on from, and expected
        self._num_checked = 0

    def _refuse_leftovers(self) -> None:
        if (self.folder / _JOURNAL).exists():
            raise ValueError(
                f"'{self.folder}' holds rows of a gallery and no manifest, as after a save that was interrupted; "
                "remove the folder, or choose another."
            )

    def _refuse_short(self, name: str, found: int, expected: int):
        raise ValueError(
            f"'{self.folder / name}' is cut short: it holds {found} images of {expected}; restore it from a copy, or "
            "index the images again into a new folder."
        )

    @property
    def _num_rows(self) -> int:
        """Rows ever added, those that were removed among them."""
        return self._names.count

    def __len__(self) -> int:
        return self._names.count - self._names.num_removed

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added."""
        return self._names.read_ids(np.flatnonzero(self._names.live))

    @property
    def state(self) -> dict:
        """`dict`: How many rows were written."""
        return {"rows": self._num_rows}

    def find(self, ids: Sequence[str]) -> set[str]:
        """See [`Engine.find`]."""
        return {name for name, row in zip(ids, self._names.find(ids).tolist(), strict=True) if row >= 0}

    def get(self, ids: Sequence[str]) -> np.ndarray:
        """See [`Engine.get`]."""
        return self._read_rows(self._names.find(ids)).astype(np.float32)

    def get_metadata(self, ids: Sequence[str]) -> list[dict | None]:
        """See [`Engine.get_metadata`]."""
        rows = self._names.find(ids)
        found = iter(self._names.read_metadata(rows[rows >= 0]))
        return [next(found) if row >= 0 else None for row in rows.tolist()]

    def read(self, batch_size: int = 8192) -> Iterator[tuple[list[str], np.ndarray, list[dict | None]]]:
        """See [`Engine.read`]."""
        live = np.flatnonzero(self._names.live)
        for start in range(0, len(live), batch_size):
            rows = live[start : start + batch_size]
            embeddings = self._read_rows(rows).astype(np.float32)
            yield self._names.read_ids(rows), embeddings, self._names.read_metadata(rows)

    def add(self, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[dict | None]) -> None:
        """See [`Engine.add`]."""
        self._renew()
        embeddings, replaced = np.ascontiguousarray(embeddings, dtype=self.dtype), self._names.find(ids)
        # Before the journal, which says that the rows are there.
        self._embeddings.append(self._num_rows, embeddings)
        sums = {"names": self._names.append(ids, metadata), "embeddings": _sum_rows(embeddings)}
        self._note({"rows": len(ids), **sums}, replaced[replaced >= 0])

    def remove(self, ids: Sequence[str]) -> None:
        """See [`Engine.remove`]."""
        self._renew()
        self._note({}, self._names.find(ids))

    def _note(self, entry: dict, removed: np.ndarray) -> None:
        entry |= {"removed": removed.tolist()} if len(removed) else {}
        if self.folder is not None:
            line = json.dumps(entry).encode() + b"\n"
            write_at(self.folder / _JOURNAL, self._journal_end, line)
            self._journal_end, self._last_line = self._journal_end + len(line), line
        self._apply(entry)

    def _apply(self, entry: dict, is_read: bool = False) -> None:
        start, removed = self._num_rows, np.array(entry.get("removed", ()), np.int64)
        self._names.note(entry.get("rows", 0), removed, entry.get("names") if is_read else None)
        if is_read and "embeddings" in entry:
            self._sums.append((start, self._num_rows, 0, entry["embeddings"]))

    def refresh(self, state: dict | None = None) -> None:
        """See [`Engine.refresh`]."""
        if self.folder is None:
            return
        if self._is_old:  # another process may have changed the layout
            self._forget()
        written = self._read_journal()
        whole = written[: written.rfind(b"\n") + 1]  # a last line without an end was being written
        with self._naming_journal():
            entries = [json.loads(line, parse_constant=lambda name: None) for line in whole.splitlines()]
            is_old = not self._journal_end and any("ids" in entry for entry in entries[:1])
        if is_old:
            self._names, self._is_old = RowNames(), True
        else:
            with self._naming_journal():
                total = self._num_rows + sum(_read_count(entry) for entry in entries)
            self._refuse_gaps(total)
        apply = self._apply_old if is_old else functools.partial(self._apply, is_read=True)
        with self._naming_journal():
            for line, entry in zip(whole.splitlines(keepends=True), entries, strict=True):
                apply(entry)
                # Line by line: those before a damaged one count once, however often it is read.
                self._journal_end, self._last_line = self._journal_end + len(line), line
        self._refuse_gaps(self._num_rows)

    def _read_journal(self) -> bytes:
        """Read what has come since; the checksums of the last line say whether it is the same gallery."""
        place, written = self.folder / _JOURNAL, b""
        if place.exists():
            with place.open("rb") as file:
                file.seek(self._journal_end - len(self._last_line))
                written = file.read()
        if not written.startswith(self._last_line):
            raise ValueError(f"'{self.folder}' holds another gallery than when it was opened; open it again.")
        return written[len(self._last_line) :]

    @contextlib.contextmanager
    def _naming_journal(self):
        try:
            yield
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"'{self.folder / _JOURNAL}' is damaged ({error}); restore it from a copy, or index again."
            ) from error

    def _refuse_gaps(self, rows: int) -> None:
        # When the journal is read and not the rows: those written after a gap would be in wrong places.
        if (found := self._embeddings.count()) < rows:
            self._refuse_short(_EMBEDDINGS, found, rows)
        if not self._is_old and (short := self._names.find_short(rows)):
            self._refuse_short(*short, rows)

    def _apply_old(self, entry: dict) -> None:
        """Take in a line as 0.1.0.dev0 wrote it, with ids and metadata."""
        ids, gone = entry.get("ids", []), entry.get("remove", [])
        metadata = entry.get("metadata") or [None] * len(ids)
        if not all(isinstance(name, str) for name in [*ids, *gone]) or len(set(ids)) < len(ids):
            raise ValueError("an id is not a text, or repeats")
        if not all(isinstance(row, dict | None) for row in metadata) or len(metadata) != len(ids):
            raise ValueError("metadata are not those of images")
        start, removed, replaced = self._num_rows, self._names.find(gone), self._names.find(ids)
        self._names.append(ids, metadata)
        self._names.note(len(ids), np.concatenate([removed, replaced[replaced >= 0]]))
        if "checksum" in entry:  # the first versions wrote none
            self._sums.append((start, self._num_rows, _sum_entry(entry), entry["checksum"]))

    def _renew(self) -> None:
        """Change a folder of 0.1.0.dev0 to this layout; the journal comes last, and until then it is the old one."""
        if not self._is_old:
            return
        old, array, names, lines = self._names, self._load_array(), RowNames(self.folder), []
        for start in range(0, old.count, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, old.count))
            checksum = names.append(old.read_ids(rows), old.read_metadata(rows))
            names.note(len(rows), rows[:0])
            sums = {"names": checksum, "embeddings": _sum_rows(array[start : start + _BLOCK])}
            lines.append({"rows": len(rows), **sums})
        if old.num_removed:
            lines.append({"removed": np.flatnonzero(~old.live).tolist()})
        with replace_file(self.folder / _JOURNAL) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.refresh()

    def _check_sums(self, array: np.ndarray) -> None:
        """Refuse rows that are not those that were written: of another gallery, or with a bit turned over."""
        for start, stop, before, expected in self._sums[self._num_checked :]:
            if _sum_rows(array[start:stop], before) != expected:
                raise ValueError(
                    f"the images {start + 1} to {stop} of '{self.folder / _EMBEDDINGS}' are not those that were "
                    "written (another checksum). Restore the folder from a copy, or index the images again into a new "
                    "one."
                )
        self._num_checked = len(self._sums)

    def _load_array(self) -> np.ndarray:
        """Map all rows ever added, and check those that were not checked yet."""
        array = self._embeddings.read(self._num_rows)
        self._check_sums(array)
        return array

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._load_array()[rows])

    def _describe(self, rows: np.ndarray) -> list[tuple[str, dict | None]]:
        return list(zip(self._names.read_ids(rows), self._names.read_metadata(rows), strict=True))

    def begin_filter(self, where: dict) -> Callable[[], object] | None:
        """See [`Engine.begin_filter`]."""
        return self._names.begin_match(where)

    def _find_allowed(self, where: dict | None) -> np.ndarray | None:
        """Mark the rows that count, of shape `(num_rows,)`; `None` where all do."""
        if where:
            return self._names.live & self._names.match(where)
        return self._names.live if self._names.num_removed else None


class ExactEngine(StoredEngine):
    """Inner products with every row. Memory beyond the rows is bounded by the size of a block.

    Args:
        dim, dtype, folder, state: See [`StoredEngine`]. On a CPU, rows in a folder stay there, mapped into memory.
        device (`str`, defaults to `"cpu"`): Where scores are computed; an accelerator keeps all rows.
        precision (`str`, *optional*):
            `"int8"` or `"binary"`: candidates come from codes of one byte or one bit a number, which are made of the
            stored rows at the first search and kept in memory. The stored rows rank them. With `"int8"` results
            are the same: as many are ranked as the codes may have displaced. With `"binary"` a few are missed, see
            [`Gallery.measure_recall`]. Defaults to the stored rows alone.
        rescore_multiplier (`int`, defaults to 10): Candidates for each result, with `"binary"`.

    Raises:
        ValueError: If the device is not there, or the precision is unknown.
    """

    name = "exact"

    def __init__(
        self,
        dim: int,
        dtype: str = "float32",
        folder: Path | None = None,
        state: dict | None = None,
        device: str = "cpu",
        precision: str | None = None,
        rescore_multiplier: int = 10,
    ):
        super().__init__(dim, dtype, folder, state)
        self._codes = None if precision is None else RowCodes(dim, precision)
        if precision == "binary":
            self.rescore_multiplier = check_multiplier(rescore_multiplier)
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"the device {device!r} cannot be used here: {error}; leave `device` out.") from error
        self._blocks: dict[tuple[int, int], torch.Tensor] = {}  # on an accelerator

    @property
    def _computes_in_half(self) -> bool:
        return self.device.type != "cpu" and self.dtype == np.float16 and self._codes is None

    @property
    def tolerance(self) -> float:
        """`float`: Bound of the rounding error of an inner product of unit vectors."""
        if self._codes is not None:
            return math.inf if self._codes.bits == 1 else self._codes.error + self.dim * 2.0**-22
        # In half, query and score are rounded to 11 bits each; float32 sums may lose a last bit a term.
        return 2.0**-9 if self._computes_in_half else self.dim * 2.0**-24

    def _load_block(self, start: int, stop: int) -> torch.Tensor:
        rows = torch.from_numpy(self._load_array()) if self._codes is None else self._codes.codes
        if self.device.type == "cpu":
            return rows[start:stop]
        if (start, stop) not in self._blocks:
            # A block that has grown takes the place of its shorter form.
            self._blocks = {key: block for key, block in self._blocks.items() if key[0] != start}
            self._blocks[start, stop] = rows[start:stop].to(self.device)
        return self._blocks[start, stop]

    def _nearest(self, queries: np.ndarray, count: int, where) -> tuple[np.ndarray, np.ndarray]:
        if self._codes is not None and self._codes.catch_up(self._load_array()):
            self._blocks = {}
        allowed = self._find_allowed(where)
        barred = None if allowed is None else torch.from_numpy(~allowed).to(self.device)
        parts = [
            self._nearest_of_some(torch.from_numpy(queries[start : start + _QUERIES]).to(self.device), count, barred)
            for start in range(0, len(queries), _QUERIES)
        ]
        scores, rows = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        rows[scores == -np.inf] = -1
        return scores, rows

    def _score(self, queries: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        block = self._load_block(start, stop)
        if block.dtype == queries.dtype:
            return (queries @ block.T).float()
        offset = 0
        if self._codes is not None:
            queries, offset = self._codes.fold(queries)
        open_codes = torch.Tensor.to if self._codes is None else self._codes.open
        parts = block.split(_CONVERTED if self.device.type == "cpu" else len(block))
        return torch.cat([queries @ open_codes(part, queries.dtype).T for part in parts], dim=1) + offset

    def _nearest_of_some(self, queries, count, barred) -> tuple[torch.Tensor, torch.Tensor]:
        if self._computes_in_half:
            queries = queries.half()
        total, size = self._num_rows, _CPU_BLOCK if self.device.type == "cpu" else _DEVICE_BLOCK
        best, rows = None, None
        for start in range(0, total, size):
            stop = min(start + size, total)
            scores = self._score(queries, start, stop)  # (Q, block)
            if barred is not None:
                scores.masked_fill_(barred[start:stop], -torch.inf)
            values, places = scores.topk(min(count, stop - start), dim=1)
            places += start
            if best is not None:
                values, places = torch.cat([best, values], dim=1), torch.cat([rows, places], dim=1)
                values, order = values.topk(min(count, values.shape[1]), dim=1)
                places = places.gather(1, order)
            best, rows = values, places
        return best, rows


def _read_count(entry: dict) -> int:
    """Check a line of the journal, and read how many rows it adds."""
    rows, removed = entry.get("rows", 0), entry.get("removed", [])
    numbers = [rows, *removed] + ([entry["names"], entry["embeddings"]] if rows else [])
    if not all(type(number) is int and number >= 0 for number in numbers) or not (rows or removed):
        raise ValueError("a line counts no rows")
    return rows


def _sum_rows(rows: np.ndarray, before: int = 0) -> int:
    """Compute the CRC-32 of the rows' sums as whole numbers, five times as fast as that of their bytes."""
    words = rows.view(f"<u{math.gcd(8, rows.shape[1] * rows.itemsize)}")
    return zlib.crc32(words.sum(axis=1, dtype=np.uint64), before)


def _sum_entry(entry: dict) -> int:
    return zlib.crc32(json.dumps([entry["ids"], entry.get("metadata")]).encode())

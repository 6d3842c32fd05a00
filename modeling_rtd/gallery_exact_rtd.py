"""The default engine: rows in memory or in a folder, and exact search in torch over them, block by block."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from .gallery_engine_rtd import Engine
from .gallery_quantised_rtd import RowCodes, check_multiplier


__all__ = ["ExactEngine", "StoredEngine"]

_EMBEDDINGS, _JOURNAL = "embeddings.bin", "journal.jsonl"
_QUERIES = 1024  # at a time
_CPU_BLOCK, _DEVICE_BLOCK = 32_768, 262_144  # rows at a time
_CONVERTED = 1024  # rows at a time: what is converted stays in a CPU's cache, ten times as fast as a whole block


class StoredEngine(Engine):
    """Rows that are appended, and never changed.

    A batch is written to `embeddings.bin` first and is there once its line stands in `journal.jsonl`: a process that
    is killed leaves whole batches only. The line has a checksum of the batch. It is compared at the first search after
    opening, which reads the file once: about 0.1 seconds a gigabyte of what is in memory. A removed or replaced row
    stays in the file and is passed over, until the gallery is saved to another folder.

    Args:
        dim (`int`): Size of an embedding.
        dtype (`str`, defaults to `"float32"`): `"float32"`, or `"float16"` for half the memory.
        folder (`Path`, *optional*): Where the files lie; all is kept in memory where left out.
        state (`dict`, *optional*): As the manifest keeps it; left out for a gallery that is being made.

    Raises:
        ValueError: If a file is cut short or is no journal, or files lie where a gallery is being made.
    """

    def __init__(self, dim: int, dtype: str = "float32", folder: Path | None = None, state: dict | None = None):
        self.dim, self.dtype, self.folder = dim, np.dtype(dtype).newbyteorder("<"), folder
        self._row_ids: list[str] = []
        self._row_metadata: list[dict | None] = []
        self._rows: dict[str, int] = {}  # live ids only, in the order of their rows
        self._chunks: list[np.ndarray] = []  # in memory
        self._array = np.empty((0, dim), self.dtype)
        self._live: np.ndarray | None = None
        self._journal_end = 0
        self._sums: list[tuple[int, int, int, int]] = []  # of batches: rows, checksum of ids, and of all
        self._num_checked = 0
        if folder is not None and state is None:
            self._refuse_leftovers()
        elif folder is not None:
            self.refresh()
            expected = state.get("rows", 0)
            if not isinstance(expected, int):
                raise ValueError(
                    f"the manifest in '{self.folder}' is damaged, its rows are {expected!r}; index again."
                )
            if len(self._row_ids) < expected:
                self._refuse_short(_JOURNAL, len(self._row_ids), expected)

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

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added."""
        return list(self._rows)

    @property
    def state(self) -> dict:
        """`dict`: How many rows were written."""
        return {"rows": len(self._row_ids)}

    def find(self, ids: Sequence[str]) -> set[str]:
        """See [`Engine.find`]."""
        return self._rows.keys() & set(ids)

    def get(self, ids: Sequence[str]) -> np.ndarray:
        """See [`Engine.get`]."""
        return self._read_rows(np.array([self._rows[name] for name in ids], int)).astype(np.float32)

    def get_metadata(self, ids: Sequence[str]) -> list[dict | None]:
        """See [`Engine.get_metadata`]."""
        return [self._row_metadata[self._rows[name]] if name in self._rows else None for name in ids]

    def read(self, batch_size: int = 8192) -> Iterator[tuple[list[str], np.ndarray, list[dict | None]]]:
        """See [`Engine.read`]."""
        ids = self.ids
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size]
            yield batch, self.get(batch), self.get_metadata(batch)

    def add(self, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[dict | None]) -> None:
        """See [`Engine.add`]."""
        embeddings = np.ascontiguousarray(embeddings, dtype=self.dtype)
        entry = {"ids": list(ids)} | ({"metadata": list(metadata)} if any(metadata) else {})
        if self.folder is None:
            self._chunks.append(embeddings)
        else:
            # Before the journal, which says that the rows are there.
            self._write(_EMBEDDINGS, len(self._row_ids) * self.dim * self.dtype.itemsize, embeddings.tobytes())
            entry["checksum"] = _sum_rows(embeddings, _sum_entry(entry))
        self._note(entry)

    def remove(self, ids: Sequence[str]) -> None:
        """See [`Engine.remove`]."""
        self._note({"remove": list(ids)})

    def _write(self, name: str, end: int, data: bytes) -> None:
        """Write at a place, over what an interrupted process may have left beyond it."""
        with (self.folder / name).open("r+b" if (self.folder / name).exists() else "w+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _note(self, entry: dict) -> None:
        if self.folder is not None:
            line = json.dumps(entry).encode() + b"\n"
            self._write(_JOURNAL, self._journal_end, line)
            self._journal_end += len(line)
        self._apply(entry)

    def _apply(self, entry: dict) -> None:
        for name in entry.get("remove", ()):
            self._rows.pop(name)
        ids = entry.get("ids", ())
        for name, metadata in zip(ids, entry.get("metadata") or [None] * len(ids), strict=True):
            self._rows.pop(name, None)  # a replaced image counts as added now
            self._rows[name] = len(self._row_ids)
            self._row_ids.append(name)
            self._row_metadata.append(metadata)
        self._live = None

    def refresh(self, state: dict | None = None) -> None:
        """See [`Engine.refresh`]."""
        if self.folder is None or not (self.folder / _JOURNAL).exists():
            return
        with (self.folder / _JOURNAL).open("rb") as file:
            file.seek(self._journal_end)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]  # a last line without an end was being written
        for line in whole.splitlines():
            try:
                self._read_entry(json.loads(line, parse_constant=lambda name: None))  # once metadata could be NaN
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"'{self.folder / _JOURNAL}' is damaged ({error}); restore it from a copy, or index again."
                ) from error
        self._journal_end += len(whole)
        # Here and not when rows are read: rows written after a gap would stand in the wrong places.
        found = self._count_stored()
        if found < len(self._row_ids):
            self._refuse_short(_EMBEDDINGS, found, len(self._row_ids))

    def _read_entry(self, entry: dict) -> None:
        start, names = len(self._row_ids), [*entry.get("ids", ()), *entry.get("remove", ())]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("an id is not a text")
        if not all(isinstance(row, dict | None) for row in entry.get("metadata") or ()):
            raise ValueError("metadata are not those of images")
        self._apply(entry)
        if "checksum" in entry:  # earlier versions wrote none
            self._sums.append((start, len(self._row_ids), _sum_entry(entry), entry["checksum"]))

    def _check_sums(self, array: np.ndarray) -> None:
        """Refuse rows that are not those that were written: of another gallery, or with a bit turned over."""
        for start, stop, before, expected in self._sums[self._num_checked :]:
            if _sum_rows(array[start:stop], before) != expected:
                raise ValueError(
                    f"the images {start + 1} to {stop} of '{self.folder / _EMBEDDINGS}' are not those that were "
                    "written (another checksum); restore the folder from a copy, or index the images again into a new "
                    "one."
                )
        self._num_checked = len(self._sums)

    def _count_stored(self) -> int:
        place = self.folder / _EMBEDDINGS
        return place.stat().st_size // (self.dim * self.dtype.itemsize) if place.exists() else 0

    def _load_array(self) -> np.ndarray:
        """Map or join all rows ever added."""
        rows = len(self._row_ids)
        if len(self._array) == rows:
            return self._array
        if self.folder is None:
            self._array = np.concatenate([self._array, *self._chunks])
            self._chunks = []
            return self._array
        # Copy on write, since torch warns of arrays that cannot be written to; nothing here writes.
        array = np.memmap(self.folder / _EMBEDDINGS, self.dtype, "c", shape=(rows, self.dim))
        self._check_sums(array)
        self._array = array
        return array

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._load_array()[rows])

    def _describe(self, row: int) -> tuple[str, dict | None]:
        return self._row_ids[row], self._row_metadata[row]

    def _find_allowed(self, where: dict | None) -> np.ndarray | None:
        """Mark the rows that count, of shape `(num_rows,)`; `None` where all do."""
        if self._live is None:
            self._live = np.zeros(len(self._row_ids), bool)
            self._live[list(self._rows.values())] = True
        if not where:
            return None if self._live.all() else self._live
        matches = [
            metadata is not None and all(metadata.get(name) in values for name, values in where.items())
            for metadata in self._row_metadata
        ]
        return self._live & np.array(matches, bool)


def _sum_rows(rows: np.ndarray, before: int) -> int:
    """Compute the CRC-32 of the rows' sums as whole numbers, five times as fast as that of their bytes."""
    words = rows.view(f"<u{math.gcd(8, rows.shape[1] * rows.itemsize)}")
    return zlib.crc32(words.sum(axis=1, dtype=np.uint64), before)


def _sum_entry(entry: dict) -> int:
    return zlib.crc32(json.dumps([entry["ids"], entry.get("metadata")]).encode())


class ExactEngine(StoredEngine):
    """Inner products with every row. Memory beyond the rows is bounded by the size of a block.

    Args:
        dim, dtype, folder, state: See [`StoredEngine`]. On a CPU, rows in a folder stay there, mapped into memory.
        device (`str`, defaults to `"cpu"`): Where scores are computed; an accelerator keeps all rows.
        precision (`str`, *optional*):
            `"int8"` or `"binary"`: candidates come from codes of one byte or one bit a number, which are made of the
            stored rows at the first search and kept in memory, and the stored rows rank them. The rows themselves
            propose where left out. With `"int8"` results are the same: as many are ranked as the codes may have
            displaced. With `"binary"` a few are missed, see [`Gallery.measure_recall`].
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
        total, size = len(self._row_ids), _CPU_BLOCK if self.device.type == "cpu" else _DEVICE_BLOCK
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

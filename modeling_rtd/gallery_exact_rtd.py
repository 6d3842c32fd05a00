"""The default engine: rows in memory or in a folder, and exact search in torch over them, block by block."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from .gallery_quantised_rtd import RowCodes, check_multiplier
from .gallery_stored_rtd import StoredEngine


__all__ = ["ExactEngine"]

_QUERIES = 1024  # at a time
_CPU_BLOCK, _DEVICE_BLOCK = 32_768, 262_144  # rows at a time
_CONVERTED = 1024  # rows at a time: what is converted stays in a CPU's cache, ten times as fast as a whole block


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

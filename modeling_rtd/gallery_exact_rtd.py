"""The default engine: rows in memory or in a folder, and exact search in torch over them, block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .gallery_stored_rtd import StoredEngine


__all__ = ["ExactEngine"]

_QUERIES = 1024  # at a time
_CPU_BLOCK, _DEVICE_BLOCK = 32_768, 262_144  # rows at a time


class ExactEngine(StoredEngine):
    """Inner products with every row. Memory beyond the rows is bounded by the size of a block.

    Args:
        dim, dtype, folder, state: See [`StoredEngine`]. On a CPU, rows in a folder stay there, mapped into memory.
        device (`str`, defaults to `"cpu"`): Where scores are computed; an accelerator keeps all rows.

    Raises:
        ValueError: If the device is not there.
    """

    name = "exact"

    def __init__(
        self,
        dim: int,
        dtype: str = "float32",
        folder: Path | None = None,
        state: dict | None = None,
        device: str = "cpu",
    ):
        super().__init__(dim, dtype, folder, state)
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"the device {device!r} cannot be used here: {error}; leave `device` out.") from error
        self._blocks: dict[tuple[int, int], torch.Tensor] = {}  # on an accelerator

    @property
    def _computes_in_half(self) -> bool:
        return self.device.type != "cpu" and self.dtype == np.float16

    @property
    def tolerance(self) -> float:
        """`float`: Bound of the rounding error of an inner product of unit vectors."""
        # In half, query and score are rounded to 11 bits each; float32 sums may lose a last bit a term.
        return 2.0**-9 if self._computes_in_half else self.dim * 2.0**-24

    def _load_block(self, start: int, stop: int) -> torch.Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(self._load_array()[start:stop])
        if (start, stop) not in self._blocks:
            # A block that has grown takes the place of its shorter form.
            self._blocks = {key: block for key, block in self._blocks.items() if key[0] != start}
            self._blocks[start, stop] = torch.from_numpy(self._load_array()[start:stop]).to(self.device)
        return self._blocks[start, stop]

    def _nearest(self, queries: np.ndarray, count: int, where) -> tuple[np.ndarray, np.ndarray]:
        allowed = self._find_allowed(where)
        barred = None if allowed is None else torch.from_numpy(~allowed).to(self.device)
        parts = [
            self._nearest_of_some(torch.from_numpy(queries[start : start + _QUERIES]).to(self.device), count, barred)
            for start in range(0, len(queries), _QUERIES)
        ]
        scores, rows = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        rows[scores == -np.inf] = -1
        return scores, rows

    def _nearest_of_some(self, queries, count, barred) -> tuple[torch.Tensor, torch.Tensor]:
        if self._computes_in_half:
            queries = queries.half()
        total, size = self._num_rows, _CPU_BLOCK if self.device.type == "cpu" else _DEVICE_BLOCK
        best, rows = None, None
        for start in range(0, total, size):
            stop = min(start + size, total)
            scores = (queries @ self._load_block(start, stop).to(queries.dtype).T).float()  # (Q, block)
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

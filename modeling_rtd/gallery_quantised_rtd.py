"""Rows in one byte or one bit a number, which propose what the stored rows then rank."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator

import numpy as np
import torch

from .errors_rtd import suggest


__all__ = ["PRECISIONS", "RowCodes", "check_multiplier"]

PRECISIONS = {"int8": 8, "binary": 1}  # as sentence-transformers calls them
_CALIBRATION = 65_536  # rows that decide what a code stands for
_ROWS = 1024  # read at a time: what is made of them on the way is small, and stays in a CPU's cache


class RowCodes:
    """Codes of rows: a code `c` of a number in column `i` stands for `start[i] + step[i] * c`.

    With `"int8"` a column's range is cut into 255 steps, as by sentence-transformers' `quantize_embeddings`. With
    `"binary"` a bit says on which side of the column's mean a number is, and stands for the mean distance from it.

    Args:
        dim (`int`): Size of a row.
        precision (`str`): `"int8"` or `"binary"`, 4 and 32 times smaller than float32.

    Attributes:
        error (`float`): Largest length of what a row lost, and so the largest error of its inner product with a unit
            vector.

    Raises:
        ValueError: If the precision is unknown.
    """

    def __init__(self, dim: int, precision: str):
        if precision not in PRECISIONS:
            raise ValueError(suggest("precision", precision, PRECISIONS))
        self.bits, self._dim = PRECISIONS[precision], dim
        self._forget()

    def __len__(self) -> int:
        return len(self.codes)

    def _forget(self) -> None:
        self.codes = torch.empty(0, math.ceil(self._dim * self.bits / 8), dtype=torch.uint8)
        self.error, self._num_seen = 0.0, 0

    def catch_up(self, rows: np.ndarray) -> bool:
        """Encode rows that have come since.

        Args:
            rows (`np.ndarray` of shape `(num_rows, dim)`): All rows, those that are encoded among them.

        Returns:
            `bool`: Whether codes that were there have changed.
        """
        if len(self) == len(rows):
            return False
        # What the first few rows were like says little of those that come after them.
        is_new = len(rows) > 2 * self._num_seen and self._num_seen < _CALIBRATION
        if is_new:
            self._forget()
            self._calibrate(rows[:_CALIBRATION])
        codes = torch.empty(len(rows), self.codes.shape[1], dtype=torch.uint8)
        codes[: len(self)] = self.codes
        done = len(self)
        for block in _read_blocks(rows[done:]):
            codes[done : done + len(block)] = torch.from_numpy(self._encode(block))
            done += len(block)
        self.codes = codes
        return is_new

    def _calibrate(self, rows: np.ndarray) -> None:
        self._num_seen = len(rows)
        if self.bits == 8:
            self._start = np.min([block.min(axis=0) for block in _read_blocks(rows)], axis=0)
            highest = np.max([block.max(axis=0) for block in _read_blocks(rows)], axis=0)
            self._step = (highest - self._start) / 255
        else:
            mean = sum(block.sum(axis=0) for block in _read_blocks(rows)) / len(rows)
            self._step = 2 * sum(np.abs(block - mean).sum(axis=0) for block in _read_blocks(rows)) / len(rows)
            self._start = mean - self._step / 2

    def _encode(self, rows: np.ndarray) -> np.ndarray:
        steps = (rows - self._start) / np.maximum(self._step, 1e-12)
        codes = steps.round().clip(0, 2**self.bits - 1)
        lost = rows - (self._start + self._step * codes)
        self.error = max(self.error, float(np.linalg.norm(lost, axis=1).max(initial=0)))
        codes = codes.astype(np.uint8)
        return codes if self.bits == 8 else np.packbits(codes, axis=1)

    def fold(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fold what codes stand for into queries.

        Args:
            queries (`torch.Tensor` of shape `(num_queries, dim)`): Unit vectors.

        Returns:
            `tuple`: Vectors whose product with the codes, plus the numbers of shape `(num_queries, 1)`, is the score.
        """
        start, step = (torch.from_numpy(part).to(queries) for part in (self._start, self._step))
        return queries * step, (queries @ start)[:, None]

    def open(self, block: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Give codes as numbers.

        Args:
            block (`torch.Tensor`): Of `codes`.
            dtype (`torch.dtype`): Of the numbers.

        Returns:
            `torch.Tensor` of shape `(len(block), dim)`: From 0 to 255, or 0 and 1.
        """
        if self.bits == 8:
            return block.to(dtype)
        if block.device.type == "cpu":  # five times as fast as torch's shifts
            return torch.from_numpy(np.unpackbits(block.numpy(), axis=1, count=self._dim)).to(dtype)
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=block.device)
        return ((block[:, :, None] >> shifts) & 1).flatten(1)[:, : self._dim].to(dtype)


def _read_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS].astype(np.float32)


def check_multiplier(value: int) -> int:
    """Refuse a number of candidates that is none.

    Args:
        value (`int`): As it was given.

    Returns:
        `int`: The same.

    Raises:
        ValueError: If it is not a whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`rescore_multiplier` must be a whole number of at least 1, got {value!r}.")
    return int(value)

"""Results of the stages before a training, kept on disk: named by what made them, whole or not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from modeling_rtd import read_array, replace_file


__all__ = ["keep_array", "load_array", "place_result", "save_array"]


def place_result(folder: str | Path, stage: str, suffix: str, **facts) -> Path:
    """Name the file of a stage's result by what it is made of, so that no other result is ever taken for it.

    Args:
        folder (`str` or `Path`): Folder of results, made where it is missing.
        stage (`str`): Name of the stage.
        suffix (`str`): Such as `".npy"`.
        facts: All that decides the result, as JSON holds it.

    Returns:
        `Path`: The file, which need not exist.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Sorted: the order in which facts are passed names no other result.
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{stage}-{key[:16]}{suffix}"


def save_array(path: Path, array: np.ndarray) -> None:
    """Save an array in one step: an interrupted run leaves no half a file behind.

    Args:
        path (`Path`): The file.
        array (`np.ndarray`): The array.
    """
    with replace_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def keep_array(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Read an array from disk, or compute and keep it.

    Args:
        path (`Path`): File of [`place_result`].
        compute (callable): Makes the array where the file does not exist.

    Returns:
        `np.ndarray`: Mapped from disk, read-only.
    """
    if not path.is_file():
        save_array(path, compute())
    return read_array(path, "remove it to have it made again", "r")


def load_array(path: Path, rows: int) -> torch.Tensor | None:
    """Load embeddings that were kept.

    Args:
        path (`Path`): File.
        rows (`int`): Rows it must have.

    Returns:
        `torch.Tensor` or `None`: `None` where there is no such file, or not a whole one.
    """
    try:
        array = read_array(path, "")
    # It is a cache: what cannot be read is computed again.
    except (OSError, ValueError):
        return None
    return torch.from_numpy(array) if array.shape[:1] == (rows,) else None

"""Ids and metadata that every engine can keep and JSON gives back as they were."""

from __future__ import annotations

import datetime
import math
import numbers
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from .files_rtd import is_utf8


__all__ = ["check_id", "list_ids", "settle_ids", "settle_metadata"]

_LOST = object()  # since None is a value
_MAX_DEPTH, _MAX_BITS = 64, 1024  # what readers of JSON take


def list_ids(ids: Iterable) -> list:
    """List ids in their order.

    Args:
        ids (iterable): One an image.

    Returns:
        `list`: The same.

    Raises:
        ValueError: If they are not several in an order, as a set or one text.
    """
    if isinstance(ids, str | bytes | set | frozenset) or not isinstance(ids, Iterable):
        raise ValueError(f"ids must be a list, one an image in their order, got a {type(ids).__name__}.")
    return list(ids)


def settle_ids(values: Iterable, where: str = "") -> list[str]:
    """Make ids of what stands for them in a file: texts, whole numbers, or bytes of UTF-8.

    Args:
        values (iterable): One value an id.
        where (`str`, defaults to `""`): Where they are, for the refusal, such as `" of 'ids.npy'"`.

    Returns:
        `list[str]`: Ids.

    Raises:
        ValueError: If a value is of another type, such as `None`, or see [`check_id`].

    Examples:
        >>> settle_ids([b"a.jpg", 7])
        ['a.jpg', '7']
    """
    ids = []
    for row, value in enumerate(list_ids(values)):
        if isinstance(value, bytes):
            value = value.decode(errors="surrogateescape")  # refused by name below
        elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
            value = int(value)
        elif not isinstance(value, str):
            raise ValueError(
                f"the id in row {row}{where} is {value!r} of type {type(value).__name__}; give a text or whole number."
            )
        ids.append(check_id(str(value), where))
    return ids


def check_id(name: str, where: str = "") -> str:
    """Refuse an id that some engine, file or terminal could not hold.

    Args:
        name (`str`): The id.
        where (`str`, defaults to `""`): Where it is, for the refusal.

    Returns:
        `str`: The id.

    Raises:
        ValueError: If it is empty, holds a NUL, or is not UTF-8, as half an emoji or some names of files.
    """
    flaw = "is empty" if not name else "holds a NUL" if "\0" in name else None if is_utf8(name) else "is not UTF-8"
    if flaw:
        raise ValueError(f"the id {ascii(name)}{where} {flaw}; rename it.")
    return name


def settle_metadata(rows: Sequence[dict | None]) -> list[dict | None]:
    """Make metadata such that JSON gives it back: NaN becomes `None`, dates ISO strings, NumPy's numbers Python's.

    A value of another type is left out; one warning names the fields.

    Args:
        rows (`list[dict]`): Of each image a dictionary, or `None`.

    Returns:
        `list[dict]`: The same, of plain values.

    Raises:
        ValueError: If an entry is not a dictionary, or the name of a field not a text.
    """
    settled, lost = [], {}
    for row in rows:
        if row is not None and not isinstance(row, dict):
            raise ValueError(f"an entry of metadata must be a dictionary or None, got {type(row).__name__}.")
        if not all(map(_is_name, row or ())):
            raise ValueError(f"fields of metadata must have texts as names, got {ascii(list(row))}.")
        values = {name: _settle_value(value) for name, value in (row or {}).items()}
        lost |= {name: type(row[name]).__name__ for name, value in values.items() if value is _LOST}
        values = {name: value for name, value in values.items() if value is not _LOST}
        settled.append(None if row is None else values)
    if lost:
        named = ", ".join(f"'{name}' ({kind})" for name, kind in lost.items())
        warnings.warn(f"values in these fields of metadata cannot be kept and are left out: {named}.", stacklevel=3)
    return settled


def _is_name(name) -> bool:
    return isinstance(name, str) and is_utf8(name)


def _settle_value(value, depth: int = 0):
    if depth > _MAX_DEPTH:
        return _LOST
    if value is None or isinstance(value, bool | int):
        return value if value is None or value.bit_length() < _MAX_BITS else _LOST
    if isinstance(value, str):
        return str(value) if is_utf8(value) else _LOST
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat() if value == value else None  # pandas' NaT differs from itself
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufUOM":
        return _settle_value(value.tolist() if value.dtype.kind != "M" else list(value), depth)
    if isinstance(value, list | tuple):
        parts = [_settle_value(part, depth + 1) for part in value]
        return _LOST if any(part is _LOST for part in parts) else parts
    if isinstance(value, dict):
        parts = {name: _settle_value(part, depth + 1) for name, part in value.items()}
        is_lost = any(part is _LOST or not _is_name(name) for name, part in parts.items())
        return _LOST if is_lost else parts
    return None if type(value).__name__ == "NAType" else _LOST  # of pandas, which need not be installed

"""Folder of a gallery: its manifest, its lock, its engine, and the ids, embeddings and metadata that it takes."""

from __future__ import annotations

import contextlib
import datetime
import math
import numbers
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from .errors_rtd import suggest
from .files_rtd import hold_lock_file, is_utf8, read_json, write_json
from .gallery_engine_rtd import ENGINES, Engine, find_engine


__all__ = [
    "GalleryFolder",
    "Manifest",
    "check_id",
    "hold_lock",
    "list_ids",
    "make_array",
    "normalize",
    "settle_ids",
    "settle_metadata",
]

_MANIFEST, _LOCK, _FORMAT = "manifest.json", ".lock", 2
_DTYPES, _MAX_DIM = ("float32", "float16"), 1_000_000
_FIELDS = {
    "format": int,
    "engine": str,
    "dim": int,
    "dtype": str,
    "options": dict,
    "state": dict | None,
    "fields": list,
}
_FIELDS |= {"fingerprint": str | None, "base_model": str | None}
_LOST = object()  # since None is a value
_MAX_DEPTH, _MAX_BITS = 64, 1024  # what readers of JSON take


@dataclass
class Manifest:
    """What a folder says about the gallery in it.

    Args:
        engine (`str`): Name of the engine.
        dim (`int`): Size of an embedding.
        dtype (`str`): Type in which embeddings are stored.
        options (`dict`): Of the engine, all that belong to the gallery.
        state (`dict`, *optional*): Of the engine, when it was last finished; `None` before anything was written.
        fields (`list[str]`): Names in the metadata of its images.
        fingerprint (`str`, *optional*): Of the image tower, see `fingerprint_tower`.
        base_model (`str`, *optional*): Name of the CLIP, for messages only.
        format (`int`): Version of this layout.
    """

    engine: str
    dim: int
    dtype: str = "float32"
    options: dict = field(default_factory=dict)
    state: dict | None = None
    fields: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    base_model: str | None = None
    format: int = _FORMAT

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Args:
            folder (`Path`): Folder.

        Returns:
            [`Manifest`]: As it was written.

        Raises:
            ValueError: If there is none, or none that this version reads.
        """
        try:
            facts = read_json(folder / _MANIFEST, "index the images again", **_FIELDS)
            if not 1 <= facts["format"] <= _FORMAT:
                raise ValueError(f"its format is {facts['format']}, this version reads 1 to {_FORMAT}.")
            if facts["engine"] not in ENGINES:
                raise ValueError(suggest("engine", facts["engine"], ENGINES))
            is_known = facts["dtype"] in _DTYPES and 1 <= facts["dim"] <= _MAX_DIM
            if not is_known or not all(isinstance(name, str) for name in facts["fields"]):
                raise ValueError("its `dim`, its `dtype` or its `fields` are damaged: index the images again.")
            return cls(**facts)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"'{folder}' holds no readable gallery: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the manifest, all of it or nothing.

        Args:
            folder (`Path`): Folder.

        Raises:
            ValueError: If another program's manifest is there.
        """
        if (folder / _MANIFEST).exists() and not self.is_in(folder):
            raise ValueError(f"'{folder / _MANIFEST}' is not that of a gallery; choose another folder.")
        write_json(folder / _MANIFEST, asdict(self), indent=1)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Check whether a folder holds a gallery.

        Args:
            folder (`Path`): Folder.

        Returns:
            `bool`: Whether a gallery's manifest is there, be it damaged.
        """
        try:
            facts = read_json(folder / _MANIFEST, "", object)
        except OSError:
            return False
        except ValueError:
            return True
        return isinstance(facts, dict) and "engine" in facts


@contextlib.contextmanager
def hold_lock(folder: Path):
    """Hold the folder's lock; it is free again when the process ends, however it ends.

    Args:
        folder (`Path`): Folder.

    Raises:
        ValueError: If another process holds it, or the folder holds something that is not a gallery.
    """
    # With a lock and no manifest, a gallery is being made or was interrupted.
    if not (Manifest.is_in(folder) or (folder / _LOCK).exists()) and any(folder.iterdir()):
        raise ValueError(f"'{folder}' holds something that is not a gallery; choose another folder.")
    refusal = f"another process is writing the gallery '{folder}'; wait until it has ended, or name another folder."
    with hold_lock_file(folder / _LOCK, refusal):
        yield


class GalleryFolder:
    """Where a gallery keeps its rows: an engine with its manifest, in memory or in a folder.

    Args:
        path (`str` or `Path`, *optional*): Opened if it holds a gallery. In memory if not given.
        engine, dtype, options: See [`Gallery`].

    Attributes:
        manifest ([`Manifest`], *optional*): `None` before the first row.
        engine ([`Engine`], *optional*): `None` before the first row.
        is_partial (`bool`): While it is set, no manifest is written, so that an interrupted save is not a gallery.
        turn (`RLock`): Held by the thread that uses the engine, for one search or one batch.
        filtering (`Lock`): Held by the thread that reads the metadata for a filter, which needs no turn.
    """

    def __init__(self, path: str | Path | None, engine: str | None, dtype: str | None, options: dict):
        self.path = None if path is None else Path(path)
        self.manifest: Manifest | None = None
        self.engine: Engine | None = None
        self.is_partial = self._is_writing = False
        self._lock, self.turn, self.filtering = threading.RLock(), threading.RLock(), threading.Lock()
        self._wanted = (engine or "exact", dtype or "float32", options)
        find_engine(self._wanted[0])
        if self._wanted[1] not in _DTYPES:
            raise ValueError(f"`dtype` must be 'float32' or 'float16', got {dtype!r}.")
        if self.path is not None and Manifest.is_in(self.path):
            self._open(engine, dtype, options)

    def __reduce__(self):
        # Another process opens the folder again, without tokens and passwords, which belong in no file.
        engine, dtype, options = self._wanted
        options = {name: value for name, value in options.items() if name not in ("token", "uri")}
        if self.path is not None and self.manifest is not None:
            return GalleryFolder, (self.path, None, None, options)
        kept = {"manifest": self.manifest, "engine": self.engine, "is_partial": self.is_partial}
        return GalleryFolder, (self.path, engine, dtype, options), kept

    def _open(self, engine: str | None, dtype: str | None, options: dict) -> None:
        self.manifest = manifest = Manifest.read(self.path)
        settle = find_engine(manifest.engine).settle
        kept = settle(manifest.options)
        server = find_engine(manifest.engine).find_server(kept)
        if server is not None and options.get("uri") is None:
            raise ValueError(
                f"the gallery in '{self.path}' is on the server '{server}', says its manifest: name it again with "
                "uri= (--uri) to connect to it."
            )
        asked = {"engine": engine, "dtype": dtype}
        asked |= {name: value for name, value in settle(options).items() if name in options}
        found = {"engine": manifest.engine, "dtype": manifest.dtype} | kept
        for name, value in asked.items():
            if value is not None and value != found[name]:
                raise ValueError(
                    f"the gallery in '{self.path}' has {name} {found[name]!r}, not {value!r}; leave `{name}` out, "
                    "or save it to another folder with it."
                )
        self._build_engine(options | kept)

    def _build_engine(self, options: dict) -> None:
        manifest = self.manifest
        try:
            self.engine = find_engine(manifest.engine)(
                manifest.dim, manifest.dtype, self.path, manifest.state, **options
            )
        except TypeError as error:
            raise ValueError(f"the engine '{manifest.engine}' does not take {sorted(options)}: {error}.") from error

    @property
    def engine_name(self) -> str:
        """`str`: Name of the engine, also before the first row."""
        return self._wanted[0] if self.manifest is None else self.manifest.engine

    def create(self, dim: int) -> None:
        """Make the engine of an empty gallery for embeddings of `dim` numbers."""
        engine, dtype, options = self._wanted
        kept = find_engine(engine).settle(options)
        self.manifest = Manifest(engine, dim, dtype, kept)
        self._build_engine(options | kept)
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest with the engine's state; in memory, only take the state."""
        self.manifest.state = self.engine.state
        if self.path is not None and not self.is_partial:
            self.manifest.write(self.path)

    @contextlib.contextmanager
    def writing(self):
        """Hold the gallery for writing: one thread and, in a folder, one process at a time."""
        with self._lock, self._writing_alone():  # the lock is for threads, the folder's own for processes
            yield

    @contextlib.contextmanager
    def _writing_alone(self):
        if self.path is None or self._is_writing:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.path):
            self._is_writing = True
            try:
                if self.engine is not None:
                    with self.turn:
                        self._reread()
                elif Manifest.is_in(self.path):  # another process was the first
                    self._open(None, None, self._wanted[2])
                yield
            finally:
                self._is_writing = False

    def _reread(self) -> None:
        """Take in what another process has written since; what was read at opening would undo it."""
        if Manifest.is_in(self.path):
            here, found = self.manifest, Manifest.read(self.path)
            if (found.engine, found.dim, found.dtype) != (here.engine, here.dim, here.dtype):
                raise ValueError(
                    f"'{self.path}' holds another gallery than when it was opened: {found.engine}, {found.dim} "
                    f"numbers in {found.dtype}, not {here.engine}, {here.dim} in {here.dtype}; open it again."
                )
            self.manifest = found
        self.engine.refresh(self.manifest.state)
        if self.manifest.format < _FORMAT:  # before rows are written that 0.1.0.dev0 would not see
            self.manifest.format = _FORMAT
            self.write_manifest()

    def append(self, ids: list[str], embeddings: np.ndarray, metadata: list[dict | None]) -> None:
        """Add checked rows of norm 1; new fields of their metadata enter the manifest first."""
        fields = sorted({*self.manifest.fields, *(name for row in metadata for name in row or ())})
        if fields != self.manifest.fields:
            self.manifest.fields = fields
            self.write_manifest()
        with self.turn:
            self.engine.add(ids, embeddings, metadata)

    def finish(self) -> None:
        """Make what was added or removed durable."""
        with self.turn:
            self.engine.finish()
            self.write_manifest()


def make_array(rows) -> np.ndarray:
    """Make an array of embeddings, wherever they are.

    Args:
        rows (`torch.Tensor`, `np.ndarray` or list of lists): Numbers.

    Returns:
        `np.ndarray`: The same; of a tensor in float32 if it is real.

    Raises:
        ValueError: If rows are not of one length.
    """
    if torch.is_tensor(rows):
        rows = rows.detach().to_dense()
        return (rows if rows.is_complex() else rows.float()).cpu().numpy()
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(f"embeddings must be rows of numbers of one length: {error}") from error


def normalize(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Bring rows to norm 1.

    Args:
        rows (`np.ndarray` of shape `(num_rows, dim)`): Numbers of any type.
        names (`list[str]`): What each row is called, for the message.

    Returns:
        `np.ndarray` of shape `(num_rows, dim)`: float32.

    Raises:
        ValueError: If a row is zero or not finite, or holds something else than real numbers.
    """
    # NumPy drops the imaginary part of a number, and reads texts and dates as numbers.
    if rows.dtype.kind not in "biufO":
        raise ValueError(f"embeddings must be real numbers, got an array of {rows.dtype}.")
    try:
        rows = rows.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"embeddings must be real numbers: {error}.") from error
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if bad.any():
        raise ValueError(
            f"embeddings must be finite numbers and not all zero, but {int(bad.sum())} are not, first that of "
            f"'{names[int(bad.argmax())]}'; encode it again."
        )
    return rows / norms


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
    """Make ids of what a file has for them: texts, whole numbers, or bytes of UTF-8.

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

"""Rows of a gallery under ids, and the folder that keeps them: manifest, lock, adding, removing; without a model."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from .files_rtd import hold_lock_file, write_json
from .gallery_engine_rtd import Engine, find_engine


__all__ = ["GalleryRows", "Manifest", "hold_lock", "normalise"]

_MANIFEST, _LOCK, _FORMAT = "manifest.json", ".lock", 1
_IF_EXISTS = ("refuse", "skip", "replace")


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
            facts = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if facts["format"] != _FORMAT:
                raise ValueError(f"its format is {facts['format']}, this version reads {_FORMAT}")
            return cls(**facts)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"'{folder}' holds no readable gallery: {error}; index the images again.") from error

    def write(self, folder: Path) -> None:
        """Write the manifest, all of it or nothing.

        Args:
            folder (`Path`): Folder.

        Raises:
            ValueError: If another program's manifest lies there.
        """
        if (folder / _MANIFEST).exists() and not self.is_in(folder):
            raise ValueError(f"'{folder / _MANIFEST}' is not that of a gallery; choose another folder.")
        write_json(folder / _MANIFEST, asdict(self), indent=1)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Tell whether a folder holds a gallery.

        Args:
            folder (`Path`): Folder.

        Returns:
            `bool`: Whether a gallery's manifest is there, be it damaged.
        """
        try:
            facts = json.loads((folder / _MANIFEST).read_bytes())
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
        ValueError: If another process holds it, or the folder holds something that is no gallery.
    """
    # With a lock and no manifest, a gallery is being made or was interrupted.
    if not (Manifest.is_in(folder) or (folder / _LOCK).exists()) and any(folder.iterdir()):
        raise ValueError(f"'{folder}' holds something that is no gallery; choose another folder.")
    refusal = f"another process is writing the gallery '{folder}'; wait until it has ended, or name another folder."
    with hold_lock_file(folder / _LOCK, refusal):
        yield


class GalleryRows:
    """The part of [`Gallery`] that keeps rows. Its arguments are documented there."""

    def __init__(
        self,
        embeddings: torch.Tensor | np.ndarray | None = None,
        ids: Sequence[str] | None = None,
        metadata: Sequence[dict | None] | None = None,
        *,
        folder: str | Path | None = None,
        engine: str | None = None,
        dtype: str | None = None,
        **options,
    ):
        self.folder = None if folder is None else Path(folder)
        self._manifest: Manifest | None = None
        self._engine: Engine | None = None
        self._lock = threading.RLock()
        self.skipped: list[str] = []
        self._is_writing = self._is_partial = False
        self._wanted = (engine or "exact", dtype or "float32", options)
        find_engine(self._wanted[0])
        if self._wanted[1] not in ("float32", "float16"):
            raise ValueError(f"`dtype` must be 'float32' or 'float16', got {dtype!r}.")
        if self.folder is not None and Manifest.is_in(self.folder):
            self._open(engine, dtype, options)
        if embeddings is not None:
            self.add_embeddings(embeddings, ids, metadata)

    def _open(self, engine: str | None, dtype: str | None, options: dict) -> None:
        self._manifest = manifest = Manifest.read(self.folder)
        settle = find_engine(manifest.engine).settle
        kept = settle(manifest.options)
        asked = {"engine": engine, "dtype": dtype}
        asked |= {name: value for name, value in settle(options).items() if name in options}
        found = {"engine": manifest.engine, "dtype": manifest.dtype} | kept
        for name, value in asked.items():
            if value is not None and value != found[name]:
                raise ValueError(
                    f"the gallery in '{self.folder}' has {name} {found[name]!r}, not {value!r}; leave `{name}` out, "
                    "or save it to another folder with it."
                )
        self._build_engine(options | kept)

    def _build_engine(self, options: dict) -> None:
        manifest = self._manifest
        try:
            self._engine = find_engine(manifest.engine)(
                manifest.dim, manifest.dtype, self.folder, manifest.state, **options
            )
        except TypeError as error:
            raise ValueError(f"the engine '{manifest.engine}' does not take {sorted(options)}: {error}.") from error

    def _create(self, dim: int) -> None:
        engine, dtype, options = self._wanted
        kept = find_engine(engine).settle(options)
        self._manifest = Manifest(engine, dim, dtype, kept)
        self._build_engine(options | kept)
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._manifest.state = self._engine.state
        if self.folder is not None and not self._is_partial:
            self._manifest.write(self.folder)

    @contextlib.contextmanager
    def _writing(self):
        with self._lock, self._writing_alone():  # the lock is for threads, the folder's own for processes
            yield

    @contextlib.contextmanager
    def _writing_alone(self):
        if self.folder is None or self._is_writing:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder):
            self._is_writing = True
            try:
                if self._engine is not None:
                    self._engine.refresh()
                elif Manifest.is_in(self.folder):  # another process was the first
                    self._open(None, None, self._wanted[2])
                yield
            finally:
                self._is_writing = False

    def close(self) -> None:
        """Let go of what the engine holds open, such as a connection; the gallery cannot be used afterwards."""
        if self._engine is not None:
            self._engine.close()

    def __len__(self) -> int:
        return 0 if self._engine is None else len(self._engine)

    def __contains__(self, name: str) -> bool:
        return self._engine is not None and bool(self._engine.find([name]))

    def __repr__(self) -> str:
        engine = self._wanted[0] if self._manifest is None else self._manifest.engine
        place = "" if self.folder is None else f", folder='{self.folder}'"
        return f"Gallery({len(self)} images, engine='{engine}'{place})"

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added; a replaced image counts as added anew."""
        return [] if self._engine is None else self._engine.ids

    def locate(self, ids: Sequence[str] | None = None) -> list[str]:
        """Tell where images are: the `path` in an image's metadata, or else its id.

        Args:
            ids (`list[str]`, *optional*): Ids; all where left out. One that is not here is taken for a place.

        Returns:
            `list[str]`: Of each id a path or URL; nothing tells whether an image is there.
        """
        ids = self.ids if ids is None else list(ids)
        metadata = [None] * len(ids) if self._engine is None else self._engine.get_metadata(ids)
        places = [(row or {}).get("path") for row in metadata]
        return [place if place and isinstance(place, str) else name for name, place in zip(ids, places, strict=True)]

    def add_embeddings(
        self,
        embeddings: torch.Tensor | np.ndarray,
        ids: Sequence[str],
        metadata: Sequence[dict | None] | None = None,
        if_exists: str = "refuse",
    ) -> None:
        """Add embeddings.

        Args:
            embeddings (`torch.Tensor` or `np.ndarray` of shape `(num_images, dim)`): Of any norm but zero.
            ids (`list[str]`): One distinct id a row.
            metadata (`list[dict]`, *optional*): For each row a dictionary that JSON can hold, or `None`.
            if_exists (`str`, defaults to `"refuse"`):
                What to do with ids that are here: `"skip"`, `"replace"` or `"refuse"`.

        Raises:
            ValueError: If counts or sizes differ, ids repeat, or an embedding is zero or not finite.
        """
        if torch.is_tensor(embeddings):
            embeddings = embeddings.detach().float().cpu().numpy()
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings must have the shape (num_images, dim), got {embeddings.shape}.")
        ids = [] if ids is None else list(ids)
        metadata = self._check_rows(len(embeddings), ids, metadata, if_exists)
        with self._writing():
            if self._engine is None:
                self._create(embeddings.shape[1])
            if embeddings.shape[1] != self._manifest.dim:
                raise ValueError(
                    f"the gallery holds embeddings of {self._manifest.dim} numbers, got {embeddings.shape[1]}; were "
                    "they made by the same CLIP?"
                )
            here = self._find_existing(ids, if_exists)
            keep = [i for i, name in enumerate(ids) if name not in here]
            blocks = [keep[start : start + 8192] for start in range(0, len(keep), 8192)]
            for places in blocks:  # all of them before the first is written
                normalise(embeddings[places], [ids[i] for i in places])
            for places in blocks:
                rows = normalise(embeddings[places], [ids[i] for i in places])
                self._append([ids[i] for i in places], rows, [metadata[i] for i in places])
            self._finish()

    def _check_rows(self, count: int, ids: list[str], metadata, if_exists: str) -> Sequence[dict | None]:
        if if_exists not in _IF_EXISTS:
            raise ValueError(f"`if_exists` must be one of {', '.join(_IF_EXISTS)}, got {if_exists!r}.")
        if len(ids) != count:
            raise ValueError(f"got {count} images and {len(ids)} ids; give one id an image.")
        seen = set()
        for name in ids:
            if not isinstance(name, str):
                raise ValueError(f"ids must be strings, got {name!r} of type {type(name).__name__}.")
            if name in seen:
                raise ValueError(f"ids must be distinct, but '{name}' repeats.")
            seen.add(name)
        if metadata is not None and len(metadata) != count:
            raise ValueError(f"got {count} images and {len(metadata)} entries of metadata.")
        _check_metadata(metadata or ())
        return [None] * count if metadata is None else metadata

    def _find_existing(self, ids: list[str], if_exists: str) -> set[str]:
        here = set() if if_exists == "replace" else self._engine.find(ids)
        if here and if_exists == "refuse":
            first = next(name for name in ids if name in here)
            raise ValueError(
                f"{len(here)} of {len(ids)} ids are in the gallery already, such as '{first}'; choose "
                'if_exists="replace" or if_exists="skip".'
            )
        return here

    def _append(self, ids: list[str], embeddings: np.ndarray, metadata: list[dict | None]) -> None:
        fields = sorted({*self._manifest.fields, *(name for row in metadata for name in row or ())})
        if fields != self._manifest.fields:
            self._manifest.fields = fields
            self._write_manifest()
        self._engine.add(ids, embeddings, metadata)

    def _finish(self) -> None:
        self._engine.finish()
        self._write_manifest()

    def remove(self, ids: Sequence[str] | str) -> None:
        """Remove images.

        Args:
            ids (`list[str]` or `str`): Ids that are here.

        Raises:
            ValueError: If an id is not here; nothing is removed then.
        """
        ids = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
        with self._writing():
            self._refuse_unknown(ids)
            if ids:
                self._engine.remove(ids)
                self._finish()

    def _refuse_unknown(self, ids: Iterable[str]) -> None:
        here = set() if self._engine is None else self._engine.find(list(ids))
        for name in ids:
            if name not in here:
                raise ValueError(f"the gallery has no image '{name}'; its `ids` lists those it has.")


def _check_metadata(metadata: Sequence[dict | None]) -> None:
    for row in metadata:
        if row is not None and not isinstance(row, dict):
            raise ValueError(f"an entry of metadata must be a dictionary or None, got {type(row).__name__}.")
        if not all(isinstance(name, str) for name in row or ()):
            raise ValueError(f"fields of metadata must have strings as names, got {list(row)}.")
    try:
        json.dumps(metadata)
    except TypeError as error:
        raise ValueError(f"metadata must be such that JSON can hold it: {error}.") from error


def normalise(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Bring rows to norm 1.

    Args:
        rows (`np.ndarray` of shape `(num_rows, dim)`): Numbers of any type.
        names (`list[str]`): What each row is called, for the message.

    Returns:
        `np.ndarray` of shape `(num_rows, dim)`: float32.

    Raises:
        ValueError: If a row is zero or not finite.
    """
    rows = rows.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if bad.any():
        raise ValueError(
            f"embeddings must be finite numbers and not all zero, but {int(bad.sum())} are not, first that of "
            f"'{names[int(bad.argmax())]}'; encode it again."
        )
    return rows / norms

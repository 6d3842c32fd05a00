"""A gallery's manifest, and the lock that one writer at a time holds."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .files_rtd import hold_lock_file, write_json


__all__ = ["Manifest", "hold_lock"]

_MANIFEST, _LOCK, _FORMAT = "manifest.json", ".lock", 1


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
        fingerprint (`str`, *optional*): Of the image tower, see `take_fingerprint`.
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

"""Files and folders that are replaced whole or not at all, the lock of a single writer, and records that are read."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import platform
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open

from .errors_rtd import refuse_no_place, word_pickle


__all__ = [
    "hold_lock_file",
    "is_utf8",
    "name_damage",
    "parse_json",
    "read_array",
    "read_json",
    "replace_file",
    "replace_folder",
    "sum_file",
    "write_json",
]

_NO_PLACE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place, and put it there in one step when the block ends.

    Whatever happens in between (a kill, a full disk, an exception), the place holds the old file or the new one.

    Args:
        path (`str` or `Path`): The file. Its folder must exist.

    Yields:
        `Path`: Where the block must write.

    Raises:
        OSError: If it cannot be written; what was there stays.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "facts.txt")
        >>> with replace_file(path) as partial:
        ...     _ = partial.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    path = Path(path)
    partial = _find_partial(path)
    try:
        yield partial
        # Before the rename: after a power cut a file system may have the new name, and no bytes.
        _sync(partial)
        partial.replace(path)
        # A rename lasts once its folder is on the disk.
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Write a folder beside its place, and put it there when the block ends.

    On Linux both folders change places in one step, so that a whole one is always there. Elsewhere the old folder is
    called `NAME.replaced` for a moment; after a kill in that moment, the next call puts it back first.

    Args:
        folder (`str` or `Path`): The folder; all that is in it is replaced.

    Yields:
        `Path`: An empty folder in which the block must write.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    folder = Path(folder)
    backup = folder.with_name(f"{folder.name}.replaced")
    # A process was killed between the two renames below.
    if backup.exists() and not folder.exists():
        backup.rename(folder)
    partial = _find_partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        # What is in a folder goes before the folder itself.
        for path in sorted(partial.rglob("*"), reverse=True):
            _sync(path)
        _sync(partial)
        if folder.exists() and not _exchange(partial, folder):
            shutil.rmtree(backup, ignore_errors=True)
            folder.rename(backup)
        if not folder.exists():
            partial.rename(folder)
        _sync(folder.parent)
    finally:
        if folder.exists():
            shutil.rmtree(backup, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def _find_partial(path: Path) -> Path:
    """Name the place beside a path for this thread, and remove what processes that were killed have left there."""
    prefix, suffix = f".{path.name}.{platform.node()}-", ".partial"
    own = path.with_name(f"{prefix}{os.getpid()}-{threading.get_native_id()}{suffix}")
    for left in path.parent.glob(".*.partial"):
        # Of other machines, which may share the disk, nothing is known.
        pid = left.name.removeprefix(prefix).partition("-")[0] if left.name.startswith(prefix) else ""
        if left == own or (pid.isdigit() and _is_dead(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return own


def _is_dead(pid: str) -> bool:
    if os.name != "posix":  # elsewhere the call below would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk, where the file system knows how."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; return whether this system can."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library from before 2018
        return False
    return rename(_NO_PLACE, os.fsencode(one), _NO_PLACE, os.fsencode(other), _EXCHANGE) == 0


@contextlib.contextmanager
def hold_lock_file(path: str | Path, refusal: str) -> Iterator[None]:
    """Hold a lock that is free again when the process ends, however it ends.

    Args:
        path (`str` or `Path`): The lock's own file, made where it is missing. It stays.
        refusal (`str`): What to say if another process holds it.

    Raises:
        ValueError: If another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=0.2))
        except TimeoutError as error:
            raise ValueError(refusal) from error
        yield


def write_json(path: str | Path, content, **kwargs) -> None:
    """Write a record as JSON, all of it or nothing.

    Args:
        path (`str` or `Path`): The file.
        content: What JSON can hold.
        kwargs: As for `json.dumps`.
    """
    text = json.dumps(content, **{"indent": 2} | kwargs)
    with replace_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, remedy: str, kind: type = dict, **fields):
    """Read a record, and refuse a damaged one by its name.

    Args:
        path (`str` or `Path`): The file.
        remedy (`str`): What to do about a damaged one; ends the sentence.
        kind (`type`, defaults to `dict`): What it must hold.
        fields (`type`): Type of each field that it must have; `str | None` for one that it may have.

    Returns:
        What it holds.

    Raises:
        ValueError: If it is not JSON, repeats a key, does not hold a `kind` or has a field of another type.
        OSError: If it cannot be read.
    """
    return parse_json(Path(path).read_bytes(), path, remedy, kind, **fields)


def parse_json(content: bytes | str, path: str | Path, remedy: str, kind: type = dict, **fields):
    """Parse what a record holds, see [`read_json`].

    Args:
        content (`bytes` or `str`): JSON, in UTF-8.
        path, remedy, kind, fields: See [`read_json`].

    Returns:
        What it holds.

    Raises:
        ValueError: See [`read_json`].
    """
    try:
        content = json.loads(content, object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as error:  # no UTF-8 is a ValueError too
        raise ValueError(f"'{path}' is damaged, it is not JSON ({error}): {remedy}.") from error
    if not isinstance(content, kind):
        raise ValueError(f"'{path}' is damaged, it holds a {type(content).__name__}: {remedy}.")
    for name, wanted in fields.items():
        value = content.get(name)
        # True is an int to Python.
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int):
            found = repr(value)[:40] if name in content else "nothing"
            raise ValueError(f"'{path}' is damaged, its `{name}` is {found}: {remedy}.")
    return content


def _refuse_repeats(pairs: list[tuple]) -> dict:
    # Python's json would keep the last of two values, without a word.
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' repeats")
    return content


def read_array(path: str | Path, remedy: str, mmap_mode: str | None = None) -> np.ndarray:
    """Read a `.npy` file, never a pickle, and refuse a damaged one by its name.

    Args:
        path (`str` or `Path`): The file.
        remedy (`str`): What to do about a damaged one; ends the sentence.
        mmap_mode (`str`, *optional*): As for `np.load`; read into memory if not given.

    Returns:
        `np.ndarray`: The array.

    Raises:
        ValueError: If it is not one array that numpy reads.
        OSError: If it cannot be read.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # numpy parses the header as Python, with all errors of a parser
        if "pickle" in str(error):  # which numpy advises to load all the same
            error = ValueError("it holds something else than numbers and texts")
        raise ValueError(f"'{path}' is damaged, it is not an array ({_first_line(error)}): {remedy}.") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"'{path}' is damaged, it holds several arrays: {remedy}.")
    return array


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def is_utf8(text: str) -> bool:
    """Say whether a text can be written as UTF-8.

    Args:
        text (`str`): Text.

    Returns:
        `bool`: Not of half an emoji, and not of bytes that Python took from a file name or a command line as they are.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sum_file(path: str | Path) -> int:
    """Compute the CRC-32 of a file: so that random content is distinguished from what was written.

    Args:
        path (`str` or `Path`): The file.

    Returns:
        `int`: The checksum.

    Raises:
        OSError: If it cannot be read.
    """
    total = 0
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            total = zlib.crc32(block, total)
    return total


@contextlib.contextmanager
def name_damage(place: str | Path | None) -> Iterator[None]:
    """Turn what libraries raise at a damaged file of a model into a sentence that names it.

    Args:
        place (`str` or `Path`, *optional*): Directory or Hub id of the model that the block loads.

    Raises:
        ValueError: In place of what is not an error of the system or of memory; it names the place.
        FileNotFoundError: If the place is a path at which there is no folder.
    """
    try:
        if place is not None:
            refuse_no_place(place)
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError:
        raise ValueError(word_pickle(f"a weights file of '{place}'", "Use a repository with safetensors.")) from None
    except ValueError as error:
        if str(place) in str(error):
            raise
        raise ValueError(f"'{place}' cannot be loaded: {error}") from error
    except BaseException as error:  # whatever libraries make of a value of another type, or of half a file
        # A panic of the library `tokenizers` is not an `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        file = next((path for path in sorted(Path(place).rglob("*.safetensors")) if not _is_whole(path)), None)
        if file is not None:
            raise ValueError(
                f"'{file}' is damaged or cut short, and cannot be loaded ({_first_line(error)}): copy or download it "
                "again."
            ) from error
        raise ValueError(
            f"'{place}' cannot be loaded ({_first_line(error)}): an argument is wrong, or one of its files is "
            "damaged: copy or download it again."
        ) from error


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False

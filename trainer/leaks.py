"""What must never be published: pickles, tokens, and places on the machine that publishes."""

from __future__ import annotations

import mmap
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import get_token


__all__ = ["find_leaks"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
_PICKLE_BYTES = re.compile(rb"\A(?:\x80[\x02-\x05]|PK\x03\x04.{0,200}?data\.pkl)", re.DOTALL)
_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}|sk-[A-Za-z0-9_-]{32,}|"
    rb"AKIA[0-9A-Z]{16}|glpat-[\w-]{20}|xox[abprs]-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
)
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
# A path from the root: of two parts at least, and no part of an address or of a fraction.
_PATHS = re.compile(rb"(?<![\w.<>/:~-])/(?:[\w.+@-]+/)+[\w.+@-]+|(?<!\w)[A-Za-z]:\\{1,2}[\w.-]+\\|file://\S+")
_TEXTS = (".json", ".md", ".txt", ".yaml", ".yml", ".py", ".jinja", ".csv", ".jsonl", ".toml", ".cfg", "")


def find_leaks(files: Mapping[str, Path | bytes], folder: Path) -> list[str]:
    """Look through every byte that would be published.

    Args:
        files (`Mapping[str, Path | bytes]`): Contents by path in the repository.
        folder (`Path`): Where they come from, which is a place on this machine itself.

    Returns:
        `list[str]`: A sentence for each finding, without the secret; empty where all is well.
    """
    secrets, places = _list_secrets(), _list_places(folder)
    return [f"{name}: {text}" for name, content in files.items() for text in _examine(name, content, secrets, places)]


def _list_secrets() -> list[bytes]:
    values = [value for name, value in os.environ.items() if _SECRET_NAMES.search(name)]
    return [value.encode() for value in {*values, get_token() or ""} if len(value) >= 8 and not Path(value).exists()]


def _list_places(folder: Path) -> list[bytes]:
    places = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), folder.absolute(), folder.resolve()}
    return [f"{place}/".encode() for place in places if len(place.parts) > 1]


def _examine(name: str, content: Path | bytes, secrets: list[bytes], places: list[bytes]) -> Iterator[str]:
    path = PurePosixPath(name)
    with _open_bytes(content) as data:
        if path.suffix in _PICKLES or _PICKLE_BYTES.search(data):
            yield "it may be a pickle, which runs code when it is loaded; publish safetensors, and remove it"
            return
        if _TOKENS.search(data) or any(data.find(secret) >= 0 for secret in secrets):
            yield "it holds a token or another secret; remove it, and revoke the token if it was ever public"
        found = next((place for place in places if data.find(place) >= 0), None)
        if found is None and path.suffix in _TEXTS:
            found = next((match.group() for match in _PATHS.finditer(data)), None)
        if found is not None:
            yield f"it holds a path of a machine, {found.decode(errors='replace')}; write a name or a Hub id instead"


@contextmanager
def _open_bytes(content: Path | bytes):
    if isinstance(content, bytes) or content.stat().st_size == 0:
        yield content if isinstance(content, bytes) else b""
        return
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data

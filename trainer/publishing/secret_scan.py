"""What must never be published with a model: tokens and other secrets, and places on the machine that publishes."""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token


__all__ = ["find_leaks"]

_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}|sk-[A-Za-z0-9_-]{32,}|"
    rb"AKIA[0-9A-Z]{16}|glpat-[\w-]{20}|xox[abprs]-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
    rb"|\w://[^\s/:@\"']+:[^\s/@\"']+@"
)
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
_MIN_SECRET = 16  # characters: shorter values are words as often as secrets (TOKEN_TYPE=projection)
# A path from the root: of two parts at least, and no part of an address or of a fraction.
_PATHS = re.compile(r"(?<![\w.<>/~-])/(?:[\w.+@-]+/)+[\w.+@-]+|(?<!\w)[A-Za-z]:\\{1,2}[\w.-]+\\|file://\S+")


def find_leaks(files: Mapping[str, Path | bytes], folder: Path) -> list[str]:
    """Look through every byte that would be published.

    Args:
        files (`Mapping[str, Path | bytes]`): Contents by path in the repository: safetensors, and texts in UTF-8.
        folder (`Path`): Where they come from, which is a place on this machine itself.

    Returns:
        `list[str]`: A sentence for each finding, without the secret; empty where all is well.
    """
    secrets, places = _list_secrets(), _list_places(folder)
    return [f"{name}: {text}" for name, content in files.items() for text in _examine(name, content, secrets, places)]


def _list_secrets() -> dict[bytes, str]:
    """List secrets as they are and as JSON writes them, each with the name of where it stands."""
    named = {name: value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
    named["the token of the Hub"] = get_token() or ""
    long = {name: value for name, value in named.items() if len(value) >= _MIN_SECRET}
    return {text.encode(): name for name, value in long.items() for text in (value, json.dumps(value)[1:-1])}


def _list_places(folder: Path) -> list[bytes]:
    places = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), folder.absolute(), folder.resolve()}
    names = [f"{place}/" for place in places if len(place.parts) > 1]
    return [text.encode() for name in names for text in (name, json.dumps(name)[1:-1])]


def _examine(name: str, content: Path | bytes, secrets: dict[bytes, str], places: list[bytes]) -> Iterator[str]:
    with _open_bytes(content) as data:
        secret = next((place for secret, place in secrets.items() if data.find(secret) >= 0), None)
        if secret is not None:
            yield f"it holds the secret in {secret}; remove it, and revoke it if it was ever public"
        elif _TOKENS.search(data):
            yield "it holds a token or a password; remove it, and revoke it if it was ever public"
        found = next((place.decode(errors="replace") for place in places if data.find(place) >= 0), None)
        # Of weights only the header is text: 8 bytes of its length, then JSON.
        text = data[8 : 8 + int.from_bytes(data[:8], "little")] if name.endswith(".safetensors") else data[:]
        found = found or next((m.group() for m in _PATHS.finditer(_read_text(text))), None)
        if found is not None:
            yield f"it holds a path of a machine, {found}; write a name or a Hub id instead"


def _read_text(data: bytes) -> str:
    """Decode, and undo what JSON writes for characters beyond ASCII and may write for a slash."""
    text = data.decode("utf-8", errors="replace").replace("\\/", "/")
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


@contextmanager
def _open_bytes(content: Path | bytes):
    if isinstance(content, bytes) or content.stat().st_size == 0:
        yield content if isinstance(content, bytes) else b""
        return
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data

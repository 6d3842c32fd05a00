"""What must never be published with a model: tokens and other secrets, and places on the machine that publishes.

A scan by patterns is never complete. The guard is the list of files that go up at all, see `publication.py`.
"""

from __future__ import annotations

import base64
import io
import json
import mmap
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token
from PIL import Image


__all__ = ["find_leaks"]

# What has a form of its own. It is looked for in every byte, weights included: detect-secrets 1.5 reads lines of text
# only, and has no rule for the tokens of the Hub.
_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}|sk-[A-Za-z0-9_-]{32,}|"
    rb"A(?:KIA|SIA)[0-9A-Z]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|pypi-[\w-]{50,}|"
    rb"npm_[A-Za-z0-9]{36}|glpat-[\w-]{20}|xox[abprs]-[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*|"
    rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|LS0tLS1CRUdJTi[\w+/=]{20,})"
    rb"|\w://[^\s/:@\"']+:[^\s/@\"']+@"
)
# What is told by the name before it. Looked for in texts alone; a value of words is none.
_NAMED = re.compile(
    r"(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token)[\w-]*\\?[\"']?\s*[:=]\s*\\?[\"']?"
    r"(?![\"'\s,}])(?!(?:none|null|true|false|\d+)\b)[^\s\"',}]{6,}|\bbearer\s+[\w.~+/-]{16,}",
    re.IGNORECASE,
)
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
_MIN_SECRET = 16  # characters: shorter values are words as often as secrets (TOKEN_TYPE=projection)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
# A path from the root: of two parts at least, no part of an address or of a fraction. In quotes it may hold blanks.
_PATHS = re.compile(
    r"(?<![\w.<>/~-])/(?:[\w.+@-]+/)+[\w.+@-]+|(?<=[\"'`])/(?:[\w .+@-]+/)+[\w .+@-]+(?=[\"'`])|(?<![\w/])~/[\w.-]+"
    r"|(?<!\w)[A-Za-z]:\\{1,2}[\w.-][\w .-]*\\|(?<![\w\\^\[])\\{2,4}[A-Za-z][\w.-]+\\{1,2}[\w$.-]{2,}|file://\S+"
)


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
    """List secrets as they are and as JSON writes them, each with the place where it is."""
    named = {name: value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
    named["the token of the Hub"] = get_token() or ""
    long = {name: value for name, value in named.items() if len(value) >= _MIN_SECRET}
    return {text.encode(): name for name, value in long.items() for text in (value, json.dumps(value)[1:-1])}


def _list_places(folder: Path) -> list[bytes]:
    places = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), folder.absolute(), folder.resolve()}
    # The root alone would be found in every path.
    names = [f"{place}/" for place in places if len(place.parts) > 1]
    return [text.encode() for name in names for text in (name, json.dumps(name)[1:-1])]


def _examine(name: str, content: Path | bytes, secrets: dict[bytes, str], places: list[bytes]) -> Iterator[str]:
    with _open_bytes(content) as data:
        text = _read_text(_take_text(name, data))
        secret = next((place for secret, place in secrets.items() if data.find(secret) >= 0), None)
        if secret is not None:
            yield f"it holds the secret in {secret}; remove it, and revoke it if it was ever public"
        elif _TOKENS.search(data) or _tells_secret(text):
            yield "it holds a token or a password; remove it, and revoke it if it was ever public"
        found = next((place.decode(errors="replace") for place in places if data.find(place) >= 0), None)
        found = found or next((m.group() for m in _PATHS.finditer(text)), None)
        if found is not None:
            yield f"it holds a path of a machine, {found}; write a name or a Hub id instead"


def _take_text(name: str, data) -> bytes:
    """Take what is text: compressed pixels and weights look like a path now and then."""
    if name.endswith(".safetensors"):  # 8 bytes of the header's length, then JSON
        return data[8 : 8 + int.from_bytes(data[:8], "little")]
    if name.endswith(".png"):
        with Image.open(io.BytesIO(data[:])) as image:
            image.load()  # texts may come after the pixels
            return "\n".join(map(str, image.info.values())).encode()
    return data[:]


def _tells_secret(text: str) -> bool:
    """Check whether a text holds a token once escapes or base64 are undone, or a value that is named a password."""
    if _NAMED.search(text) or _TOKENS.search(text.encode(errors="replace")):
        return True
    packed = (match.group().rstrip("=") for match in _BASE64.finditer(text))
    # A match may end within a group of four; what is whole of it is decoded.
    return any(_TOKENS.search(base64.b64decode(part[: len(part) // 4 * 4])) for part in packed)


def _read_text(data: bytes) -> str:
    """Decode, and undo what JSON writes for characters beyond ASCII and may write for a slash."""
    text = data.decode("utf-8", errors="replace").replace("\\/", "/")
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


@contextmanager
def _open_bytes(content: Path | bytes):
    # mmap refuses an empty file.
    if isinstance(content, bytes) or content.stat().st_size == 0:
        yield content if isinstance(content, bytes) else b""
        return
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data

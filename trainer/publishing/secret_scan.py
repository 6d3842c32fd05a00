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
from urllib.parse import unquote

from huggingface_hub import get_token
from PIL import Image


__all__ = ["find_leaks"]

# What has a form of its own. It is looked for in every byte, weights included: detect-secrets 1.5 reads lines of text
# only, and has no rule for the tokens of the Hub.
_FORMS = {
    "Hugging Face": r"hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}",
    "GitHub": r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}",
    "GitLab": r"gl(?:pat|rt|dt|ptt|ft|soat)-[\w-]{20}",
    "OpenAI and Anthropic": r"sk-[A-Za-z0-9_-]{32,}",
    "Groq": r"gsk_[A-Za-z0-9]{40,}",
    "Replicate": r"r8_[A-Za-z0-9]{37}",
    "AWS": r"A(?:KIA|SIA)[0-9A-Z]{16}",
    "Google": r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}",
    "Azure": r"AccountKey=[\w+/]{40,}",
    "Stripe": r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[\w+/]{24,}",
    "Shopify": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "PyPI": r"pypi-[\w-]{50,}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "RubyGems": r"rubygems_[0-9a-f]{48}",
    "Docker": r"dckr_pat_[\w-]{20,}",
    "DigitalOcean": r"do[opr]_v1_[0-9a-f]{64}",
    "Databricks": r"dapi[0-9a-f]{32}",
    "Vault": r"hv[sb]\.[\w-]{24,}",
    "Doppler": r"dp\.(?:pt|st|ct|scim)\.\w{40,}",
    "New Relic": r"NRAK-[A-Z0-9]{27}",
    "Grafana": r"glsa_\w{32}_[0-9a-f]{8}",
    "Slack": r"xox[abeprs]-[\w-]{20,}|xapp-\d-[\w-]{20,}",
    "SendGrid": r"SG\.[\w-]{22}\.[\w-]{43}",
    "Mailgun": r"key-[0-9a-f]{32}",
    "Twilio": r"SK[0-9a-f]{32}",
    "Telegram": r"\d{8,10}:AA[\w-]{33}",
    "Discord": r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}",
    "Postman": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "Linear": r"lin_api_\w{40}",
    "Notion": r"ntn_\w{40,}",
    "Figma": r"fig[du]_[\w-]{40}",
    "age": r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    "PuTTY": r"PuTTY-User-Key-File-\d",
    "JSON Web Token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
    "private key in base64": r"LS0tLS1CRUdJTi[\w+/=]{20,}",
}
# These may follow a letter or a digit.
_ADDRESSES = {
    "webhook of Slack": r"hooks\.slack\.com/services/[\w/]{20,}",
    "webhook of Discord": r"discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}",
    "signature of Azure": r"[?&]sig=[\w%+/]{40,}",
    "password before a host": r"\w://[^\s/:@\"']*:[^\s/@\"']+@",
    "token before a host": r"\w://[\w-]{20,}@",
}
_TOKENS = re.compile("|".join([rf"(?<![A-Za-z0-9])(?:{'|'.join(_FORMS.values())})", *_ADDRESSES.values()]).encode())
# What is told by the name before it. Looked for in texts alone; a value of words is none.
_IS = r"\\*[\"']?\s*[:=]\s*\\*[\"']?"  # in JSON, YAML, a shell, or a program, also inside of another string
_NAMED_FORMS = {
    "password, secret or key": (
        r"(?:pass(?:word|wort)|passwd|passphrase|pwd|secret|credential|sessionid|api[_-]?key|access[_-]?key|"
        rf"(?:access|refresh|session|auth)[_-]?token)[\w-]*{_IS}(?![\"'\s,}}])(?!(?:none|null|true|false|\d+)\b)"
        r"[^\s\"',}]{6,}"
    ),
    "token": rf"\btoken{_IS}(?=[\w.-]*\d)[\w.-]{{20,}}",
    "bearer": r"\bbearer\s+[\w.~+/-]{16,}",
    "authorization": rf"\bauthorization{_IS}(?:basic|digest|token)\s+[\w.~+/=-]{{8,}}",
    "netrc": r"\blogin\s+\S+\s+password\s+\S{6,}",
    "key of 32 digits": r"\"key\\*\"\s*:\s*\\*\"[0-9a-f]{32}\b",
}
_NAMED = re.compile("|".join(_NAMED_FORMS.values()), re.IGNORECASE)
_PRINTED = re.compile(rb"[ -~]{12,}")  # weights have few of these: a hundred patterns at each byte took minutes
_STANDARD = str.maketrans("-_", "+/")  # of the two alphabets of base64
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
_MIN_SECRET = 16  # characters: shorter values are words as often as secrets (TOKEN_TYPE=projection)
_BASE64 = re.compile(r"[\w+/-]{24,}", re.ASCII)
# A path from the root: of two parts at least, no part of an address or of a fraction. In quotes it may hold blanks.
_PLACES = {
    "from the root": r"(?<![\w.<>/~-])/(?:[\w.+@-]+/)+[\w.+@-]+",
    "in quotes": r"(?<=[\"'`])/(?:[\w .+@-]+/)+[\w .+@-]+(?=[\"'`])",
    "home": r"(?<![\w/])~/[\w.-]+",
    "drive": r"(?<!\w)[A-Za-z]:\\{1,2}[\w.-][\w .-]*\\",
    "share": r"(?<![\w\\^\[])\\{2,4}[A-Za-z][\w.-]+\\{1,2}[\w$.-]{2,}",
    "address": r"file://\S+",
}
_PATHS = re.compile("|".join(_PLACES.values()))


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
        elif any(_TOKENS.search(run.group()) for run in _PRINTED.finditer(data)) or _tells_secret(text):
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
    """Check whether a text holds a token, or a value that is named a password, once escapes or base64 are undone."""
    packed = (match.group().translate(_STANDARD) for match in _BASE64.finditer(text))
    # Of the groups of four, what is whole.
    unpacked = (base64.b64decode(part[: len(part) - (len(part) % 4 == 1)] + "==") for part in packed)
    texts = (text, unquote(text), *(part.decode("latin-1") for part in unpacked))
    return any(_NAMED.search(part) or _TOKENS.search(part.encode(errors="replace")) for part in texts)


def _read_text(data: bytes) -> str:
    """Decode, and undo what JSON writes for characters beyond ASCII and may write for a slash."""
    # Of UTF-16, letters are left.
    text = data.replace(b"\0", b"").decode("utf-8", errors="replace").replace("\\/", "/")
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


@contextmanager
def _open_bytes(content: Path | bytes):
    # mmap refuses an empty file.
    if isinstance(content, bytes) or content.stat().st_size == 0:
        yield content if isinstance(content, bytes) else b""
        return
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data

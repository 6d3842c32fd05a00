import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as save_tensors

from trainer.publishing.secret_scan import find_leaks


TOKEN = "hf_" + "aB3dE6gH9j" * 3 + "kLmN"
PLANTS = {
    f"use {TOKEN} here": "holds a token",
    "https://me:s3cret@example.org/x": "holds a token or a password",
    "it lies in /data/models/clip": "path of a machine, /data/models/clip",
    "at:/data/models/clip": "path of a machine, /data/models/clip",
    "C:\\Users\\me\\clip": "path of a machine, C:",
    "C:/Users/me/clip": "path of a machine, /Users/me/clip",
    "/données/modèles/clip": "path of a machine, /données/modèles/clip",
    "file:///data": "path of a machine, file:///data",
    "~/models/clip": "path of a machine, ~/models",
    "/data sets/our models/clip": "path of a machine, /data sets/our models/clip",
    "\\\\server\\share\\clip": "path of a machine, ",
    "AKIA" + "Q7" * 8: "holds a token",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzKEY": "holds a token",
    "AIza" + "Sy0aB-_" * 5: "holds a token",
    "sk_live_" + "4eC39HqLyjWD" * 2: "holds a token",
    "pypi-" + "AgEIcHlwaS5vcmc" * 4: "holds a token",
    "npm_" + "aB3dE6" * 6: "holds a token",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-_123": "holds a token",
    "password=hunter22": "holds a token or a password",
    "Authorization: Bearer abcdefghijklmnop": "holds a token",
    "Authorization: Basic dXNlcjpodW50ZXIyMiE=": "holds a token",
    "machine a.b login me password hunter22": "holds a token",
    "access_token: MqRlujwgzwHVKS3mzCj1": "holds a token",
    "token=MqRlujwgzwHVKS3mzCj1": "holds a token",
    "redis://:hunter22@host": "holds a token",
    "https://aB3dE6gH9jaB3dE6gH9j@example.org/x": "holds a token",
    "https://x/c?sv=1&sig=" + "aB3dE6gH9j" * 4: "holds a token",
    "AccountKey=" + "aB3dE6gH9j" * 8: "holds a token",
    "SG." + "aB3dE6gH9jK" * 2 + "." + "aB3dE6gH9j" * 4 + "klm": "holds a token",
    "glrt-" + "aB3dE6gH9j" * 2: "holds a token",
    "gsk_" + "aB3dE6gH9j" * 5: "holds a token",
    "r8_" + "aB3dE6gH9j" * 3 + "aB3dE6g": "holds a token",
    "dckr_pat_" + "aB3dE6gH9j" * 3: "holds a token",
    "dapi" + "0123456789abcdef" * 2: "holds a token",
    "hooks.slack.com/services/T0/B0/" + "aB3dE6gH9j" * 2: "holds a token",
    "1234567890:AA" + "aB3dE6gH9j" * 3 + "klm": "holds a token",
    "access_token%3DMqRlujwgzwHVKS3mzCj1": "holds a token",
    base64.urlsafe_b64encode(b"the password=hunter2??>").decode(): "holds a token",
    base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----" + b"a" * 60).decode(): "holds a token",
    base64.b64encode(f"the token is {TOKEN}".encode()).decode(): "holds a token",
}


def test_an_escaped_token_is_found(tmp_path):
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in TOKEN).encode()
    assert find_leaks({"config.json": b'{"a": "' + escaped + b'"}'}, tmp_path)


def test_a_vocabulary_holds_no_secrets(tmp_path):
    words = ["password", "secret", "api_key", "token", "bearer", "~/", "//", "\\\\s"]
    regex = r"<\|startoftext\|>|'s|[\p{L}]+|[^\s\p{L}\p{N}]+"
    vocabulary = json.dumps({word: 250_000 + i for i, word in enumerate(words)} | {"pattern": regex})
    assert find_leaks({"vocab.json": vocabulary.encode()}, tmp_path) == []


@pytest.mark.parametrize("text", PLANTS)
def test_what_a_text_must_not_hold_is_refused_without_repeating_a_secret(tmp_path, text):
    for is_escaped in (True, False):
        content = json.dumps({"at": text}, ensure_ascii=is_escaped)
        (leak,) = find_leaks({"config.json": content.encode()}, tmp_path)
        assert leak.startswith("config.json: it holds")
        assert PLANTS[text] in leak
        assert not [secret for secret in (TOKEN, "s3cret") if secret in leak]


def test_addresses_and_fractions_are_no_paths(tmp_path):
    text = b"https://example.org/a/b, http://127.0.0.1:8000/a/b, 3/4/5, org/name, and/or/x, </a/b>"
    assert find_leaks({"README.md": text}, tmp_path) == []


def test_a_secret_of_the_environment_is_named_and_never_shown(tmp_path, monkeypatch):
    for name, value in {"LONG_TOKEN": "ey" + "a" * 600, "QUOTED_SECRET": 'with "quotes" in it'}.items():
        monkeypatch.setenv(name, value)
        files = {"config.json": json.dumps({"note": value}).encode()}
        assert find_leaks(files, tmp_path) == [
            f"config.json: it holds the secret in {name}; remove it, and revoke it if it was ever public"
        ]
    monkeypatch.setenv("TOKEN_TYPE", "projection")
    assert find_leaks({"config.json": b"projection"}, tmp_path) == []


def test_a_secret_and_places_in_weights_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "open-sesame-right-now")
    header = save_tensors({"a": torch.zeros(1)}, metadata={"from": "/srv/models/clip"})
    files = {
        "model.safetensors": save_tensors({"a": torch.zeros(1)}) + b"....open-sesame-right-now....",
        "original_text/model.safetensors": save_tensors({}) + f"....{tmp_path.absolute()}/x".encode(),
        "projection/model.safetensors": header,
        "adapter_model.safetensors": save_tensors({"a": torch.zeros(1)}) + b"/srv/models/clip",  # bytes of weights
    }
    leaks = {leak.partition(":")[0] for leak in find_leaks(files, tmp_path)}
    assert leaks == {"model.safetensors", "original_text/model.safetensors", "projection/model.safetensors"}


def test_what_is_written_in_a_picture_is_found_and_its_pixels_are_no_text(tmp_path):
    notes = PngInfo()
    notes.add_text("Source", "/srv/photos/holiday.png")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)  # 120 kB that look like anything
    for name, info in {"plain.png": None, "noted.png": notes}.items():
        Image.fromarray(pixels).save(tmp_path / name, pnginfo=info)
    content = (tmp_path / "noted.png").read_bytes()
    start = content.index(b"tEXt") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    behind_pixels = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "noted late.png").write_bytes(behind_pixels)
    names = ("plain.png", "noted.png", "noted late.png")
    leaks = find_leaks({name: tmp_path / name for name in names}, tmp_path / "folder")
    assert leaks == [
        f"{name}: it holds a path of a machine, /srv/photos/holiday.png; write a name or a Hub id instead"
        for name in names[1:]
    ]

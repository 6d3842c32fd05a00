"""The container's file, by reading: what it copies is there, and what it runs is accepted."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import build_images
from trainer.cli.main import main


ROOT = Path(__file__).parents[2]
LINES = (ROOT / "deploy/Dockerfile").read_text().splitlines()


def read(instruction):
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{instruction} ")]


def list_copied():
    return [name for line in read("COPY") for name in line.split()[:-1]]


def test_what_is_copied_is_there_and_not_left_out():
    kept = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    sources = list_copied()
    assert sorted(sources) == sorted(line[1:] for line in kept if line.startswith("!"))
    assert all((ROOT / name).exists() for name in sources)


@pytest.mark.slow
def test_what_is_copied_is_all_that_the_package_is_made_of(tmp_path):
    (tmp_path / "src").mkdir()
    for name in list_copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "src" / name)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", tmp_path / "site", tmp_path / "src"], check=True)
    assert (tmp_path / "site/trainer/publishing/templates/model_card.md").is_file()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, tmp_path / "site/bin/rtd", "serve", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "--with-token" in done.stdout, done.stderr


def test_its_extras_are_those_of_the_package():
    (extras,) = re.findall(r"\.\[(.*?)\]", "\n".join(read("RUN")))
    known = set(re.findall(r'^    "([\w-]+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
    assert set(extras.split(",")) <= known


def test_its_command_is_accepted_and_asks_for_a_token(model, processor, tmp_path, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    client = pytest.importorskip("fastapi.testclient").TestClient
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append(server.config.app))
    command = [word for kind in ("ENTRYPOINT", "CMD") for word in json.loads(read(kind)[0])]
    assert command[0] == "rtd"
    monkeypatch.setenv("RTD_TOKEN", "sesame")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    build_images(1)[0].save(tmp_path / "photos" / "a.png")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    swapped = {"/model": str(tmp_path / "model"), "/index": str(tmp_path / "photos"), "8000": port}
    swapped |= {"0.0.0.0": "127.0.0.1"}
    assert main([*(swapped.get(word, word) for word in command[1:]), "--no-page"]) == 0
    assert client(served[0], "http://localhost").get("/").status_code == 401
    (health,) = re.findall(r"http://127.0.0.1:8000(/\w+)", "\n".join(LINES))
    assert client(served[0], "http://localhost").get(health).status_code == 200

"""The verb; the service itself is tested in `tests/trainer/app/test_server.py`."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from modeling_rtd import Gallery
from trainer.cli.main import main


uvicorn = pytest.importorskip("uvicorn")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


@pytest.fixture
def served(monkeypatch):
    """What would be served, in place of serving it."""
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append((server.config.app, sockets[0])))
    return served


def test_a_folder_is_served_on_this_machine_alone(place, photos, port, served, capsys):
    assert main(["serve", place, "--gallery", str(photos), "--port", port, "--no-page"]) == 0
    assert capsys.readouterr().out == f"15 images at http://127.0.0.1:{port}/docs; stop with Ctrl+C\n"
    assert len(served) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_the_page_is_served_where_gradio_is_there(place, photos, port, served, capsys, monkeypatch, is_there):
    if is_there:
        pytest.importorskip("gradio")
    else:
        monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", place, "--gallery", str(photos), "--port", port]) == 0
    assert (f"the page at http://127.0.0.1:{port}/page;" in capsys.readouterr().out) is is_there
    client = pytest.importorskip("fastapi.testclient").TestClient(served[0][0])
    assert client.get("/page/config", headers={"host": "localhost"}).status_code == (200 if is_there else 404)


def test_another_address_is_said_and_a_token_is_asked_for(place, photos, port, served, capsys, monkeypatch):
    arguments = ["serve", place, "--gallery", str(photos), "--port", port, "--host", "0.0.0.0"]
    arguments += ["--allowed-hosts", "testserver", "--rate-limit", "9", "--no-page"]
    assert main(arguments) == 0
    assert "anyone who reaches 0.0.0.0 can search this gallery: --with-token" in capsys.readouterr().err
    assert main([*arguments, "--with-token"]) == 2
    assert "--with-token needs a token in the environment variable RTD_TOKEN" in capsys.readouterr().err
    for token in ("sésame", "sesame\n", "open sesame"):
        monkeypatch.setenv("RTD_TOKEN", token)
        assert main([*arguments, "--with-token"]) == 2
        assert "RTD_TOKEN must be ASCII without spaces" in capsys.readouterr().err
    monkeypatch.setenv("RTD_TOKEN", "sesame")
    assert main([*arguments, "--with-token"]) == 0
    captured = capsys.readouterr()
    assert "sesame" not in captured.out + captured.err
    client = pytest.importorskip("fastapi.testclient").TestClient(served[-1][0])
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"authorization": "Bearer sesame"}).json()["images"] == 15


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0"], "--port must be between 1 and 65535, got 0"),
        (["--rate-limit", "0"], "--rate-limit must be at least 1, got 0"),
        (["--time-limit", "nan"], "--time-limit must be a number of seconds above 0, got nan"),
        (["--host", "192.0.2.1"], "that address is not of this machine"),
        (["--adapter", "other"], "--adapter takes NAME=PLACE, got 'other'"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(place, photos, port, flags, message, capsys):
    assert main(["serve", place, "--gallery", str(photos), "--port", port, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(photos, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "nowhere", "--gallery", str(photos), "--port", str(port)]) == 2
    assert f"the port {port} is taken at 127.0.0.1" in capsys.readouterr().err


def test_a_missing_library_is_named(place, photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", place, "--gallery", str(photos)]) == 2
    assert "uvicorn is not installed: pip install fastapi python-multipart uvicorn" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_on_galleries_shows_calls_that_work(place, photos, port, model, processor, tmp_path):
    Gallery(folder=tmp_path / "index").add(model, processor, [str(path) for path in sorted(photos.iterdir())])
    command = [sys.executable, "-m", "trainer.cli.main", "serve", place, "--gallery", "index", "--port", port]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        lines = re.findall(r"^curl .*$", (ROOT / "docs/galleries.md").read_text(), re.MULTILINE)
        answers = []
        for line in lines:
            line = re.sub(r"runs/demo/\S+/test-reference-\d+", "photos/01", line.replace(":8000", f":{port}"))
            done = subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, text=True, check=True)
            answers.append(json.loads(done.stdout))
        assert [list(answer) for answer in answers] == [["results"], ["results"], ["vector"], ["status"]]
        assert len(answers[0]["results"]) == 3
    finally:
        server.terminate()
        _, error = server.communicate(timeout=30)
    assert "Traceback" not in error
    assert server.returncode == 143

"""Measure `rtd serve`: requests a second of several clients, waiting times, wrong answers, and memory.

    PYTHONPATH=. OMP_NUM_THREADS=1 python speed/serve.py --size vit-b-32 --clients 1 8 64 --seconds 20

A process serves a gallery of random vectors and ten pictures; clients are threads of this process, each of which asks
again as soon as it has its answer: to a sentence, or to a stored picture and a sentence. Every answer is compared with
what the same question got when nobody else asked. `MiB` is what the process holds before and after.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from modeling_rtd import Gallery
from speed.build_clip import SIZES
from speed.comparing import report
from speed.synthetic import build_model, build_processor, draw_images, draw_texts


__all__ = ["measure"]

_COLUMNS = ("clients", "requests a second", "p50_s", "p95_s", "wrong", "MiB before", "MiB after")


def _prepare(folder: Path, size: str, rows: int) -> list[dict]:
    """Save a model and an index, and give questions."""
    processor = build_processor()
    model = build_model(size, "lincir", processor)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    gallery = Gallery(folder=folder / "index")
    paths = [str(folder / f"{i}.jpg") for i in range(10)]
    for path, image in zip(paths, draw_images(10), strict=True):
        image.save(path)
    gallery.add(model, processor, paths)
    names = [str(folder / f"none/{i}.jpg") for i in range(rows)]
    gallery.add_embeddings(rng.standard_normal((rows, model.config.projection_dim)), names)
    texts = draw_texts("conditioning_caption", 40, rng)
    return [{"text": text} | ({"ids": [paths[i // 4]]} if i % 4 == 0 else {}) for i, text in enumerate(texts)]


def _ask(connection: http.client.HTTPConnection, question: dict) -> list[str]:
    connection.request("POST", "/search", json.dumps(question), {"content-type": "application/json"})
    response = connection.getresponse()
    body = json.loads(response.read())
    return [hit["id"] for hit in body["results"]] if response.status == 200 else [body["detail"]]


def _read_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measure(port: int, process: int, questions: list[dict], clients: int, seconds: float) -> dict:
    """Ask from several clients at once.

    Args:
        port (`int`): Of the service.
        process (`int`): Its number.
        questions (`list[dict]`): Asked in turns.
        clients (`int`): How many ask.
        seconds (`float`): How long.

    Returns:
        `dict`: A row of the table.
    """
    alone = http.client.HTTPConnection("127.0.0.1", port)
    expected = [_ask(alone, question) for question in questions]
    before, start = _read_mib(process), time.perf_counter()

    def ask_on(client: int) -> list[tuple[float, bool]]:
        connection, answers = http.client.HTTPConnection("127.0.0.1", port), []
        while time.perf_counter() - start < seconds:
            number = (client + len(answers)) % len(questions)
            begun = time.perf_counter()
            found = _ask(connection, questions[number])
            answers.append((time.perf_counter() - begun, found == expected[number]))
        return answers

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for answers in pool.map(ask_on, range(clients)) for answer in answers]
    taken = time.perf_counter() - start
    waited = sorted(answer[0] for answer in answers)
    return {
        "clients": clients,
        "requests a second": len(answers) / taken,
        "p50_s": statistics.median(waited),
        "p95_s": waited[int(0.95 * (len(waited) - 1))],
        "wrong": sum(not answer[1] for answer in answers),
        "MiB before": before,
        "MiB after": _read_mib(process),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32")
    parser.add_argument("--rows", type=int, default=10_000, help="of the gallery")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20, help="for each number of clients")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--plot", type=Path, help="picture of the seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = _prepare(folder, options.size, options.rows)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "trainer.cli.main",
            "serve",
            "model",
            "--gallery",
            "index",
            "--port",
            str(port),
        ]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        server = subprocess.Popen([*command, "--images", "."], cwd=folder, env=environment)
        try:
            _wait(port)
            rows = [measure(port, server.pid, questions, clients, options.seconds) for clients in options.clients]
        finally:
            server.terminate()
            server.wait(30)
    report(rows, _COLUMNS, options)


def _wait(port: int) -> None:
    for _ in range(1200):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the service did not answer within four minutes.")


if __name__ == "__main__":
    main()

"""The service and its page under many requests at once, half of them bad: each is answered, and none with a 5xx."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modeling_rtd import Gallery
from tests.factories import build_images
from tests.trainer.app.requests import Visit, as_file, fetch
from trainer.app import SearchDesk, list_voices


pytest.importorskip("gradio", reason="the page needs gradio, of the extra `app`")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow

ROUNDS, REQUESTS = 3, 200
QUERY = ["is red", 1, "", 0.25, "projection alone", "nobody"]


@pytest.fixture
def url(model, processor, tmp_path):
    from trainer.app.server import build_server

    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    for path, image in zip(paths, build_images(12), strict=True):
        image.save(path)
    desk = SearchDesk(list_voices(model, processor, Gallery.from_images(model, processor, paths)), tmp_path, top_k=5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(build_server(desk, page=True), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        while not server.started:
            time.sleep(0.05)
        yield url
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def read_mib():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def post(url, path, host=None, **body):
    status, answer = fetch(f"{url}{path}", json.dumps(body).encode(), host=host)
    return status, json.loads(answer)


def announce(url, count):
    """Give what is answered to the head of a large request."""
    with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), 60) as connection:
        connection.sendall(f"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {count}\r\n\r\n".encode())
        answer = connection.recv(4096).decode()
    return int(answer.split()[1]), answer


def ask_page(url, *values, name="search"):
    """Give the status as HTTP would, and what is shown."""
    went_well, output = Visit(f"{url}page/").ask(name, *values)
    return 200 if went_well else 400, str(output)


# What is asked, the status of the answer, and a part of it.
GOOD = [
    (lambda url: post(url, "search", text="a dog", top_k=3), 200, "results"),
    (lambda url: post(url, "encode", text="a red dress"), 200, "vector"),
    (lambda url: ask_page(url, *QUERY), 200, "5 results, best first"),
    (lambda url: (fetch(f"{url}page/")[0], "page"), 200, "page"),
]
BAD = [
    (lambda url: post(url, "search", text=" "), 422, "a blank `text`"),
    (lambda url: post(url, "search", "evil.example", text="a dog"), 400, "no host of the name 'evil.example'"),
    (lambda url: post(url, "search", ids=["../../etc/passwd"]), 404, "the gallery has no image"),
    (lambda url: post(url, "search", vector=[1, 2]), 422, "must have the shape"),
    (lambda url: (fetch(f"{url}page/config", host="evil.example:80")[0], ""), 400, ""),
    (lambda url: announce(url, 30_000_000), 413, "Too Large"),
    (lambda url: ask_page(url, as_file("/etc/passwd"), name="upload"), 400, ""),
    (lambda url: ask_page(url, 7, name="turn"), 400, ""),
    (lambda url: ask_page(url, "", *QUERY[1:]), 200, "a query needs `image`, `text` or both"),
    (lambda url: ask_page(url, "x" * 2000, *QUERY[1:]), 200, "a text may have 1,000 letters"),
]


def ask(url, number):
    questions = BAD if number % 2 else GOOD
    question, status, part = questions[number // 2 % len(questions)]
    got, answer = question(url)
    return [] if got == status and part in str(answer) else [(number, got, str(answer)[:200])]


def test_half_of_many_requests_at_once_are_bad(url):
    before = [ask(url, number) for number in range(2 * len(BAD))]
    assert not sum(before, [])
    expected, sizes = post(url, "search", text="a dog", top_k=5), []
    with ThreadPoolExecutor(REQUESTS) as pool:
        for _ in range(ROUNDS):
            wrong = sum(pool.map(lambda number: ask(url, number), range(REQUESTS)), [])
            assert not wrong
            sizes.append(read_mib())
    assert post(url, "search", text="a dog", top_k=5) == expected
    assert fetch(f"{url}ready")[0] == 200
    assert sizes[-1] - sizes[0] < 200, sizes


def test_a_client_that_sends_slowly_holds_nobody_up(url):
    slow = []
    for _ in range(50):
        connection = socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])))
        connection.sendall(b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        slow.append(connection)
    assert post(url, "search", text="a dog")[0] == 200
    for connection in slow:
        connection.close()

"""The page over HTTP: what it serves, what it refuses, and many requests at once."""

import io
import json
import re
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.factories import build_images, build_processor, write_photos
from tests.trainer.app import desks
from tests.trainer.app.requests import Visit, as_file, fetch, upload
from trainer.app import new_state


pytest.importorskip("gradio", reason="the page needs gradio, of the extra `app`")

QUERY = ["is red", 1, "", 0.25, "RTD", "nobody"]


# One page for all: what a visit leaves is its own.
@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("page") / "photos")


@pytest.fixture(scope="module")
def desk(photos):
    return desks.build_desk(desks.build_tuned(), build_processor(), photos)


@pytest.fixture(scope="module")
def url(desk):
    from trainer.app.page import serve_page

    page, url = serve_page(desk)
    yield url
    page.close()


def get_png():
    buffer = io.BytesIO()
    build_images(1, seed=9)[0].save(buffer, "PNG")
    return buffer.getvalue()


def test_a_visit_over_http(url, desk):
    visit = Visit(url)
    status, answer = upload(url, get_png())
    assert status == 200
    went_well, output = visit.ask("upload", as_file(json.loads(answer)[0]))
    assert went_well
    assert "The upload is the reference" in str(output)
    went_well, output = visit.ask("search", *QUERY)
    assert went_well
    assert "5 results, best first" in str(output)
    pictures = [part["value"] for part in output["data"] if isinstance(part, dict) and "value" in part][0]
    assert len(pictures) == 5
    assert fetch(pictures[0]["image"]["url"])[0] == 200
    captions = [picture["caption"].split(" · ")[1] for picture in pictures]
    assert captions == sorted(captions, reverse=True)
    went_well, output = visit.ask("turn", 1)
    assert "Results of turn 1" in str(output)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("evil.example", 400),
        ("evil.example:7860", 400),
    ],
)
def test_a_request_for_another_host_is_refused(url, host, status):
    assert fetch(f"{url}config", host=host)[0] == status


def test_mistakes_are_told_on_the_page(url):
    visit = Visit(url)
    assert "a query needs `image`, `text` or both" in str(visit.ask("search", "", *QUERY[1:]))
    assert "choose an image first" in str(visit.ask("use"))
    status, answer = upload(url, b"nonsense", "<b>x.png")
    shown = str(visit.ask("upload", as_file(json.loads(answer)[0])))
    assert "is not an image that can be read" in shown
    assert "<b>" not in shown


def test_blanks_stand_for_what_the_page_begins_with(url):
    visit = Visit(url)
    went_well, output = visit.ask("search", "a dog", None, "a cat", None, None, None)
    assert went_well
    assert "no reference, “a dog”, without “a cat” (0.25), by RTD" in str(output)
    for step, sentence in (("turn", "there is no turn None"), ("upload", "no file came: choose an image to upload")):
        went_well, output = visit.ask(step, None)
        assert went_well
        assert sentence in str(output)


def test_no_file_but_its_own_is_served(url, desk, photos, tmp_path):
    for folder in (tmp_path, photos.parent):
        (folder / "secret.png").write_bytes(get_png())
    outside = [tmp_path / "secret.png", photos / "00.png", Path(__file__), Path.cwd() / "README.md", "/etc/passwd"]
    for path in [*outside, photos / "../secret.png", str(photos / "..%2fsecret.png")]:
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/"):
            assert fetch(f"{url}{route}{path}")[0] in (403, 404, 405)


def test_a_path_in_place_of_an_upload_is_refused(url, photos):
    for path in (photos / "00.png", Path("/etc/passwd"), Path(__file__)):
        went_well, output = Visit(url).ask("upload", as_file(str(path)))
        assert not went_well
        assert "root:" not in str(output)


def test_a_state_that_a_request_brings_is_not_taken(url, photos, tmp_path):
    visit = Visit(url)
    for reference in ({"path": "/etc/passwd"}, {"id": str(tmp_path / "secret.png"), "turn": None, "rank": 1}):
        _, output = visit.ask("search", "", *QUERY[1:], state=new_state() | {"reference": reference})
        assert "a query needs `image`, `text` or both" in str(output)


def test_a_url_in_place_of_an_upload_is_never_fetched(url):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(get_png())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for place in (f"http://127.0.0.1:{server.server_port}/a.png", f"HTTP://127.0.0.1:{server.server_port}/a.png"):
        assert not Visit(url).ask("upload", as_file(place))[0]
        assert not Visit(url).ask("upload", as_file(place) | {"url": place})[0]
    server.shutdown()
    server.server_close()
    assert asked == []


def test_a_port_that_is_taken_is_named(url, desk):
    from trainer.app.page import serve_page

    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=f"the port {port} is taken at 127.0.0.1"):
        serve_page(desk, port=port)


def test_an_upload_that_is_too_large_is_refused(url):
    status, answer = upload(url, b"0" * (20 * 2**20 + 1))
    assert status == 413
    assert b"maximum allowed size" in answer


def test_the_page_listens_on_this_machine_alone_and_tells_nobody(url):
    assert url.startswith("http://127.0.0.1:")
    assert json.loads(fetch(f"{url}config")[1])["analytics_enabled"] is False
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', fetch(url)[1].decode())


@pytest.mark.slow
def test_a_hundred_requests_at_once_are_all_answered(url, desk):
    visits = [Visit(url) for _ in range(100)]
    visits[0].ask("search", "a dog", *QUERY[1:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    texts = [
        f"{word} {thing}"
        for word in ("red", "green", "blue", "white")
        for thing in ("dog", "cat", "car", "tree", "house")
    ] * 5
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda visit, text: visit.ask("search", text, *QUERY[1:]), visits, texts))
    assert all(went_well for went_well, _ in answers)
    assert all(text in str(output) for text, (_, output) in zip(texts, answers, strict=True))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"{grown:.0f} MiB more at the peak"

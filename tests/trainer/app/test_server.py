"""The HTTP service: its answers are the pipeline's, and what is not accepted is refused with a sentence."""

import contextlib
import importlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from modeling_rtd import Gallery
from tests.factories import build_images
from trainer.app import SearchDesk, list_voices
from trainer.app.page import MAX_UPLOAD_BYTES
from trainer.training.lora import build_lora_config


testclient = pytest.importorskip("fastapi.testclient")
server = pytest.importorskip("trainer.app.server")


@pytest.fixture
def desk(tuned, processor, photos):
    paths = sorted(str(path) for path in photos.iterdir())
    gallery = Gallery()
    gallery.add(tuned, processor, paths, metadata=[{"year": 2020 + i % 2} for i in range(len(paths))])
    return SearchDesk(list_voices(tuned, processor, gallery), photos)


@pytest.fixture
def connect(desk):
    def connect(**options):
        app = server.build_server(desk, **options)
        return testclient.TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False)

    return connect


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def pipe(desk):
    return next(iter(desk.voices.values())).pipeline


def read(response):
    assert response.status_code == 200, response.text
    return response.json()


def names(hits):
    return [hit["id"] for hit in hits]


def test_answers_are_the_pipelines(client, pipe, desk, tmp_path):
    first, second = desk.gallery.ids[2:4]
    algebra = {"text": "is red", "strength": 0.7, "negative": "a dog", "negative_weight": 0.4, "weights": [2, 1]}
    asked = algebra | {"ids": [first, second], "top_k": 5, "where": {"year": 2021}, "exclude": [desk.gallery.ids[5]]}
    query = algebra | {"image": [first, second], "exclude": [desk.gallery.ids[5]]}
    expected = pipe(query, top_k=5, where={"year": 2021})
    found = read(client.post("/search", json=asked))["results"]
    assert names(found) == names(expected)
    assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    assert found[0]["metadata"] == {"year": 2021}
    assert names(read(client.post("/search", json={"text": "a dog"}))["results"]) == names(pipe({"text": "a dog"}))


def test_uploads_and_vectors(client, pipe, tmp_path):
    path = tmp_path / "upload.jpg"
    build_images(1, seed=9)[0].save(path)
    expected = pipe({"image": str(path), "text": "is red"}, top_k=4)
    send = {"files": {"image": path.read_bytes()}, "data": {"query": json.dumps({"text": "is red", "top_k": 4})}}
    assert names(read(client.post("/search/upload", **send))["results"]) == names(expected)
    send["data"] = {"query": json.dumps({"text": "is red"})}
    vector = read(client.post("/encode/upload", **send))["vector"]
    found = read(client.post("/search", json={"vector": vector, "top_k": 4, "min_score": -1}))["results"]
    assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    assert len(read(client.post("/search/upload", files={"image": path.read_bytes()}))["results"]) == 10
    assert read(client.post("/encode", json={"text": "a dog"}))["vector"] != vector


def test_an_adapter_is_asked_by_name(client, desk, pipe):
    pipe.model.text_model.add_adapter(build_lora_config(), "one")
    for parameter in pipe.model.text_model.parameters():
        parameter.data += 0.01 * torch.rand_like(parameter) * parameter.requires_grad
    asked = {"ids": [desk.gallery.ids[0]], "text": "is red"}
    vectors = [read(client.post("/encode", json=asked | {"adapter": name}))["vector"] for name in ("one", "__base__")]
    assert vectors[0] != vectors[1]
    assert read(client.get("/"))["adapters"] == ["one"]


CALLS = {"/", "/encode", "/encode/upload", "/health", "/ready", "/search", "/search/upload"}
BAD = [
    ("/search", {"json": {}}, 422, "a query needs references (`ids` or uploads), a `text` or both, got no reference"),
    ("/search", {"json": {"text": " "}}, 422, "got a blank `text` and no reference"),
    ("/search", {"json": {"txt": "red"}}, 422, "unknown field 'txt'"),
    ("/search", {"json": []}, 422, "the body: "),
    ("/search", {"content": b"{"}, 422, "the query is not valid JSON"),
    ("/search", {"content": b"[" * 100_000}, 400, "error parsing the body"),
    ("/search", {"json": {"text": "x" * 1001}}, 422, "text: String should have at most 1000"),
    ("/search", {"json": {"text": "red", "top_k": 0}}, 422, "top_k: "),
    ("/search", {"json": {"text": "red", "top_k": 10**30}}, 422, "top_k: "),
    ("/search", {"json": {"text": "red", "where": {"color": 1}}}, 422, "no image of the gallery has a field 'color'"),
    ("/search", {"json": {"text": "red", "where": "year = 1"}}, 422, "where: Input should be"),
    ("/search", {"json": {"text": "red", "where": {"year": []}}}, 422, "is empty"),
    ("/search", {"json": {"text": "red", "where": {"year": [1] * 1001}}}, 422, "1,000 values, got 1,001"),
    ("/search", {"json": {"ids": ["\udcff"]}}, 404, "the gallery has no image"),
    ("/search", {"json": {"text": "red", "strength": 0.5}}, 422, "`strength`"),
    ("/search", {"json": {"text": "red", "adapter": "none"}}, 422, "unknown adapter 'none'"),
    ("/search", {"json": {"text": "\ud800", "adapter": "\ud800"}}, 422, "unicode string"),
    ("/search", {"json": {"text": "red", "where": {"year": "\ud800"}}}, 200, ""),
    ("/search", {"json": {"ids": ["../../etc/passwd"]}}, 404, "the gallery has no image '../../etc/passwd'"),
    ("/search", {"json": {"ids": ["x"] * 17}}, 422, "ids: "),
    ("/search", {"json": {"vector": [1, 2]}}, 422, "must have the shape"),
    ("/search", {"json": {"vector": [0] * 24}}, 422, "not all zero"),
    ("/search", {"json": {"vector": [1e300] * 24}}, 422, "finite"),
    ("/search", {"json": {"vector": [1] * 24, "text": "red"}}, 422, "a vector is a whole query"),
    ("/search", {"content": b'{"vector": [NaN]}'}, 422, "vector.0: Input should be a finite number"),
    ("/encode", {"json": {"text": "red", "top_k": 3}}, 422, "unknown field 'top_k'"),
    ("/search/upload", {"files": {"image": ("a.png", b"nonsense")}}, 422, "'a.png' is not an image that can be read"),
    ("/search/upload", {"files": {"image": b""}}, 422, "not an image"),
    ("/search/upload", {"data": {"query": "{}"}}, 422, "image: "),
    ("/search/upload", {"files": {"image": b"%!PS-Adobe-3.0 EPSF-3.0"}}, 422, "is not an image that can be read"),
    ("/search/upload", {"files": {"image": b"a"}, "data": {"query": "{"}}, 422, "the query is not valid JSON"),
    ("/search/upload", {"files": {"image": b"a" * (MAX_UPLOAD_BYTES + 1)}}, 413, "send a smaller image"),
    ("/nowhere", {"json": {}}, 404, "Not Found"),
]


@pytest.mark.filterwarnings("ignore:1 of 1 words are unknown")
def test_what_is_not_accepted_is_refused_with_a_sentence(client):
    for path, send, status, sentence in BAD:
        if "json" in send:  # as it stands, also where a client would refuse to write it
            send = {"content": json.dumps(send["json"])}
        if "content" in send:
            send["headers"] = {"content-type": "application/json"}
        response = client.post(path, **send)
        assert response.status_code == status, (path, str(send)[:200], response.text[:200])
        if status != 200:
            assert isinstance(response.json()["detail"], str)
            assert sentence in response.json()["detail"]


def test_a_body_that_does_not_say_its_size_is_cut_off(client):
    chunks = (b"a" * 2**20 for _ in range(MAX_UPLOAD_BYTES // 2**20 + 2))
    response = client.post("/search", content=chunks, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert client.post("/search", content=b"", headers={"content-length": "x" * 30}).status_code == 413


def test_a_token_is_asked_for(connect):
    client = connect(token="sésame")
    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic x"}):
        response = client.post("/search", json={"text": "a dog"}, headers=headers)
        assert response.status_code == 401
        assert "Authorization: Bearer TOKEN" in response.json()["detail"]
    assert client.get("/", headers={"authorization": "Bearer sésame".encode()}).status_code == 401  # of ASCII alone
    client = connect(token="sesame")
    assert read(client.post("/search", json={"text": "a dog"}, headers={"authorization": "Bearer sesame"}))
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "localhost:8000", 200),
        ((), "[::1]:8000", 200),
        ((), "192.0.2.7", 200),
        ((), "evil.example", 400),
        (("0.0.0.0",), "evil.example", 400),
        (("0.0.0.0", "photos.example"), "photos.example:8000", 200),
        (("*",), "evil.example", 200),
    ],
)
def test_other_hosts_are_refused_unless_they_are_named(connect, hosts, host, status):
    response = connect(hosts=hosts).get("/", headers={"host": host})
    assert response.status_code == status
    assert status == 200 or "--allowed-hosts" in response.json()["detail"]


def test_a_client_that_asks_too_often_waits(connect):
    client = connect(rate_limit=2)
    responses = [client.post("/search", json={"text": "a dog"}) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert "2 times a minute" in responses[2].json()["detail"]
    assert 1 <= int(responses[2].headers["retry-after"]) <= 30
    assert client.get("/").status_code == 200


def test_a_request_that_takes_too_long_is_answered(connect, desk, monkeypatch):
    monkeypatch.setattr(desk.gallery, "search", lambda *_: time.sleep(2))
    client, start = connect(time_limit=0.2), time.monotonic()
    response = client.post("/search", json={"text": "a dog"})
    assert (response.status_code, time.monotonic() - start < 1) == (503, True)
    assert "this took more than 0.2 s" in response.json()["detail"]


def test_the_page_lies_beside_the_calls_under_the_same_rules(connect):
    pytest.importorskip("gradio")
    client = connect(page=True, token="sesame", rate_limit=1)
    paths = ("/page", "/page/config", "/page/gradio_api/info", "/page/theme.css", "/page/gradio_api/heartbeat/a")
    for path in paths:
        response = client.get(path)
        assert (response.status_code, response.headers["www-authenticate"].split()[0]) == (401, "Basic")
    assert client.get("/page/config", auth=("anybody", "wrong")).status_code == 401
    assert client.get("/page/config", headers={"authorization": "Basic %"}).status_code == 401
    assert read(client.get("/page/config", auth=("anybody", "sesame")))["analytics_enabled"] is False
    assert read(client.get("/page/config", headers={"authorization": "Bearer sesame"}))
    assert "<gradio-app" in client.get("/page/", auth=("anybody", "sesame")).text
    assert client.get("/page/config", auth=("a", "sesame"), headers={"host": "evil.example"}).status_code == 400
    join = "/page/gradio_api/queue/join"
    assert [client.post(join, auth=("a", "sesame"), json={}).status_code for _ in range(2)] == [422, 429]
    assert set(read(client.get("/openapi.json"))["paths"]) == CALLS


def test_a_gallery_that_is_gone_is_not_ready(client, desk, monkeypatch):
    def fail(gallery):
        raise ValueError("PostgreSQL cannot be reached: gone.")

    monkeypatch.setattr(Gallery, "__bool__", fail)
    response = client.get("/ready")
    assert (response.status_code, response.json()["detail"]) == (503, "PostgreSQL cannot be reached: gone.")
    assert client.get("/health").status_code == 200


def test_a_database_that_goes_away_is_no_fault_of_a_query(postgres, tuned, processor, photos, tmp_path):
    gallery = Gallery(folder=tmp_path / "index", engine="pgvector", uri=postgres)
    gallery.add(tuned, processor, sorted(str(path) for path in photos.iterdir()))
    app = server.build_server(SearchDesk(list_voices(tuned, processor, gallery), photos))
    client = testclient.TestClient(app, "http://localhost")
    assert len(read(client.post("/search", json={"text": "a dog"}))["results"]) == 10
    assert client.post("/search", json={"text": "a dog", "where": {"id": 1}}).status_code == 422
    gallery.close()
    response = client.post("/search", json={"text": "a dog"})
    assert (response.status_code, client.get("/ready").status_code) == (503, 503)
    assert "PostgreSQL cannot be reached" in response.json()["detail"]


def test_many_ask_at_once_and_each_gets_its_answer(client, desk, monkeypatch):
    sizes, encode = [], server.encode_composed

    def count(model, processor, queries):
        sizes.append(len(queries))
        time.sleep(0.05)
        return encode(model, processor, queries)

    asked = [{"ids": [name], "text": "is red", "top_k": 3} for name in desk.gallery.ids]
    expected = [read(client.post("/search", json=one))["results"] for one in asked]
    monkeypatch.setattr(server, "encode_composed", count)
    with ThreadPoolExecutor(15) as pool:
        found = list(pool.map(lambda one: read(client.post("/search", json=one))["results"], asked))
    assert [names(hits) for hits in found] == [names(hits) for hits in expected]
    assert len(sizes) < len(asked)


def test_one_bad_query_does_not_spoil_its_batch(desk, pipe, monkeypatch):
    encode, gate = server.encode_composed, threading.Event()

    def fail_on(model, processor, queries):
        gate.wait(5)
        if any(query.condition == "bad" for query in queries):
            raise ValueError("bad.")
        return encode(model, processor, queries)

    monkeypatch.setattr(server, "encode_composed", fail_on)
    encoder = server.BatchEncoder(pipe.model, pipe.processor)
    queries = [server.Query(condition=text) for text in ("a dog", "bad", "a cat")]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(encoder.encode, query) for query in queries]
        time.sleep(0.1)
        gate.set()
        assert futures[0].result().shape == futures[2].result().shape == (24,)
        with pytest.raises(ValueError, match="bad"):
            futures[1].result()


def test_too_many_that_wait_are_sent_away(client, monkeypatch):
    monkeypatch.setattr(server, "_SECONDS", 0)
    monkeypatch.setattr(server, "encode_composed", lambda *_: time.sleep(0.2))
    response = client.post("/search", json={"text": "a dog"})
    assert (response.status_code, response.json()["detail"]) == (503, "too many queries wait: ask again later.")


def test_the_description_is_valid_and_the_answers_are_as_described(client, desk):
    jsonschema = pytest.importorskip("jsonschema")
    description = read(client.get("/openapi.json"))
    assert set(description["paths"]) == CALLS
    assert "references: BMP, GIF, JPEG, PNG, TIFF, WEBP" in json.dumps(description)
    with contextlib.suppress(ImportError):
        importlib.import_module("openapi_spec_validator").validate(description)
    operations = [one for path in description["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all("description" in answer for one in operations for answer in one["responses"].values())

    def check(value, schema):
        # What OpenAPI 3.1 calls a schema is one of JSON Schema 2020-12.
        validator = jsonschema.Draft202012Validator(schema | {"components": description["components"]})
        validator.check_schema(validator.schema)
        validator.validate(value)

    assert description["openapi"].startswith("3.1")
    for schema in description["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    asked = {"ids": [desk.gallery.ids[0]], "text": "is red", "top_k": 2, "where": {"year": [2020, 2021]}}
    call = description["paths"]["/search"]["post"]
    check(asked, call["requestBody"]["content"]["application/json"]["schema"])
    for body, status in ((asked, "200"), ({"text": ""}, "422"), ({"ids": ["none"]}, "404")):
        answer = client.post("/search", json=body)
        assert str(answer.status_code) == status
        check(answer.json(), call["responses"][status]["content"]["application/json"]["schema"])

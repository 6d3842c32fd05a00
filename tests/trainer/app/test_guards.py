"""The guards alone, before an application that does what a test wants; before the service see `test_server.py`."""

import asyncio

import pytest


guards = pytest.importorskip("trainer.app.guards")


def ask(guard, method="POST", client="192.0.2.1", body=(b"",), **headers):
    """Give the status of the answer, and its headers."""
    scope = {"type": "http", "method": method, "path": headers.pop("path", "/"), "client": (client, 1)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    messages, sent = iter(body), []

    async def receive():
        part = next(messages, None)
        if part is None:
            await asyncio.sleep(10)
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def accept(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:80", 200),
        ("10.0.0.1", 200),
        ("a.example", 200),
        ("x.b.example:80", 200),
        ("b.example", 400),
        ("10.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_hosts_are_known_by_number_or_name(host, status):
    assert ask(guards.KnownHosts(accept, ["A.example", "*.b.example"]), host=host)[0] == status


@pytest.mark.parametrize(
    ("forwarded", "status"), [("a.example", 200), ("evil.example", 400), ("a.example, evil.example", 400)]
)
def test_a_host_that_a_proxy_names_is_known_too(forwarded, status):
    guard = guards.KnownHosts(accept, ["a.example"])
    assert ask(guard, **{"host": "localhost", "x-forwarded-host": forwarded})[0] == status


def test_the_rate_is_that_of_each_address_and_comes_back(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(guards.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(guards, "_CLIENTS", 2)
    guard = guards.LimitRate(accept, 3)
    assert [ask(guard)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert ask(guard)[1]["retry-after"] == "20"
    assert ask(guard, client="192.0.2.2")[0] == ask(guard, method="GET")[0] == 200
    now[0] = 20
    assert [ask(guard)[0] for _ in range(2)] == [200, 429]
    assert [ask(guard, client=f"192.0.2.{i}")[0] for i in range(3, 6)] == [200] * 3  # at once, from many addresses
    assert list(guard._spent) == ["192.0.2.4", "192.0.2.5"]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:1", 429),
        ("2001:db8::1", "2001:db8:0:1::1", 200),
        ("::ffff:192.0.2.1", "192.0.2.1", 429),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", 200),
        ("fe80::1%eth0", "fe80::2%eth0", 429),
    ],
)
def test_a_network_of_ipv6_is_one_client(first, second, status):
    guard = guards.LimitRate(accept, 1)
    assert ask(guard, client=first)[0] == 200
    assert ask(guard, client=second)[0] == status


def test_a_body_that_does_not_come_is_not_waited_for():
    async def read_all(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    assert ask(guards.LimitTime(read_all, 0.05), body=[b"a"])[0] == 503


def test_an_answer_that_has_begun_may_go_on():
    async def stream(scope, receive, send):
        await accept(scope, receive, send)
        await asyncio.sleep(0.1)

    assert ask(guards.LimitTime(stream, 0.05))[0] == 200


@pytest.mark.parametrize(("path", "status"), [("/page", 401), ("/page/config", 401), ("/pages", 200), ("/", 200)])
def test_the_token_is_that_of_the_page_alone(path, status):
    guard = guards.PageToken(accept, "sésame", "/page")
    assert ask(guard, path=path)[0] == status
    assert ask(guard, path=path, authorization="Basic bjpzw6lzYW1l")[0] == 200

"""What is before the service and the page: whom they answer, how much comes, how often, and for how long."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import math
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


__all__ = ["KnownHosts", "LimitBody", "LimitRate", "LimitTime", "PageToken", "is_token"]

_CLIENTS = 10_000  # whose last requests are remembered


class _Guard:
    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Guard requests; the rest is the start and the end of the service."""
        answer = self._guard if scope["type"] in ("http", "websocket") else self._app
        await answer(scope, receive, send)


class KnownHosts(_Guard):
    """Refuse requests for a host of another name, which a web page elsewhere may point at this machine (rebinding).

    A number as the host is let through: a browser asks for one only where it was typed. starlette's
    TrustedHostMiddleware knows names alone. Who listens at all addresses would have to list them.

    Args:
        app: ASGI application.
        hosts (`list[str]`): Names beside `localhost`, or patterns such as `*.example.com`; `*` is any name.
    """

    def __init__(self, app, hosts: Sequence[str] = ()):
        super().__init__(app)
        self._hosts = [host.lower() for host in ("localhost", *hosts)]

    async def _guard(self, scope, receive, send):
        # gradio takes the second for the first, and writes it into its page.
        named = [value for name, value in scope["headers"] if name in (b"host", b"x-forwarded-host")] or [b""]
        for host in (_read_host(part.strip()) for value in named for part in value.decode("latin-1").split(",")):
            if not _is_address(host) and not any(fnmatchcase(host, pattern) for pattern in self._hosts):
                sentence = f"no host of the name '{host}' is served here: start it with --allowed-hosts and that name."
                await JSONResponse({"detail": sentence}, 400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _read_host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # a bracket that is not closed
        return ""


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


class LimitBody(_Guard):
    """Refuse bodies above a limit, by what they say and by what comes.

    Args:
        app: ASGI application.
        count (`int`): Bytes that a body may have.
    """

    def __init__(self, app, count: int):
        super().__init__(app)
        self._most = count

    async def _guard(self, scope, receive, send):
        refusal = HTTPException(413, f"a request may have {self._most:,} bytes: send a smaller image.")
        said = dict(scope["headers"]).get(b"content-length", b"0")
        # Python refuses to read numbers of thousands of digits.
        if not said.isdigit() or int(said[:20]) > self._most:
            await JSONResponse({"detail": refusal.detail}, 413)(scope, receive, send)
            return
        count = 0

        # A body may come in pieces, without a length or with a false one.
        async def receive_some():
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._most:
                raise refusal
            return message

        await self._app(scope, receive_some, send)


class LimitRate(_Guard):
    """Refuse a client that asks too often. POST requests count: those of the service that cost, and the page's steps.

    A client may spend a minute's requests at once, and then one every `60 / count` seconds (generic cell rate
    algorithm, of ATM networks).

    Args:
        app: ASGI application.
        count (`int`): Requests a minute of one address; of IPv6, of one network of 64 bits.
    """

    def __init__(self, app, count: int):
        super().__init__(app)
        self._most, self._spent = count, {}

    async def _guard(self, scope, receive, send):
        if scope.get("method") == "POST":
            wait = self._count(_name_client((scope.get("client") or ("",))[0]))
            if wait:
                sentence = f"one client may ask {self._most} times a minute: ask again in {wait} s."
                await JSONResponse({"detail": sentence}, 429, {"Retry-After": str(wait)})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _count(self, client: str) -> int:
        """Count a request, and give the seconds after which it would have been taken: 0 where it is."""
        now = time.monotonic()
        # The time at which all that was spent has come back.
        until = max(now, self._spent.get(client, 0)) + 60 / self._most
        if until > now + 60:
            return math.ceil(until - now - 60)
        self._spent.pop(client, None)  # so that who asked last comes last
        self._spent[client] = until
        if len(self._spent) > _CLIENTS:
            del self._spent[next(iter(self._spent))]
        return 0


def _name_client(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped:  # as a socket of both kinds gives it
        return str(address.ipv4_mapped)
    # A client with one address can use the 2**64 of its network.
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


class LimitTime(_Guard):
    """Refuse what takes too long until its answer begins: a body that does not come, or a search that does not end.

    A thread that works on it ends by itself.

    Args:
        app: ASGI application.
        seconds (`float`): From the first line of the request to that of the answer.
    """

    def __init__(self, app, seconds: float):
        super().__init__(app)
        self._seconds = seconds

    async def _guard(self, scope, receive, send):
        try:
            async with asyncio.timeout(self._seconds) as limit:

                async def send_in_time(message):
                    if not limit.expired():
                        limit.reschedule(None)
                        await send(message)

                await self._app(scope, receive, send_in_time)
        except TimeoutError:
            if not limit.expired():
                raise
        if limit.expired():
            sentence = f"this took more than {self._seconds:g} s: ask again later, or for less."
            await JSONResponse({"detail": sentence}, 503)(scope, receive, send)


class PageToken(_Guard):
    """Ask who comes to the page for the token, as the password of any user; a browser then shows its own dialog.

    Args:
        app: ASGI application.
        token (`str`): Token. `Authorization: Bearer` brings it as well.
        path (`str`): Where the page is mounted.
    """

    def __init__(self, app, token: str, path: str):
        super().__init__(app)
        self._token, self._path = token, path

    async def _guard(self, scope, receive, send):
        if f"{scope['path']}/".startswith(f"{self._path}/"):
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            kind, _, value = given.partition(" ")
            if kind.lower() == "basic":
                value = _read_password(value)
            if not is_token(value, self._token):
                sentence = "this page needs the token of its service: give it as the password of any user."
                ask = {"WWW-Authenticate": 'Basic realm="rtd", charset="UTF-8"'}
                await JSONResponse({"detail": sentence}, 401, ask)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _read_password(value: str) -> str:
    try:
        return base64.b64decode(value).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def is_token(given: str, token: str) -> bool:
    """Say whether a token is the right one, in constant time: a refusal says nothing of how much was right.

    Args:
        given (`str`): What came.
        token (`str`): What is wanted.

    Returns:
        `bool`: Whether they are equal.
    """
    return hmac.compare_digest(given.encode(), token.encode())

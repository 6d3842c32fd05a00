"""`rtd serve`: answer composed queries over HTTP for other programs, with the page of `rtd app` beside them."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import socket
import sys

from trainer.cli.app import add_desk_options, check_port, open_desk
from trainer.cli.galleries import check_gallery
from trainer.cli.parser import VerbParser


__all__ = ["run"]

_TOKEN = "RTD_TOKEN"


def run(arguments: list[str]) -> None:
    """Serve until it is interrupted.

    Raises:
        ValueError: If there is nothing to search, or an option is not accepted.
        OSError: If the port is taken, or the address is none of this machine.
        ImportError: If FastAPI or uvicorn is not installed.
    """
    parser = VerbParser("rtd serve", description=__doc__)
    add_desk_options(parser)
    parser.add_argument("--port", type=int, default=8000, help="port (default: %(default)s)")
    parser.add_argument(
        "--with-token",
        action="store_true",
        help=f"answer only requests with the token of the environment variable {_TOKEN}",
    )
    parser.add_argument("--rate-limit", type=int, metavar="N", help="POST requests a minute of one address")
    parser.add_argument(
        "--time-limit", type=float, default=60, metavar="S", help="seconds until an answer begins (default: 60)"
    )
    parser.add_argument(
        "--no-page", action="store_true", help="leave out the page, which is served if gradio is there"
    )
    options = parser.parse_args(arguments)
    _check_options(options)
    check_gallery(options)
    token = os.environ[_TOKEN] if options.with_token else None

    try:
        import python_multipart  # noqa: F401 - FastAPI asks for it when an upload is declared
        import uvicorn

        from trainer.app.server import PAGE, build_server
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install fastapi python-multipart uvicorn, or this package with its "
            "extra `serve`."
        ) from error

    # First: a model takes long to load, and a taken port shows at once.
    listening = _listen(options.host, options.port)
    with listening:
        desk = open_desk(options, top_k=10)
        if options.host not in ("127.0.0.1", "localhost", "::1") and token is None:
            print(f"anyone who reaches {options.host} can search this gallery: --with-token asks who", file=sys.stderr)
        page = not options.no_page and importlib.util.find_spec("gradio") is not None
        hosts = [options.host, *options.allowed_hosts]
        app = build_server(desk, hosts, token, options.rate_limit, options.time_limit, page)
        url = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}"
        shown = f"{url}/docs, the page at {url}{PAGE}" if page else f"{url}/docs"
        print(f"{len(desk.gallery)} images at {shown}; stop with Ctrl+C", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=500, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _check_options(options: argparse.Namespace) -> None:
    check_port(options.port)
    token = os.environ.get(_TOKEN, "")
    if options.with_token and not token:
        raise ValueError(f"--with-token needs a token in the environment variable {_TOKEN}, which is empty.")
    if options.with_token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(
            f"the token in {_TOKEN} must be ASCII without spaces, since a header brings it: choose another."
        )
    if options.rate_limit is not None and options.rate_limit < 1:
        raise ValueError(f"--rate-limit must be at least 1, got {options.rate_limit}: leave it out for no limit.")
    if not 0 < options.time_limit < math.inf:
        raise ValueError(f"--time-limit must be a number of seconds above 0, got {options.time_limit:g}.")


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            f"the port {port} is taken at {host}, or that address is not of this machine: choose others."
        ) from error

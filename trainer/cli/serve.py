"""`rtd serve`: composed search and encoding over HTTP, for other programs."""

from __future__ import annotations

import os
import socket
import sys

from trainer.cli.app import add_desk_options, check_port, open_desk
from trainer.cli.parser import VerbParser


__all__ = ["run"]

_TOKEN = "RTD_TOKEN"


def run(arguments: list[str]) -> None:
    """Serve until it is interrupted.

    Args:
        arguments (`list[str]`): Options.

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
        help=f"answer only requests that bring the token in the environment variable {_TOKEN}",
    )
    options = parser.parse_args(arguments)
    check_port(options.port)
    token = os.environ.get(_TOKEN) if options.with_token else None
    if options.with_token and not token:
        raise ValueError(f"--with-token needs a token in the environment variable {_TOKEN}, which is empty.")

    try:
        import python_multipart  # noqa: F401 - FastAPI asks for it when an upload is declared
        import uvicorn

        from trainer.app.server import build_server
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install fastapi python-multipart uvicorn, or this package with its "
            "extra `serve`."
        ) from error

    listening = _listen(options.host, options.port)
    with listening:
        desk = open_desk(options, top_k=10)
        if options.host not in ("127.0.0.1", "localhost", "::1") and token is None:
            print(f"whoever reaches {options.host} can search this gallery: --with-token asks who", file=sys.stderr)
        app = build_server(desk, options.host, token)
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"{len(desk.gallery)} images at http://{host}:{options.port}/docs; stop with Ctrl+C", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=500, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            f"the port {port} is taken at {host}, or that address is not of this machine: choose others."
        ) from error

"""The server itself: a socket that is bound first, and uvicorn on it until it is told to end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import uvicorn
from starlette.applications import Starlette

_GRACE_S = 5
"""For answers that are under way when the server is told to end."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class ServeFault(Exception):
    """The server cannot be had; one line with a way out."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Listening:
    """A bound socket."""

    socket: socket.socket
    host: str
    port: int

    @property
    def url(self) -> str:
        """What clients are given as the base."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


def listen(host: str, port: int) -> Listening:
    """Bind a socket, before the model is loaded, which may take minutes. Port 0 takes any that is free.

    Raises:
        ServeFault: it cannot be bound.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except OSError as fault:
        raise ServeFault(
            f"{host} port {port} cannot be listened on ({fault.strerror or fault}); choose others with --host, --port"
        ) from fault
    return Listening(bound, host, bound.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """uvicorn, with signals left to whoever runs it: `should_exit` ends it in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None are."""
        yield


def server_for(app: Starlette) -> Server:
    """A server for `Server.serve(sockets=[...])`, quiet but for what goes wrong."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return Server(config)

"""Detects unresponsive PostgreSQL servers, however long a query may take.

A suspended server, or a machine without power, refuses no connection: its clients would block forever. A
timeout for queries would not help, because a disk may be slow. So a connection that has waited for a while
probes the server.
"""

import socket
import struct
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")

PROBE_AFTER_S = 0.5
"""Seconds of waiting after which a connection probes the server, again and again."""

PROBE_TIMEOUT_S = 1

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # every server answers at once, with one letter


class Server:
    """The state of a server. One thread probes it on behalf of all. Thread-safe."""

    def __init__(self) -> None:
        self._address: tuple[str, int] | None = None
        self._probing = threading.Lock()
        self._probed_at = 0.0
        self._unresponsive = False

    def note_connected(self, host: str, port: int) -> None:
        """Remember the address of a successful connection."""
        self._address = host, port
        self._unresponsive = False

    def is_unresponsive(self) -> bool:
        """Return whether the last probe failed, and another one now."""
        return self._unresponsive and not self.is_responding()

    def is_responding(self) -> bool:
        """Probe the server, at most once a second, and record the result. Return whether it responds."""
        began = time.monotonic()
        with self._probing:
            if self._address is not None and self._probed_at < began - 1:
                self._unresponsive = not _probe(*self._address)
                self._probed_at = time.monotonic()
            return not self._unresponsive


def _probe(host: str, port: int) -> bool:
    with suppress(OSError), _dial(host, port) as connection:
        connection.sendall(_SSL_REQUEST)
        return connection.recv(1) != b""
    return False


def _dial(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PROBE_TIMEOUT_S)
    try:
        connection.connect(f"{host}/.s.PGSQL.{port}")
    except BaseException:
        connection.close()
        raise
    return connection


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that fails when its server becomes unresponsive, instead of blocking forever."""

    server: Server

    def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        return super().wait(self._watch(gen), *arguments, **options)

    def _watch(self, steps: PQGen[T]) -> Generator[Any, Any, T]:
        try:
            wanted = next(steps)
            probe_at = time.monotonic() + PROBE_AFTER_S
            while True:
                ready = yield wanted  # no events several times a second, while the server sends nothing
                if not ready and time.monotonic() > probe_at:
                    if not self.server.is_responding():
                        self.close()
                        raise psycopg.OperationalError("The server does not respond.")
                    probe_at = time.monotonic() + PROBE_AFTER_S
                wanted = steps.send(ready)
        except StopIteration as ended:
            result: T = ended.value
            return result

"""Whether a PostgreSQL server answers, however long it may take for what it was asked.

A server that was stopped, or a machine that lost its power, refuses nothing: whoever waits for it waits
without end. How long something may take tells nothing either, as a disk may be slow. So who has waited for a
while asks the server whether it is there.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")

ASK_AFTER_S = 0.5
"""How long something may take before the server is asked whether it is there, and then before it is asked
again."""

ANSWER_WITHIN_S = 1

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # answered by every server, at once and with one letter


class Server:
    """What is known of a server: asked by one, on behalf of all who wait for it."""

    def __init__(self) -> None:
        self._address: tuple[str, int] | None = None
        self._asking = threading.Lock()
        self._asked_at = 0.0
        self._silent = False

    def connected(self, host: str, port: int) -> None:
        """It was reached there."""
        self._address = host, port
        self._silent = False

    def is_silent(self) -> bool:
        """Whether it did not answer when it was asked last, and does not now."""
        return self._silent and not self.answers()

    def answers(self) -> bool:
        """Whether it answers, or did within the last second."""
        began = time.monotonic()
        with self._asking:
            if self._address is not None and self._asked_at < began - 1:
                self._silent = not _answers(*self._address)
                self._asked_at = time.monotonic()
            return not self._silent


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), _dialled(host, port) as connection:
        connection.sendall(_SSL_REQUEST)
        return connection.recv(1) != b""
    return False


def _dialled(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=ANSWER_WITHIN_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_WITHIN_S)
    try:
        connection.connect(f"{host}/.s.PGSQL.{port}")
    except BaseException:
        connection.close()
        raise
    return connection


class AnsweredConnection(psycopg.Connection[Any]):
    """A connection on which nobody waits for a server that does not answer."""

    server: Server

    def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        return super().wait(self._answered(gen), *arguments, **options)

    def _answered(self, steps: PQGen[T]) -> Generator[Any, Any, T]:
        try:
            wanted = next(steps)
            patient_until = time.monotonic() + ASK_AFTER_S
            while True:
                ready = yield wanted  # nothing, several times a second, while there is nothing
                if not ready and time.monotonic() > patient_until:
                    if not self.server.answers():
                        self.close()
                        raise psycopg.OperationalError("The server does not answer.")
                    patient_until = time.monotonic() + ASK_AFTER_S
                wanted = steps.send(ready)
        except StopIteration as ended:
            result: T = ended.value
            return result

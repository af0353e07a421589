"""Clients that send a request as soon as the last one is answered: small uploads and lists."""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from benchmarks.wire import ENOUGH, Target, Unexpected, body_length

_DISCARDED = bytearray(1 << 20)
_WARM_UP = 0.3
"""Seconds before the measurement begins."""


def put_small(target: Target, *, connections: int, seconds: float, size: int) -> dict[str, float]:
    """Upload files of `size` bytes into the folder of the target, each under a new name."""
    folder, numbers, body = os.urandom(4).hex(), count(), os.urandom(size)

    def request() -> bytes:
        head = (
            f"PUT {target.path}/{folder}/{next(numbers)}.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
        )
        return head.encode() + body

    return _exchange(target, request, status=201, connections=connections, seconds=seconds)


def get(target: Target, *, connections: int, seconds: float) -> dict[str, float]:
    """Request the target, of any length, and discard the bodies."""
    return _exchange(target, target.get, status=200, connections=connections, seconds=seconds)


class _Connection:
    """One connection with one request under way."""

    def __init__(self, connection: socket.socket, request: Callable[[], bytes], status: int) -> None:
        self.connection = connection
        self.waited: list[float] = []  # seconds per answer
        self._request = request
        self._status = status
        self._left = 0  # bytes of the body still to come
        self._sent = 0.0

    def ask(self) -> None:
        self._sent = time.perf_counter()
        self.connection.sendall(self._request())

    def receive(self) -> None:
        """Read what has arrived; at the end of an answer, send the next request."""
        if self._left:
            # The kernel discards the bytes of a body (tcp(7)).
            found = self.connection.recv_into(
                _DISCARDED, min(self._left, len(_DISCARDED)), socket.MSG_TRUNC | socket.MSG_DONTWAIT
            )
            self._left -= found
        else:
            received = self.connection.recv(ENOUGH)
            head, end, body = received.partition(b"\r\n\r\n")
            found = len(received)
            if not end:
                raise Unexpected(f"The server sent no response head but {head[:200]!r}.")
            self._left = body_length(head, status=self._status) - len(body)
        if not found:
            raise Unexpected("The server closed the connection.")
        if not self._left:
            self.waited.append(time.perf_counter() - self._sent)
            self.ask()


def _exchange(
    target: Target, request: Callable[[], bytes], *, status: int, connections: int, seconds: float
) -> dict[str, float]:
    """Return answers, seconds, and percentiles of seconds per answer; `all_answers` from the first on."""
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        crowd = {}
        for _ in range(connections):
            connection = stack.enter_context(target.connect())
            poll.register(connection, select.EPOLLIN)
            crowd[connection.fileno()] = _Connection(connection, request, status)
        for one in crowd.values():
            one.ask()
        _receive(poll, crowd, _WARM_UP)
        early = {descriptor: len(one.waited) for descriptor, one in crowd.items()}
        busy, begun = time.process_time(), time.perf_counter()
        _receive(poll, crowd, seconds)
        elapsed, busy = time.perf_counter() - begun, time.process_time() - busy
    waited = sorted(value for fd, one in crowd.items() for value in one.waited[early[fd] :])
    if not waited:
        raise Unexpected(f"The server answered no request within {seconds:g} s.")
    return {
        "answers": len(waited),
        "all_answers": len(waited) + sum(early.values()),
        "seconds": elapsed,
        "p50": waited[(len(waited) - 1) // 2],
        "p99": waited[(len(waited) - 1) * 99 // 100],
        "busy": busy / elapsed,
    }


def _receive(poll: select.epoll, crowd: dict[int, _Connection], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        for descriptor, _ in poll.poll(left):
            crowd[descriptor].receive()

"""Clients that download as fast as the server sends, on connections that stay open."""

import random
import select
import socket
import time
from contextlib import ExitStack

from benchmarks.wire import ENOUGH, Target, Unexpected, body_length

BLOCK = 8 << 20
"""Bytes to discard in one call, if as many have arrived."""


class _Download:
    """One connection: it sends a request, reads the body, and sends the next request."""

    def __init__(self, target: Target, length: int | None, stack: ExitStack) -> None:
        self.connection = stack.enter_context(target.connect())
        self.connection.setblocking(False)
        self.answers = 0  # complete responses
        self._target = target
        self._length = length
        self._left = 0  # bytes of the body still to come; 0 until the head has arrived
        self._head = b""

    def ask(self) -> None:
        target, length = self._target, self._length
        if length is None:
            request = target.get()
        else:
            start = random.randrange(target.size - length)
            request = target.get(start, start + length)
        self.connection.send(request)

    def receive(self, buffer: bytearray) -> int:
        """Read what has arrived, and return how many bytes of it belong to bodies."""
        received = 0
        if not self._left:
            received = self._take_head()
        if self._left:
            try:  # the kernel discards the bytes (tcp(7)), so that the client costs little
                found = self.connection.recv_into(buffer, min(self._left, BLOCK), socket.MSG_TRUNC)
            except BlockingIOError:
                return received
            if not found:
                raise Unexpected(f"The server closed the connection {self._left} bytes early.")
            self._left -= found
            received += found
            if not self._left:
                self.answers += 1
                self.ask()
        return received

    def _take_head(self) -> int:
        more = self.connection.recv(ENOUGH)
        self._head += more
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            if not more or len(head) > 64 << 10:
                raise Unexpected(f"The server sent no response head but {head[:200]!r}.")
            return 0
        wanted = self._target.size if self._length is None else self._length
        length = body_length(head, status=200 if self._length is None else 206)
        if length != wanted:
            raise Unexpected(f"Content-Length is {length}, not {wanted}.")
        self._head = b""
        self._left = length - len(body)
        return len(body)


def download(target: Target, *, connections: int, length: int | None, seconds: float) -> dict[str, float]:
    """Download whole files, or random ranges of `length` bytes, for some seconds, then leave.

    The measurement starts when every connection receives data, or after as many seconds; `all_bytes` counts
    from the start of the downloads, as do `all_answers`.
    """
    with ExitStack() as stack:
        crowd = _Crowd([_Download(target, length, stack) for _ in range(connections)])
        before = crowd.receive(seconds, until_all_begin=True)
        answers = crowd.answers()
        busy, begun = time.process_time(), time.perf_counter()
        received = crowd.receive(seconds)
        elapsed, busy = time.perf_counter() - begun, time.process_time() - busy
    return {
        "bytes": received,
        "all_bytes": before + received,
        "answers": crowd.answers() - answers,
        "all_answers": crowd.answers(),
        "seconds": elapsed,
        "busy": busy / elapsed,
    }


class _Crowd:
    """Many downloads in one epoll loop."""

    def __init__(self, downloads: list[_Download]) -> None:
        self._by_descriptor = {one.connection.fileno(): one for one in downloads}
        self._poll = select.epoll()
        self._buffer = bytearray(BLOCK)
        for descriptor, one in self._by_descriptor.items():
            self._poll.register(descriptor, select.EPOLLIN)
            one.ask()

    def answers(self) -> int:
        return sum(one.answers for one in self._by_descriptor.values())

    def receive(self, seconds: float, *, until_all_begin: bool = False) -> int:
        """Receive for this long, or until every connection has data, and return the bytes of bodies."""
        received = 0
        idle = set(self._by_descriptor) if until_all_begin else {-1}
        end = time.perf_counter() + seconds
        while idle and (left := end - time.perf_counter()) > 0:
            for descriptor, _ in self._poll.poll(left):
                received += self._by_descriptor[descriptor].receive(self._buffer)
                idle.discard(descriptor)
        return received

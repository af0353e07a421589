"""Clients that download as fast as they are sent to, on connections that are kept."""

import random
import select
import socket
import time

from benchmarks.wire import ENOUGH, Target, Unexpected, body_length

BLOCK = 1 << 20
SHORT_BLOCK = 8 << 10


class _Download:
    """One connection: it asks, discards the body, and asks again."""

    def __init__(self, target: Target, length: int | None) -> None:
        self.connection = target.connect()
        self.connection.setblocking(False)
        self.whole = 0  # answers
        self._target = target
        self._length = length
        self._left = 0  # of the body; 0 while the head is waited for
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
        """Take what has come. How many bytes of bodies that was."""
        received = 0
        if not self._left:
            received = self._take_head()
        if self._left:
            try:
                # MSG_TRUNC: the kernel drops the bytes, see tcp(7). A copy would cost what the server's does.
                found = self.connection.recv_into(buffer, min(self._left, BLOCK), socket.MSG_TRUNC)
            except BlockingIOError:
                return received
            if not found:
                raise Unexpected(f"It closed the connection, and {self._left} bytes are missing.")
            self._left -= found
            received += found
            if not self._left:
                self.whole += 1
                self.ask()
        return received

    def _take_head(self) -> int:
        self._head += self.connection.recv(ENOUGH)
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            if not head or len(head) > 64 << 10:
                raise Unexpected(f"Instead of an answer it sent {head[:200]!r}.")
            return 0
        wanted = self._target.size if self._length is None else self._length
        length = body_length(head, status=200 if self._length is None else 206)
        if length != wanted:
            raise Unexpected(f"{length} bytes were announced, not {wanted}.")
        self._head = b""
        self._left = length - len(body)
        return len(body)


def download(target: Target, *, connections: int, length: int | None, seconds: float) -> dict[str, float]:
    """Whole files, or ranges of `length` bytes anywhere, for some seconds; what has not come then is left."""
    buffer = bytearray(BLOCK)
    downloads = [_Download(target, length) for _ in range(connections)]
    by_descriptor = {one.connection.fileno(): one for one in downloads}
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    received = 0
    busy, begun = time.process_time(), time.perf_counter()
    for one in downloads:
        one.ask()
    while (elapsed := time.perf_counter() - begun) < seconds:
        for descriptor, _ in poll.poll(seconds - elapsed):
            received += by_descriptor[descriptor].receive(buffer)
    busy = time.process_time() - busy
    return {
        "bytes": received,
        "answers": sum(one.whole for one in downloads),
        "seconds": elapsed,
        "busy": busy / elapsed,
    }

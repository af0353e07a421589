"""HTTP as bytes, for clients that must cost next to nothing."""

import re
import socket
from dataclasses import dataclass

ENOUGH = 2048
"""Bytes to receive for the head of an answer: all of it, and little of the body."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Unexpected(Exception):
    """An answer is not what was asked for."""


@dataclass(frozen=True)
class Target:
    """A file on a server; `size` is how long it must be."""

    port: int
    path: str
    size: int

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:  # before it connects: the window is agreed on then
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def get(self, start: int | None = None, stop: int | None = None) -> bytes:
        """A request for the bytes from `start` to before `stop`; for all without them."""
        last = "" if stop is None else stop - 1
        asked = "" if start is None else f"Range: bytes={start}-{last}\r\n"
        return f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{asked}\r\n".encode()


def body_length(head: bytes, *, status: int) -> int:
    """How long the body is that follows this head; raises Unexpected for another status."""
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 %d " % status) or length is None:
        raise Unexpected(head[:200].decode("latin-1").replace("\r\n", " | "))
    return int(length[1])


def receive_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of the next answer, and what has come of its body with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(ENOUGH)
        if not more:
            raise Unexpected(f"It closed the connection after {received[:200]!r}.")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body

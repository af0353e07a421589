"""HTTP as bytes, for clients that must use little processor time."""

import re
import socket
from dataclasses import dataclass

ENOUGH = 2048
"""Bytes to receive at once for a response head: all of it, and little of the body."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Unexpected(Exception):
    """A response differs from the expected one."""


@dataclass(frozen=True)
class Target:
    """A file on a server; `size` is its expected length in bytes."""

    port: int
    path: str
    size: int

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:  # before connect(), which negotiates the window
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def get(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Return a GET request: for the bytes from `start` up to `stop`, or for the whole file."""
        last = "" if stop is None else stop - 1
        asked = "" if start is None else f"Range: bytes={start}-{last}\r\n"
        return f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{asked}\r\n".encode()


def body_length(head: bytes, *, status: int) -> int:
    """Return the Content-Length of this head. Raises Unexpected if it has none, or another status."""
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 %d " % status) or length is None:
        raise Unexpected(head[:200].decode("latin-1").replace("\r\n", " | "))
    return int(length[1])


def receive_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Receive the next response head; return it and the bytes of the body that came with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(ENOUGH)
        if not more:
            raise Unexpected(f"The server closed the connection after {received[:200]!r}.")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body

"""A WebSocket client that does only what the test calls: it answers no pings and reads nothing on its own."""

import json
import os
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Any

from tests.support import Server

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None) -> bytes:
    """Return a frame as a client sends it (RFC 6455 §5.2); `length` replaces the true length in its
    header."""
    length = len(payload) if length is None else length
    first = bytes([0x80 * fin | opcode])
    if length < 126:
        head = first + bytes([0x80 | length])
    elif length < 1 << 16:
        head = first + struct.pack("!BH", 0x80 | 126, length)
    else:
        head = first + struct.pack("!BQ", 0x80 | 127, length)
    return head + b"\0\0\0\0" + payload  # masked with zeros


class Socket:
    """One WebSocket connection to the server. `status` is the status of the handshake."""

    def __init__(
        self,
        server: Server,
        target: str = "/",
        *headers: str,
        receive_buffer: int | None = None,
        host: str | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((address, server.port))
        self._buffer = b""
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host or f'{address}:{server.port}'}",
            *HANDSHAKE,
            *headers,
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self.read_some()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.head = head.decode().lower()
        self.status = int(head.split(b" ")[1])

    def __enter__(self) -> "Socket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, opcode: int, payload: bytes = b"", **more: Any) -> None:
        self.socket.sendall(frame(opcode, payload, **more))

    def receive(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame."""
        opcode, length = self._take(1)[0] & 0x0F, self._take(1)[0]
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        return opcode, self._take(length)

    def json(self) -> Any:
        """Return the next message as JSON, and answer the pings before it."""
        opcode, payload = self.receive()
        while opcode == PING:
            self.send(PONG, payload)
            opcode, payload = self.receive()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    def close_code(self) -> int:
        """Return the close code that the server sends; skip the frames before it."""
        opcode, payload = self.receive()
        while opcode != CLOSE:
            opcode, payload = self.receive()
        return int(struct.unpack("!H", payload[:2])[0])

    def is_silent(self, seconds: float) -> bool:
        """Return whether nothing arrives within so many seconds."""
        if self._buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self.read_some()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)
        return False

    def problem(self) -> Any:
        """Return the problem document of a refused handshake."""
        assert "content-type: application/problem+json" in self.head
        length = int(self.head.partition("content-length: ")[2].partition("\r\n")[0])
        return json.loads(self._take(length))

    def reset(self) -> None:
        """Close with a TCP reset, like a process that is killed with unread data."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self.read_some()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def read_some(self, size: int = 1 << 16) -> None:
        """Read bytes of a response, at most `size`, for `receive_response`."""
        data = self.socket.recv(size)
        if not data:
            raise ConnectionError("closed")
        self._buffer += data


def descriptors(server: Server) -> int:
    """Return the number of sockets that the server has open.

    Files do not count: SQLite connections stay in a pool.
    """
    folder, count = f"/proc/{server.process.pid}/fd", 0
    for descriptor in os.listdir(folder):
        with suppress(FileNotFoundError):
            count += os.readlink(f"{folder}/{descriptor}").startswith("socket:")
    return count

"""A request and its answer as uvicorn has them, but counted, and with files that are sent without a copy."""

import asyncio
import logging
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from app import logs
from app.metrics.request_counters import RequestCounters
from app.server.request_id import HEADER, identity, is_named
from app.server.zerocopy import EXTENSION, FileSender

_CLOSE = (b"connection", b"close")

_UNTIL_CLOSE = sys.maxsize
"""Bytes that an answer may have whose end is that of its connection."""

_log = logging.getLogger(logs.REQUESTS)


class Edge(NamedTuple):
    """What is to be done of every request."""

    requests: RequestCounters
    """Where it is counted."""
    log: bool
    """Whether it gets a record in the log."""
    name: bool
    """Whether records that belong to it name it."""


def reset(transport: asyncio.Transport) -> None:
    """Break the connection off, so that nothing that was sent on it looks complete, and drop the rest."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with suppress(OSError, ValueError):  # it is lost already
            connected.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Exchange:
    """What the program is called with to answer one request of a connection, which `began` at a time."""

    # Written where they are another: each costs, thousands of times a second.
    received = 0
    _id: str | None = None
    _first: float | None = None
    """Seconds until the first byte of the body."""
    _status = 0
    _bodies = 0
    """Bytes that were sent as messages."""
    _files = 0
    """Bytes of files that the connection had sent before."""
    _until_close = False
    """Only the end of the connection ends the answer."""

    def __init__(
        self,
        cycle: RequestResponseCycle,
        transport: asyncio.Transport,
        flow: FlowControl,
        sender: FileSender | None,
        edge: Edge,
        began: float,
    ) -> None:
        self._cycle = cycle
        self._transport = transport
        self._flow = flow
        self._sender = sender
        self._edge = edge
        self._began = began

    @property
    def scope(self) -> Any:
        return self._cycle.scope

    @property
    def id(self) -> str:
        """What the request is called. Few are asked for it."""
        if self._id is None:
            self._id = identity(self.scope["headers"])
        return self._id

    @property
    def sent(self) -> int:
        """Bytes of the body so far, those of a file that is on its way too."""
        return self._bodies + (self._sender.sent - self._files if self._sender is not None else 0)

    async def run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Have the program answer; an ASGI application but for its first parameter."""
        requests, log, name = self._edge
        if self._sender is not None:
            self._files = self._sender.sent
        requests.active.add(self)
        if name:
            logs.CURRENT_REQUEST.set(self)
        try:
            await app(scope, self._receive, self._send)
        except BaseException:
            self._status = self._status or 500  # uvicorn says so
            raise
        finally:
            if self._until_close and not self._cycle.response_complete:
                reset(self._transport)  # or the answer would look complete
            requests.request_ended(self, self._status, self._first, self.sent)
            if log:
                self._say()

    async def _receive(self) -> Any:
        message: Any = await self._cycle.receive()
        if message["type"] == "http.request":
            self.received += len(message["body"])
        return message

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = status = message["status"]
            named = status >= 400 or self._edge.name or is_named(self.scope["headers"])
            if named or self._cycle.waiting_for_100_continue:
                message = self._completed(message, named)
            if self.scope["http_version"] != "1.1":
                self._send_until_close(message)
        else:
            if self._first is None:
                self._first = time.monotonic() - self._began
            if self._until_close and not message.get("more_body", False):
                self._cycle.expected_content_length = len(message.get("body", b""))
        if kind == EXTENSION:
            await self._send_file(message)
            return
        await self._cycle.send(message)
        if kind == "http.response.body" and self._cycle.scope["method"] != "HEAD":
            self._bodies += len(message.get("body", b""))

    def _send_until_close(self, message: Any) -> None:
        """Keep uvicorn from sending chunks, which only HTTP/1.1 knows (RFC 9112 §7.1)."""
        if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
            self._until_close = True
            self._cycle.keep_alive = False
            self._cycle.chunked_encoding = False
            self._cycle.expected_content_length = _UNTIL_CLOSE

    def _completed(self, message: Any, named: bool) -> Any:
        """The head of an answer with what the server has to say in it."""
        added = []
        if named:
            added.append((HEADER, self.id.encode()))
        if self._cycle.waiting_for_100_continue:
            # The body was not asked for, and may come or not (RFC 9110 10.1.1).
            added.append(_CLOSE)
        return {**message, "headers": [*message.get("headers", ()), *added]}

    async def _send_file(self, message: Any) -> None:
        cycle = self._cycle
        assert self._sender is not None
        if self._flow.write_paused:
            await self._flow.drain()
        if cycle.disconnected or self._transport.is_closing():
            raise ConnectionResetError("The client has left.")
        count = message["count"]
        if not cycle.response_started or cycle.chunked_encoding or count > cycle.expected_content_length:
            raise RuntimeError("A file is sent within the Content-Length of an answer that has begun.")
        file, offset = message["file"].fileno(), message["offset"]
        sent = self._sender.send_now(file, offset, count)
        if sent < count:
            await self._sender.send(file, offset + sent, count - sent)
        cycle.expected_content_length -= count
        if not message.get("more_body", False):
            self._complete()

    def _complete(self) -> None:
        """End an answer all of which is sent, as uvicorn would after a last, empty message."""
        cycle = self._cycle
        if cycle.expected_content_length:
            raise RuntimeError("Response content shorter than Content-Length")
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def _say(self) -> None:
        scope = self.scope
        _log.info(
            logs.REQUEST,
            get_client_addr(scope),
            scope["method"],
            get_path_with_query_string(scope),
            scope["http_version"],
            self._status,
            self.received,
            self.sent,
            time.monotonic() - self._began,
            self.id,
        )


SIZE = 512 << 10
"""Bytes that are read in one go, at most."""

LONG = 256 << 10
"""Bytes of a body that are still to come from which on it is worth it: the event loops read so many at once
for the parser."""

# One for all connections: what is read into it is taken out before anything else is read.
_buffer = memoryview(bytearray(SIZE))


def length_of(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """How long a body is whose head the parser has accepted; 0 where only its end will tell."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return 0
        if name == b"content-length" and value.strip().isdigit():
            length = int(value)
    return length


class BodyReader(asyncio.BufferedProtocol):
    """Stands in for the protocol of a connection while the next `left` bytes come, and takes no more.

    The parser copies what it is given, after the event loop has copied it, in smaller pieces. `take` is given
    each piece and how much is left then. All else that happens to the connection is told to its protocol.
    """

    def __init__(self, protocol: asyncio.Protocol, left: int, take: Callable[[bytes, int], None]) -> None:
        self._left = left
        self._take = take
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        self._take(bytes(_buffer[:nbytes]), self._left)

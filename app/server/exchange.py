"""One request and its response: counted, logged, and with files sent by sendfile."""

import asyncio
import re
import secrets
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import count
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app import logs
from app.metrics.request_counters import RequestCounters
from app.server.request_log import Request, RequestLog
from app.server.zerocopy import EXTENSION, FileSender

HEADER = b"x-request-id"

# Covers UUIDs, trace ids and the ids of proxies; excludes characters that would be unsafe in a log or header.
_SAFE = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

_numbers = count(1)


@cache
def _process() -> str:
    return secrets.token_hex(6)


def has_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the request carries an id, so that its sender may expect it in the response."""
    for name, _ in headers:  # noqa: SIM110 - thousands of times a second, and any() takes twice as long
        if name == HEADER:
            return True
    return False


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the client or a proxy sent, if it is single and safe; otherwise a new unique id."""
    given = [value for name, value in headers if name == HEADER]
    if len(given) == 1 and _SAFE.fullmatch(given[0]):
        return given[0].decode("ascii")
    return f"{_process()}-{next(_numbers)}"


_CLOSE = (b"connection", b"close")

_UNTIL_CLOSE = sys.maxsize
"""The Content-Length for uvicorn of a response that ends with its connection."""


class Instrumentation(NamedTuple):
    """How requests are counted and logged."""

    requests: RequestCounters
    """The counters."""
    log: RequestLog | None
    """The log of requests, if they are logged."""
    name: bool
    """Whether log records name the request that they belong to."""


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection (RST), so that no response looks complete, and discard unsent data."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with suppress(OSError, ValueError):  # already lost
            connected.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Exchange:
    """One request and its response: the receive and send callables of the application."""

    # Class attributes, because setting each on every instance would cost time thousands of times a second.
    received = 0
    _id: str | None = None
    _first: float | None = None
    """Seconds until the first byte of the body."""
    _status = 0
    _bodies = 0
    """Body bytes sent as messages."""
    _files = 0
    """Bytes of files that the connection had sent before this exchange."""
    _until_close = False
    """The end of the connection marks the end of the response."""

    def __init__(
        self,
        cycle: RequestResponseCycle,
        transport: asyncio.Transport,
        flow: FlowControl,
        sender: FileSender | None,
        instrumentation: Instrumentation,
        began: float,
    ) -> None:
        self._cycle = cycle
        self._transport = transport
        self._flow = flow
        self._sender = sender
        self._instrumentation = instrumentation
        self._began = began

    @property
    def scope(self) -> Any:
        return self._cycle.scope

    @property
    def id(self) -> str:
        """The id of the request, computed on first use."""
        if self._id is None:
            self._id = request_id(self.scope["headers"])
        return self._id

    @property
    def sent(self) -> int:
        """Body bytes sent so far, including those of a file in progress."""
        return self._bodies + (self._sender.sent - self._files if self._sender is not None else 0)

    async def run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        requests, log, name = self._instrumentation
        if self._sender is not None:
            self._files = self._sender.sent
        requests.active.add(self)
        if name:
            logs.CURRENT_REQUEST.set(self)
        try:
            await app(scope, self._receive, self._send)
        except BaseException:
            self._status = self._status or 500  # as uvicorn responds
            raise
        finally:
            if self._until_close and not self._cycle.response_complete:
                reset(self._transport)  # otherwise the response would look complete
            requests.request_ended(self, self._status, self._first, self.sent)
            if log is not None:
                duration = time.monotonic() - self._began
                prepared = log.prepare(Request.of(self.scope, self._status))
                log.append(prepared, self.received, self.sent, duration, self.id)

    async def _receive(self) -> Any:
        message: Any = await self._cycle.receive()
        if message["type"] == "http.request":
            self.received += len(message["body"])
        return message

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = status = message["status"]
            named = status >= 400 or self._instrumentation.name or has_request_id(self.scope["headers"])
            if named or self._cycle.waiting_for_100_continue:
                message = self._with_server_headers(message, named)
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

    def _with_server_headers(self, message: Any, named: bool) -> Any:
        added = []
        if named:
            added.append((HEADER, self.id.encode()))
        if self._cycle.waiting_for_100_continue:
            # We sent no 100 (Continue), so the client may or may not send the body (RFC 9110 §10.1.1).
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
            raise RuntimeError(
                "The application sent a file before its response started, or beyond its Content-Length."
            )
        file, offset = message["file"].fileno(), message["offset"]
        sent = self._sender.send_now(file, offset, count)
        if sent < count:
            await self._sender.send(file, offset + sent, count - sent)
        cycle.expected_content_length -= count
        if not message.get("more_body", False):
            self._complete()

    def _complete(self) -> None:
        """Mark the response as complete, as uvicorn would after a last, empty message."""
        cycle = self._cycle
        if cycle.expected_content_length:
            raise RuntimeError("Response content shorter than Content-Length")
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()


BODY_BUFFER_SIZE = 512 << 10
"""Maximum bytes of one read of a long body."""

LONG_BODY = 256 << 10
"""Remaining bytes above which a body bypasses the parser: as many as the event loops read at once."""

# Shared by all connections: its content is copied out before the next read.
_buffer = memoryview(bytearray(BODY_BUFFER_SIZE))


def body_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the Content-Length of a head that the parser has accepted; 0 for chunked and absent bodies."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return 0
        if name == b"content-length" and value.strip().isdigit():
            length = int(value)
    return length


class BodyReader(asyncio.BufferedProtocol):
    """A protocol that replaces that of a connection while the next `remaining` bytes of a long body arrive.

    It saves a copy by the event loop and another by the parser. Calls `receive` with each piece and the
    number of bytes that remain. Other events of the connection go to its own protocol.
    """

    def __init__(
        self, protocol: asyncio.Protocol, remaining: int, receive: Callable[[bytes, int], None]
    ) -> None:
        self._remaining = remaining
        self._receive = receive
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer[: self._remaining]

    def buffer_updated(self, nbytes: int) -> None:
        self._remaining -= nbytes
        self._receive(bytes(_buffer[:nbytes]), self._remaining)

"""One request and its response: the ASGI cycle, counted, logged, and with files sent by sendfile."""

import asyncio
import logging
import re
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import count
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NamedTuple, Protocol

from app import logs
from app.metrics.request_counters import RequestCounters
from app.server.http1 import REQUEST_ID, RequestHead, encode_chunk, encode_response_head
from app.server.request_log import Request, RequestLog
from app.server.zerocopy import EXTENSION, FileSender

REPEAT = "seekable.repeat"
"""The ASGI extension with which an application permits to repeat its answer; see `fast_path`."""

# Covers UUIDs, trace ids and the ids of proxies; excludes characters that would be unsafe in a log or header.
_SAFE = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

_numbers = count(1)


@cache
def _process() -> str:
    return secrets.token_hex(6)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the client or a proxy sent, if it is single and safe; otherwise a new unique id."""
    given = [value for name, value in headers if name == REQUEST_ID]
    if len(given) == 1 and _SAFE.fullmatch(given[0]):
        return given[0].decode("ascii")
    return new_request_id()


def new_request_id() -> str:
    """Return an id that no other request of any server has."""
    return f"{_process()}-{next(_numbers)}"


MAX_BUFFERED_BODY = 64 << 10
"""Bytes of a request's body that the application has not read, above which the server stops reading."""

MAX_JOINED = 16 << 10
"""Maximum bytes of a body that are copied in order to leave in one segment with the head."""

_CLOSE = (b"connection", b"close")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PLAIN_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_ASGI = {"version": "3.0", "spec_version": "2.3"}

log = logging.getLogger(__name__)


class Instrumentation(NamedTuple):
    """How requests are counted and logged."""

    requests: RequestCounters
    """The counters."""
    log: RequestLog | None
    """The log of requests, if they are logged."""
    name: bool
    """Whether log records name the request that they belong to."""


class RequestConnection(Protocol):
    """The connection of a request, as an exchange uses it."""

    transport: asyncio.Transport
    sender: FileSender | None
    """Sends files, unless the connection cannot."""
    instrumentation: Instrumentation
    tasks: set[asyncio.Task[None]]
    """The running applications."""
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    scheme: str
    app_state: dict[str, Any]
    write_paused: bool
    """The transport has unsent data, more than its limit."""

    def pause_reading(self) -> None:
        """Stop reading."""

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""

    async def drain(self) -> None:
        """Wait until writing is not paused any more."""

    def response_completed(self, exchange: "Exchange") -> None:
        """Close the connection or continue it with the next request."""


class PartialResponse(NamedTuple):
    """The part of a response that was sent before an exchange continues it."""

    unsent_head: bytes
    sent: int
    """Bytes of the body."""
    remaining: int
    """Bytes of the body that were not sent."""
    began: float
    """The monotonic time of the request."""
    first_byte_s: float
    id: bytes
    """The id of the request, if it was computed; else nothing."""


Keep = Callable[["Exchange", Any, bytes], None]
"""Takes an exchange, the permission of the application to repeat its answer, and the head of the response."""


class Exchange:
    """One request and its response: the receive and send callables of the application.

    The head of a response waits for the first message of its body, so that both leave together.
    """

    __slots__ = (
        "_began",
        "_bodies",
        "_body",
        "_chunked",
        "_connection",
        "_disconnected",
        "_files",
        "_first",
        "_has_news",
        "_head",
        "_id",
        "_keep",
        "_more_body",
        "_news",
        "_remaining",
        "_started",
        "awaits_continue",
        "complete",
        "keep_alive",
        "received",
        "request",
        "scope",
        "status",
    )

    def __init__(self, connection: RequestConnection, request: RequestHead) -> None:
        self._connection = connection
        self.request = request
        self._began = time.monotonic()
        # The request
        self._body: bytes | bytearray = b""  # received, and not yet read by the application
        self._more_body = True
        self._has_news = False  # since the last receive()
        self._news: asyncio.Event | None = None  # while receive() waits
        self._disconnected = False
        self.awaits_continue = request.expects_continue
        """The client waits for 100 (Continue), which only `receive` sends."""
        self.received = 0
        """Bytes of the body that the application has read."""
        # The response
        self._head = b""  # not yet written
        self._started = False
        self.status = 0
        self._chunked = False
        self._remaining: int | None = None  # of the body; None if chunks or the connection end it
        self._bodies = 0  # bytes sent as messages; once complete, all bytes of the body
        self._files = 0  # bytes of files that the connection had sent before this exchange
        self._first: float | None = None  # seconds until the first byte of the body
        self.keep_alive = request.keep_alive
        self.complete = False
        """The response has been passed to the transport."""
        self._id: str | None = None
        self._keep: Keep | None = None
        # Last-Modified must not be later than Date (RFC 9110 §8.8.2.1), and the application may respond a
        # second later.
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.version,
            "server": connection.server,
            "client": connection.client,
            "scheme": connection.scheme,
            "root_path": "",
            "headers": request.headers,
            "state": {**connection.app_state, "date": int(time.time())},
            "method": request.method,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query,
        }
        if connection.sender is not None:
            self.scope["extensions"] = {EXTENSION: {}}

    @property
    def id(self) -> str:
        """The id of the request, computed on first use."""
        if self._id is None:
            self._id = request_id(self.request.headers)
        return self._id

    @property
    def sent(self) -> int:
        """Body bytes sent so far, including those of a file in progress."""
        sender = self._connection.sender
        if self.complete:
            return self._bodies
        return self._bodies + (sender.sent - self._files if sender is not None else 0)

    @property
    def forbids_refusal(self) -> bool:
        """Whether the client would mistake a refusal for the body of this response, or for the outcome of a
        change that may still be made."""
        return self._started or not (self._more_body or self.request.method in ("GET", "HEAD"))

    def accept_permission(self, keep: Keep) -> None:
        """Call `keep` when the application permits to repeat its answer. Called before the application."""
        self.scope["extensions"] = {EXTENSION: {}, REPEAT: {}}
        self._keep = keep

    def resume(self, scope: dict[str, Any], status: int, progress: PartialResponse) -> None:
        """Continue a response that has begun, to a request without a body. Called before the application."""
        self.scope, self.status = scope, status
        self._head, self._bodies, self._remaining, self._began, self._first, given = progress
        self._id = given.decode() or None
        self._started, self._more_body = True, False

    # Events of the connection

    def add_body(self, piece: bytes) -> None:
        """Append received bytes to those that the application reads next."""
        if not self._started:
            # The client did not wait for it, and will send the whole body.
            self.awaits_continue = False
        # A single piece, the usual case for files, is passed on without a copy.
        if not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += piece
        if len(self._body) > MAX_BUFFERED_BODY:
            self._connection.pause_reading()
        self._notify()

    def end_body(self) -> None:
        """Mark the request as complete."""
        self._more_body = False
        self._notify()

    def disconnect(self) -> None:
        """Tell the application that its client has left."""
        self._disconnected = True
        self._notify()

    def _notify(self) -> None:
        self._has_news = True
        if self._news is not None:
            self._news.set()

    # The application

    async def run(self, app: Any) -> None:
        """Call the application. Log its exceptions, and cut off a response that it does not complete."""
        connection = self._connection
        requests, request_log, name_requests = connection.instrumentation
        if connection.sender is not None:
            self._files = connection.sender.sent
        requests.active.add(self)
        if name_requests:
            logs.CURRENT_REQUEST.set(self)
        failure = None
        try:
            await app(self.scope, self._receive, self._send)
        except BaseException as error:  # a cancellation, too: the client must not wait for the response
            failure = error
            self.status = self.status or 500
        requests.request_ended(self, self.status, self._first, self.sent)
        if request_log is not None:
            prepared = request_log.prepare(Request.of(self.scope, self.status))
            duration = time.monotonic() - self._began
            request_log.append(prepared, self.received, self.sent, duration, self.id)
        if failure is not None:
            log.error("Exception in ASGI application\n", exc_info=failure)
            failure = None  # its traceback refers to this frame: the cycle would wait for a collection
        if not self.complete:
            if connection.sender is not None:
                connection.sender.end()
            if not self._disconnected:
                self._cut_off()
        connection.tasks.discard(asyncio.current_task())

    def _cut_off(self) -> None:
        """End an incomplete response, so that it does not look complete; respond 500 if none has begun."""
        connection = self._connection
        if not self._started:
            body = b"Internal Server Error"
            fields = [*_PLAIN_TEXT, (b"content-length", b"%d" % len(body)), _CLOSE]
            self._start(500, fields)
            self._write(b"" if self.request.method == "HEAD" else body)
            self._remaining = 0
            self._complete()
        elif self._remaining is None and not self._chunked:
            reset(connection.transport)  # the end of the connection would mark the end of the response
        else:
            self._write(b"")
            connection.transport.close()

    async def _receive(self) -> Any:
        connection = self._connection
        if self.awaits_continue and not connection.transport.is_closing():
            connection.transport.write(_CONTINUE)
            self.awaits_continue = False
        if not self._disconnected and not self.complete:
            connection.resume_reading()
            if not self._has_news:
                news = self._news = self._news or asyncio.Event()
                await news.wait()
                if self._news is news:
                    self._news = None
            self._has_news = False
        if self._disconnected or self.complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        self.received += len(body)
        return {"type": "http.request", "body": bytes(body), "more_body": self._more_body}

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._started:
                raise RuntimeError("The application started its response twice.")
            self._start(message["status"], self._with_server_headers(message))
            if self._keep is not None and (permission := message.get(REPEAT)):
                self._keep(self, permission, self._head)
            return
        if not self._started or self.complete:
            raise RuntimeError(f"The application sent {kind} before its response started, or after its end.")
        if self._first is None:
            self._first = time.monotonic() - self._began
        connection = self._connection
        if connection.write_paused and not self._disconnected:
            await connection.drain()
        if kind == EXTENSION:
            await self._send_file(message)
        elif self._disconnected:
            return
        else:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        if not message.get("more_body", False):
            self._complete()

    def _with_server_headers(self, message: Any) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        _, _, name_requests = self._connection.instrumentation
        if message["status"] >= 400 or name_requests or self.request.has_id:
            headers.append((REQUEST_ID, self.id.encode()))
        if self.awaits_continue:
            # We sent no 100 (Continue), so the client may or may not send the body (RFC 9110 §10.1.1).
            headers.append(_CLOSE)
        return headers

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        date = self.scope["state"]["date"]
        head = encode_response_head(self.request, status, date, headers, keep_alive=self.keep_alive)
        self._head, self._remaining, self._chunked, self.keep_alive = head
        self._started, self.awaits_continue = True, False

    def _send_body(self, body: bytes, more: bool) -> None:
        size = len(body)
        if self.request.method == "HEAD":
            self._remaining = 0
            body = b""
        else:
            if self._remaining is not None:
                if size > self._remaining:
                    raise RuntimeError("The application sent more than its Content-Length.")
                self._remaining -= size
            elif self._chunked:
                body = encode_chunk(body, more)
            self._bodies += size
        self._write(body)

    def _write(self, data: bytes) -> None:
        """Write the head, if it waits, and the data."""
        head, self._head = self._head, b""
        if head and len(data) > MAX_JOINED:
            self._connection.transport.write(head)
        elif head:
            data = b"".join((head, data))
        if data:
            self._connection.transport.write(data)

    async def _send_file(self, message: Any) -> None:
        """Send a span of a file. Raises ConnectionError if the client has left."""
        file, offset, count = message["file"].fileno(), message["offset"], message["count"]
        connection, sender = self._connection, self._connection.sender
        assert sender is not None
        self._check_present()
        if self._chunked or (self._remaining is not None and count > self._remaining):
            raise RuntimeError("The application sent a file in chunks, or beyond its Content-Length.")
        if self._head:
            self._write(b"")
            if connection.write_paused:
                await connection.drain()
                self._check_present()
        sent = sender.send_now(file, offset, count)
        if sent < count:
            await sender.send(file, offset + sent, count - sent)
        elif message.get("more_body", False):
            await asyncio.sleep(0)  # other connections, too, while this client takes everything at once
        if self._remaining is not None:
            self._remaining -= count

    def _check_present(self) -> None:
        if self._disconnected or self._connection.transport.is_closing():
            raise ConnectionResetError("The client has left.")

    def _complete(self) -> None:
        if self._remaining:
            raise RuntimeError("The application sent less than its Content-Length.")
        # The next response may send files before this application returns.
        self._bodies, self.complete = self.sent, True
        if self._connection.sender is not None:
            self._connection.sender.end()
        self._notify()
        self._connection.response_completed(self)


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection (RST), so that no response looks complete, and discard unsent data."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with suppress(OSError, ValueError):  # already lost
            connected.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

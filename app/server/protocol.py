"""One HTTP/1.1 connection: uvicorn's protocol with limits, deadlines and zero-copy sending."""

import asyncio
import fcntl
import logging
import sys
import termios
import time
from collections import deque
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from socket import socket
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.http.request_head import (
    InvalidTarget,
    Upgrade,
    head_without_upgrade,
    origin_form,
    percent_encoded,
    upgrade_of,
)
from app.metrics.request_counters import RequestCounters
from app.server.deadlines import BodyRate, ConnectionState, StepTimer, WaitingFor, awaited_step
from app.server.exchange import (
    LONG_BODY,
    BodyReader,
    Exchange,
    Instrumentation,
    body_length,
    request_id,
    reset,
)
from app.server.forwarded import UNIX_CLIENT, UNIX_SERVER, is_unix
from app.server.refusal import encode_problem_response, log_malformed_request, log_refused_connection
from app.server.uvicorn_config import UvicornConfig
from app.server.zerocopy import EXTENSION, FileSender

log = logging.getLogger(__name__)

MAX_PIPELINED_REQUESTS = 100
"""Maximum number of pipelined requests that wait for their responses: each takes kilobytes of memory."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Differs from uvicorn's: refuses overlong and overdue heads, disconnects slow clients (`check_deadlines`),
    notifies every pipelined request of a disconnect, not only the last, never writes into an unfinished
    response, and offers the ASGI extension `http.response.zerocopysend`, whose sends raise ConnectionError
    when the client has left.
    """

    config: UvicornConfig

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if is_unix(transport):
            self.client, self.server = UNIX_CLIENT, UNIX_SERVER
        self._cycles: deque[RequestResponseCycle] = deque()  # the oldest with an incomplete response first
        self.flow = _Flow(self.transport, self.pipeline)
        requests: RequestCounters = self.app_state["requests"]
        self._instrumentation = Instrumentation(requests, self.config.request_log, self.config.name_requests)
        self._receiving = False  # a request has begun and is incomplete
        self._in_head = False  # so is its head
        self.received = 0
        """Bytes that the client has sent on this connection."""
        self._remaining = 0  # bytes of a body of known length that have not arrived
        self._overhead = 0  # bytes since the end of the last head, body data or request
        self._in_request_line = False  # the last segment ended within a request line
        self._step_timer = StepTimer()
        self._body_rate = BodyRate()
        self._socket = transport.get_extra_info("socket")
        self._sender: FileSender | None = None
        if self.config.sendfile and self.scheme == "http" and self._socket is not None:
            self._sender = FileSender(self.loop, self._socket.fileno())
            # With high=0 writing resumes once the buffer is empty: only then may sendfile() follow. (Not
            # under TLS: there both event loops would never resume writing.)
            self.transport.set_write_buffer_limits(high=0)
        self._address = self.client[0] if self.client else ""
        refused = self.config.connections.acquire(self._address)
        self._holds_slot = refused is None
        if refused is not None:
            log_refused_connection(self.client, refused)
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, refused)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._release_slot()
        if self._sender is not None:
            self._sender.connection_lost()
        self._notify_disconnect()

    def _release_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            self.config.connections.release(self._address)

    def _notify_disconnect(self) -> None:
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    # Receiving

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._overhead += len(data)
        if self._in_request_line or not self._receiving:
            data = self._with_ascii_target(data)
        self._parse(data)
        # The parser buffers an incomplete head or trailer.
        if self._overhead > self.config.limits.head_size and not self.transport.is_closing():
            self._refuse_head()
        if self._remaining > LONG_BODY and self.scheme == "http" and not self.transport.is_closing():
            self.transport.set_protocol(BodyReader(self, self._remaining, self._receive_body))

    def _with_ascii_target(self, data: bytes) -> bytes:
        """Return the data with its request line in ASCII, as the parser demands.

        Only a request line at the beginning of the segment is encoded, or the rest of one. The parser refuses
        non-ASCII bytes in later lines of the segment: clients that send raw names do not pipeline.
        """
        if not self._in_request_line and data.startswith((b"\r", b"\n")):
            data = data.lstrip(b"\r\n")
        self._in_request_line = b"\n" not in data and data != b""
        if data.isascii():
            return data
        line, end, rest = data.partition(b"\n")
        return percent_encoded(line) + end + rest

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._handle_upgrade(data[stopped.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse_malformed(str(error.__context__ or error))
                return
            else:
                return

    def _handle_upgrade(self, rest: bytes) -> bytes:
        """Handle a request at whose head the parser stopped; return the bytes to parse next."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        match upgrade_of(method, version, self.headers):
            case Upgrade.REFUSED:
                self._refuse(HTTPStatus.NOT_IMPLEMENTED, "This server is not a proxy: it has no CONNECT.")
                return b""
            case Upgrade.WEBSOCKET:
                self._switch_to_websocket(rest)
                return b""
            case Upgrade.IGNORED:
                head = head_without_upgrade(method, self.url, version, self.headers)
                self.parser = self._new_parser()
                return head + rest

    def _switch_to_websocket(self, rest: bytes) -> None:
        if self.is_responding():
            self.transport.abort()  # the unfinished response would escape every limit
            return
        self.scope["method"] = "GET"
        try:
            self._use_origin_form()
        except InvalidTarget as error:
            self._refuse_malformed(str(error))
            return
        self.handle_websocket_upgrade()
        websocket: Any = self.transport.get_protocol()
        websocket.on_lost = self._release_slot
        if rest and not self.transport.is_closing():
            websocket.data_received(rest)

    def _new_parser(self) -> Any:
        parser = type(self.parser)(self)
        with suppress(AttributeError):  # older httptools lack it; uvicorn does the same
            parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _receive_body(self, piece: bytes, remaining: int) -> None:
        """Receive a piece of a long body past the parser, which is replaced at the end of the body."""
        self.received += len(piece)
        self.on_body(piece)
        if not remaining:
            self.on_message_complete()
            self.parser = self._new_parser()
            self.transport.set_protocol(self)

    def on_message_begin(self) -> None:
        self._receiving = self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers must not be merged into the head (RFC 9110 §6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._overhead, self._remaining = False, 0, 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.config.limits.head_size:
            self._refuse_head()
            raise ValueError("too long")  # stops the parser
        if self.parser.should_upgrade():
            return  # the parser stops here: see _handle_upgrade
        if len(self.pipeline) == MAX_PIPELINED_REQUESTS:
            self._refuse(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"At most {MAX_PIPELINED_REQUESTS} pipelined requests may wait. Read the responses first.",
            )
            raise ValueError("too many")
        self._use_origin_form()
        self._remaining = body_length(self.headers)
        # uvicorn's Date is up to a second old, and Last-Modified must not be later (RFC 9110 §8.8.2.1).
        self._began = time.monotonic()
        seconds = int(time.time())
        self.server_state.default_headers = [(b"date", _date(seconds)), *self.config.encoded_headers]
        super().on_headers_complete()
        self.scope["state"]["date"] = seconds  # the application may respond a second later
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def _use_origin_form(self) -> None:
        """Convert an absolute-form target. Raises InvalidTarget."""
        if not self.url.startswith((b"/", b"*")):
            version = self.parser.get_http_version()
            self.url, self.headers[:] = origin_form(self.url, version, self.headers)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self._remaining -= len(body)
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_started:
            # The client did not wait for it, and will send the whole body.
            cycle.waiting_for_100_continue = False
        # uvicorn copies every body into a bytearray, and out of it again. A single piece, the usual case for
        # files, is passed on without a copy.
        if not cycle.response_complete:
            if not cycle.body:
                cycle.body, body = body, b""
            elif isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving, self._overhead = False, 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As uvicorn does, but without its timer: `check_deadlines` closes idle connections, too.
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    # Refusing

    def _refuse_malformed(self, reason: str) -> None:
        if self.transport.is_closing():
            return  # a callback has already refused it, which stopped the parser
        log_malformed_request(self.client, reason)
        self._refuse(
            HTTPStatus.BAD_REQUEST,
            "The request is not valid HTTP/1.1. Check the client, or a proxy in between.",
        )

    def _refuse_head(self) -> None:
        limit = self.config.limits.head_size
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The head of a request has at most {limit} bytes. Send fewer or shorter headers.",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Respond in place of the application, and close the connection."""
        if self.transport.is_closing():
            return
        if any(_forbids_refusal(cycle) for cycle in self._cycles):
            self.transport.abort()
        else:
            self.transport.write(encode_problem_response(status, detail, request_id(self.headers or ())))
            self._instrumentation.requests.request_refused(status)
            self._notify_disconnect()
            self.transport.close()

    # Deadlines

    def check_deadlines(self, now: float) -> None:
        """Disconnect the client if it has missed a deadline. Called several times a second."""
        step = awaited_step(self._state())
        limits = self.config.limits
        waits = step is WaitingFor.BODY
        if self._body_rate.is_too_slow(
            self.cycle, waits=waits, received=self.received, limits=limits, now=now
        ):
            detail = f"The body arrives too slowly: send at least {limits.body_rate:g} bytes a second."
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)
            return
        if not self._step_timer.has_expired(step, self._progress(step), limits, now):
            return
        assert step is not None
        log.debug("Disconnecting a client that did not continue with %s", step.value)
        limit = limits.seconds(step)
        if step is WaitingFor.BODY or (step is WaitingFor.HEAD and self._receiving):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"Waited {limit:g} s for {step.value}.")
        elif step is WaitingFor.READER:
            reset(self.transport)  # otherwise the kernel would keep its send buffer
        else:
            self.transport.abort()

    def _state(self) -> ConnectionState:
        responding = self.is_responding()
        waits_to_continue = responding and self.cycle.waiting_for_100_continue
        return ConnectionState(
            receiving=self._receiving,
            head_complete=not self._in_head,
            responding=responding,
            reading=not self.flow.read_paused and not waits_to_continue,
            unsent=self._is_unsent(),
            new=self.cycle is None,
        )

    def is_responding(self) -> bool:
        """Return whether a response has begun or must begin, and is incomplete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_unsent(self) -> bool:
        return (self._sender is not None and self._sender.is_waiting) or bool(
            self.transport.get_write_buffer_size()
        )

    def _progress(self, step: WaitingFor | None) -> object:
        if step is WaitingFor.BODY:
            return self.received
        if step is WaitingFor.READER:
            sent = self._sender.sent if self._sender is not None else 0
            return sent, self.transport.get_write_buffer_size(), _unacknowledged(self._socket)
        return self.cycle  # the whole head has one deadline

    # Sending

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._sender is not None:
            cycle.scope["extensions"] = {EXTENSION: {}}
        exchange = Exchange(
            cycle, self.transport, self.flow, self._sender, self._instrumentation, self._began
        )
        super()._start_asgi_task(cycle, partial(exchange.run, app))


def _forbids_refusal(cycle: RequestResponseCycle) -> bool:
    """Return whether the client would mistake a refusal for the body of this response, or for the outcome of
    a change that may still be made."""
    if cycle.response_complete:
        return False
    return cycle.response_started or not (cycle.more_body or cycle.scope["method"] in ("GET", "HEAD"))


class _Flow(FlowControl):
    """Flow control that does not read while pipelined requests wait.

    uvicorn resumes reading with each response, so that many short requests would fill the memory.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


@lru_cache(1)
def _date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()


def _unacknowledged(connection: socket | None) -> int:
    """Return the bytes that the peer has not acknowledged: they show the progress of a slow reader long
    before the socket becomes writable."""
    if connection is None:
        return 0
    try:
        size = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # lost or closed
        return 0
    return int.from_bytes(size, sys.byteorder)

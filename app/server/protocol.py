"""HTTP/1.1 as uvicorn speaks it, with limits of size and time, and files that are sent without a copy."""

import asyncio
import fcntl
import logging
import sys
import termios
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from math import ceil
from socket import socket
from typing import Any

import httptools
import uvicorn
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
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import Limits, Pace, State, Waiting, Watch, waiting_for
from app.server.exchange import LONG, BodyReader, Edge, Exchange, length_of, reset
from app.server.forwarded import CLIENT, SERVER, ProxyHeadersMiddleware, is_unix
from app.server.refusal import log_crowded, log_malformed, refusal
from app.server.request_id import identity
from app.server.uvicorn_compat import missing
from app.server.zerocopy import EXTENSION, IS_POSSIBLE, FileSender

_log = logging.getLogger("seekable")

PIPELINE = 100
"""Requests of one connection that may have come while another is answered: each costs thousands of bytes."""


class Config(uvicorn.Config):
    """uvicorn's, and what its protocol needs besides. `sendfile` is whether files may be sent without a copy.

    Where uvicorn is not the one that this was written for, its own protocol has to do.
    """

    def __init__(
        self,
        app: str,
        *,
        limits: Limits,
        connections: ConnectionLimits,
        sendfile: bool,
        log_requests: bool,
        name_requests: bool,
        trusted_proxies: Sequence[str] = (),
        **options: Any,
    ) -> None:
        changed = missing()
        if changed:
            _log.warning(
                "uvicorn %s is not as expected (%s): no sending without a copy, no deadlines, and nothing is "
                "counted",
                uvicorn.__version__,
                ", ".join(changed),
            )
        super().__init__(
            app,
            http="auto" if changed else HttpProtocol,
            timeout_keep_alive=ceil(limits.idle),
            access_log=log_requests and bool(changed),  # ours knows more: see Exchange
            proxy_headers=False,  # ours knows Forwarded, too
            **options,
        )
        self.limits = limits
        self.connections = connections
        self.log_requests = log_requests
        self.name_requests = name_requests
        self.sendfile = sendfile and IS_POSSIBLE
        self.trusted_proxies = trusted_proxies

    def load(self) -> None:
        """Load the program, behind the fields of proxies."""
        super().load()
        self.loaded_app = ProxyHeadersMiddleware(self.loaded_app, self.trusted_proxies)


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Besides what uvicorn does: it refuses a head that is too long, or does not come, and lets go of clients
    that keep it waiting (`look`); tells each request of a connection that its client left, not only the last
    (they may be pipelined); never writes into an answer that is under way; and offers the ASGI extension
    `http.response.zerocopysend`, whose sends raise ConnectionError when the client has left.
    """

    config: Config

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if is_unix(transport):
            self.client, self.server = CLIENT, SERVER
        self._cycles: deque[RequestResponseCycle] = deque()  # from the oldest without a whole answer
        self.flow = _Flow(self.transport, self.pipeline)
        requests: RequestCounters = self.app_state["requests"]
        self._edge = Edge(requests, self.config.log_requests, self.config.name_requests)
        self._begun = False  # a request whose end has not come
        self._head = False  # nor the end of its head
        self._received = 0
        self._left = 0  # bytes of a body of known length that have not come
        self._overhead = 0  # bytes since the last of a head, of a body, or of a request
        self._in_line = False  # the last segment ended amid the line of a request
        self._watch = Watch()
        self._pace = Pace()
        self._socket = transport.get_extra_info("socket")
        self._sender: FileSender | None = None
        if self.config.sendfile and self.scheme == "http" and self._socket is not None:
            self._sender = FileSender(self.loop, self._socket.fileno())
            # What was written has left when writing may go on: only then may a file follow. (Under TLS
            # writing would never go on: to both event loops, 0 bytes that wait are too many then.)
            self.transport.set_write_buffer_limits(high=0)
        self._address = self.client[0] if self.client else ""
        refused = self.config.connections.enter(self._address)
        self._counted = refused is None
        if refused is not None:
            log_crowded(self.client, refused)
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, refused)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._uncount()
        if self._sender is not None:
            self._sender.lose()
        self._leave()

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self.config.connections.leave(self._address)

    def _leave(self) -> None:
        """Tell whatever still works for this client that it is gone."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    # What comes in

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._overhead += len(data)
        if self._in_line or not self._begun:
            data = self._with_ascii_target(data)
        self._parse(data)
        # The parser remembers a head, or a trailer, until it is whole.
        if self._overhead > self.config.limits.head_size and not self.transport.is_closing():
            self._refuse_head()
        if self._left > LONG and self.scheme == "http" and not self.transport.is_closing():
            self.transport.set_protocol(BodyReader(self, self._left, self._read))

    def _with_ascii_target(self, data: bytes) -> bytes:
        """Return the bytes with the line of a request in ASCII, as the parser demands.

        A segment begins with that line, or amid it. The parser refuses other bytes in the lines of further
        requests of the same segment: no client that sends names raw also pipelines.
        """
        if not self._in_line and data.startswith((b"\r", b"\n")):
            data = data.lstrip(b"\r\n")
        self._in_line = b"\n" not in data and data != b""
        if data.isascii():
            return data
        line, end, rest = data.partition(b"\n")
        return percent_encoded(line) + end + rest

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._meet_upgrade(data[stopped.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse_malformed(str(error.__context__ or error))
                return
            else:
                return

    def _meet_upgrade(self, rest: bytes) -> bytes:
        """Act on a request at whose head the parser has stopped; return the bytes to go on with."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        match upgrade_of(method, version, self.headers):
            case Upgrade.REFUSED:
                self._refuse(HTTPStatus.NOT_IMPLEMENTED, "This server is not a proxy: it has no CONNECT.")
                return b""
            case Upgrade.WEBSOCKET:
                self._hand_over(rest)
                return b""
            case Upgrade.IGNORED:
                head = head_without_upgrade(method, self.url, version, self.headers)
                self.parser = self._new_parser()
                return head + rest

    def _hand_over(self, rest: bytes) -> None:
        """Let the WebSocket protocol have the connection, and what has come of it."""
        if self._is_answering():
            self.transport.abort()  # the answer that is under way would go on past every limit
            return
        self.scope["method"] = "GET"
        try:
            self._use_origin_form()
        except InvalidTarget as error:
            self._refuse_malformed(str(error))
            return
        self.handle_websocket_upgrade()
        taken: Any = self.transport.get_protocol()
        taken.on_lost = self._uncount
        if rest and not self.transport.is_closing():
            taken.data_received(rest)

    def _new_parser(self) -> Any:
        parser = type(self.parser)(self)
        with suppress(AttributeError):  # as uvicorn's own, of an httptools that has this
            parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _read(self, piece: bytes, left: int) -> None:
        """Take what was read of a long body instead of the parser, which then has to begin anew."""
        self._received += len(piece)
        self.on_body(piece)
        if not left:
            self.on_message_complete()
            self.parser = self._new_parser()
            self.transport.set_protocol(self)

    def on_message_begin(self) -> None:
        self._begun = self._head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head:  # else it is of a trailer, which must not be taken for the head (RFC 9110 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head, self._overhead, self._left = False, 0, 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.config.limits.head_size:
            self._refuse_head()
            raise ValueError("too long")  # or the parser would go on
        if self.parser.should_upgrade():
            return  # the parser stops here: see _meet_upgrade
        if len(self.pipeline) == PIPELINE:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, f"At most {PIPELINE} requests may wait for another.")
            raise ValueError("too many")
        self._use_origin_form()
        self._left = length_of(self.headers)
        # uvicorn's Date is up to a second old, and Last-Modified must not be later (RFC 9110 8.8.2.1).
        self._began = time.monotonic()
        seconds = int(time.time())
        self.server_state.default_headers = [(b"date", _date(seconds)), *self.config.encoded_headers]
        super().on_headers_complete()
        self.scope["state"]["date"] = seconds  # the application answers in a later turn of the loop
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def _use_origin_form(self) -> None:
        """Raises InvalidTarget."""
        if not self.url.startswith((b"/", b"*")):
            version = self.parser.get_http_version()
            self.url, self.headers[:] = origin_form(self.url, version, self.headers)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self._left -= len(body)
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_started:
            cycle.waiting_for_100_continue = False  # so the client did not wait, and all of it will come
        # uvicorn copies all of a body into a bytearray, and out of it again. A piece that comes alone, as
        # those of files do, is handed on as it is.
        if not cycle.response_complete:
            if not cycle.body:
                cycle.body, body = body, b""
            elif isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begun, self._overhead = False, 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As uvicorn does, but for the timer that it sets: `look` ends idle connections, too.
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    # Refusing

    def _refuse_malformed(self, reason: str) -> None:
        if self.transport.is_closing():
            return  # a callback has refused it, and stopped the parser
        log_malformed(self.client, reason)
        self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")

    def _refuse_head(self) -> None:
        limit = self.config.limits.head_size
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head of a request has at most {limit} bytes."
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer for the program, which has not begun to, and close the connection."""
        if self.transport.is_closing():
            return
        if any(_is_spoken_for(cycle) for cycle in self._cycles):
            self.transport.abort()
        else:
            self.transport.write(refusal(status, detail, identity(self.headers or ())))
            self._edge.requests.request_refused(status)
            self._leave()
            self.transport.close()

    # Deadlines

    def look(self, now: float) -> None:
        """Let go of the client if it has kept this connection waiting for too long. To be called often."""
        waiting = waiting_for(self._state())
        limits = self.config.limits
        waits = waiting is Waiting.BODY
        if self._pace.is_too_slow(self.cycle, waits=waits, received=self._received, limits=limits, now=now):
            detail = f"A body has to come with at least {limits.body_rate:g} bytes a second."
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)
            return
        if not self._watch.is_over(waiting, self._progress(waiting), limits, now):
            return
        assert waiting is not None
        _log.debug("A client was let go: it was waited for with %s", waiting.value)
        limit = limits.of(waiting)
        if waiting is Waiting.BODY or (waiting is Waiting.HEAD and self._begun):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"Waited {limit:g} s for {waiting.value}.")
        elif waiting is Waiting.READER:
            reset(self.transport)  # or the kernel would keep what waits
        else:
            self.transport.abort()

    def _state(self) -> State:
        answering = self._is_answering()
        waits_to_continue = answering and self.cycle.waiting_for_100_continue  # the client, for us
        return State(
            begun=self._begun,
            head=not self._head,
            answering=answering,
            reading=not self.flow.read_paused and not waits_to_continue,
            unsent=self._is_unsent(),
            new=self.cycle is None,
        )

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_unsent(self) -> bool:
        return (self._sender is not None and self._sender.is_waiting) or bool(
            self.transport.get_write_buffer_size()
        )

    def _progress(self, waiting: Waiting | None) -> object:
        if waiting is Waiting.BODY:
            return self._received
        if waiting is Waiting.READER:
            sent = self._sender.sent if self._sender is not None else 0
            return sent, self.transport.get_write_buffer_size(), _unacknowledged(self._socket)
        return self.cycle  # all of it has one limit, however slowly it comes

    # Sending

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._sender is not None:
            cycle.scope["extensions"] = {EXTENSION: {}}
        exchange = Exchange(cycle, self.transport, self.flow, self._sender, self._edge, self._began)
        super()._start_asgi_task(cycle, partial(exchange.run, app))


def _is_spoken_for(cycle: RequestResponseCycle) -> bool:
    """Whether a refusal that is sent now would be taken for the body of this answer, or for the outcome of a
    change that may be made."""
    if cycle.response_complete:
        return False
    return cycle.response_started or not (cycle.more_body or cycle.scope["method"] in ("GET", "HEAD"))


class _Flow(FlowControl):
    """Takes nothing in while whole requests wait: uvicorn reads some more with each answer it gives, so that
    who sends many, and short ones, would fill the memory with them."""

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
    """Bytes that the peer has not confirmed: a client that reads slowly takes some of them between two looks,
    long before there is room for more."""
    if connection is None:
        return 0
    try:
        size = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # it is lost, or closed
        return 0
    return int.from_bytes(size, sys.byteorder)

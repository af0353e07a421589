"""One HTTP/1.1 connection: reading, limits, deadlines, responses in order, shutdown."""

import asyncio
import fcntl
import logging
import sys
import termios
from functools import partial
from http import HTTPStatus
from socket import socket
from typing import Any, cast

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from app.server.deadlines import BodyRate, ConnectionState, StepTimer, WaitingFor, awaited_step
from app.server.exchange import Exchange, Instrumentation, PartialResponse, request_id, reset
from app.server.fast_path import MAX_HEAD, Answer, FastPath, HeadDivider, ends_of
from app.server.forwarded import UNIX_CLIENT, UNIX_SERVER, is_unix
from app.server.http1 import (
    END,
    MAX_PIPELINED_REQUESTS,
    TOO_MANY_REQUESTS,
    Refusal,
    RequestHead,
    RequestParser,
    WebSocketHandshake,
)
from app.server.refusal import encode_problem_response, log_malformed_request, log_refused_connection
from app.server.uvicorn_config import UvicornConfig
from app.server.zerocopy import FileSender

log = logging.getLogger(__name__)


class HttpConnection(asyncio.Protocol):
    """One connection, as an `http` class for uvicorn, which accepts connections and calls `shutdown`.

    Refuses overlong and overdue heads, disconnects slow clients (`check_deadlines`), notifies every pipelined
    request of a disconnect, never writes into an unfinished response, and offers the ASGI extension
    `http.response.zerocopysend`, whose sends raise ConnectionError when the client has left.
    """

    __slots__ = (
        "_address",
        "_body_rate",
        "_connections",
        "_current",
        "_fast_path",
        "_heads",
        "_holds_slot",
        "_parser",
        "_read_paused",
        "_socket",
        "_step_timer",
        "_waiting",
        "_writable",
        "app_state",
        "client",
        "config",
        "fileno",
        "instrumentation",
        "loop",
        "prepared_record",
        "received",
        "requests",
        "scheme",
        "sender",
        "server",
        "server_state",
        "tasks",
        "transport",
        "write_paused",
    )

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.tasks = server_state.tasks
        self.instrumentation = Instrumentation(
            app_state["requests"], config.request_log, config.name_requests
        )
        self.received = 0
        """Bytes that the client has sent on this connection."""
        self._parser = RequestParser(config.limits.head_size)
        self.requests = 0
        """Requests that the client has sent on this connection."""
        self._current: Exchange | None = None  # the oldest without a complete response
        self._waiting: list[Exchange] = []  # pipelined after it
        self._read_paused = False
        self.write_paused = False
        """The transport has unsent data, more than its limit."""
        self._writable: asyncio.Event | None = None  # while `drain` waits
        self._fast_path: FastPath | None = None
        self.prepared_record = 0, ""
        self._step_timer = StepTimer()
        self._body_rate = BodyRate()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        unix = is_unix(transport)
        self.client = UNIX_CLIENT if unix else get_remote_addr(transport)
        self.server = UNIX_SERVER if unix else get_local_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._socket: socket | None = transport.get_extra_info("socket")
        self.sender: FileSender | None = None
        if self.config.sendfile and self.scheme == "http" and self._socket is not None:
            self.sender = FileSender(self.loop, self._socket.fileno())
            # With high=0 writing resumes once the buffer is empty: only then may sendfile() follow. (Not
            # under TLS: there both event loops would never resume writing.)
            transport.set_write_buffer_limits(high=0)
            self._fast_path = self.config.fast_path
            self.fileno = self._socket.fileno()
        self._address = self.client[0] if self.client else ""
        self._heads = HeadDivider(ends_of(self._address, self.server))
        refused = self.config.connections.acquire(self._address)
        self._holds_slot = refused is None
        if refused is not None:
            log_refused_connection(self.client, refused)
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, refused)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self._release_slot()
        if self.sender is not None:
            self.sender.connection_lost()
        self._notify_disconnect()
        self._current = None  # it refers to this connection: the cycle would await a collection
        self._waiting.clear()
        self.resume_writing()
        self._parser.close()

    def _release_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            self.config.connections.release(self._address)

    def _notify_disconnect(self) -> None:
        if self._current is not None:
            self._current.disconnect()
            for exchange in self._waiting:
                exchange.disconnect()

    # Receiving

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        fast_path, divided = self._fast_path, None
        is_idle = self._current is None and not self._parser.receiving
        if fast_path is not None and is_idle and len(data) <= MAX_HEAD:
            divided = self._heads.divide(data)
            if not self.transport.get_write_buffer_size() and fast_path.respond(self, divided):
                return
        events = self._parser.feed(data)
        for event in events:
            if isinstance(event, RequestHead):
                if not self._begin(event):
                    return
            elif isinstance(event, bytes):
                self._receive_body(event)
            elif event is END:
                self._end_request()
            elif isinstance(event, Refusal):
                self._refuse_request(event)
                return
            elif isinstance(event, WebSocketHandshake):
                self._switch_to_websocket(event)
                return
        # The segment was one request, and not the beginning of the next one, which a repetition would lose.
        is_one = len(events) == 2 and events[1] is END and not self._parser.receiving
        if fast_path is not None and divided is not None and self._current is not None and is_one:
            self._current.accept_permission(partial(fast_path.keep, divided, self))
        if self._parser.remaining > LONG_BODY and self.scheme == "http" and not self.transport.is_closing():
            self.transport.set_protocol(BodyReader(self, self._parser.remaining))

    def _begin(self, head: RequestHead) -> bool:
        """Begin a request, and return whether the connection may go on."""
        if len(self._waiting) == MAX_PIPELINED_REQUESTS:
            self._refuse(TOO_MANY_REQUESTS.status, TOO_MANY_REQUESTS.detail)
            return False
        self.requests += 1
        exchange = Exchange(self, head)
        if self._current is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            self.pause_reading()
        return True

    def _start(self, exchange: Exchange, app: Any = None) -> None:
        self._current = exchange
        # The event loop refers to tasks weakly.
        self.tasks.add(self.loop.create_task(exchange.run(app or self.config.loaded_app)))

    def resume_response(self, answer: Answer, rest: Any, progress: PartialResponse) -> None:
        exchange = Exchange(self, answer.request)
        exchange.resume(answer.scope_of(self), answer.status, progress)
        self._start(exchange, rest)

    def _latest(self) -> Exchange | None:
        """Return the exchange of the last head, unless its response is complete."""
        return self._waiting[-1] if self._waiting else self._current

    def _receive_body(self, piece: bytes) -> None:
        if (exchange := self._latest()) is not None:  # otherwise the body was refused
            exchange.add_body(piece)

    def _end_request(self) -> None:
        if (exchange := self._latest()) is not None:
            exchange.end_body()

    def receive_long_body(self, piece: bytes, remaining: int) -> None:
        """Receive a piece of a body past the parser; `remaining` bytes of it have not arrived."""
        self.received += len(piece)
        self._receive_body(piece)
        if not remaining:
            self._parser.skip_body()
            self._end_request()
            self.transport.set_protocol(self)

    def _switch_to_websocket(self, handshake: WebSocketHandshake) -> None:
        if self.is_responding():
            self.transport.abort()  # the unfinished response would escape every limit
            return
        self.server_state.connections.discard(self)
        self._parser.close()
        make_protocol: Any = self.config.ws_protocol_class
        websocket = make_protocol(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        websocket.on_lost = self._release_slot
        websocket.connection_made(self.transport)
        websocket.data_received(handshake.head)
        self.transport.set_protocol(websocket)
        if handshake.rest and not self.transport.is_closing():
            websocket.data_received(handshake.rest)

    # Flow control

    def pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless requests wait: many short ones would fill the memory."""
        if self._read_paused and not self._waiting:
            self._read_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def drain(self) -> None:
        """Wait until the client has read enough of what was written, or has left."""
        if self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    # Responding

    def response_completed(self, exchange: Exchange) -> None:
        """Close the connection or continue it with the next request."""
        self._current = None
        if not exchange.keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self._waiting:
            self._start(self._waiting.pop(0))
        else:
            self.resume_reading()

    def is_responding(self) -> bool:
        """Return whether a response has begun or must begin, and is incomplete."""
        return self._current is not None

    def shutdown(self) -> None:
        """Close the connection at once if it is idle, else after the last response."""
        exchange = self._latest()
        if exchange is None:
            self.transport.close()
        else:
            exchange.keep_alive = False

    def _refuse_request(self, refusal: Refusal) -> None:
        if refusal.malformed and not self.transport.is_closing():
            log_malformed_request(self.client, refusal.malformed)
        self._refuse(refusal.status, refusal.detail)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Respond in place of the application, and close the connection."""
        if self.transport.is_closing():
            return
        current = [] if self._current is None else [self._current]
        if any(exchange.forbids_refusal for exchange in current + self._waiting):
            self.transport.abort()
        else:
            response = encode_problem_response(status, detail, request_id(self._parser.headers))
            self.transport.write(response)
            self.instrumentation.requests.request_refused(status)
            self._notify_disconnect()
            self.transport.close()

    # Deadlines

    def check_deadlines(self, now: float) -> None:
        """Disconnect the client if it has missed a deadline. Called several times a second."""
        step = awaited_step(self._state())
        limits = self.config.limits
        waits = step is WaitingFor.BODY
        if self._body_rate.is_too_slow(
            self.requests, waits=waits, received=self.received, limits=limits, now=now
        ):
            detail = f"The body arrives too slowly: send at least {limits.body_rate:g} bytes a second."
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)
            return
        if not self._step_timer.has_expired(step, self._progress(step), limits, now):
            return
        assert step is not None
        log.debug("Disconnecting a client that did not continue with %s", step.value)
        limit = limits.seconds(step)
        if step is WaitingFor.BODY or (step is WaitingFor.HEAD and self._parser.receiving):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"Waited {limit:g} s for {step.value}.")
        elif step is WaitingFor.READER:
            reset(self.transport)  # otherwise the kernel would keep its send buffer
        else:
            self.transport.abort()

    def _state(self) -> ConnectionState:
        latest = self._latest()
        return ConnectionState(
            receiving=self._parser.receiving,
            head_complete=not self._parser.in_head,
            responding=latest is not None,
            reading=not self._read_paused and not (latest is not None and latest.awaits_continue),
            unsent=self._is_unsent(),
            new=not self.requests,
        )

    def _is_unsent(self) -> bool:
        return (self.sender is not None and self.sender.is_waiting) or bool(
            self.transport.get_write_buffer_size()
        )

    def _progress(self, step: WaitingFor | None) -> object:
        if step is WaitingFor.BODY:
            return self.received
        if step is WaitingFor.READER:
            sent = self.sender.sent if self.sender is not None else 0
            return sent, self.transport.get_write_buffer_size(), _unacknowledged(self._socket)
        return self.requests  # the whole head has one deadline


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


BODY_BUFFER_SIZE = 512 << 10
"""Maximum bytes of one read of a long body."""

LONG_BODY = 256 << 10
"""Remaining bytes above which a body bypasses the parser: as many as the event loops read at once."""

# Shared by all connections: its content is copied out before the next read.
_buffer = memoryview(bytearray(BODY_BUFFER_SIZE))


class BodyReader(asyncio.BufferedProtocol):
    """A protocol that replaces that of a connection while the next `remaining` bytes of a long body arrive.

    It saves a copy by the event loop and another by the parser. Other events go to the connection.
    """

    def __init__(self, connection: HttpConnection, remaining: int) -> None:
        self._remaining = remaining
        self._receive = connection.receive_long_body
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer[: self._remaining]

    def buffer_updated(self, nbytes: int) -> None:
        self._remaining -= nbytes
        self._receive(bytes(_buffer[:nbytes]), self._remaining)

"""WebSocket connections (RFC 6455): uvicorn's, hardened against slow and hostile peers."""

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.server.exchange import request_id
from app.server.forwarded import UNIX_CLIENT, UNIX_SERVER, is_unix
from app.server.refusal import encode_problem_response, log_malformed_request

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

INVALID_DATA = 1007  # RFC 6455 §7.4.1

CLOSE_TIMEOUT_S = 5.0
"""Seconds to wait for the peer's half of the closing handshake."""

FLUSH_WITHIN_S = 1.0
"""Seconds to flush a connection that is being closed."""

WRITE_BUFFER = 32 << 10
"""Maximum bytes in the write buffer of a slow reader, and about as many in the kernel."""

PIECE = 4 << 10
"""Bytes to parse at once."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection on the sans-I/O core of websockets, which is uvicorn's default, too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.close_timeout = CLOSE_TIMEOUT_S
        self._unparsed = b""
        self.on_lost: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if is_unix(transport):
            self.client, self.server = UNIX_CLIENT, UNIX_SERVER
        # Bound the memory for a peer that does not read: by default the kernel would buffer megabytes.
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER)
        self.transport = _FlushingTransport(self.transport, self.loop)  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._unparsed += data
            if self.handshake_complete:
                self._parse()
            else:
                self.transport.pause_reading()  # until the application accepts: see send
            return
        super().data_received(data)
        if not self.handshake_initiated:
            # The head is complete here. uvicorn does not notice that its parser refused it, and would wait.
            detail = "This handshake is malformed, or too long."
            log_malformed_request(self.client, detail)
            self.transport.write(encode_problem_response(HTTPStatus.BAD_REQUEST, detail, request_id(())))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.on_lost()

    async def receive(self) -> "ASGIReceiveEvent":
        message = await super().receive()
        if self.handshake_complete:
            self._parse()
        return message

    def _parse(self) -> None:
        """Parse received bytes only as fast as the application consumes messages.

        A message of one byte becomes an object of 200 bytes; uvicorn would create tens of thousands at once.
        """
        while self._unparsed and not self.read_paused and not self.transport.is_closing():
            piece, self._unparsed = self._unparsed[:PIECE], self._unparsed[PIECE:]
            super().data_received(piece)

    def handle_cont(self, event: Any) -> None:
        # Empty fragments do not count towards the size limit, and could go on without end.
        if event.data or event.fin:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        text = self.curr_msg_data_type == "text" and not self.close_sent
        if text and not _is_utf8(b"".join(self.frames)):
            self.conn.send_close(INVALID_DATA)  # uvicorn would also log a traceback
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # drop it: pongs for a peer that does not read would fill the memory

    async def send(self, message: "ASGISendEvent") -> None:
        await super().send(message)
        if message["type"] == "websocket.accept" and self._unparsed and not self.transport.is_closing():
            self.transport.resume_reading()
            self._parse()
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # it was refused: uvicorn would log an error

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # otherwise the peer is closing it
            super().shutdown()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _FlushingTransport:
    """A transport that flushes for at most FLUSH_WITHIN_S when it is closed."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
            self._loop.call_later(FLUSH_WITHIN_S, self._transport.abort)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

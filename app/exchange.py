"""A request and its answer as uvicorn has them, but that files of the answer are sent without a copy."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from app.zerocopy import EXTENSION, FileSender

_START = "http.response.start"
_END: Any = {"type": "http.response.body", "body": b"", "more_body": False}
_CLOSE = (b"connection", b"close")


class Exchange:
    """What the program is called with to answer one request of a connection.

    The head of an answer is kept until its body begins. That of a file then goes to the socket itself, and
    the file right behind it: what is given to the transport leaves a turn of the event loop later.
    """

    def __init__(
        self,
        cycle: RequestResponseCycle,
        transport: asyncio.Transport,
        flow: FlowControl,
        sender: FileSender | None,
    ) -> None:
        self._cycle = cycle
        self._transport = transport
        self._flow = flow
        self._sender = sender
        self._start: Any = None

    async def run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Have the program answer; an ASGI application but for its first parameter."""
        await app(scope, receive, self._send)
        if self._start is not None:
            await self._begin()

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == EXTENSION:
            await self._send_file(message)
        elif kind == _START and self._start is None:
            self._start = message
        else:
            if self._start is not None:
                await self._begin()
            await self._cycle.send(message)

    async def _begin(self) -> None:
        start, self._start = self._start, None
        if self._cycle.waiting_for_100_continue:
            # The body was not asked for, and may come or not (RFC 9110 10.1.1).
            start = {**start, "headers": [*start.get("headers", ()), _CLOSE]}
        await self._cycle.send(start)

    async def _send_file(self, message: Any) -> None:
        cycle, sender = self._cycle, self._sender
        assert sender is not None
        if self._start is not None and not self._begin_now(sender):
            await self._begin()
        if self._flow.write_paused:
            await self._flow.drain()
        if cycle.disconnected or self._transport.is_closing():
            raise ConnectionResetError("The client has left.")
        count = message["count"]
        if not cycle.response_started or cycle.chunked_encoding or count > cycle.expected_content_length:
            raise RuntimeError("A file is sent within the Content-Length of an answer that has begun.")
        await sender.send(message["file"].fileno(), message["offset"], count)
        cycle.expected_content_length -= count
        if not message.get("more_body", False):
            await cycle.send(_END)

    def _begin_now(self, sender: FileSender) -> bool:
        """Send the head as uvicorn would, but at once. Whether that could be done: nothing may wait before
        it, and what is out of the ordinary is left to uvicorn."""
        cycle, transport = self._cycle, self._transport
        lines = [*cycle.default_headers, *self._start["headers"]]
        fields = dict(lines)
        if (
            transport.get_write_buffer_size()
            or transport.is_closing()
            or cycle.disconnected
            or cycle.response_started
            or cycle.waiting_for_100_continue
            or b"content-length" not in fields
            or b"connection" in fields
        ):
            return False
        if not cycle.keep_alive:
            lines.append(_CLOSE)
        status = self._start["status"]
        head = b"".join((STATUS_LINE[status], *[b"%b: %b\r\n" % line for line in lines], b"\r\n"))
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 2:
            return False  # a line that is none, which uvicorn refuses
        if cycle.access_log:
            cycle.access_logger.info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(cycle.scope),
                cycle.scope["method"],
                get_path_with_query_string(cycle.scope),
                cycle.scope["http_version"],
                status,
            )
        self._start = None
        cycle.response_started, cycle.chunked_encoding = True, False
        cycle.expected_content_length = int(fields[b"content-length"])
        sent = sender.write(head)
        if sent < len(head):
            transport.write(head[sent:])
        return True

"""A request and its answer as uvicorn has them, but that files of the answer are sent without a copy."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.server.zerocopy import EXTENSION, FileSender

_END: Any = {"type": "http.response.body", "body": b"", "more_body": False}
_CLOSE = (b"connection", b"close")


class Exchange:
    """What the program is called with to answer one request of a connection."""

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

    async def run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Have the program answer; an ASGI application but for its first parameter."""
        await app(scope, receive, self._send)

    async def _send(self, message: Any) -> None:
        if message["type"] == EXTENSION:
            await self._send_file(message)
            return
        if self._cycle.waiting_for_100_continue and message["type"] == "http.response.start":
            # The body was not asked for, and may come or not (RFC 9110 10.1.1).
            message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        await self._cycle.send(message)

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
        await self._sender.send(message["file"].fileno(), message["offset"], count)
        cycle.expected_content_length -= count
        if not message.get("more_body", False):
            await cycle.send(_END)

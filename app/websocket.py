"""uvicorn's WebSockets, but for peers that do not read: nothing waits for them."""

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

CLOSE_TIMEOUT_S = 5.0
"""How long the peer has for its half of the closing handshake."""

FLUSH_WITHIN_S = 2.0
"""How long what was sent has to leave a connection that is being closed."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Written on websockets' sans-I/O core, which uvicorn chooses by itself too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.close_timeout = CLOSE_TIMEOUT_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = _Closing(self.transport, self.loop)  # type: ignore[assignment]

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # a peer that pings and does not read would fill the memory with pongs

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "websocket.close":
            self.writable.set()  # the close waits behind what is on its way, and we do not
        await super().send(message)

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # else the peer closes it, and there is no more to say
            super().shutdown()


class _Closing:
    """A transport that does not flush for ever when it is closed."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
            self._loop.call_later(FLUSH_WITHIN_S, self._transport.abort)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

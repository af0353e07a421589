"""WebSockets: one that answers and tells the progress of uploads, one that tells what changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from app.accounts.principals import Caller
from app.events.connections import ClientConnection
from app.events.feed import RESYNC, Event, compact
from app.resources.dependencies import CallerDep, LibraryDep, Services, ServicesDep
from app.storage.errors import NotFound

UNSUPPORTED_DATA = 1003  # RFC 6455 7.4.1
POLICY_VIOLATION = 1008

CLOSE_WITHIN_S = 5
"""How long a peer that does not read is waited for, where the server would wait for ever."""

PONG = compact({"pong": True})

router = APIRouter()


class NoWebSocket(Exception):
    """The request asks for no WebSocket, and nothing else is there."""


@router.websocket("/")
async def session(
    websocket: WebSocket, services: ServicesDep, library: LibraryDep, caller: CallerDep
) -> None:
    """Says its sid and answers every text. An upload that names the sid is followed here."""
    async with _connected(websocket, services, library, None, caller) as (peer, connection):
        services.connections.open(connection, compact({"sid": connection.sid}))
        async for _ in peer.texts():
            await peer.send(PONG)  # directly: who does not read the answers is not read from either


@router.websocket("/events")
async def events(websocket: WebSocket, services: ServicesDep, library: LibraryDep, caller: CallerDep) -> None:
    """Tells what changes in the library; first, that the client should list it."""
    async with _connected(websocket, services, library, library, caller) as (peer, connection):
        services.connections.open(connection, Event(RESYNC, library).text())
        async for _ in peer.texts():
            pass


@router.head("/events", include_in_schema=False)
@router.get("/events", include_in_schema=False)
async def no_events() -> None:
    """What a browser sees that opens the address as a page."""
    raise NoWebSocket("This is a WebSocket: connect with ws:// or wss://.")


@router.websocket("/{path:rest}")
async def nothing(websocket: WebSocket) -> None:
    """The router itself would answer 403."""
    raise NotFound("There is no WebSocket here; the two are / and /events.")


class _Peer:
    """A WebSocket as `events.connections` knows it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.lifetime = asyncio.timeout(None)

    async def texts(self) -> AsyncIterator[str]:
        """Every text until either end closes. What is not a text closes."""
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                await self.close(UNSUPPORTED_DATA)
                return
            yield text

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError) as error:  # the second where a close is under way
            raise ConnectionError from error

    def revoke(self) -> None:
        """Close it, without waiting for that here."""
        self._closing = asyncio.create_task(self.close(POLICY_VIOLATION))

    async def close(self, code: int) -> None:
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._websocket.close(code)
        except TimeoutError:
            self.lifetime.reschedule(0)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it is closed


@asynccontextmanager
async def _connected(
    websocket: WebSocket, services: Services, library: str, topic: str | None, caller: Caller | None
) -> AsyncIterator[tuple[_Peer, ClientConnection]]:
    """A connection that was accepted, and is forgotten at the end. Beyond the limit, TooManyConnections."""
    peer = _Peer(websocket)
    connection = services.connections.connect(peer, library, topic)
    try:
        async with peer.lifetime:
            await websocket.accept()
            with _watched(services, peer, caller):
                yield peer, connection
    except (ConnectionError, TimeoutError, WebSocketDisconnect):
        pass  # it has left
    finally:
        services.connections.disconnect(connection)


def _watched(services: Services, peer: _Peer, caller: Caller | None) -> AbstractContextManager[None]:
    """Inside, it is closed as soon as the caller is no longer let in."""
    if caller is None or services.people is None:
        return nullcontext()
    return services.people.watch.watched(caller, peer.revoke)

"""WebSockets: `/` sends the progress of uploads, `/events` the changes of the library."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from app.accounts.principals import Principal
from app.events.connections import ClientConnection
from app.events.feed import RESYNC, Event, compact
from app.resources.dependencies import LibraryDep, PrincipalDep, Services, ServicesDep
from app.resources.errors import WebSocketRequired
from app.storage.errors import NotFound

UNSUPPORTED_DATA = 1003  # RFC 6455 §7.4.1
POLICY_VIOLATION = 1008

PONG = compact({"pong": True})

router = APIRouter()


@router.websocket("/")
async def session(
    websocket: WebSocket, services: ServicesDep, library: LibraryDep, principal: PrincipalDep
) -> None:
    """Send the sid, answer every text, and send the progress of uploads with this sid."""
    async with _connected(websocket, services, library, None, principal) as (peer, connection):
        services.connections.open(connection, compact({"sid": connection.sid}))
        async for _ in peer.texts():
            await peer.send(PONG)  # not queued: a peer that does not read stops being read from


@router.websocket("/events")
async def events(
    websocket: WebSocket, services: ServicesDep, library: LibraryDep, principal: PrincipalDep
) -> None:
    """Send the changes of the library; first an event that makes the client list it."""
    async with _connected(websocket, services, library, library, principal) as (peer, connection):
        services.connections.open(connection, Event(RESYNC, library).text())
        async for _ in peer.texts():
            pass


@router.head("/events", include_in_schema=False)
@router.get("/events", include_in_schema=False)
async def upgrade_required() -> None:
    raise WebSocketRequired("This address accepts WebSocket connections only. Connect with ws:// or wss://.")


@router.websocket("/{path:rest}")
async def unknown_path(websocket: WebSocket) -> None:
    """Respond 404; the router itself would respond 403."""
    raise NotFound("This path has no WebSocket. Connect to / or /events.")


class _Peer:
    """A WebSocket as a peer of `events.connections`."""

    def __init__(self, websocket: WebSocket, close_within_s: float) -> None:
        self._websocket = websocket
        self._close_within_s = close_within_s
        self.lifetime = asyncio.timeout(None)

    async def texts(self) -> AsyncIterator[str]:
        """Yield every text until either end closes. Binary data closes the connection."""
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                await self.close(UNSUPPORTED_DATA)
                return
            yield text

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError) as error:  # RuntimeError while it is being closed
            raise ConnectionError from error

    def revoke(self) -> None:
        """Start closing; do not wait for it."""
        self._closing = asyncio.create_task(self.close(POLICY_VIOLATION))

    async def close(self, code: int) -> None:
        try:
            async with asyncio.timeout(self._close_within_s):
                await self._websocket.close(code)
        except TimeoutError:
            self.lifetime.reschedule(0)
        except (WebSocketDisconnect, RuntimeError):
            pass  # already closed


@asynccontextmanager
async def _connected(
    websocket: WebSocket, services: Services, library: str, topic: str | None, principal: Principal | None
) -> AsyncIterator[tuple[_Peer, ClientConnection]]:
    """Accept a connection, and disconnect it at the end. Raises TooManyConnections."""
    peer = _Peer(websocket, services.close_sockets_within_s)
    connection = services.connections.connect(peer, library, topic)
    try:
        async with peer.lifetime:
            await websocket.accept()
            with _close_when_revoked(services, peer, principal):
                yield peer, connection
    except (ConnectionError, TimeoutError, WebSocketDisconnect):
        pass  # the client disconnected
    finally:
        services.connections.disconnect(connection)


def _close_when_revoked(
    services: Services, peer: _Peer, principal: Principal | None
) -> AbstractContextManager[None]:
    if principal is None or services.accounts is None:
        return nullcontext()
    return services.accounts.revocation.watch(principal, peer.revoke)

"""uvicorn: how it is set up, started and stopped. With websocket.py the only file that knows it."""

import asyncio
import gc
import logging
import os
import resource
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import formatdate
from importlib.resources import files
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors import ChangeReload

from app import logs
from app.listen import BACKLOG, authority
from app.websocket import WebSocketProtocol

APP = "app.main:app"

MAX_HEAD_SIZE = 64 << 10
"""Bytes of a request before its body."""

GRACE_S = 3
"""Seconds between the end of the last transfer and that of the process, whatever a disk may do."""

_LOOK_EVERY_S = 0.05

_log = logging.getLogger("seekable")


class _Protocol(HttpToolsProtocol):
    """Refuses a request whose head is without end, all of which the parser would remember, and tells each
    request of a connection that its client left, not only the last (they may be pipelined)."""

    _head_size: int | None = None  # None while no head is being read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        # It keeps no more than the one piece that a slow client has not taken yet.
        self.transport.set_write_buffer_limits(high=0)
        self._cycles: deque[RequestResponseCycle] = deque()  # from the oldest without a whole answer

    def on_message_begin(self) -> None:
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_size = None
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_SIZE:
            raise ValueError("too long")  # which the parser's caller answers with 400
        # uvicorn's Date is up to a second old, and Last-Modified must not be later (RFC 9110 8.8.2.1).
        date = (b"date", formatdate(usegmt=True).encode())
        self.server_state.default_headers = [date, *self.config.encoded_headers]
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        if self.cycle is not None:  # none has begun: it asks for another protocol
            self._cycles.append(self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def handle_websocket_upgrade(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # the answer that is under way would go on past every limit
        else:
            super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_size is not None and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_SIZE:
                self.send_400_response("The head of the request is too long.")


class _Server(uvicorn.Server):
    """Says when it can be reached, and ends in good order: see `shutdown`."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays. Looking for garbage in all of it, again and again, would stop everything
        # for a tenth of a second each time.
        gc.collect()
        gc.freeze()
        if self.started:
            for listener in sockets or ():
                _log.info("Seekable is running on http://%s", authority(*listener.getsockname()[:2]))
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Nothing is noted for uvicorn, which would raise the signal again after a clean end.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nobody in any more, let transfers end within the limit, break off the others, and close the
        application.

        Whoever is broken off is a client that left: what it had sent is discarded, and what it was sent
        does not look complete, because its connection is reset or ends early.
        """
        _log.info("Stopping")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # at once if it is idle, else after its answer
        limit = self.config.timeout_graceful_shutdown or 0
        if self.server_state.tasks:
            _log.info("Connections that may go on for %d s more: %d", limit, len(self.server_state.tasks))
        deadline = time.monotonic() + limit
        while self._busy() and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)  # uvicorn tells nobody when one ends
        _end_within(GRACE_S)
        if self._busy():
            _log.warning("Connections that did not end in time and are broken off: %d", self._busy())
        while self._busy():
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(_LOOK_EVERY_S)
        await self.lifespan.shutdown()

    def _busy(self) -> int:
        return max(len(self.server_state.connections), len(self.server_state.tasks))


def _end_within(seconds: float) -> None:
    """End the process after this time even if a thread waits for a disk that does not answer. What it had
    begun is then as after a power cut, which harms nothing."""

    def end() -> None:
        _log.error("A disk or the database did not answer within %d s; ended without it.", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def serve(
    listeners: Sequence[socket.socket],
    *,
    shutdown_timeout: int,
    heartbeat: float,
    started: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends what still runs at once. `started` is called when
    the server can be reached."""
    _take_descriptors()
    _Server(_config(shutdown_timeout, heartbeat), started).run(sockets=[*listeners])


def _take_descriptors() -> None:
    """Every connection takes one, and the usual limit of 1,024 is for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve_reloading(listeners: Sequence[socket.socket], *, heartbeat: float) -> None:
    """Serve for development: start again whenever the code changes, and do not wait for transfers."""
    config = _config(1, heartbeat, reload=True)
    ChangeReload(config, target=uvicorn.Server(config).run, sockets=[*listeners]).run()


def _config(shutdown_timeout: int, heartbeat: float, *, reload: bool = False) -> uvicorn.Config:
    return uvicorn.Config(
        APP,
        http=_Protocol,
        ws=WebSocketProtocol,
        ws_max_size=64 << 10,
        ws_ping_interval=heartbeat,
        ws_ping_timeout=heartbeat,
        ws_per_message_deflate=False,  # tens of KiB for each connection
        server_header=False,
        log_config=logs.CONFIG,
        backlog=BACKLOG,
        reload=reload,
        reload_dirs=[str(files("app"))] if reload else None,
        # Without a limit one stalled client keeps the process from ending.
        timeout_graceful_shutdown=shutdown_timeout,
    )

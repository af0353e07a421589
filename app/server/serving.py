"""uvicorn: how it is set up, started and stopped. With protocol.py and websocket.py all that knows it."""

import asyncio
import gc
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload

from app import logs
from app.server.connection_limits import ConnectionLimits, connections_within
from app.server.deadlines import Clock, Limits
from app.server.listen import BACKLOG, place_of
from app.server.protocol import Config, HttpProtocol
from app.server.websocket import WebSocketProtocol
from app.settings import Settings

APP = "app.main:app"

GRACE_S = 3
"""Seconds between the end of the last transfer and that of the process, whatever a disk may do."""

_LOOK_EVERY_S = 0.05
"""Seconds between two looks at whether all is done, while stopping."""

_LOOK_EVERY = 5
"""Ticks of uvicorn, of 0.1 s, between two looks for clients that keep a connection waiting."""

_log = logging.getLogger("seekable")


class _Server(uvicorn.Server):
    """Says when it can be reached, and ends in good order: see `handle_exit` and `shutdown`."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], *, delay: float) -> None:
        super().__init__(config)
        self._on_start = started
        self._clock = Clock()
        self._delay = delay
        self._closes_at: float | None = None
        self._told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays. Looking for garbage in all of it, again and again, would stop everything
        # for a tenth of a second each time.
        gc.collect()
        gc.freeze()
        if self.started:
            for listener in sockets or ():
                _log.info("Seekable is running on %s", place_of(listener))
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and not self.should_exit:
            self._wait_to_close(self._closes_at)
        if counter % _LOOK_EVERY == 0:
            now = self._clock.time(time.monotonic())
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpProtocol):
                    connection.look(now)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets /health/ready say so, and the delay begin; another one ends the delay, and
        the one after that the transfers."""
        # Nothing is noted for uvicorn, which would raise the signal again after a clean end.
        self.force_exit = self.should_exit
        if self._closes_at is None and self._delay and self.started:
            self._closes_at = time.monotonic() + self._delay
            self.lifespan.state["stopping"] = True
        else:
            self.should_exit = True

    def _wait_to_close(self, closes_at: float) -> None:
        """Until it is time go on as before, so that whoever asks for readiness sends nobody here any more."""
        if not self._told:
            self._told = True
            _log.info("Not ready any more; the port closes in %g s", self._delay)
        self.should_exit = time.monotonic() >= closes_at

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


def serve(settings: Settings, listeners: Sequence[socket.socket], started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends the delay, or what still runs, at once. `started` is
    called when the server can be reached."""
    _take_descriptors()
    _Server(_config(settings), started, delay=settings.shutdown_delay).run(sockets=[*listeners])


def _take_descriptors() -> None:
    """Every connection takes one, and the usual limit of 1,024 is for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve_reloading(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """Serve for development: start again whenever the code changes, and do not wait for transfers."""
    config = _config(settings, reload=True, reload_dirs=[str(files("app"))], timeout_graceful_shutdown=1)
    ChangeReload(config, target=uvicorn.Server(config).run, sockets=[*listeners]).run()


def _config(settings: Settings, **options: Any) -> Config:
    usual: dict[str, Any] = {
        "ws": WebSocketProtocol,
        "ws_max_size": 64 << 10,
        "ws_ping_interval": settings.heartbeat,
        "ws_ping_timeout": settings.heartbeat,
        "ws_per_message_deflate": False,  # tens of KiB for each connection
        "server_header": False,
        "log_config": logs.config(settings.log_format),
        "backlog": BACKLOG,
        # Without a limit one stalled client keeps the process from ending.
        "timeout_graceful_shutdown": settings.shutdown_timeout,
    }
    limits = Limits(
        head_size=settings.max_header_size,
        head=settings.header_timeout,
        body=settings.body_timeout,
        body_rate=settings.body_rate,
        reader=settings.send_timeout,
        idle=settings.keepalive_timeout,
    )
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    within = None if descriptors == resource.RLIM_INFINITY else connections_within(descriptors)
    connections = ConnectionLimits(
        per_peer=settings.max_connections_per_peer,
        in_all=settings.max_connections or within,
        exempt=settings.trusted_proxies,
    )
    return Config(
        APP,
        limits=limits,
        connections=connections,
        sendfile=settings.sendfile,
        log_requests=settings.access_log,
        name_requests=settings.log_format == "json",
        trusted_proxies=settings.trusted_proxies,
        **(usual | options),
    )

"""Starts and stops uvicorn. Only this package and the command line know uvicorn."""

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload

from app import logs
from app.server.connection_limits import ConnectionLimits, connections_within
from app.server.deadlines import ClientLimits, StallClock
from app.server.http_connection import HttpConnection
from app.server.listen import BACKLOG, listener_url
from app.server.request_log import RequestLog
from app.server.uvicorn_config import UvicornConfig
from app.server.websocket import WebSocketProtocol

APP = "app.main:app"

GRACE_S = 3
"""Seconds that a shutdown may take after the last transfer, even if a disk hangs."""

_SHUTDOWN_POLL_S = 0.05
"""Seconds between two checks for open connections during shutdown."""

_DEADLINE_TICKS = 5
"""Ticks of uvicorn, 0.1 s each, between two checks of the deadlines."""

_COLLECTION_TICKS = 10
"""Ticks between two checks whether the memory has grown."""

_YOUNG_OBJECTS = 1_000
"""New objects after which the youngest generation is collected."""

_YOUNG_COLLECTIONS = 4
"""Collections of the youngest generation before one of both young generations: of up to 5,000 objects."""

_NEVER = 1 << 30

log = logging.getLogger(__name__)


class FullCollections:
    """Decides when the garbage collector traverses all objects, which blocks the event loop.

    With 500 WebSockets and 1,000 connections a full collection takes 60 to 90 ms. Requests leave few cycles,
    which the young generations collect, so that it can wait until memory has grown by `growth` blocks, 30 to
    60 MiB. Python itself would do it whenever a quarter more objects have survived.
    """

    def __init__(self, growth: int = 400_000) -> None:
        self._growth = growth
        self._blocks = 0  # after the last full collection

    def begin(self) -> None:
        """Collect the garbage of the start, and exempt the objects that it leaves from collections."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _NEVER)
        gc.enable()  # `seekable serve` starts without
        self._blocks = sys.getallocatedblocks()

    def collect_if_grown(self) -> None:
        """Collect all garbage if memory has grown. Called every second."""
        if sys.getallocatedblocks() > self._blocks + self._growth:
            gc.collect()
            self._blocks = sys.getallocatedblocks()


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The settings of the server. Times are in seconds."""

    limits: ClientLimits
    max_connections: int | None
    """None for as many as the process has file descriptors for."""
    max_connections_per_peer: int
    trusted_proxies: Sequence[str]
    """Networks, in CIDR notation, whose headers about the client are believed."""
    sendfile: bool
    fast_path: bool
    """Repeat answers for requests that differ only in the range, where files are sent by sendfile."""
    access_log: bool
    log_format: logs.Format
    heartbeat: float
    """Between two pings of a WebSocket."""
    shutdown_delay: float
    shutdown_timeout: int


class _Server(uvicorn.Server):
    """A uvicorn server that checks deadlines and shuts down gracefully."""

    config: UvicornConfig

    def __init__(self, config: UvicornConfig, started: Callable[[], None], *, delay: float) -> None:
        super().__init__(config)
        self._on_start = started
        self._clock = StallClock()
        self._delay = delay
        self._closes_at: float | None = None
        self._announced = False
        self._collections = FullCollections()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._collections.begin()
        if self.started:
            for listener in sockets or ():
                log.info("Seekable is running on %s", listener_url(listener))
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and not self.should_exit:
            self._wait_to_close(self._closes_at)
        if counter % _DEADLINE_TICKS == 0:
            now = self._clock.time(time.monotonic())
            connections: list[object] = list(self.server_state.connections)  # WebSockets, too
            for connection in connections:
                if isinstance(connection, HttpConnection):
                    connection.check_deadlines(now)
        if counter % _COLLECTION_TICKS == 0:
            self._collections.collect_if_grown()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: the first starts the delay, in which /health/ready reports 503; the second ends
        the delay, the third aborts the transfers."""
        # The signal is not recorded for uvicorn, which would raise it again after a clean shutdown.
        self.force_exit = self.should_exit
        if self._closes_at is None and self._delay and self.started:
            self._closes_at = time.monotonic() + self._delay
            self.lifespan.state["stopping"] = True
        else:
            self.should_exit = True

    def _wait_to_close(self, closes_at: float) -> None:
        """Keep serving until the delay ends, so that load balancers can take this server out of rotation."""
        if not self._announced:
            self._announced = True
            log.info("Not ready any more; the port closes in %g s", self._delay)
        self.should_exit = time.monotonic() >= closes_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let transfers finish within the timeout, abort the rest, and close the application.

        An aborted transfer is treated like a disconnect of its client: an upload is discarded, and a download
        does not look complete, because its connection is reset or ends early.
        """
        log.info("Stopping")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes at once if idle, else after its response
        limit = self.config.timeout_graceful_shutdown or 0
        if self.server_state.tasks:
            log.info("Connections that may finish within %d s: %d", limit, len(self.server_state.tasks))
        deadline = time.monotonic() + limit
        while self._busy() and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_SHUTDOWN_POLL_S)  # uvicorn has no event for the end of a connection
        _end_within(GRACE_S, self.config.request_log)
        if self._busy():
            log.warning("Connections aborted because they did not finish in time: %d", self._busy())
        while self._busy():
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(_SHUTDOWN_POLL_S)
        await self.lifespan.shutdown()

    def _busy(self) -> int:
        return max(len(self.server_state.connections), len(self.server_state.tasks))


def _end_within(seconds: float, request_log: RequestLog | None) -> None:
    """Exit after this time even if a hung disk blocks a thread; storage recovers as after a power cut."""

    def end() -> None:
        log.error(
            "A disk or the database did not respond within %d s; exiting without waiting for it.", seconds
        )
        if request_log is not None:
            request_log.close()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def serve(options: ServerOptions, listeners: Sequence[socket.socket], started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; further signals end the shutdown delay, then the transfers, at once.

    Calls `started` when the server accepts connections.
    """
    _raise_descriptor_limit()
    config = _config(options)
    try:
        _Server(config, started, delay=options.shutdown_delay).run(sockets=[*listeners])
    finally:
        if config.request_log is not None:
            config.request_log.close()


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors: the usual 1,024 is for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve_reloading(options: ServerOptions, listeners: Sequence[socket.socket]) -> None:
    """Serve for development: restart when the code changes, without waiting for transfers."""
    config = _config(options, reload=True, reload_dirs=[str(files("app"))], timeout_graceful_shutdown=1)
    ChangeReload(config, target=uvicorn.Server(config).run, sockets=[*listeners]).run()


def _config(options: ServerOptions, **overrides: Any) -> UvicornConfig:
    uvicorn_options: dict[str, Any] = {
        "ws": WebSocketProtocol,
        "ws_max_size": 64 << 10,
        "ws_ping_interval": options.heartbeat,
        "ws_ping_timeout": options.heartbeat,
        "ws_per_message_deflate": False,  # it would take tens of KiB for each connection
        "server_header": False,
        "log_config": logs.config(options.log_format),
        "backlog": BACKLOG,
        # Without a timeout one stalled client would block the shutdown.
        "timeout_graceful_shutdown": options.shutdown_timeout,
    }
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    within = None if descriptors == resource.RLIM_INFINITY else connections_within(descriptors)
    return UvicornConfig(
        APP,
        protocol=HttpConnection,
        limits=options.limits,
        connections=ConnectionLimits(
            per_peer=options.max_connections_per_peer,
            total=options.max_connections or within,
            exempt=options.trusted_proxies,
        ),
        sendfile=options.sendfile,
        fast_path=options.fast_path,
        log_requests=options.access_log,
        name_requests=options.log_format == "json",
        trusted_proxies=options.trusted_proxies,
        **(uvicorn_options | overrides),
    )

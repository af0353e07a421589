"""The only file that knows uvicorn."""

import contextlib
import socket
from collections.abc import Callable
from importlib.resources import files

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import ChangeReload

from app.websocket import WebSocketProtocol

APP = "app.main:app"

MAX_HEAD_SIZE = 64 << 10
"""Bytes of a request before its body."""


class _Protocol(HttpToolsProtocol):
    """Refuses a request whose head is without end; the parser would remember all of it."""

    _head_size: int | None = None  # None while no head is being read

    def on_message_begin(self) -> None:
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_size = None
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_SIZE:
            raise ValueError("too long")  # which the parser's caller answers with 400
        super().on_headers_complete()

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
    """Says when it can be reached."""

    def __init__(self, config: uvicorn.Config, started: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_start = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start(self.servers[0].sockets[0].getsockname()[1])


def serve(
    host: str, port: int, *, shutdown_timeout: int, heartbeat: float, started: Callable[[int], None]
) -> bool:
    """Serve until SIGINT or SIGTERM. `started` is given the port that was taken. False when it could not
    start."""
    server = _Server(_config(host, port, shutdown_timeout, heartbeat), started)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
        server.run()
    return server.started


def serve_reloading(host: str, port: int, *, heartbeat: float, started: Callable[[int], None]) -> None:
    """Serve for development: start again whenever the code changes, and do not wait for transfers."""
    config = _config(host, port, 1, heartbeat, reload=True)
    listener = config.bind_socket()
    started(listener.getsockname()[1])
    ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()


def _config(
    host: str, port: int, shutdown_timeout: int, heartbeat: float, *, reload: bool = False
) -> uvicorn.Config:
    return uvicorn.Config(
        APP,
        host=host,
        port=port,
        http=_Protocol,
        ws=WebSocketProtocol,
        ws_max_size=64 << 10,
        ws_ping_interval=heartbeat,
        ws_ping_timeout=heartbeat,
        ws_per_message_deflate=False,  # tens of KiB for each connection
        server_header=False,
        reload=reload,
        reload_dirs=[str(files("app"))] if reload else None,
        # Without a limit one stalled client keeps the process from ending.
        timeout_graceful_shutdown=shutdown_timeout,
    )

"""Libraries of thousands of empty films, and a server over one in this process, for a test to observe."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.resources.dependencies import Services
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import ClientLimits
from app.server.http_connection import HttpConnection
from app.server.uvicorn_config import UvicornConfig
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import Listing, Page
from tests.support import Server, running
from tests.support.beneath import beneath


class LargeLibrary:
    """A library of empty films, written straight into the storage."""

    def __init__(self, settings: Settings, paths: Iterable[str]) -> None:
        self.settings = settings
        self.beneath = beneath(settings)
        self.beneath.fill(paths)


@contextmanager
def run_with_films(folder: Path, paths: Iterable[str], **settings: object) -> Iterator[Server]:
    """Run a server over a library of empty films, written straight into the storage."""
    beneath(Server(folder, **settings)).fill(paths)
    with running(folder, **settings) as server:
        yield server


class PageCounter:
    """Counts the pages that routes read from the storage; breaks the database before page `fail_at`."""

    def __init__(self, library: LargeLibrary) -> None:
        self.pages = 0
        self.fail_at: int | None = None
        self._library = library
        self._failure = ExitStack()

    def observe(self, services: Services) -> Services:
        return replace(services, storage=cast(Storage, CountedStorage(services.storage, self)))

    def count(self) -> None:
        self.pages += 1
        if self.pages == self.fail_at:
            self._failure.enter_context(self._library.beneath.broken())

    def repair(self) -> None:
        self._failure.close()


class CountedStorage:
    """A storage whose pages are counted before they are read from the storage below."""

    def __init__(self, storage: Storage, counter: PageCounter) -> None:
        self._storage = storage
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        self._counter.count()
        return await self._storage.page(listing, cursor=cursor, limit=limit)


def _unchanged(services: Services) -> Services:
    return services


@contextmanager
def serve_in_process(
    library: LargeLibrary, change: Callable[[Services], Services] = _unchanged
) -> Iterator[int]:
    """Run a real server over the library in a thread of this process, and yield its port.

    Its routes use the services that `change` returns.
    """
    application = create_app(library.settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"]["services"] = change(scope["state"]["services"])
        await application(scope, receive, send)

    config = UvicornConfig(
        app,  # type: ignore[arg-type]  # Starlette's types of ASGI differ from uvicorn's
        protocol=HttpConnection,
        limits=ClientLimits(head_size=65536, head=10, body=30, body_rate=1024, reader=60, idle=5),
        connections=ConnectionLimits(per_peer=1000, total=None, exempt=()),
        sendfile=True,
        fast_path=True,
        log_requests=False,
        name_requests=False,
        port=0,
        log_level="warning",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()

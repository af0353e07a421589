"""Libraries of thousands of empty films, and a server over one in this process, for a test to observe."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvicorn

from app.main import create_app
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import ClientLimits
from app.server.protocol import HttpProtocol
from app.server.uvicorn_config import UvicornConfig
from app.settings import Settings
from app.storage.async_storage import ThreadedStorage
from app.storage.types import Page
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
    """Counts the pages that the server reads from the storage; breaks the database before page `fail_at`."""

    def __init__(self, library: LargeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = 0
        self.fail_at: int | None = None
        self._failure = ExitStack()
        read_page = ThreadedStorage.page

        async def page(storage: ThreadedStorage, *arguments: object, **options: object) -> Page:
            self.pages += 1
            if self.pages == self.fail_at:
                self._failure.enter_context(library.beneath.broken())
            return await read_page(storage, *arguments, **options)

        monkeypatch.setattr(ThreadedStorage, "page", page)

    def repair(self) -> None:
        self._failure.close()


@contextmanager
def serve_in_process(library: LargeLibrary) -> Iterator[int]:
    """Run a real server over the library in a thread of this process, and yield its port."""
    config = UvicornConfig(
        create_app(library.settings),  # type: ignore[arg-type]  # uvicorn accepts an application
        protocol=HttpProtocol,
        limits=ClientLimits(head_size=65536, head=10, body=30, body_rate=1024, reader=60, idle=5),
        connections=ConnectionLimits(per_peer=1000, total=None, exempt=()),
        sendfile=True,
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

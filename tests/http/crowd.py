"""A library of very many files, and the program over it in this process, where it can be watched."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvicorn

from app.main import create_app
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import Limits
from app.server.protocol import Config
from app.settings import Settings
from app.storage.async_storage import ThreadedStorage
from app.storage.types import Page
from tests.support import Server, running
from tests.support.beneath import beneath


class Crowd:
    """A library of empty films."""

    def __init__(self, settings: Settings, paths: Iterable[str]) -> None:
        self.settings = settings
        self.beneath = beneath(settings)
        self.beneath.fill(paths)


@contextmanager
def filled(folder: Path, paths: Iterable[str], **library: object) -> Iterator[Server]:
    """A server over a library of empty films, which need not be uploaded and deleted one by one."""
    beneath(Server(folder, **library)).fill(paths)
    with running(folder, **library) as server:
        yield server


class Watch:
    """How many pages were asked of the storage. Before the one of number `fail_at` the database breaks."""

    def __init__(self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = 0
        self.fail_at: int | None = None
        self._harm = ExitStack()
        send_request = ThreadedStorage.page

        async def page(storage: ThreadedStorage, *what: object, **more: object) -> Page:
            self.pages += 1
            if self.pages == self.fail_at:
                self._harm.enter_context(crowd.beneath.broken())
            return await send_request(storage, *what, **more)

        monkeypatch.setattr(ThreadedStorage, "page", page)

    def mend(self) -> None:
        self._harm.close()


@contextmanager
def serving(crowd: Crowd) -> Iterator[int]:
    """The port of a real server over it."""
    config = Config(
        create_app(crowd.settings),  # type: ignore[arg-type]  # uvicorn takes it, as well as its name
        limits=Limits(head_size=65536, head=10, body=30, body_rate=1024, reader=60, idle=5),
        connections=ConnectionLimits(per_peer=1000, in_all=None, exempt=()),
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

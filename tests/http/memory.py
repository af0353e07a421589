"""A library in memory that honestly pages, because neither a real one of that size nor its failing comes at
will."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI

from app.resources.deps import Services
from app.resources.errors import HANDLERS
from app.storage.errors import StorageUnavailable
from app.storage.types import MAX_ALL_FOLDERS, MAX_FOLDERS, FileInfo, Key, Listing, Page

TIME = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass
class Memory:
    """The pages of a storage of many films, and of many folders."""

    files: int = 0
    folders_inside: int = 0
    fail_at: int | None = None
    pages: int = 0

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        self.pages += 1
        if self.fail_at is not None and start >= self.fail_at:
            raise StorageUnavailable("The disk is gone.")
        stop = min(start + limit, self.files)
        items = tuple(self._info(number) for number in range(start, stop))
        return Page(self._folders(MAX_FOLDERS), items, str(stop) if stop < self.files else None)

    async def folders(self, library: str, folder: str) -> tuple[str, ...]:
        return self._folders(MAX_ALL_FOLDERS)

    def _folders(self, most: int) -> tuple[str, ...]:
        return tuple(f"{number:07}" for number in range(min(most, self.folders_inside)))

    def _info(self, number: int) -> FileInfo:
        key = Key("", "films", f"{number:07}.mp4")
        return FileInfo(str(number), key, 1, "video/mp4", "e", None, TIME, TIME)


@contextmanager
def serving(memory: Memory, router: APIRouter) -> Iterator[int]:
    """The port of a real server over it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        fields = dict.fromkeys(Services.__dataclass_fields__) | {"storage": memory}
        yield {"services": Services(**fields)}  # type: ignore[arg-type]

    app = FastAPI(lifespan=lifespan, exception_handlers=HANDLERS)
    app.include_router(router)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()

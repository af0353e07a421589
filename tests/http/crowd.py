"""A library of very many files, and the program over it in this process, where it can be watched."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import uvicorn

from app.database import prepare_database
from app.main import create_app
from app.settings import Settings
from app.storage.staging import Signature
from app.storage.threaded import ThreadedStorage
from app.storage.types import Page


class Crowd:
    """Empty films and their rows, made at once: uploads of so many would take minutes."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.settings = Settings(_env_file=None, files_dir=root)
        prepare_database(self.settings)
        rows = []
        for path in paths:
            folder, _, filename = path.rpartition("/")
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            found = Signature.of(os.stat(file))
            rows.append((uuid4().hex, folder, filename, found.size, found.mtime_ns, found.inode))
        self.sql(
            "INSERT INTO media (id, library, folder, filename, content_type, etag, created_at, updated_at,"
            " size, mtime_ns, inode, unverified)"
            " VALUES (?, '', ?, ?, 'video/mp4', 'e', '2024-01-01', '2024-01-01', ?, ?, ?, false)",
            rows,
        )

    def sql(self, statement: str, rows: Iterable[tuple[object, ...]] = ((),)) -> None:
        database = self.settings.files_dir / ".seekable" / "seekable.db"
        with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            connection.executemany(statement, rows)


class Watch:
    """How many pages were asked of the storage. Before the one of number `fail_at` the database breaks."""

    def __init__(self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = 0
        self.fail_at: int | None = None
        self._crowd = crowd
        ask = ThreadedStorage.page

        async def page(storage: ThreadedStorage, *what: object, **more: object) -> Page:
            self.pages += 1
            if self.pages == self.fail_at:
                crowd.sql("ALTER TABLE media RENAME TO lost")
            return await ask(storage, *what, **more)

        monkeypatch.setattr(ThreadedStorage, "page", page)

    def mend(self) -> None:
        if self.fail_at is not None and self.pages >= self.fail_at:
            self._crowd.sql("ALTER TABLE lost RENAME TO media")


@contextmanager
def serving(crowd: Crowd) -> Iterator[int]:
    """The port of a real server over it."""
    server = uvicorn.Server(uvicorn.Config(create_app(crowd.settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()

"""A library over the filesystem backend, for tests that look beneath the contract."""

import hashlib
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from app.database.filesystem import Limits
from app.database.filesystem.backend import FilesystemBackend
from app.database.filesystem.opening import open_filesystem
from app.settings import Settings
from app.storage.content_hash import ContentHash
from app.storage.types import SHARED, Change, Committed, Expect, Expectation, FileInfo, Key
from tests.support.recording_feed import RecordingFeed
from tests.support.sqlite import begin_library

FILM = Key(SHARED, "films", "film.mp4")


class Library:
    """A backend in a folder, which can be closed and opened again like at a restart."""

    def __init__(self, root: Path, database_url: str | None = None, **options: Any) -> None:
        """Open a library. The options are those of `open_filesystem`."""
        self.options = options
        self.root = root
        self.settings = Settings(
            _env_file=None, files_dir=root, database_url=database_url, read_chunk_size=4096
        )
        self.stack = ExitStack()
        self.feed = RecordingFeed()
        self.limits = Limits()
        if database_url is None:
            begin_library(root)
        self.open()

    def open(self) -> None:
        self.backend: FilesystemBackend = open_filesystem(
            self.settings, self.stack, self.feed, limits=self.limits, **self.options
        )

    @property
    def published(self) -> list[Change]:
        """The changes that the backend published."""
        return self.feed.all

    def close(self) -> None:
        self.stack.close()

    def put(
        self,
        data: bytes,
        key: Key = FILM,
        expect: Expectation = Expect.ANY,
        origin: FileInfo | None = None,
    ) -> Committed:
        staged = self.backend.stage(None)
        try:
            staged.write(data)
            found = ContentHash()
            found.update(data)
            return self.backend.commit(
                key,
                staged,
                size=len(data),
                sha256=found.sha256,
                content_type="video/x-declared",
                expect=expect,
                origin=origin,
                is_utf8=found.is_utf8,
            )
        finally:
            staged.discard()

    def store(self, data: bytes, key: Key = FILM, expect: Expectation = Expect.ANY) -> Committed:
        """Store a small file in one call, as `put` does in several."""
        return self.backend.store(
            key,
            data,
            sha256=hashlib.sha256(data).hexdigest(),
            content_type="video/x-declared",
            expect=expect,
            is_utf8=False,
        )

    def get(self, key: Key = FILM) -> tuple[bytes, FileInfo]:
        reader = self.backend.open(key, wait=True)
        assert reader is not None
        try:
            return b"".join(reader.read(0, 1 << 20)), reader.info
        finally:
            reader.close()

    def path(self, key: Key = FILM) -> Path:
        return self.root / key.path

    def staging(self) -> list[str]:
        return os.listdir(self.root / ".seekable" / "staging")

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Execute a statement at once, outside of a transaction."""
        with closing(self.backend.database.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


Upload = tuple[str, bytes, Expectation]
"""A path, the bytes to store there, and the expected state."""


def store_together(library: Library, *uploads: Upload) -> list[Future[Committed]]:
    """Store each file in its own thread, and let none of them commit before all wait or have failed."""
    with ThreadPoolExecutor(len(uploads)) as pool, library.backend.database.turn():
        results = [
            pool.submit(library.store, data, Key.at(SHARED, path), expect) for path, data, expect in uploads
        ]
        while library.backend.waiting_uploads + sum(each.done() for each in results) < len(uploads):
            time.sleep(0.001)
    return results

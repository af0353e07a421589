"""A process that changes stored files on request, so that a test can kill it during a change.

It reads tasks from standard input, one JSON object a line, and forks for each, so that modules are imported
once. The child opens the library as a server does at its start, reports the stored files, prepares the
change, reports that it is ready, and blocks until it reads a line. Then it makes the change, reports that,
and blocks until it reads a second line before it exits.
"""

import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.database.filesystem.backend import FilesystemBackend
from app.database.filesystem.opening import open_filesystem
from app.settings import Settings
from app.storage.errors import NotFound
from app.storage.types import SHARED, Expect, Expectation, Key, Listing

# Unbuffered: some lines are for the parent, some for its children.
INPUT = FileIO(0, closefd=False)

OLD = b"old" * 1000
NEW = b"new" * 100_000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Library:
    """The stored files as a process sees them that has just started."""

    def __init__(self, root: Path, stack: ExitStack, database: str | None = None) -> None:
        settings = Settings(_env_file=None, files_dir=root, database_url=database, stable_after=0)
        self.backend: FilesystemBackend = open_filesystem(settings, stack)
        self.root = root
        self._staging = root / ".seekable" / "staging"

    def put(self, path: str, data: bytes, expect: Expectation = Expect.ANY) -> None:
        staged = self.backend.stage(len(data))
        try:
            for start in range(0, len(data), 100_000):
                staged.write(data[start : start + 100_000])
            self.backend.commit(
                Key.at(SHARED, path),
                staged,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                content_type="video/mp4",
                expect=expect,
            )
        finally:
            staged.discard()

    def store_together(self, *paths: str) -> None:
        """Store small files at the paths in one transaction."""

        def store(path: str) -> None:
            self.backend.store(
                Key.at(SHARED, path),
                NEW,
                sha256=sha256(NEW),
                content_type="video/mp4",
                expect=Expect.ANY,
            )

        with ThreadPoolExecutor(len(paths)) as pool, self.backend.database.turn():
            stored = [pool.submit(store, path) for path in paths]
            while self.backend.waiting_uploads < len(paths):
                time.sleep(0.001)
        for each in stored:
            each.result()

    def get(self, path: str, *, require_hash: bool = False) -> str | None:
        """Return the SHA-256 of the content, or None if there is no file.

        Assert that its row has the same size and hash. A row without a hash passes unless `require_hash`.
        """
        try:
            reader = self.backend.open(Key.at(SHARED, path), wait=True)
        except NotFound:
            return None
        assert reader is not None
        data = b"".join(reader.read(0, 1 << 24))
        reader.close()
        found = hashlib.sha256(data).hexdigest()
        assert (len(data), found) == (
            reader.info.size,
            reader.info.sha256 or (None if require_hash else found),
        )
        return found

    def listed(self, folder: str) -> list[str]:
        page = self.backend.page(Listing(SHARED, folder), cursor=None, limit=1000, wait=True)
        assert page is not None
        return [item.key.path for item in page.items]

    def change(self, kind: str, path: str) -> None:
        key = Key.at(SHARED, path)
        match kind:
            case "create" | "replace":
                self.put(path, NEW)
            case "store together":
                self.store_together(path, f"moved/{path}")
            case "delete":
                self.backend.delete(key, Expect.ANY)
            case "move":
                self.backend.move(key, Key.at(SHARED, f"moved/{path}"), Expect.ANY)

    def staging(self) -> list[str]:
        return os.listdir(self._staging)


def report(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def perform(library: Library, read: list[str], kind: str | None = None, path: str = "") -> None:
    """Report the hashes at the paths `read`; then make the change, if there is one."""
    report(pid=os.getpid(), staging=library.staging(), found={path: library.get(path) for path in read})
    if kind is None:
        return
    if kind != "create":
        library.put(path, OLD)
    report(ready=True)
    INPUT.readline()
    library.change(kind, path)
    report(done=True)
    INPUT.readline()


def main() -> None:
    root, database = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    with TemporaryDirectory() as folder, ExitStack() as stack:
        Library(Path(folder), stack)  # so that modules imported lazily are imported before the forks
    while line := INPUT.readline():
        child = os.fork()
        if child == 0:
            with ExitStack() as stack:
                perform(Library(root, stack, database), **json.loads(line))
            os._exit(0)
        report(status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()

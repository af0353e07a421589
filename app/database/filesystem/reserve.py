"""Room held back on a disk, so that something can still be deleted when it is full."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIZE = 256 << 10
"""Bytes held back: what a change of the database needs, several times over."""

_NAME = "reserve"
_BLOCK = 4096
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Reserve:
    """A file whose only use is the room that it takes."""

    def __init__(self, folder: int) -> None:
        """`folder` is a descriptor, which stays the caller's."""
        self._folder = folder
        self._lock = threading.Lock()

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """The room is free inside, for one at a time; then as much of it as there is is taken again."""
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NAME, dir_fd=self._folder)
            try:
                yield
            finally:
                self._fill()

    def fill(self) -> None:
        """Take what is missing, as far as there is room. Not while it is given up."""
        if self._size() < SIZE and self._lock.acquire(blocking=False):
            try:
                self._fill()
            finally:
                self._lock.release()

    def _size(self) -> int:
        try:
            return os.stat(_NAME, dir_fd=self._folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _fill(self) -> None:
        # A disk too full for it is no error: it is what the reserve is for.
        with contextlib.suppress(OSError), open(_NAME, "ab", buffering=0, opener=self._open) as file:
            while (missing := SIZE - os.fstat(file.fileno()).st_size) > 0:
                # Random, because some file systems keep zeros without room for them.
                os.write(file.fileno(), os.urandom(min(_BLOCK, missing)))

    def _open(self, name: str, _flags: int) -> int:
        return os.open(name, _APPEND, 0o600, dir_fd=self._folder)

"""Files that are being written, under names that nobody else sees."""

import contextlib
import fcntl
import os
import stat
from uuid import uuid4

from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.page_cache import begin_write_back
from app.database.filesystem.posix import map_os_errors

WRITE_BACK = 16 << 20
"""Bytes after which the disk is told to begin with them: few are left to wait for when all have come."""

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def hold(staging: int, name: str) -> int | None:
    """A descriptor that keeps a name in the staging folder from every sweep until it is closed; None when a
    sweep was faster."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
    except FileNotFoundError:
        return None
    if _lock(staging, name, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _lock(staging: int, name: str, descriptor: int) -> bool:
    # Shared, because several names may hold one file at once; the lock goes when its process dies.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.stat(name, dir_fd=staging, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


class StagedFile:
    """A new file in the staging folder, which no sweep removes for as long as its writer lives.

    Other users get the rights of `mode` when it is sealed.
    """

    def __init__(self, staging: int, mode: int = 0o666) -> None:
        self._staging = staging
        self._mode = mode
        self._size = self._given_to_disk = 0
        while True:
            self.name = uuid4().hex
            self._descriptor = os.open(self.name, _CREATE, 0o600, dir_fd=staging)
            if _lock(staging, self.name, self._descriptor):
                return
            os.close(self._descriptor)  # a sweep came between the open and the lock

    def write(self, data: bytes) -> None:
        with map_os_errors():
            rest = memoryview(data)
            while rest:  # a write may be short: on signals, near a limit, on a full disk
                rest = rest[os.write(self._descriptor, rest) :]
        self._size += len(data)
        if self._size - self._given_to_disk >= WRITE_BACK:
            begin_write_back(self._descriptor, self._given_to_disk, self._size)
            self._given_to_disk = self._size

    def seal(self) -> FileStat:
        """Bring the bytes to the disk. An error here is final: the kernel may have dropped what it could
        not write, and a second fsync would then succeed without it."""
        with map_os_errors():
            with contextlib.suppress(OSError):  # of a file system that knows no rights
                os.fchmod(self._descriptor, self._mode)
            os.fsync(self._descriptor)
            return FileStat.of(os.fstat(self._descriptor))

    def seal_after(self, mtime_ns: int) -> FileStat:
        """Make the file look newer than that. The kernel's clock ticks slowly: two versions that are
        written within one tick could not be told apart by their signatures."""
        with map_os_errors():
            os.utime(self._descriptor, ns=(mtime_ns + 1, mtime_ns + 1))
        return self.seal()

    def discard(self) -> None:
        """Give up the staging name; a link made from it elsewhere stays."""
        with map_os_errors():
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.name, dir_fd=self._staging)
            finally:
                os.close(self._descriptor)


def sweep(staging: int) -> int:
    """Remove what crashed writers left in the staging folder. How much that was."""
    swept = 0
    with map_os_errors():
        for name in os.listdir(staging):
            with contextlib.suppress(FileNotFoundError, BlockingIOError, IsADirectoryError, PermissionError):
                if stat.S_ISREG(os.lstat(name, dir_fd=staging).st_mode):
                    _remove(staging, name)
                else:  # nothing of ours, and some of it cannot be opened
                    os.unlink(name, dir_fd=staging)
                swept += 1
    return swept


def _remove(staging: int, name: str) -> None:
    # O_NONBLOCK: who put a named pipe there meanwhile must not stop the server.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=staging)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not while somebody holds it
        os.unlink(name, dir_fd=staging)
    finally:
        os.close(descriptor)

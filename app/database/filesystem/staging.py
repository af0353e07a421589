"""Files that are still being written, invisible to clients, and disk space reserved for deletions."""

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from uuid import uuid4

from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.posix import map_os_errors

SYNC_STEP = 32 << 20
"""Bytes after which a long file is synced while more arrive, so that few remain for the last fsync."""

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def hold(staging: int, name: str) -> int | None:
    """Return a descriptor that protects a name in the staging folder from every sweep until it is closed.

    Returns None if a sweep has removed it already.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
    except FileNotFoundError:
        return None
    return descriptor if _lock(staging, name, descriptor) else None


def _lock(staging: int, name: str, descriptor: int) -> bool:
    """Lock a staged file, or close its descriptor and return False if a sweep has removed it."""
    # Shared, because several names may hold one file; the kernel releases it when the process dies.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.stat(name, dir_fd=staging, follow_symlinks=False)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, (BlockingIOError, FileNotFoundError)):
            return False
        raise
    return True


class StagedFile:
    """A new file in the staging folder, which no sweep removes while its writer lives.

    It is private until `seal` sets its permissions to `mode`. The threads of `syncs` sync long files early.
    """

    def __init__(self, staging: int, mode: int = 0o666, syncs: Executor | None = None) -> None:
        self._staging = staging
        self._mode = mode
        self._syncs = syncs
        self._early_sync: Future[None] | None = None  # the last one
        self._size = self._synced = 0
        while True:
            self.name = uuid4().hex
            self._descriptor = os.open(self.name, _CREATE, 0o600, dir_fd=staging)
            if _lock(staging, self.name, self._descriptor):
                return  # otherwise a sweep removed it between the open and the lock

    def write(self, data: bytes) -> None:
        with map_os_errors():
            rest = memoryview(data)
            while rest:  # a write may be short: on signals, near a limit, on a full disk
                rest = rest[os.write(self._descriptor, rest) :]
        self._size += len(data)
        if self._syncs is not None and self._size - self._synced >= SYNC_STEP:
            self._sync_early(self._syncs)

    def _sync_early(self, syncs: Executor) -> None:
        """Start to make the bytes durable, unless that is still in progress."""
        if self._early_sync is not None:
            if not self._early_sync.done():
                return
            with map_os_errors():
                self._early_sync.result()
        self._synced = self._size
        self._early_sync = syncs.submit(os.fsync, self._descriptor)

    def _begun_sync(self) -> Future[None] | None:
        """Return the early sync if it has begun; otherwise cancel it."""
        return None if self._early_sync is None or self._early_sync.cancel() else self._early_sync

    def seal(self) -> FileStat:
        """Make the bytes durable and return the status.

        An error is final: the kernel may have dropped pages that it could not write, and a second fsync
        would then succeed without them.
        """
        with map_os_errors():
            if (early := self._begun_sync()) is not None:
                early.result()  # the kernel reports an error once, and did so there
            with suppress(OSError):  # a file system without permissions
                os.fchmod(self._descriptor, self._mode)
            os.fsync(self._descriptor)
            return FileStat.of(os.fstat(self._descriptor))

    def seal_after(self, mtime_ns: int) -> FileStat:
        """Seal with a later modification time than this, because two versions that are written within one
        tick of the kernel's clock would otherwise have the same one."""
        with map_os_errors():
            os.utime(self._descriptor, ns=(mtime_ns + 1, mtime_ns + 1))
        return self.seal()

    def discard(self) -> None:
        """Remove the staged name; a link to it elsewhere remains."""
        if (early := self._begun_sync()) is not None:
            early.exception()  # wait: the descriptor may soon be that of another file
        with map_os_errors():
            try:
                with suppress(FileNotFoundError):
                    os.unlink(self.name, dir_fd=self._staging)
            finally:
                os.close(self._descriptor)


def sweep(staging: int) -> int:
    """Remove the staged files of crashed processes, and return their number."""
    swept = 0
    with map_os_errors():
        for name in os.listdir(staging):
            with suppress(FileNotFoundError, BlockingIOError, IsADirectoryError, PermissionError):
                if stat.S_ISREG(os.lstat(name, dir_fd=staging).st_mode):
                    _remove_unless_held(staging, name)
                else:  # not ours, and perhaps impossible to open
                    os.unlink(name, dir_fd=staging)
                swept += 1
    return swept


def _remove_unless_held(staging: int, name: str) -> None:
    # O_NONBLOCK: a named pipe that was put there meanwhile must not block the server.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=staging)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=staging)
    finally:
        os.close(descriptor)


RESERVE_SIZE = 256 << 10
"""Bytes that are reserved: several times what a change of the database needs."""

_RESERVE = "reserve"
_BLOCK = 4096
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Reserve:
    """A file that only occupies disk space, so that files can still be deleted when the disk is full."""

    def __init__(self, folder: int) -> None:
        """Use the folder of a descriptor, which the caller keeps open."""
        self._folder = folder
        self._lock = threading.Lock()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Free the space inside, for one thread at a time; then occupy as much of it as is free."""
        with self._lock:
            with suppress(FileNotFoundError):
                os.unlink(_RESERVE, dir_fd=self._folder)
            try:
                yield
            finally:
                self._fill()

    def fill(self) -> None:
        """Grow the reserve file to its full size, or as far as the disk allows, unless it is released."""
        if self._size() < RESERVE_SIZE and self._lock.acquire(blocking=False):
            try:
                self._fill()
            finally:
                self._lock.release()

    def _size(self) -> int:
        try:
            return os.stat(_RESERVE, dir_fd=self._folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _fill(self) -> None:
        # A disk that is too full for the whole reserve is no error: the reserve exists for full disks.
        with suppress(OSError), open(_RESERVE, "ab", buffering=0, opener=self._open) as file:
            while (missing := RESERVE_SIZE - os.fstat(file.fileno()).st_size) > 0:
                # Random bytes, because some file systems store zeros without using space.
                os.write(file.fileno(), os.urandom(min(_BLOCK, missing)))

    def _open(self, name: str, _flags: int) -> int:
        return os.open(name, _APPEND, 0o600, dir_fd=self._folder)

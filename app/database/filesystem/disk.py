"""The folder of files on disk, and how it is read."""

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.database.filesystem import name_equivalence, posix
from app.database.filesystem.file_identity import FileStat, has_writer, to_signed
from app.database.filesystem.posix import (
    CachedOpener,
    DiskPath,
    InodeId,
    ReservedFolder,
    Root,
    inode_id,
    map_os_errors,
)
from app.database.filesystem.staging import StagedFile
from app.storage.errors import DiskFault, ReadOnly, StorageUnavailable, Unreadable
from app.storage.types import RESERVED

ID: DiskPath = (RESERVED, "id")
MOVE_INTENT: DiskPath = (RESERVED, "moving")

# O_NONBLOCK: opening a named pipe must not block until its other end is opened.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NO_FAULTS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors for lack of permissions, descriptors or memory."""

Sync = Callable[[int], None]
"""Makes the folder of this descriptor durable, now or later."""


def sync_now(folder: int) -> None:
    """Make the folder of this descriptor durable. Raises OSError."""
    os.fsync(folder)


EntryType = Literal["file", "folder", "link", "other"]


@contextmanager
def map_read_errors() -> Iterator[None]:
    """Raise DiskFault instead of OSError; Unreadable for lack of permissions, descriptors or memory."""
    try:
        yield
    except OSError as error:
        kind = Unreadable if error.errno in _NO_FAULTS else DiskFault
        raise kind(f"The file system reported: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder; bytes that are not UTF-8 are lone surrogates."""

    name: str
    type: EntryType


class Folder:
    """An open folder."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Programs that copy folders set the modification time back; the ctime cannot be set.
        self.changed_ns = os.fstat(descriptor).st_ctime_ns
        """The time of the last change of its names or permissions, before `entries` reads them."""
        self._is_case_sensitive = False
        self._names: frozenset[str] | None = None

    def entries(self) -> Generator[Entry]:
        """Yield the entries in any order; one that exists the whole time, exactly once."""
        with map_read_errors(), os.scandir(self._descriptor) as found:
            for entry in found:
                yield Entry(entry.name, _type_of(entry))

    def has_file(self, name: str) -> bool:
        """Return whether this is the name of a regular file."""
        with map_read_errors():
            try:
                return stat.S_ISREG(os.lstat(name, dir_fd=self._descriptor).st_mode)
            except FileNotFoundError:
                return False

    def has_exact_name(self, name: str) -> bool:
        """Return whether a name that can be opened is that of an entry, and not merely equivalent to one."""
        if self._is_case_sensitive and name.isascii():
            return True
        with map_read_errors():
            others = name_equivalence.equivalent_names(name)
            if not any(name_equivalence.exists(self._descriptor, other) for other in others):
                # One name suffices: case sensitivity applies to a whole folder.
                self._is_case_sensitive = self._is_case_sensitive or bool(others)
                return True
            if self._names is None:
                self._names = frozenset(os.listdir(self._descriptor))
        return name in self._names

    def stat(self, name: str) -> FileStat | None:
        """Return the status of the entry of this name, or None."""
        with map_read_errors():
            try:
                return FileStat.of(os.lstat(name, dir_fd=self._descriptor))
            except FileNotFoundError:
                return None


def _type_of(entry: os.DirEntry[str]) -> EntryType:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


class Disk:
    """A root folder that is only read; it may lack a reserved folder.

    Every method that changes files raises ReadOnly; `WritableDisk` overrides it. The open descriptor of the
    root ensures that a file counts as missing only if it is missing on this file system, and not because the
    disk was unmounted. With `marked`, the id that a writing server left in the folder identifies it;
    otherwise its device and inode do.
    """

    read_only = True

    def __init__(self, root: str | os.PathLike[str], *, marked: bool) -> None:
        check_encoding()
        with map_os_errors():
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._open(descriptor, _find_reserved_folder(descriptor))
            self._inode_volume = inode_volume(os.fstat(descriptor))
        self._marked = marked

    def _open(self, descriptor: int, reserved: InodeId | None) -> None:
        """Take over the descriptor of the root, and set all attributes that reading needs."""
        self._root = Root(descriptor, reserved)
        self._device = os.fstat(descriptor).st_dev
        self._excluded: tuple[Path, ...] = ()
        # It only opens paths that `open` has opened before, so they do not lead into the reserved folder.
        self._cached = CachedOpener(descriptor)

    def close(self) -> None:
        os.close(self._root.descriptor)

    def exclude(self, files: tuple[Path, ...]) -> None:
        """Never open these files, which need not exist yet, by any name.

        They belong to a database. Closing any descriptor of one releases all POSIX locks of the process on
        it, after which other processes could corrupt it. Besides, no client may read it.
        """
        self._excluded = files

    def _is_excluded(self, folder: int, name: str) -> bool:
        if not self._excluded:
            return False
        found = inode_id(os.lstat(name, dir_fd=folder))
        for file in self._excluded:
            with suppress(OSError):
                if inode_id(os.stat(file)) == found:
                    return True
        return False

    # Identity of the folder

    def volume(self) -> str | None:
        """Return the id of this folder; None for a new folder, or another one."""
        return (self._read_id() if self._marked else None) or self._inode_volume

    def is_lasting(self, volume: str) -> bool:
        """Return whether this id of the folder remains when it is mounted elsewhere."""
        return volume != self._inode_volume

    def is_volume(self, volume: str) -> bool:
        """Return whether a database knows this folder by this id."""
        # A writing server may have marked the folder since the database was created.
        return volume in (self.volume(), self._inode_volume)

    def _read_id(self) -> str | None:
        opened = self.open(ID)
        if opened is None:
            return None
        with open(opened[0], encoding="ascii", errors="replace") as file, map_os_errors():
            return file.read().strip()

    # Reading

    def open(self, path: DiskPath) -> tuple[int, os.stat_result] | None:
        """Open the regular file at the path; return its descriptor, which the caller closes, and its status.

        Returns None if there is no such file. Raises Unreadable.
        """
        with map_read_errors(), ExitStack() as stack:
            try:
                folder = stack.enter_context(posix.open_folder(self._root, path[:-1]))
                if self._is_excluded(folder, path[-1]):
                    return None
                descriptor = os.open(path[-1], _READ, dir_fd=folder)
            except ReservedFolder:
                return None
            except OSError as error:
                if error.errno in posix.NOT_FOUND or error.errno == errno.ENXIO:  # a socket or a pipe
                    return None
                raise
            with ExitStack() as unless_regular:
                unless_regular.callback(os.close, descriptor)
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode):
                    unless_regular.pop_all()
                    return descriptor, status
            return None

    def open_cached(self, path: DiskPath) -> int | None:
        """Return a descriptor of any kind of file without blocking; None also if opening it could block."""
        return self._cached.open("/".join(path))

    def status_of_opened(self, path: DiskPath) -> os.stat_result:
        """Return the status of the entry at a path that `open_cached` opened within the last second.

        In one system call, a fifth of the price of an open: it detects that the file was replaced, changed,
        moved or deleted, or a folder on the way renamed. Only a symbolic link or a mount that was put in the
        place of a folder, and through which the path leads to the same file, is left to the next open.
        Raises OSError.
        """
        return os.stat("/".join(path), dir_fd=self._root.descriptor, follow_symlinks=False)

    def status(self, path: DiskPath) -> os.stat_result | None:
        """Return the status of the regular file at the path, or None. Raises Unreadable."""
        opened = self.open(path)
        if opened is None:
            return None
        os.close(opened[0])
        return opened[1]

    def device_of(self, status: os.stat_result) -> int:
        """Return the device of a file: 0 if it is the root's, whose number may change at a reboot."""
        return 0 if status.st_dev == self._device else to_signed(status.st_dev)

    def has_writer(self, path: DiskPath, status: os.stat_result) -> bool | None:
        """Return whether a process has the regular file open for writing; None if unknown.

        Also returns True if the status has changed.
        """
        opened = self.open(path)
        if opened is None:
            return True
        try:
            return has_writer(opened[0], FileStat.of(status))
        finally:
            os.close(opened[0])

    @contextmanager
    def open_folder(self, path: DiskPath) -> Generator[Folder | None]:
        """Yield the folder at the path, or None. Raises Unreadable, ReservedFolder."""
        with ExitStack() as stack:
            with map_read_errors():
                try:
                    descriptor = stack.enter_context(posix.open_folder(self._root, path))
                except OSError as error:
                    if error.errno not in posix.NOT_FOUND:
                        raise
                    descriptor = None
                folder = None if descriptor is None else Folder(descriptor)
            yield folder

    def folder_changed_ns(self, path: DiskPath) -> int | None:
        """Return the time of the last change of the folder's names; None if there is no readable folder."""
        try:
            with self.open_folder(path) as folder:
                return None if folder is None else folder.changed_ns
        except (Unreadable, ReservedFolder):
            return None

    def actual_path(self, path: DiskPath) -> DiskPath:
        """Return the path with the names that the folders contain. Raises Unreadable."""
        with map_read_errors():
            try:
                return name_equivalence.actual_path(self._root, path)
            except ReservedFolder:
                return path  # which `open` refuses

    def check_path_conflicts(self, path: DiskPath) -> None:
        """Raise PathConflict if an existing file or folder prevents a file at this path."""
        with map_os_errors():
            posix.check_path_conflicts(self._root, path)

    # Concurrency with writing processes

    @contextmanager
    def locked(self, within_s: float) -> Generator[None]:
        """Exclude processes that change files, if possible. Raises StorageUnavailable on timeout."""
        opened = None
        with suppress(Unreadable):
            opened = self.open(ID)
        if opened is None:
            yield
            return
        try:
            with suppress(OSError):  # network file systems need write access for a lock
                lock(opened[0], within_s)
            yield
        finally:
            os.close(opened[0])

    def is_moving(self) -> bool:
        """Return whether a two-step move is in progress, or was interrupted by a crash."""
        with suppress(Unreadable):  # the reserved folder may be that of another user's server
            return self.status(MOVE_INTENT) is not None
        return False

    def undo_interrupted_move(self) -> None:
        """Undo a two-step move that a crash interrupted. Only the holder of the write lock may call this."""

    # Changes, which WritableDisk overrides

    def check_writable(self) -> None:
        """Raise StorageUnavailable if no file can be stored, except on a full disk."""

    def sweep(self) -> int:
        """Remove the staged files of crashed processes, and return their number."""
        return 0

    @contextmanager
    def release_reserve(self) -> Generator[None]:
        """Free the reserved space inside, for one thread at a time."""
        yield

    def mark(self, volume: str) -> None:
        """Write the id of this folder durably."""
        raise ReadOnly

    def open_reserved_folder(self, name: str) -> int:
        """Return a descriptor of a folder in the reserved one, created if needed; the caller closes it."""
        raise ReadOnly

    def stage(self, size: int | None = None) -> StagedFile:
        """Create a staged file. Raises OutOfSpace if `size` more bytes do not fit."""
        raise ReadOnly

    def created(
        self, staged: StagedFile, path: DiskPath, sync: Sync = sync_now
    ) -> AbstractContextManager[os.stat_result | None]:
        raise ReadOnly

    def replaced(
        self, staged: StagedFile, path: DiskPath, sync: Sync = sync_now
    ) -> AbstractContextManager[os.stat_result | None]:
        raise ReadOnly

    def removed(self, path: DiskPath) -> AbstractContextManager[None]:
        raise ReadOnly

    def moved(self, source: DiskPath, target: DiskPath) -> AbstractContextManager[os.stat_result | None]:
        raise ReadOnly

    def renamed_in_place(self, path: DiskPath, name: str) -> AbstractContextManager[os.stat_result | None]:
        raise ReadOnly


def _find_reserved_folder(root: int) -> InodeId | None:
    """Return the device and inode of the reserved folder, which identify it under any name."""
    try:
        return inode_id(os.stat(RESERVED, dir_fd=root, follow_symlinks=False))
    except FileNotFoundError:
        return None


def inode_volume(status: os.stat_result) -> str:
    """Return an id of a folder without a mark: its device and inode."""
    return f"{status.st_dev:x}-{status.st_ino:x}"


def is_marked(root: str | os.PathLike[str]) -> bool:
    """Return whether `Disk.mark` was ever called for a folder, which need not exist. Writes nothing."""
    with map_os_errors():
        try:
            os.lstat(os.path.join(root, *ID))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def lock(descriptor: int, within_s: float) -> None:
    """Lock a file until its descriptor is closed. Raises StorageUnavailable on timeout."""
    deadline, pause = time.monotonic() + within_s, 0.0001
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise StorageUnavailable("Another process is changing the files. Try again in a few seconds.")
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def _try_lock(descriptor: int) -> bool:
    with map_os_errors():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def check_encoding() -> None:
    """Raise StorageUnavailable if Python would not encode file names as UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise StorageUnavailable(f"The encoding of file names is {encoding}, not UTF-8. Set PYTHONUTF8=1.")

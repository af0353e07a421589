"""A folder of files that is read, and in which nothing is ever written."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from app.database.filesystem.disk import Disk, check_encoding, lock
from app.database.filesystem.posix import DiskPath, InodeId, inode_id, map_os_errors
from app.database.filesystem.staging import StagedFile
from app.storage.errors import ReadOnly, Unreadable
from app.storage.types import RESERVED

_MOVING: DiskPath = (RESERVED, "moving")


class ReadOnlyDisk(Disk):
    """A root folder that may have no reserved folder in it.

    `marked` is whether the id counts that a server with the right to write left there; else the folder is
    known by its device and inode.
    """

    def __init__(self, root: str | os.PathLike[str], *, marked: bool) -> None:
        check_encoding()
        with map_os_errors():
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._begin(descriptor, _reserved(descriptor))
            self._place = place_of(os.fstat(descriptor))
        self._marked = marked

    def check_writable(self) -> None:
        """Nothing has to be written."""

    def close(self) -> None:
        os.close(self._root.descriptor)

    def is_lasting(self, volume: str) -> bool:
        """Return False for device and inode, which another disk may get that is mounted here later."""
        return volume != self._place

    def volume(self) -> str | None:
        return (super().volume() if self._marked else None) or self._place

    def is_volume(self, volume: str) -> bool:
        # A server with the right to write may have left its id since the database was made.
        return volume in (self.volume(), self._place)

    @contextmanager
    def locked(self, within_s: float) -> Generator[None]:
        """Wait for a server that changes the files, where it can be told that there is one."""
        descriptor = None
        with suppress(Unreadable):
            descriptor = self.open((RESERVED, "id"))
        if descriptor is None:
            yield
            return
        try:
            with suppress(OSError):  # network file systems lock nothing that is open for reading
                lock(descriptor, within_s)
            yield
        finally:
            os.close(descriptor)

    def is_moving(self) -> bool:
        return self.status(_MOVING) is not None

    def undo_interrupted_move(self) -> None:
        """Whoever may write does."""

    @contextmanager
    def with_reserve(self) -> Generator[None]:
        yield

    def sweep(self) -> int:
        return 0

    def mark(self, volume: str) -> NoReturn:
        raise ReadOnly

    def open_reserved_folder(self, name: str) -> NoReturn:
        raise ReadOnly

    def stage(self, size: int | None = None) -> NoReturn:
        raise ReadOnly

    def created(self, staged: StagedFile, path: DiskPath) -> NoReturn:
        raise ReadOnly

    def replaced(self, staged: StagedFile, path: DiskPath) -> NoReturn:
        raise ReadOnly

    def removed(self, path: DiskPath) -> NoReturn:
        raise ReadOnly

    def moved(self, source: DiskPath, target: DiskPath) -> NoReturn:
        raise ReadOnly

    def respelled(self, path: DiskPath, name: str) -> NoReturn:
        raise ReadOnly


def _reserved(root: int) -> InodeId | None:
    """The identity of the reserved folder, by which another spelling of its name is known."""
    try:
        return inode_id(os.stat(RESERVED, dir_fd=root, follow_symlinks=False))
    except FileNotFoundError:
        return None


def place_of(status: os.stat_result) -> str:
    """Name a folder by its device and inode."""
    return f"{status.st_dev:x}-{status.st_ino:x}"


def is_on_read_only_file_system(folder: Path) -> bool:
    """Return whether the folder is there, and mounted so that no file in it can be changed."""
    try:
        return folder.is_dir() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False

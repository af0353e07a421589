"""Folders beneath a root: walked, made, removed, without ever being led out of it.

Paths are tuples of segments. Each is walked segment by segment with `dir_fd` and O_NOFOLLOW, so that no
symbolic link, however it is swapped in, leads elsewhere. (Python has no openat2.)
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from app.storage.errors import AlreadyExists, InvalidName, OutOfSpace, PathConflict, StorageUnavailable
from app.storage.renaming import rename_to_free_name
from app.storage.types import RESERVED

T = TypeVar("T")

Segments = tuple[str, ...]
"""A path beneath the root, in pieces."""

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What the system says of a path where nothing is that could be entered or opened."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def translated() -> Iterator[None]:
    """Operating system errors in the storage's words."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise OutOfSpace("The disk is full.") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidName("The disk does not take so long a name.") from error
        if error.errno == errno.EXDEV:
            raise PathConflict("Another file system is mounted there; it can only be read.") from error
        raise StorageUnavailable(f"The disk refuses: {error.strerror}.") from error


class ReservedFolder(InvalidName):
    """A path that leads into the reserved folder under another name: in another case, or by a bind mount."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is the server's own folder under another name.")


Identity = tuple[int, int]
"""Device and inode."""


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class Root:
    """The folder that all others are beneath: a descriptor, which stays the caller's."""

    descriptor: int
    ours: Identity | None = None
    """The reserved folder, which no other name leads into."""


@contextmanager
def entered(root: Root, path: Segments, *, create: bool = False) -> Generator[int]:
    """A descriptor of the folder, closed afterwards. New folders are on the disk before it is given.

    Raises OSError, PathConflict where a folder cannot be made, and ReservedFolder.
    """
    folder = os.dup(root.descriptor)
    try:
        for depth, segment in enumerate(path):
            inner = _enter(folder, segment, create=create)
            os.close(folder)
            folder = inner
            # The name alone tells nothing on file systems that ignore case, nor where folders are mounted.
            if (depth or segment != RESERVED) and identity(os.fstat(folder)) == root.ours:
                raise ReservedFolder(segment)
        yield folder
    finally:
        os.close(folder)


def status(root: Root, path: Segments) -> os.stat_result | None:
    """What stands at the path itself, a link too; None when nothing does."""
    try:
        with entered(root, path[:-1]) as folder:
            return os.lstat(path[-1], dir_fd=folder)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def check_room(root: Root, path: Segments) -> None:
    """Raise PathConflict when a file cannot have this path because of a file or folder that is there."""
    for depth in range(1, len(path)):
        found = status(root, path[:depth])
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise _not_a_folder(path[depth - 1])
        if identity(found) == root.ours and path[:depth] != (RESERVED,):
            raise ReservedFolder(path[depth - 1])
    found = status(root, path)
    if found is not None and stat.S_ISDIR(found.st_mode) and not _is_empty(root, path):
        raise _is_a_folder(path[-1])


def _is_empty(root: Root, path: Segments) -> bool:
    try:
        with entered(root, path) as folder:
            return not os.listdir(folder)
    except OSError as error:
        if error.errno in NOT_THERE:  # it went away meanwhile
            return True
        raise


def link(source_folder: int, source: str, folder: int, name: str) -> None:
    """Give a file a second name, which is never taken from another: AlreadyExists, PathConflict."""

    def link() -> None:
        try:
            os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StorageUnavailable("The file system has no hard links, which are needed.") from error
            raise

    _to_free_name(link, folder, name)


def rename(source_folder: int, source: str, folder: int, name: str) -> bool:
    """Rename a file to a name that is never taken from another: AlreadyExists, PathConflict.

    Returns False, and does nothing, where the system can only link and unlink.
    """
    return _to_free_name(lambda: rename_to_free_name(source_folder, source, folder, name), folder, name)


def _to_free_name(step: Callable[[], T], folder: int, name: str) -> T:
    for _ in range(2):
        try:
            return step()
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                raise AlreadyExists("A file of this name exists.") from None
        # A folder exists while a file has it, so an empty one, which a crash may have left, gives way.
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    raise _is_a_folder(name)


def prune(root: Root, path: Segments) -> None:
    """Remove the folder if it is empty, and then those above it."""
    for depth in range(len(path), 0, -1):
        try:
            with entered(root, path[: depth - 1]) as above:
                os.rmdir(path[depth - 1], dir_fd=above)
                os.fsync(above)
        except OSError:
            return


def make_root(path: str) -> None:
    """Make the folder that all others are beneath, and those above it, so that they outlive a power cut."""
    if not os.path.isdir(path):
        above = os.path.dirname(path)
        make_root(above)
        with contextlib.suppress(FileExistsError):  # another process that starts, or no folder, as will show
            os.mkdir(path)
        descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _enter(folder: int, segment: str, *, create: bool) -> int:
    while True:
        try:
            return os.open(segment, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if create and error.errno in NOT_THERE:
                raise _not_a_folder(segment) from None
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(segment, dir_fd=folder)
            os.fsync(folder)


def _not_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{name!r} is no folder, so that no file can be inside it.")


def _is_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{name!r} is a folder, so that no file can have that name.")

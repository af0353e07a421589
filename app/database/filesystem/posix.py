"""Folders beneath a root: walked, made, removed, without ever being led out of it.

Paths are tuples of segments. Each is walked segment by segment with `dir_fd` and O_NOFOLLOW, so that no
symbolic link, however it is swapped in, leads elsewhere. (Python has no openat2.)
"""

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from app.storage.errors import (
    AlreadyExists,
    InvalidName,
    OutOfSpace,
    PathConflict,
    StorageUnavailable,
)
from app.storage.types import RESERVED

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def map_os_errors() -> Iterator[None]:
    """Raise the storage's errors for those of the operating system."""
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


_NOREPLACE = 1
_MISSING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
"""Errors of kernels, seccomp filters and file systems (NFS, for one) that lack the flag."""


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return None
    text, number = ctypes.c_char_p, ctypes.c_int
    libc.renameat2.argtypes = (number, text, number, text, ctypes.c_uint)
    return libc


def rename_to_free_name(source_folder: int, source: str, folder: int, name: str) -> bool:
    """Rename a file, so that at every moment it has exactly one name.

    Returns False, and does nothing, where the system has no such rename. Raises OSError, and
    FileExistsError if the name is taken.
    """
    libc = _libc()
    if libc is None:
        return False
    if libc.renameat2(source_folder, os.fsencode(source), folder, os.fsencode(name), _NOREPLACE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _MISSING:
        return False
    raise OSError(error, os.strerror(error), name)


T = TypeVar("T")

DiskPath = tuple[str, ...]
"""A path beneath the root, in pieces."""

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What the system says of a path where nothing is that could be entered or opened."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ReservedFolder(InvalidName):
    """A path that leads into the reserved folder under another name: in another case, or by a bind mount."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is the server's own folder under another name.")


InodeId = tuple[int, int]
"""Device and inode."""


def inode_id(status: os.stat_result) -> InodeId:
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class Root:
    """The folder that all others are beneath: a descriptor, which stays the caller's."""

    descriptor: int
    ours: InodeId | None = None
    """The reserved folder, which no other name leads into."""


@contextmanager
def entered(root: Root, path: DiskPath, *, create: bool = False) -> Generator[int]:
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
            if (depth or segment != RESERVED) and inode_id(os.fstat(folder)) == root.ours:
                raise ReservedFolder(segment)
        yield folder
    finally:
        os.close(folder)


def status(root: Root, path: DiskPath) -> os.stat_result | None:
    """What stands at the path itself, a link too; None when nothing does."""
    try:
        with entered(root, path[:-1]) as folder:
            return os.lstat(path[-1], dir_fd=folder)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def check_path_conflicts(root: Root, path: DiskPath) -> None:
    """Raise PathConflict when a file cannot have this path because of a file or folder that is there."""
    for depth in range(1, len(path)):
        found = status(root, path[:depth])
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise _not_a_folder(path[depth - 1])
        if inode_id(found) == root.ours and path[:depth] != (RESERVED,):
            raise ReservedFolder(path[depth - 1])
    found = status(root, path)
    if found is not None and stat.S_ISDIR(found.st_mode) and not _is_empty(root, path):
        raise _is_a_folder(path[-1])


def _is_empty(root: Root, path: DiskPath) -> bool:
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
                raise AlreadyExists("A file with this name already exists. Choose another name.") from None
        # A folder exists while a file has it, so an empty one, which a crash may have left, gives way.
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    raise _is_a_folder(name)


def prune(root: Root, path: DiskPath) -> None:
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


_OPENAT2 = 437  # on every architecture that Python has been seen on with such a kernel
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _CACHED = 0x01, 0x02, 0x04, 0x08, 0x20

_LOCAL = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0xF2F52010,  # F2FS
    0x2FC12FC1,  # ZFS
    0xCA451A4E,  # bcachefs
    0x01021994,  # tmpfs
    0x794C7630,  # overlayfs
}
"""What statfs(2) calls the file systems that open a file they know of without asking anybody."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW = _How(_FLAGS, 0, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH | _CACHED)
_HOW_POINTER, _HOW_SIZE = ctypes.byref(_HOW), ctypes.sizeof(_HOW)


class CachedOpener:
    """Opens what is beneath a root, without ever waiting or being led out of it.

    The kernel walks the path through what it has in memory alone (RESOLVE_CACHED), follows no symbolic link
    and enters nothing that is mounted there. On file systems of other machines an open is a question to
    them all the same, so that nothing is opened there.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._libc: ctypes.PyDLL | None = None
        if sys.platform == "linux":
            # Unlike CDLL it keeps the interpreter's lock, which to take again may last longer than the call.
            libc = ctypes.PyDLL(None)
            libc.syscall.argtypes = (
                ctypes.c_long,
                ctypes.c_long,
                ctypes.c_char_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
            )
            libc.syscall.restype = ctypes.c_long
            if _kind(libc, root) in _LOCAL:
                self._libc = libc

    def open(self, path: str) -> int | None:
        """A descriptor of what is at the path, which the caller closes; None where nothing is, or where that
        cannot be said without waiting, or not on this system."""
        if self._libc is None:
            return None
        descriptor: int = self._libc.syscall(_OPENAT2, self._root, os.fsencode(path), _HOW_POINTER, _HOW_SIZE)
        return None if descriptor < 0 else descriptor


def _kind(libc: ctypes.PyDLL, descriptor: int) -> int | None:
    """The kind of file system that holds the file: the first field of what statfs(2) says."""
    said = (ctypes.c_ulong * 64)()
    return said[0] if libc.fstatfs(descriptor, said) == 0 else None

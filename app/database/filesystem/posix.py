"""System calls on paths below a root folder, none of which ever leads out of it.

A path is walked segment by segment with `dir_fd` and O_NOFOLLOW, so that no symbolic link, however it is
swapped in, leads elsewhere.
"""

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from app.storage.errors import AlreadyExists, InvalidName, OutOfSpace, PathConflict, StorageUnavailable
from app.storage.types import RESERVED, quoted

T = TypeVar("T")

DiskPath = tuple[str, ...]
"""The segments of a path below the root."""

InodeId = tuple[int, int]
"""Device and inode."""

NOT_FOUND = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors of a path that leads to no folder or file, or through a symbolic link."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_NO_RENAMEAT2 = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
"""Errors of kernels, seccomp filters and file systems (such as NFS) without RENAME_NOREPLACE."""

_RENAME_NOREPLACE = 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS = 0o077


@contextmanager
def map_os_errors() -> Iterator[None]:
    """Raise storage errors instead of OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise OutOfSpace("The disk is full. Delete some files, then try again.") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidName("The disk does not accept a name of this length. Shorten it.") from error
        if error.errno == errno.EXDEV:
            raise PathConflict(
                "Another file system is mounted there; it can only be read. Choose another folder."
            ) from error
        raise StorageUnavailable(f"The disk cannot be read or written: {error.strerror}.") from error


class ReservedFolder(InvalidName):
    """A path into the reserved folder by another name: in another case, or through a bind mount."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{quoted(name)} leads to the server's own folder. Choose another name.")


@dataclass(frozen=True, slots=True)
class Root:
    """The descriptor of the root folder, which the caller keeps open."""

    descriptor: int
    reserved: InodeId | None = None
    """The reserved folder, which may be entered by its own name only."""


def inode_id(status: os.stat_result) -> InodeId:
    return status.st_dev, status.st_ino


@contextmanager
def open_folder(root: Root, path: DiskPath, *, create: bool = False) -> Generator[int]:
    """Yield a descriptor of the folder. Created folders are durable by then.

    Raises OSError, ReservedFolder, and PathConflict if a folder cannot be created.
    """
    folder = os.dup(root.descriptor)
    try:
        for depth, segment in enumerate(path):
            inner = _enter(folder, segment, create=create)
            os.close(folder)
            folder = inner
            # Case-insensitive file systems and bind mounts give the reserved folder other names.
            if (depth or segment != RESERVED) and inode_id(os.fstat(folder)) == root.reserved:
                raise ReservedFolder(segment)
        yield folder
    finally:
        os.close(folder)


def _enter(folder: int, segment: str, *, create: bool) -> int:
    while True:
        try:
            return os.open(segment, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if create and error.errno in NOT_FOUND:
                raise _not_a_folder(segment) from None
            raise
        with suppress(FileExistsError):
            os.mkdir(segment, dir_fd=folder)
            os.fsync(folder)


def lstat(root: Root, path: DiskPath) -> os.stat_result | None:
    """Return the status of the entry at the path, even of a symbolic link; None if it does not exist."""
    try:
        with open_folder(root, path[:-1]) as folder:
            return os.lstat(path[-1], dir_fd=folder)
    except OSError as error:
        if error.errno in NOT_FOUND:
            return None
        raise


def check_path_conflicts(root: Root, path: DiskPath) -> None:
    """Raise PathConflict if an existing file or folder prevents a file at this path."""
    for depth in range(1, len(path)):
        found = lstat(root, path[:depth])
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise _not_a_folder(path[depth - 1])
        if inode_id(found) == root.reserved and path[:depth] != (RESERVED,):
            raise ReservedFolder(path[depth - 1])
    found = lstat(root, path)
    if found is not None and stat.S_ISDIR(found.st_mode) and not _is_empty(root, path):
        raise _is_a_folder(path[-1])


def _is_empty(root: Root, path: DiskPath) -> bool:
    try:
        with open_folder(root, path) as folder:
            return not os.listdir(folder)
    except OSError as error:
        if error.errno in NOT_FOUND:  # it was removed meanwhile
            return True
        raise


def _not_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{quoted(name)} is a file, not a folder. Choose another folder.")


def _is_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{quoted(name)} is a folder. Choose another name.")


def link(source_folder: int, source: str, folder: int, name: str) -> None:
    """Give a file a second name. Raises AlreadyExists, PathConflict; never replaces a file."""

    def link() -> None:
        try:
            os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StorageUnavailable(
                    "The file system has no hard links (as FAT and exFAT), which Seekable needs to store "
                    "files. Choose another folder, or serve this one with `seekable serve --read-only`."
                ) from None  # the cause would look like missing rights
            raise

    _claim_name(link, folder, name)


def rename(source_folder: int, source: str, folder: int, name: str) -> bool:
    """Rename a file. Raises AlreadyExists, PathConflict; never replaces a file.

    Returns False, without any effect, if the system lacks such a rename.
    """
    return _claim_name(lambda: rename_noreplace(source_folder, source, folder, name), folder, name)


def _claim_name(step: Callable[[], T], folder: int, name: str) -> T:
    for _ in range(2):
        try:
            return step()
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                raise AlreadyExists("A file with this name already exists. Choose another name.") from None
        # Folders exist only while they contain files: an empty one, perhaps left by a crash, is removed.
        with suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    raise _is_a_folder(name)


def rename_noreplace(source_folder: int, source: str, folder: int, name: str) -> bool:
    """Rename a file atomically (renameat2(2), RENAME_NOREPLACE).

    Returns False, without any effect, if the system lacks the call. Raises OSError, FileExistsError.
    """
    libc = _libc()
    if libc is None:
        return False
    if libc.renameat2(source_folder, os.fsencode(source), folder, os.fsencode(name), _RENAME_NOREPLACE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NO_RENAMEAT2:
        return False
    raise OSError(error, os.strerror(error), name)


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return None
    text, number = ctypes.c_char_p, ctypes.c_int
    libc.renameat2.argtypes = (number, text, number, text, ctypes.c_uint)
    return libc


def prune(root: Root, path: DiskPath) -> None:
    """Remove the folder if it is empty, then its parents likewise."""
    for depth in range(len(path), 0, -1):
        try:
            with open_folder(root, path[: depth - 1]) as parent:
                os.rmdir(path[depth - 1], dir_fd=parent)
                os.fsync(parent)
        except OSError:
            return


def create_root(path: str) -> None:
    """Create the root folder and its parents durably."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        create_root(parent)
        with suppress(FileExistsError):  # another process that starts; if it is a file, opening it fails
            os.mkdir(path)
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def pread(descriptor: int, start: int, size: int) -> bytes:
    """Return `size` bytes from `start`; fewer only at the end of the file."""
    with map_os_errors():
        data = os.pread(descriptor, size, start)
        while 0 < len(data) < size:
            more = os.pread(descriptor, size - len(data), start + len(data))
            if not more:
                break
            data += more
        return data


def make_private(file: int | Path) -> None:
    """Revoke all permissions of other users, if this user may and the file system has permissions."""
    with suppress(OSError):
        mode = stat.S_IMODE(os.stat(file).st_mode)
        if mode & _OTHERS:
            os.chmod(file, mode & ~_OTHERS)


def is_exposed(path: Path) -> bool:
    """Return whether other users have any permissions on a file or folder."""
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def umask() -> int:
    """Return the umask of the process. A file that another thread creates meanwhile is private."""
    mask = os.umask(_OTHERS)
    os.umask(mask)
    return mask


_OPENAT2 = 437  # the same number on every architecture except Alpha
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
"""Types, as statfs(2) reports them, of file systems that open a cached file without network traffic."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW = _How(_FLAGS, 0, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH | _CACHED)
_HOW_POINTER, _HOW_SIZE = ctypes.byref(_HOW), ctypes.sizeof(_HOW)


class CachedOpener:
    """An opener of files below a root that never blocks (openat2(2), RESOLVE_CACHED).

    It follows no symbolic link and enters no mount below the root. On network file systems it opens nothing,
    because every open there sends a request.
    """

    def __init__(self, root: int, *, system_call: int = _OPENAT2) -> None:
        self._root = root
        self._system_call = system_call
        self._libc: ctypes.PyDLL | None = None
        if sys.platform == "linux":
            # Unlike CDLL, PyDLL keeps the GIL, which may take longer to acquire again than the call takes.
            libc = ctypes.PyDLL(None)
            number = ctypes.c_long
            libc.syscall.argtypes = number, number, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
            libc.syscall.restype = number
            if _file_system_type(libc, root) in _LOCAL:
                self._libc = libc

    def open(self, path: str) -> int | None:
        """Return a descriptor, which the caller closes.

        Returns None if there is no file, if opening it could block, or if the system lacks the call.
        """
        if self._libc is None:
            return None
        how = _HOW_POINTER, _HOW_SIZE
        descriptor: int = self._libc.syscall(self._system_call, self._root, os.fsencode(path), *how)
        return None if descriptor < 0 else descriptor


def _file_system_type(libc: ctypes.PyDLL, descriptor: int) -> int | None:
    """Return the type of the file system: the first field of struct statfs (statfs(2))."""
    status = (ctypes.c_ulong * 64)()
    return status[0] if libc.fstatfs(descriptor, status) == 0 else None

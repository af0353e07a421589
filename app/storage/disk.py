"""Bytes on disk: contained paths, staging, and the file step of every change.

Paths are given as tuples of segments below one root folder. Each is walked segment by segment with
`dir_fd` and O_NOFOLLOW, so that no symbolic link, however it is swapped in, leads out of the root.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from app.storage.errors import (
    AlreadyExists,
    InvalidName,
    NotFound,
    OutOfSpace,
    PathConflict,
    StorageUnavailable,
)
from app.storage.types import RESERVED

Path = tuple[str, ...]

_STAGING: Path = (RESERVED, "staging")
_ID: Path = (RESERVED, "id")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe that somebody put there must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux only

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


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
        raise StorageUnavailable(f"The disk refuses: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Signature:
    """Which bytes a file holds, as far as can be told without reading them."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Signature":
        # A database's integer has 64 bits with a sign, an inode number 64 without.
        inode = status.st_ino - (1 << 64) if status.st_ino >> 63 else status.st_ino
        return cls(status.st_size, status.st_mtime_ns, inode)


class StagedFile:
    """A new file in the staging folder, whose name is locked for as long as its writer lives."""

    def __init__(self, staging: int) -> None:
        self._staging = staging
        while True:
            self.name = uuid4().hex
            self._descriptor = os.open(self.name, _CREATE, 0o666, dir_fd=staging)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                if os.fstat(self._descriptor).st_nlink:
                    return
            os.close(self._descriptor)  # a sweep came between the open and the lock

    def write(self, data: bytes) -> None:
        with translated():
            rest = memoryview(data)
            while rest:  # a write may be short: on signals, near a limit, on a full disk
                rest = rest[os.write(self._descriptor, rest) :]

    def seal(self) -> Signature:
        """Bring the bytes to the disk. An error here is final: the kernel may have dropped what it could
        not write, and a second fsync would then succeed without it."""
        with translated():
            os.fsync(self._descriptor)
            return Signature.of(os.fstat(self._descriptor))

    def discard(self) -> None:
        """Give up the staging name; a link made from it elsewhere stays."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._staging)
        os.close(self._descriptor)


class Disk:
    """A root folder on one file system, with a reserved folder inside that is ours.

    The descriptor of the root is held open, so that "not there" always speaks of this file system, and
    never of an empty mount point where it was.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        with translated():
            _make_folders(os.path.abspath(root))
            # The root itself may be a symbolic link: whoever runs this program chose it.
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with self._folder(_STAGING, create=True) as staging:
                self._staging = os.dup(staging)

    def close(self) -> None:
        os.close(self._staging)
        os.close(self._root)

    # Whose folder this is

    def volume(self) -> str | None:
        """The id that `mark` wrote into this folder; None when it is another folder, or a new one."""
        descriptor = self.open(_ID)
        if descriptor is None:
            return None
        with open(descriptor, encoding="ascii") as file, translated():
            return file.read().strip()

    def mark(self, volume: str) -> None:
        """Write the id that tells this folder from an empty mount point, durably."""
        staged = self.stage()
        try:
            staged.write(volume.encode("ascii") + b"\n")
            staged.seal()
            with self.created(staged, _ID):
                pass
        finally:
            staged.discard()

    # Bytes on their way in

    def stage(self, size: int | None = None) -> StagedFile:
        """A new file in the staging folder. OutOfSpace when `size` more bytes cannot fit."""
        with translated():
            if size is not None:
                free = os.fstatvfs(self._staging)
                if size > free.f_bavail * free.f_frsize:
                    raise OutOfSpace("The disk has too little room for this file.")
            return StagedFile(self._staging)

    def sweep(self) -> int:
        """Remove what crashed writers left in the staging folder; how many names that were."""
        removed = 0
        with translated():
            for name in os.listdir(self._staging):
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(name, _READ, dir_fd=self._staging)
                    try:
                        # A name whose writer lives is locked: see StagedFile.
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(name, dir_fd=self._staging)
                        removed += 1
                    finally:
                        os.close(descriptor)
        return removed

    # Looking

    def open(self, path: Path) -> int | None:
        """A descriptor of the regular file at the path, which the caller closes; None when there is none."""
        with translated(), contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder(path[:-1]))
                descriptor = os.open(path[-1], _READ, dir_fd=folder)
            except OSError as error:
                # ENXIO: a socket, or a pipe; both are no file of ours.
                if error.errno in _NOT_THERE or error.errno == errno.ENXIO:
                    return None
                raise
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
            return None

    def status(self, path: Path) -> os.stat_result | None:
        """The status of the regular file at the path; None when there is none."""
        descriptor = self.open(path)
        if descriptor is None:
            return None
        with translated():
            try:
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)

    def check_room(self, path: Path) -> None:
        """Raise PathConflict when a file cannot have this path because of a file or folder that is there."""
        with translated():
            for depth in range(1, len(path)):
                status = self._lstat(path[:depth])
                if status is None:
                    return
                if not stat.S_ISDIR(status.st_mode):
                    raise _not_a_folder(path[depth - 1])
            status = self._lstat(path)
            if status is not None and stat.S_ISDIR(status.st_mode) and not self._is_empty(path):
                raise _is_a_folder(path[-1])

    # The file steps: each is taken when its context is entered, and undone when the body fails

    @contextmanager
    def created(self, staged: StagedFile, path: Path) -> Generator[None]:
        """The staged file also has this path, which it never takes from another: AlreadyExists."""
        with translated():
            try:
                with self._folder(path[:-1], create=True) as folder:
                    _link(self._staging, staged.name, folder, path[-1])
                    try:
                        os.fsync(folder)
                        yield
                    except BaseException:
                        os.unlink(path[-1], dir_fd=folder)
                        raise
            except BaseException:
                self._prune(path[:-1])
                raise

    @contextmanager
    def replaced(self, staged: StagedFile, path: Path) -> Generator[None]:
        """The staged file has the path of the file that is there."""
        with translated(), self._folder(path[:-1]) as folder, self._kept(folder, path[-1]):
            os.rename(staged.name, path[-1], src_dir_fd=self._staging, dst_dir_fd=folder)
            os.fsync(folder)
            yield

    @contextmanager
    def removed(self, path: Path) -> Generator[None]:
        """The file no longer has this path; folders that become empty are gone."""
        with translated():
            with self._folder(path[:-1]) as folder, self._kept(folder, path[-1]):
                os.unlink(path[-1], dir_fd=folder)
                os.fsync(folder)
                yield
            self._prune(path[:-1])

    @contextmanager
    def moved(self, source: Path, target: Path) -> Generator[None]:
        """The file has the target as its path, which it never takes from another: AlreadyExists.

        A crash may leave both names, never neither.
        """
        with translated():
            try:
                with self._folder(source[:-1]) as old, self._folder(target[:-1], create=True) as new:
                    _link(old, source[-1], new, target[-1])
                    try:
                        os.fsync(new)  # before the old name goes, or a power cut could lose both
                        os.unlink(source[-1], dir_fd=old)
                        os.fsync(old)
                        yield
                    except BaseException:
                        with contextlib.suppress(FileExistsError):
                            os.link(target[-1], source[-1], src_dir_fd=new, dst_dir_fd=old)
                        os.fsync(old)
                        os.unlink(target[-1], dir_fd=new)
                        raise
            except BaseException:
                self._prune(target[:-1])
                raise
            self._prune(source[:-1])

    # How

    @contextmanager
    def _folder(self, path: Path, *, create: bool = False) -> Generator[int]:
        """A descriptor of the folder, closed afterwards. New folders are on the disk before it is given."""
        folder = os.dup(self._root)
        try:
            for segment in path:
                inner = _enter(folder, segment, create=create)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _lstat(self, path: Path) -> os.stat_result | None:
        try:
            with self._folder(path[:-1]) as folder:
                return os.lstat(path[-1], dir_fd=folder)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise

    def _is_empty(self, path: Path) -> bool:
        with self._folder(path) as folder:
            return not os.listdir(folder)

    @contextmanager
    def _kept(self, folder: int, name: str) -> Generator[None]:
        """Hold a second name of a file while it is changed, and give it its own again when that fails."""
        kept = uuid4().hex
        try:
            os.link(name, kept, src_dir_fd=folder, dst_dir_fd=self._staging, follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound("The file is gone.") from None
        try:
            yield
        except BaseException:
            os.rename(kept, name, src_dir_fd=self._staging, dst_dir_fd=folder)
            os.fsync(folder)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(kept, dir_fd=self._staging)

    def _prune(self, path: Path) -> None:
        """Remove the folder if it is empty, and then those above it."""
        for depth in range(len(path), 0, -1):
            try:
                with self._folder(path[: depth - 1]) as above:
                    os.rmdir(path[depth - 1], dir_fd=above)
                    os.fsync(above)
            except OSError:
                return


def _make_folders(path: str) -> None:
    if not os.path.isdir(path):
        above = os.path.dirname(path)
        _make_folders(above)
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
            if create and error.errno in _NOT_THERE:
                raise _not_a_folder(segment) from None
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(segment, dir_fd=folder)
            os.fsync(folder)


def _link(source_folder: int, source: str, folder: int, name: str) -> None:
    for _ in range(2):
        try:
            os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
            return
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                raise AlreadyExists("A file of this name exists.") from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StorageUnavailable("The file system has no hard links, which are needed.") from error
            raise
        # A folder exists while a file has it, so an empty one, which a crash may have left, gives way.
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    raise _is_a_folder(name)


def _not_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{name!r} is a file, so that no file can be inside it.")


def _is_a_folder(name: str) -> PathConflict:
    return PathConflict(f"{name!r} is a folder, so that no file can have that name.")


def is_cached(descriptor: int, start: int, size: int) -> bool:
    """Whether the range's first and last byte are in the page cache, and so most likely all between."""
    if not _NO_WAIT:
        return False
    try:
        return all(
            os.preadv(descriptor, [bytearray(1)], offset, _NO_WAIT) == 1
            for offset in (start, start + size - 1)
        )
    except OSError:  # EAGAIN: it is not; EOPNOTSUPP: nobody knows (tmpfs)
        return False


def read(descriptor: int, start: int, size: int) -> bytes:
    """Up to `size` bytes from `start`; fewer only where the file ends."""
    with translated():
        data = os.pread(descriptor, size, start)
        while 0 < len(data) < size:
            more = os.pread(descriptor, size - len(data), start + len(data))
            if not more:
                break
            data += more
        return data

"""Stored files as files on a disk: looking at them, and the file step of every change."""

import contextlib
import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app.database.filesystem import name_equivalence, posix
from app.database.filesystem.directory_entries import Folder, looking
from app.database.filesystem.file_identity import FileStat, has_writer, signed
from app.database.filesystem.move_intents import MoveIntent, MoveIntentFile
from app.database.filesystem.permissions import make_private, umask
from app.database.filesystem.posix import CachedOpener, DiskPath, ReservedFolder, Root, map_os_errors
from app.database.filesystem.reserve import Reserve
from app.database.filesystem.staging import StagedFile, hold, sweep
from app.storage.errors import AlreadyExists, NotFound, OutOfSpace, StorageUnavailable, Unreadable
from app.storage.types import RESERVED

_STAGING: DiskPath = (RESERVED, "staging")
_ID: DiskPath = (RESERVED, "id")
# O_NONBLOCK: opening a named pipe that somebody put there must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PROVEN_FOR_S = 15
"""Seconds for which one file that was made proves that others can be: a trial keeps a disk from resting."""

_TRIES = 20  # to make a folder that another process removes


class Disk:
    """A root folder on one file system, with a reserved folder inside that is ours.

    The descriptor of the root is held open, so that "not there" always speaks of this file system, and
    never of an empty mount point where it was.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        check_encoding()
        self._mode = 0o666 & ~umask()
        with map_os_errors():
            posix.make_root(os.path.abspath(root))
            # The root itself may be a symbolic link: whoever runs this program chose it.
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with posix.entered(Root(descriptor), _STAGING, create=True) as staging:
                self._staging = os.dup(staging)
            with posix.entered(Root(descriptor), (RESERVED,)) as ours:
                self._ours = os.dup(ours)
            make_private(self._ours)
            self._begin(descriptor, posix.inode_id(os.fstat(self._ours)))
            self._check_writable()
        self._reserve = Reserve(self._ours)
        self._intents = MoveIntentFile(self._ours)
        self._proven_until = 0.0

    def _begin(self, descriptor: int, ours: posix.InodeId | None) -> None:
        """Take the open root; `ours` is the reserved folder in it. All that looking needs is set here."""
        self._root = Root(descriptor, ours)
        self._device = os.fstat(descriptor).st_dev
        self._shut: tuple[Path, ...] = ()
        # It opens what `open` opened before, which is how that is known not to lie in the reserved folder.
        self._cached = CachedOpener(descriptor)

    def _check_writable(self) -> None:
        with contextlib.suppress(OutOfSpace), map_os_errors():  # a full disk still serves, and deletes
            StagedFile(self._staging, self._mode).discard()
        for folder in (self._root.descriptor, self._ours):
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def check_writable(self) -> None:
        """Raise StorageUnavailable where no file can be stored, for another reason than a full disk."""
        with map_os_errors():
            for folder in (self._root.descriptor, self._staging):
                if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
                    raise StorageUnavailable("The file system of the files has become read-only.")
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                    raise StorageUnavailable("The folder of files cannot be written by this user any more.")
            if os.fstat(self._staging).st_nlink == 0:
                raise StorageUnavailable(
                    f"The folder {'/'.join(_STAGING)} was removed; start the server again."
                )
            # Some file systems that an error made read-only do not say so.
            if time.monotonic() > self._proven_until:
                with contextlib.suppress(OutOfSpace):
                    self._staged().discard()

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._staging)
        os.close(self._root.descriptor)

    def exclude(self, files: tuple[Path, ...]) -> None:
        """Never open these files, by whatever name they are in the folder. They need not be there yet.

        They are a database's. To close a descriptor of one drops all locks of the process on it (POSIX), and
        other processes then damage it. No client may read it, either.
        """
        self._shut = files

    def _is_shut(self, folder: int, name: str) -> bool:
        if not self._shut:
            return False
        found = posix.inode_id(os.lstat(name, dir_fd=folder))
        for file in self._shut:
            with contextlib.suppress(OSError):
                if posix.inode_id(os.stat(file)) == found:
                    return True
        return False

    # Whose folder this is

    def volume(self) -> str | None:
        """The id that `mark` wrote into this folder; None when it is another folder, or a new one."""
        descriptor = self.open(_ID)
        if descriptor is None:
            return None
        with open(descriptor, encoding="ascii", errors="replace") as file, map_os_errors():
            return file.read().strip()

    def is_lasting(self, volume: str) -> bool:
        """Return whether this id of the folder stays with it, wherever it is mounted."""
        return True

    def is_volume(self, volume: str) -> bool:
        """Return whether this is the folder that a database knows by this id."""
        return self.volume() == volume

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

    @contextmanager
    def locked(self, within_s: float) -> Generator[None]:
        """No other process is in here meanwhile. StorageUnavailable when one is for longer than that."""
        with looking(), posix.entered(self._root, _ID[:-1]) as folder:
            # For writing, or network file systems lock nothing.
            descriptor = os.open(_ID[-1], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            lock(descriptor, within_s)
            yield
        finally:
            os.close(descriptor)

    def open_reserved_folder(self, name: str) -> int:
        """A descriptor of a folder inside the reserved one, made if it is not there; the caller closes it."""
        with map_os_errors(), posix.entered(Root(self._ours), (name,), create=True) as folder:
            return os.dup(folder)

    # Bytes on their way in

    def stage(self, size: int | None = None) -> StagedFile:
        """A new file in the staging folder. OutOfSpace when `size` more bytes cannot fit."""
        with map_os_errors():
            self._reserve.fill()
            if size is not None:
                free = os.fstatvfs(self._staging)
                if size > free.f_bavail * free.f_frsize:
                    raise OutOfSpace("The disk has too little room for this file.")
            return self._staged()

    def _staged(self) -> StagedFile:
        """Make a file in the staging folder, and note whether that can be done."""
        self._proven_until = 0.0
        staged = StagedFile(self._staging, self._mode)
        self._proven_until = time.monotonic() + _PROVEN_FOR_S
        return staged

    def sweep(self) -> int:
        """Remove what crashed writers left in the staging folder. How much that was."""
        return sweep(self._staging)

    @contextmanager
    def with_reserve(self) -> Generator[None]:
        """A little room inside, even on a full disk, for one at a time."""
        with map_os_errors(), self._reserve.given_up():
            yield

    def is_moving(self) -> bool:
        """Return whether a move is under way that takes two steps, or a crash cut one short."""
        with map_os_errors():
            return self._intents.exists()

    def undo_interrupted_move(self) -> None:
        """Take the second name from a file whose move a crash cut short. Only the one writer may do this."""
        with map_os_errors():
            if self._intents.exists():
                intent = self._intents.read()
                if intent is not None:
                    self._undo_halfway(intent)
                self._intents.remove()

    def _undo_halfway(self, intent: MoveIntent) -> None:
        source, target = (posix.status(self._root, path) for path in (intent.source, intent.target))
        inodes = source and source.st_ino, target and target.st_ino
        if intent.is_away(*inodes):
            with posix.entered(self._root, intent.source[:-1]) as folder:
                os.rename(intent.target[-1], intent.source[-1], src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        # One link alone may have two names on a file system that ignores case.
        elif intent.is_halfway(*inodes) and source and source.st_nlink > 1:
            with posix.entered(self._root, intent.target[:-1]) as folder:
                os.unlink(intent.target[-1], dir_fd=folder)
                os.fsync(folder)
            posix.prune(self._root, intent.target[:-1])

    # Looking

    def open(self, path: DiskPath) -> int | None:
        """A descriptor of the regular file at the path, which the caller closes; None when there is none.

        Raises Unreadable."""
        return self.opened(path)[0]

    def opened(self, path: DiskPath) -> tuple[int, os.stat_result] | tuple[None, None]:
        """As `open`, with the status of the file."""
        with looking(), contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(posix.entered(self._root, path[:-1]))
                if self._is_shut(folder, path[-1]):
                    return None, None
                descriptor = os.open(path[-1], _READ, dir_fd=folder)
            except ReservedFolder:
                return None, None
            except OSError as error:
                # ENXIO: a socket, or a pipe; both are no file of ours.
                if error.errno in posix.NOT_THERE or error.errno == errno.ENXIO:
                    return None, None
                raise
            with contextlib.ExitStack() as unless_regular:
                unless_regular.callback(os.close, descriptor)
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode):
                    unless_regular.pop_all()
                    return descriptor, found
            return None, None

    def open_cached(self, path: DiskPath) -> int | None:
        """As `open`, but never waits for the disk, and may give what is no regular file. None also where it
        would have to wait, and where that cannot be told."""
        return self._cached.open("/".join(path))

    def status(self, path: DiskPath) -> os.stat_result | None:
        """The status of the regular file at the path; None when there is none. Raises Unreadable."""
        descriptor, found = self.opened(path)
        if descriptor is not None:
            os.close(descriptor)
        return found

    def device_of(self, status: os.stat_result) -> int:
        """Return the device that a file is on: 0 for that of the root, whose number a reboot may change."""
        return 0 if status.st_dev == self._device else signed(status.st_dev)

    def has_writer(self, path: DiskPath, status: os.stat_result) -> bool | None:
        """Return whether a process has the regular file open for writing; None where the system cannot tell.

        True also if the file is no longer as this status says.
        """
        descriptor = self.open(path)
        if descriptor is None:
            return True
        try:
            return has_writer(descriptor, FileStat.of(status))
        finally:
            os.close(descriptor)

    @contextmanager
    def folder(self, path: DiskPath) -> Generator[Folder | None]:
        """The folder at the path, open for looking into it; None when there is none.

        Raises Unreadable, ReservedFolder."""
        with contextlib.ExitStack() as stack:
            with looking():
                try:
                    descriptor = stack.enter_context(posix.entered(self._root, path))
                except OSError as error:
                    if error.errno not in posix.NOT_THERE:
                        raise
                    descriptor = None
                found = None if descriptor is None else Folder(descriptor)
            yield found

    def folder_changed_ns(self, path: DiskPath) -> int | None:
        """When names in the folder came or went last; None when there is no folder that can be read."""
        try:
            with self.folder(path) as found:
                return None if found is None else found.changed_ns
        except (Unreadable, ReservedFolder):
            return None

    def actual_path(self, path: DiskPath) -> DiskPath:
        """Return the path as the entries of the folders spell it; see `spelling`. Raises Unreadable."""
        with looking():
            try:
                return name_equivalence.actual_path(self._root, path)
            except ReservedFolder:
                return path  # which leads nowhere

    def check_path_conflicts(self, path: DiskPath) -> None:
        """Raise PathConflict when a file cannot have this path because of a file or folder that is there."""
        with map_os_errors():
            posix.check_path_conflicts(self._root, path)

    # The file steps: each is taken when its context is entered, and undone when the body fails. The status is
    # the file's after the step, which changes the ctime.

    @contextmanager
    def created(self, staged: StagedFile, path: DiskPath) -> Generator[os.stat_result | None]:
        """The staged file has this path, which it never takes from another: AlreadyExists."""
        with map_os_errors():
            try:

                def link(folder: int) -> None:
                    posix.link(self._staging, staged.name, folder, path[-1])

                with self._placed(link, self._staging, staged.name, path) as folder:
                    try:
                        os.unlink(staged.name, dir_fd=self._staging)  # later it would change the ctime
                        os.fsync(folder)
                        yield _placed_status(folder, path[-1])
                    except BaseException:
                        os.unlink(path[-1], dir_fd=folder)
                        raise
            except BaseException:
                posix.prune(self._root, path[:-1])
                raise

    @contextmanager
    def replaced(self, staged: StagedFile, path: DiskPath) -> Generator[os.stat_result | None]:
        """The staged file has the path of the file that is there."""
        with map_os_errors(), posix.entered(self._root, path[:-1]) as folder, self._kept(folder, path[-1]):
            os.rename(staged.name, path[-1], src_dir_fd=self._staging, dst_dir_fd=folder)
            os.fsync(folder)
            yield _placed_status(folder, path[-1])

    @contextmanager
    def removed(self, path: DiskPath) -> Generator[None]:
        """The file no longer has this path; folders that become empty are gone."""
        with map_os_errors():
            with posix.entered(self._root, path[:-1]) as folder, self._kept(folder, path[-1]):
                os.unlink(path[-1], dir_fd=folder)
                os.fsync(folder)
                yield
            posix.prune(self._root, path[:-1])

    @contextmanager
    def moved(self, source: DiskPath, target: DiskPath) -> Generator[os.stat_result | None]:
        """The file has the target as its path, which it never takes from another: AlreadyExists.

        A crash leaves one of the names, once `undo_interrupted_move` was called.
        """
        with map_os_errors():
            try:
                with posix.entered(self._root, source[:-1]) as old:

                    def move(new: int) -> None:
                        if not posix.rename(old, source[-1], new, target[-1]):
                            self._move_by_link(old, source, new, target)

                    with self._placed(move, old, source[-1], target) as new:
                        try:
                            os.fsync(new)
                            if source[:-1] != target[:-1]:
                                os.fsync(old)
                            yield _placed_status(new, target[-1])
                        except BaseException:
                            self._move_back(new, target, old, source)
                            raise
            except BaseException:
                posix.prune(self._root, target[:-1])
                raise
            posix.prune(self._root, source[:-1])

    def _move_by_link(self, old: int, source: DiskPath, new: int, target: DiskPath) -> None:
        """Move the file where no rename spares an existing target."""
        try:
            inode = os.stat(source[-1], dir_fd=old, follow_symlinks=False).st_ino
            self._intents.write(MoveIntent(source, target, inode))
            posix.link(old, source[-1], new, target[-1])
            os.fsync(new)  # before the old name goes, or a power cut could lose both
            os.unlink(source[-1], dir_fd=old)
            try:
                os.fsync(old)  # before the intent goes, or a power cut could leave both
            except OSError:
                with contextlib.suppress(AlreadyExists):  # of another program: ours stays where it is
                    posix.link(new, target[-1], old, source[-1])  # halfway again, which is undone
                raise
        finally:
            self.undo_interrupted_move()

    def _move_back(self, new: int, target: DiskPath, old: int, source: DiskPath) -> None:
        # If another program has put a file at the source meanwhile, ours stays where it is: the next look
        # at it makes the row agree.
        with contextlib.suppress(AlreadyExists):
            if not posix.rename(new, target[-1], old, source[-1]):
                self._move_by_link(new, target, old, source)
        os.fsync(old)
        os.fsync(new)

    @contextmanager
    def respelled(self, path: DiskPath, name: str) -> Generator[os.stat_result | None]:
        """The file has another name that the file system takes for the one that it has."""
        with map_os_errors(), posix.entered(self._root, path[:-1]) as folder:
            try:
                self._respell(folder, path, name)
                yield _placed_status(folder, name)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._respell(folder, (*path[:-1], name), path[-1])
                raise

    def _respell(self, folder: int, path: DiskPath, name: str) -> None:
        os.rename(path[-1], name, src_dir_fd=folder, dst_dir_fd=folder)
        if name not in os.listdir(folder):
            # Linux does nothing where both names lead to one file already.
            self._respell_by_detour(folder, path, name)
        os.fsync(folder)

    def _respell_by_detour(self, folder: int, path: DiskPath, name: str) -> None:
        detour = uuid4().hex
        try:
            inode = os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_ino
            self._intents.write(MoveIntent(path, (*path[:-1], detour), inode, is_detour=True))
            os.rename(path[-1], detour, src_dir_fd=folder, dst_dir_fd=folder)
            if not posix.rename(folder, detour, folder, name):
                posix.link(folder, detour, folder, name)
                os.unlink(detour, dir_fd=folder)
            os.fsync(folder)  # before the intent goes
        finally:
            self.undo_interrupted_move()

    @contextmanager
    def _placed(
        self, step: Callable[[int], None], source_folder: int, source: str, path: DiskPath
    ) -> Generator[int]:
        """Take a step that gives a file this path; a descriptor of the folder that it is in."""
        with contextlib.ExitStack() as stack:
            for _ in range(_TRIES):
                try:
                    folder = stack.enter_context(posix.entered(self._root, path[:-1], create=True))
                    step(folder)
                    break
                except FileNotFoundError:
                    # Another process found the folder empty and removed it. That the source is gone is the
                    # other reason, and no reason to try again.
                    os.stat(source, dir_fd=source_folder, follow_symlinks=False)
            else:
                raise StorageUnavailable("The folder is removed as often as it is made.")
            yield folder

    @contextmanager
    def _kept(self, folder: int, name: str) -> Generator[None]:
        """Hold a second name of a file while it is changed, and give it its own again when that fails."""
        kept, held = self._keep(folder, name)
        try:
            yield
        except BaseException:
            os.rename(kept, name, src_dir_fd=self._staging, dst_dir_fd=folder)
            os.fsync(folder)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(kept, dir_fd=self._staging)
            os.close(held)

    def _keep(self, folder: int, name: str) -> tuple[str, int]:
        while True:
            kept = uuid4().hex
            try:
                os.link(name, kept, src_dir_fd=folder, dst_dir_fd=self._staging, follow_symlinks=False)
            except FileNotFoundError:
                raise NotFound("The file is gone.") from None
            try:
                held = hold(self._staging, kept)
            except OSError:  # a symbolic link that somebody swapped in, for one
                os.unlink(kept, dir_fd=self._staging)
                raise
            if held is not None:
                return kept, held


def _placed_status(folder: int, name: str) -> os.stat_result | None:
    """Return the status of what has the name of a file that was just placed there. It may be another file by
    now, which another program put over it, or None if that program took the file away."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def lock(descriptor: int, within_s: float) -> None:
    """Lock a file until its descriptor is closed. Raises StorageUnavailable if another process holds it."""
    deadline, pause = time.monotonic() + within_s, 0.0001
    while not _is_locked(descriptor):
        if time.monotonic() > deadline:
            raise StorageUnavailable("Another process is changing the files.")
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def _is_locked(descriptor: int) -> bool:
    """Whether the lock is ours now, until the descriptor is closed."""
    with map_os_errors():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def check_encoding() -> None:
    """Raise StorageUnavailable where Python would not write names in UTF-8."""
    if sys.getfilesystemencoding() != "utf-8":
        raise StorageUnavailable(
            f"Names of files would be in {sys.getfilesystemencoding()}, by the locale: set PYTHONUTF8=1."
        )


def is_marked(root: str | os.PathLike[str]) -> bool:
    """Whether `Disk.mark` was ever called for a folder, which need not be there. Writes nothing."""
    with map_os_errors():
        try:
            os.lstat(os.path.join(root, *_ID))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

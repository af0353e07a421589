"""The folder of files on disk, and the file step of every change.

Each step is a context manager: it is taken, durably, on entry and undone if the body fails. It yields the
status of the file afterwards, because the step changes the ctime. A caller that takes several steps may pass
`sync`, which gets the folder's descriptor, to make all of them durable later.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from uuid import uuid4

from app.database.filesystem import posix
from app.database.filesystem.disk import (
    ID,
    MOVE_INTENT,
    Disk,
    Sync,
    check_encoding,
    lock,
    map_read_errors,
    sync_now,
)
from app.database.filesystem.posix import DiskPath, Root, inode_id, make_private, map_os_errors, umask
from app.database.filesystem.staging import Reserve, StagedFile, hold, sweep
from app.storage.errors import AlreadyExists, NotFound, OutOfSpace, StorageUnavailable
from app.storage.types import RESERVED

_STAGING: DiskPath = (RESERVED, "staging")
_PROVEN_FOR_S = 15
"""Seconds for which a created file proves that files can be created: a trial wakes a sleeping disk."""

SYNC_THREADS = 2
"""Long uploads that are synced at the same time while they arrive."""

_TRIES = 20
"""Attempts to create a folder that other processes remove while it is empty."""

_WRITE_INTENT = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_INTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_INTENT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class MoveIntent:
    """A move by link and unlink, recorded so that a crash leaves one file."""

    source: DiskPath
    target: DiskPath
    inode: int
    is_detour: bool = False
    """Whether the target is a temporary name on the way to an equivalent name of the source."""

    def is_away(self, source_inode: int | None, target_inode: int | None) -> bool:
        """Return whether the file is at the temporary name of a detour; it must be renamed back."""
        return self.is_detour and source_inode is None and target_inode == self.inode

    def is_halfway(self, source_inode: int | None, target_inode: int | None) -> bool:
        """Return whether the file has both names: the move was not acknowledged and must be undone.

        The inodes are those at the two paths; None if there is no file.
        """
        return source_inode == target_inode == self.inode


class MoveIntentFile:
    """A file in the reserved folder that records at most one intent.

    Only the holder of the write lock moves files, so a foreign intent was left by a process that died.
    """

    def __init__(self, folder: int) -> None:
        """Use the folder of a descriptor, which the caller keeps open."""
        self._folder = folder
        self._name = MOVE_INTENT[-1]

    def write(self, intent: MoveIntent) -> None:
        """Record the intent durably. Raises OSError."""
        descriptor = os.open(self._name, _WRITE_INTENT, 0o600, dir_fd=self._folder)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(json.dumps(asdict(intent)).encode("ascii"))
            os.fsync(file.fileno())
        os.fsync(self._folder)

    def read(self) -> MoveIntent | None:
        """Return the move intent; None if it is missing, or incomplete because of a crash. Raises OSError."""
        try:
            descriptor = os.open(self._name, _READ_INTENT, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb", buffering=0) as file:
            return _parse_intent(file.read(_MAX_INTENT_BYTES))

    def exists(self) -> bool:
        """Return whether there is an intent, or a partly written one."""
        try:
            os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def remove(self) -> None:
        """Remove the intent. Raises OSError."""
        os.unlink(self._name, dir_fd=self._folder)


def _parse_intent(data: bytes) -> MoveIntent | None:
    try:
        fields = json.loads(data)
        paths = tuple(fields["source"]), tuple(fields["target"])
        return MoveIntent(*paths, int(fields["inode"]), is_detour=bool(fields.get("is_detour")))
    except (ValueError, KeyError, TypeError):
        return None


class WritableDisk(Disk):
    """A root folder on one file system, with a reserved folder inside for the server's own files.

    `rename` returns False, like `posix.rename`, if the system has no rename that spares an existing target.
    """

    read_only = False

    def __init__(
        self, root: str | os.PathLike[str], *, rename: Callable[[int, str, int, str], bool] = posix.rename
    ) -> None:
        check_encoding()
        self._rename = rename
        self._mode = 0o666 & ~umask()
        with map_os_errors():
            posix.create_root(os.path.abspath(root))
            # The root itself may be a symbolic link: the administrator chose it.
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with posix.open_folder(Root(descriptor), _STAGING, create=True) as staging:
                self._staging = os.dup(staging)
            with posix.open_folder(Root(descriptor), (RESERVED,)) as reserved:
                self._reserved = os.dup(reserved)
            make_private(self._reserved)
            self._open(descriptor, inode_id(os.fstat(self._reserved)))
            self._check_permissions()
        self._reserve = Reserve(self._reserved)
        self._intents = MoveIntentFile(self._reserved)
        self._syncs = ThreadPoolExecutor(SYNC_THREADS, "sync")
        self._proven_until = 0.0

    def _check_permissions(self) -> None:
        with suppress(OutOfSpace), map_os_errors():  # a full disk still serves files, and deletes them
            StagedFile(self._staging, self._mode).discard()
        for folder in (self._root.descriptor, self._reserved):
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def check_writable(self) -> None:
        with map_os_errors():
            for folder in (self._root.descriptor, self._staging):
                if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
                    raise StorageUnavailable(
                        "The file system of the files has become read-only. Check its disk, then "
                        "mount it for writing."
                    )
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                    raise StorageUnavailable(
                        "The server's user may no longer write to the folder of files. Restore its "
                        "permissions."
                    )
            if os.fstat(self._staging).st_nlink == 0:
                raise StorageUnavailable(
                    f"The folder {'/'.join(_STAGING)} was removed; start the server again."
                )
            # Some file systems become read-only after an error without a sign in their flags: create a file.
            if time.monotonic() > self._proven_until:
                with suppress(OutOfSpace):
                    self._create_staged().discard()

    def close(self) -> None:
        self._syncs.shutdown()
        os.close(self._reserved)
        os.close(self._staging)
        super().close()

    # Identity of the folder

    def volume(self) -> str | None:
        return self._read_id()

    def is_lasting(self, volume: str) -> bool:
        return True

    def is_volume(self, volume: str) -> bool:
        return self.volume() == volume

    def mark(self, volume: str) -> None:
        staged = self.stage()
        try:
            staged.write(volume.encode("ascii") + b"\n")
            staged.seal()
            with self.created(staged, ID):
                pass
        finally:
            staged.discard()

    @contextmanager
    def locked(self, within_s: float) -> Generator[None]:
        """Exclude other processes that change files. Raises StorageUnavailable on timeout."""
        with map_read_errors(), posix.open_folder(self._root, ID[:-1]) as folder:
            # For writing, because network file systems need write access for a lock.
            descriptor = os.open(ID[-1], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            lock(descriptor, within_s)
            yield
        finally:
            os.close(descriptor)

    def open_reserved_folder(self, name: str) -> int:
        with map_os_errors(), posix.open_folder(Root(self._reserved), (name,), create=True) as folder:
            return os.dup(folder)

    # Staged files and reserved space

    def stage(self, size: int | None = None) -> StagedFile:
        with map_os_errors():
            self._reserve.fill()
            if size is not None:
                free = os.fstatvfs(self._staging)
                if size > free.f_bavail * free.f_frsize:
                    raise OutOfSpace(
                        "The disk has too little free space for this file. Delete some files first."
                    )
            return self._create_staged()

    def _create_staged(self) -> StagedFile:
        """Create a staged file, and record whether that succeeded."""
        self._proven_until = 0.0
        staged = StagedFile(self._staging, self._mode, self._syncs)
        self._proven_until = time.monotonic() + _PROVEN_FOR_S
        return staged

    def sweep(self) -> int:
        return sweep(self._staging)

    @contextmanager
    def release_reserve(self) -> Generator[None]:
        with map_os_errors(), self._reserve.released():
            yield

    # File steps

    @contextmanager
    def created(
        self, staged: StagedFile, path: DiskPath, sync: Sync = sync_now
    ) -> Generator[os.stat_result | None]:
        """Give the staged file this path. Raises AlreadyExists."""
        with map_os_errors():
            try:

                def link(folder: int) -> None:
                    posix.link(self._staging, staged.name, folder, path[-1])

                with self._placed(link, self._staging, staged.name, path) as folder:
                    try:
                        os.unlink(staged.name, dir_fd=self._staging)  # later it would change the ctime
                        sync(folder)
                        yield _lstat(folder, path[-1])
                    except BaseException:
                        os.unlink(path[-1], dir_fd=folder)
                        raise
            except BaseException:
                posix.prune(self._root, path[:-1])
                raise

    @contextmanager
    def replaced(
        self, staged: StagedFile, path: DiskPath, sync: Sync = sync_now
    ) -> Generator[os.stat_result | None]:
        """Replace the file at the path by the staged file."""
        parent, name = path[:-1], path[-1]
        with map_os_errors(), posix.open_folder(self._root, parent) as folder, self._backed_up(folder, name):
            os.rename(staged.name, name, src_dir_fd=self._staging, dst_dir_fd=folder)
            sync(folder)
            yield _lstat(folder, name)

    @contextmanager
    def removed(self, path: DiskPath) -> Generator[None]:
        """Remove the file, and then the folders that are empty."""
        with map_os_errors():
            with posix.open_folder(self._root, path[:-1]) as folder, self._backed_up(folder, path[-1]):
                os.unlink(path[-1], dir_fd=folder)
                os.fsync(folder)
                yield
            posix.prune(self._root, path[:-1])

    @contextmanager
    def moved(self, source: DiskPath, target: DiskPath) -> Generator[os.stat_result | None]:
        """Move the file. Raises AlreadyExists. After a crash and `undo_interrupted_move`, it has one path."""
        with map_os_errors():
            try:
                with posix.open_folder(self._root, source[:-1]) as old:

                    def move(new: int) -> None:
                        if not self._rename(old, source[-1], new, target[-1]):
                            self._move_by_link(old, source, new, target)

                    with self._placed(move, old, source[-1], target) as new:
                        try:
                            os.fsync(new)
                            if source[:-1] != target[:-1]:
                                os.fsync(old)
                            yield _lstat(new, target[-1])
                        except BaseException:
                            self._move_back(new, target, old, source)
                            raise
            except BaseException:
                posix.prune(self._root, target[:-1])
                raise
            posix.prune(self._root, source[:-1])

    @contextmanager
    def renamed_in_place(self, path: DiskPath, name: str) -> Generator[os.stat_result | None]:
        """Give the file an equivalent name: one that the file system identifies with the present name."""
        with map_os_errors(), posix.open_folder(self._root, path[:-1]) as folder:
            try:
                self._rename_in_place(folder, path, name)
                yield _lstat(folder, name)
            except BaseException:
                with suppress(OSError):
                    self._rename_in_place(folder, (*path[:-1], name), path[-1])
                raise

    @contextmanager
    def _placed(
        self, step: Callable[[int], None], source_folder: int, source: str, path: DiskPath
    ) -> Generator[int]:
        """Take a step that gives a file this path; yield a descriptor of its folder, created if needed."""
        with ExitStack() as stack:
            for _ in range(_TRIES):
                try:
                    folder = stack.enter_context(posix.open_folder(self._root, path[:-1], create=True))
                    step(folder)
                    break
                except FileNotFoundError:
                    # Either another process removed the empty folder, or the source is missing, which this
                    # call raises.
                    os.stat(source, dir_fd=source_folder, follow_symlinks=False)
            else:
                raise StorageUnavailable("Another process keeps removing the new folder. Try again.")
            yield folder

    @contextmanager
    def _backed_up(self, folder: int, name: str) -> Generator[None]:
        """Keep a second link of a file inside, and restore the file from it if the body fails."""
        backup, held = self._back_up(folder, name)
        try:
            yield
        except BaseException:
            os.rename(backup, name, src_dir_fd=self._staging, dst_dir_fd=folder)
            os.fsync(folder)
            raise
        finally:
            try:
                with suppress(FileNotFoundError):
                    os.unlink(backup, dir_fd=self._staging)
            finally:
                os.close(held)  # or no sweep could remove the backup while this process runs

    def _back_up(self, folder: int, name: str) -> tuple[str, int]:
        """Link the file into the staging folder; return the name there, and a descriptor that holds it."""
        while True:
            backup = uuid4().hex
            try:
                os.link(name, backup, src_dir_fd=folder, dst_dir_fd=self._staging, follow_symlinks=False)
            except FileNotFoundError:
                raise NotFound("The file no longer exists. Reload the list.") from None
            try:
                held = hold(self._staging, backup)
            except OSError:  # for example, a symbolic link that replaced the file
                os.unlink(backup, dir_fd=self._staging)
                raise
            if held is not None:
                return backup, held

    # Moves without an atomic rename

    def _move_by_link(self, old: int, source: DiskPath, new: int, target: DiskPath) -> None:
        """Move the file by link and unlink, because this system's rename would replace a target."""
        try:
            inode = os.stat(source[-1], dir_fd=old, follow_symlinks=False).st_ino
            self._intents.write(MoveIntent(source, target, inode))
            posix.link(old, source[-1], new, target[-1])
            os.fsync(new)  # before the old name is removed, or a power cut could lose both
            os.unlink(source[-1], dir_fd=old)
            try:
                os.fsync(old)  # before the intent is removed, or a power cut could leave both
            except OSError:
                with suppress(AlreadyExists):  # another program's file: ours stays at the target
                    posix.link(new, target[-1], old, source[-1])  # halfway again, which is undone below
                raise
        finally:
            self.undo_interrupted_move()

    def _move_back(self, new: int, target: DiskPath, old: int, source: DiskPath) -> None:
        # If another program has created a file at the source meanwhile, ours stays at the target, and
        # reconciliation updates its row.
        with suppress(AlreadyExists):
            if not self._rename(new, target[-1], old, source[-1]):
                self._move_by_link(new, target, old, source)
        os.fsync(old)
        os.fsync(new)

    def _rename_in_place(self, folder: int, path: DiskPath, name: str) -> None:
        os.rename(path[-1], name, src_dir_fd=folder, dst_dir_fd=folder)
        if name not in os.listdir(folder):
            # Linux does nothing if both names refer to the same file.
            self._rename_by_detour(folder, path, name)
        os.fsync(folder)

    def _rename_by_detour(self, folder: int, path: DiskPath, name: str) -> None:
        detour = uuid4().hex
        try:
            inode = os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_ino
            self._intents.write(MoveIntent(path, (*path[:-1], detour), inode, is_detour=True))
            os.rename(path[-1], detour, src_dir_fd=folder, dst_dir_fd=folder)
            if not self._rename(folder, detour, folder, name):
                posix.link(folder, detour, folder, name)
                os.unlink(detour, dir_fd=folder)
            os.fsync(folder)  # before the intent is removed
        finally:
            self.undo_interrupted_move()

    def is_moving(self) -> bool:
        with map_os_errors():
            return self._intents.exists()

    def undo_interrupted_move(self) -> None:
        with map_os_errors():
            if self._intents.exists():
                intent = self._intents.read()
                if intent is not None:
                    self._undo(intent)
                self._intents.remove()

    def _undo(self, intent: MoveIntent) -> None:
        source, target = (posix.lstat(self._root, path) for path in (intent.source, intent.target))
        inodes = source and source.st_ino, target and target.st_ino
        if intent.is_away(*inodes):
            with posix.open_folder(self._root, intent.source[:-1]) as folder:
                os.rename(intent.target[-1], intent.source[-1], src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        # A case-insensitive file system may show one link at both paths.
        elif intent.is_halfway(*inodes) and source and source.st_nlink > 1:
            with posix.open_folder(self._root, intent.target[:-1]) as folder:
                os.unlink(intent.target[-1], dir_fd=folder)
                os.fsync(folder)
            posix.prune(self._root, intent.target[:-1])


def _lstat(folder: int, name: str) -> os.stat_result | None:
    """Return the status of a file that was just placed there, or of another that replaced it; None if another
    program has removed it."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None

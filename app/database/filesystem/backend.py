"""Stored files as ordinary files, with a row for each in an SQL database.

The file system decides, the database remembers. Every change goes the same way: begin as the only writer,
look again at row and file, write the row, take the file step and bring it to the disk, COMMIT, answer. What
a crash leaves in between is a whole file without a row, or with an old one; the next look settles that.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import select

from app.database import paging
from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import FileIdentity, FileStat, Match, compare
from app.database.filesystem.integrity import FilesystemMaintenance
from app.database.filesystem.name_equivalence import check_exact_name, is_equivalent
from app.database.filesystem.open_cache import DiskReader, OpenCache
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.read_only import ReadOnlyDisk
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import (
    be_version,
    find,
    info_of,
    key_of,
    looks_alike,
    new_row,
    path_at,
    path_of,
    place,
    record_stat,
    stat_of,
)
from app.database.filesystem.scanner import Scanner
from app.database.filesystem.staging import StagedFile
from app.database.sql.engine import Database
from app.database.sql.list_index import SqlListIndex, folders, libraries
from app.database.sql.schema import Media, Volume
from app.events.feed import ChangeFeed
from app.http.dates import modification_date
from app.storage.backend import Writer
from app.storage.errors import (
    AlreadyExists,
    DiskFault,
    NotFound,
    OutOfSpace,
    PathConflict,
    StorageUnavailable,
    Unfinished,
)
from app.storage.ignored_names import IgnoredNames
from app.storage.types import (
    MAX_ALL_FOLDERS,
    MAX_FOLDERS,
    Address,
    Change,
    ChangeKind,
    Committed,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    check_expectation,
)

T = TypeVar("T")

LOCKED_FOR_S = 30
"""How long a file step of another process is waited for that has lost the database."""

_NO_FILE = "There is no such file."


class FilesystemBackend:
    """`storage.backend.Backend` over a folder of files and an SQL database.

    `volume` is the id that tells this folder from an empty mount point. `chunk_size` is how many bytes are
    read in one go. `ignored` decides which files lists and scans leave out. `feed` receives the
    changes that other programs made to the files.
    """

    parts = ("database", "folder")

    def __init__(
        self,
        database: Database,
        files: Disk,
        *,
        volume: str,
        chunk_size: int,
        ignored: IgnoredNames,
        feed: ChangeFeed | None = None,
    ) -> None:
        self._database = database
        self._disk = files
        self._volume = volume
        self._chunk_size = chunk_size
        self._ignored = ignored
        self._feed = feed or ChangeFeed()
        self._scanner = Scanner(database, files, self._reconciling, ignored)
        self.maintenance = FilesystemMaintenance(database, files, self._reconciling, self._scanner)
        self._open_cache = OpenCache(files, chunk_size)

    @property
    def database(self) -> Database:
        """Which it shares with the accounts."""
        return self._database

    @property
    def disk(self) -> Disk:
        return self._disk

    @property
    def volume(self) -> str:
        """The id of the library."""
        return self._volume

    @property
    def read_only(self) -> bool:
        return isinstance(self._disk, ReadOnlyDisk)

    def try_open(self, address: Address) -> DiskReader | None:
        return self._open_cache.open(address)

    def open(self, address: Address, *, wait: bool) -> DiskReader | None:
        looked_ns = time.time_ns()
        with self._database.reading() as session:
            row = find(session, address)
        if row is not None:
            path = path_of(row)
        elif isinstance(address, Key):
            path = path_at(address)
        else:
            raise NotFound(_NO_FILE)
        descriptor, status = self._disk.opened(path)
        if row is None and descriptor is None and not self._is_spelled_otherwise(path):
            raise NotFound(_NO_FILE)
        if row is not None and descriptor is not None and status is not None:
            like = self._likeness(row, status)
            if like is Match.SAME:
                self._open_cache.note(address, row, status, looked_ns)
                return DiskReader(info_of(row), descriptor, self._chunk_size)
            if like is Match.UNPROVEN and wait:
                return self._open_unproven(address, row, descriptor)
        if descriptor is not None:
            os.close(descriptor)
        # They disagree: a change is under way, or was cut short, or somebody worked in the folder by hand.
        return self.with_reserve(lambda: self._open_settled(address)) if wait else None

    def _is_spelled_otherwise(self, path: DiskPath) -> bool:
        """Return whether a file is there whose path differs from this one in normalisation."""
        if "".join(path).isascii():
            return False
        actual = self._disk.actual_path(path)
        return is_equivalent(actual, path) and self._disk.status(actual) is not None

    def _open_unproven(self, address: Address, row: Media, descriptor: int) -> DiskReader:
        """Open a file of which the ctime alone changed, also while the database cannot record that."""
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                self._database.check_writable()  # which gives up sooner than a change does
                return self.with_reserve(lambda: self._open_settled(address))
            except Unfinished:
                raise
            except (OutOfSpace, StorageUnavailable):
                stack.pop_all()
                info = replace(info_of(row), sha256=None, is_utf8=None, doubtful=True)
                return DiskReader(info, descriptor, self._chunk_size)

    def _likeness(self, row: Media, status: os.stat_result) -> Match:
        found = FileIdentity(FileStat.of(status), self._disk.device_of(status))
        return compare(FileIdentity(stat_of(row), row.device), found)

    def _open_settled(self, address: Address) -> DiskReader:
        with self._reconciling() as reconciler:
            row = find(reconciler.session, address)  # again: it may have moved
            key = address if isinstance(address, Key) else key_of(row) if row is not None else None
            with suppress(PathConflict):  # another has its name or a part of it, so that it is not taken in
                row = reconciler.reconcile(key) if key is not None else None
            reconciler.commit()
            descriptor, status = self._disk.opened(path_of(row)) if row is not None else (None, None)
        if row is None or descriptor is None or status is None:
            raise NotFound(_NO_FILE)
        if stat_of(row) != FileStat.of(status):
            os.close(descriptor)
            raise Unfinished("The file is being written; try again when that is done.")
        return DiskReader(info_of(row), descriptor, self._chunk_size)

    def check(self, key: Key, expect: Expectation) -> None:
        path = self._disk.actual_path(path_at(key))
        self._disk.check_path_conflicts(path)
        try:
            reader = self.open(key, wait=True)
        except NotFound:
            if is_equivalent(path, path_at(key)) and self._disk.status(path) is not None:
                self._check_settled(key, path, expect)
            else:
                check_expectation(None, expect)
                check_exact_name(path_at(key), path)
        else:
            assert reader is not None
            reader.close()
            _check_version(reader.info, expect)

    def _check_settled(self, key: Key, path: DiskPath, expect: Expectation) -> None:
        # A file without a row: another commit was between the two, or somebody is putting it there.
        with self._reconciling() as reconciler:
            row = reconciler.reconcile(key)
            reconciler.commit()
            if row is None and self._disk.status(path) is not None:
                raise AlreadyExists("A file of this name is being put there.")
        _check(row, expect)

    def stage(self, size: int | None) -> StagedFile:
        return self._disk.stage(size)

    def commit(
        self,
        key: Key,
        writer: Writer,
        *,
        size: int,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed:
        assert isinstance(writer, StagedFile)
        signature = writer.seal()
        if signature.size != size:
            raise StorageUnavailable("The disk did not keep all that was written.")
        with self._reconciling() as reconciler:
            row = reconciler.reconcile(key)
            _check(row, expect)
            if row is not None and looks_alike(row, signature):
                signature = writer.seal_after(row.mtime_ns)
            now = datetime.now(UTC)
            created = row is None
            if row is None:
                path = reconciler.place_of(key)
                row = new_row(reconciler.session, origin, now)
                place(row, key, path, self._ignored)
                reconciler.session.add(row)
            record_stat(row, signature, device=None)
            updated_at = origin.updated_at if origin else modification_date(now, row.updated_at, now)
            row.content_type, row.updated_at = content_type, updated_at
            be_version(row, etag=sha256, sha256=sha256, is_utf8=is_utf8)
            reconciler.session.flush()
            committed = Committed(info_of(row), created)
            step = self._disk.created if created else self._disk.replaced
            known = self._scanner.known(path_of(row))
            try:
                with step(writer, path_of(row)) as status:
                    self._scanner.note(known)
                    self._record_stat(reconciler, row, status)
                    kind = ChangeKind.CREATED if created else ChangeKind.REPLACED
                    reconciler.commit_step(row, Change(kind, committed.info))
            except NotFound:  # no answer to an upload: it can be stored when it is sent again
                raise Unfinished("Another program took the file away just now. Try again.") from None
            return committed

    def _record_stat(self, reconciler: Reconciler, row: Media, status: os.stat_result | None) -> None:
        """Record the ctime that the step gave the file.

        If another program has put another file there meanwhile, the row keeps the signature of ours, or the
        ETag and the hash of ours would be those of the other's bytes. The next look finds the difference.
        """
        if status is None:
            return
        found = FileStat.of(status)
        if replace(stat_of(row), ctime_ns=None).agrees_with(found):
            record_stat(row, found, self._disk.device_of(status))
            reconciler.session.flush()

    def delete(self, key: Key, expect: Expectation) -> None:
        self.with_reserve(lambda: self._delete(key, expect))

    def with_reserve(self, step: Callable[[], T]) -> T:
        """What the step gives, which is taken again with the room held back if there is no other.

        Deleting is how people make room, and reading and moving need none: none of them may fail for want
        of it.
        """
        try:
            return step()
        except OutOfSpace:
            with self._disk.with_reserve():
                self._database.checkpoint()
                return step()

    def _delete(self, key: Key, expect: Expectation) -> None:
        with self._reconciling() as reconciler:
            row = self._settled(reconciler, key)
            _check(row, expect)
            path, deleted = path_of(row), Change(ChangeKind.DELETED, info_of(row))
            reconciler.session.delete(row)
            reconciler.session.flush()
            known = self._scanner.known(path)
            with self._disk.removed(path):
                self._scanner.note(known)
                reconciler.commit_step(row, deleted)

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        return self.with_reserve(lambda: self._move(source, target, expect))

    def _move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        with self._reconciling() as reconciler:
            row = self._settled(reconciler, source)
            _check(row, expect)
            if source != target:
                if reconciler.reconcile(target) is not None:
                    raise AlreadyExists("A file with this name already exists. Choose another name.")
                path = path_of(row)
                to, step = self._step_of_move(reconciler, path, target)
                reconciler.rename(row, target, to)
                reconciler.session.flush()
                moved = info_of(row)
                known = self._scanner.known(path, to)
                with step as status:
                    self._scanner.note(known)
                    self._record_stat(reconciler, row, status)
                    reconciler.commit_step(row, Change(ChangeKind.MOVED, moved, source))
                return moved
            return info_of(row)

    def _step_of_move(
        self, reconciler: Reconciler, path: DiskPath, target: Key
    ) -> tuple[DiskPath, AbstractContextManager[os.stat_result | None]]:
        """Return the path that the file gets, and the file step."""
        wanted = path_at(target)
        if self._disk.actual_path(wanted) == path and is_equivalent(path[:-1], wanted[:-1]):
            return (*path[:-1], wanted[-1]), self._disk.respelled(path, wanted[-1])
        to = reconciler.place_of(target)
        return to, self._disk.moved(path, to)

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page | None:
        if cursor is None:
            where = listing.library, listing.folder
            if wait:
                self._refresh(*where, recursive=listing.recursive)
            elif not self._scanner.is_fresh(*where, recursive=listing.recursive):
                return None
        with self._database.reading() as session:
            index = SqlListIndex(session, listing)
            rows, next_cursor = paging.page(index, cursor=cursor, limit=limit)
            names: tuple[str, ...] = ()
            if cursor is None and not listing.recursive and not listing.query.strip():
                names = folders(session, listing.library, listing.folder, limit=MAX_FOLDERS)
        return Page(names, tuple(map(info_of, rows)), next_cursor)

    def _refresh(self, library: str, folder: str, *, recursive: bool) -> None:
        """Look for what came or went. What cannot be recorded now, because the disk is full or the database
        is busy, is found by a later list. Raises DiskFault."""
        try:
            self._scanner.refresh(library, folder, recursive=recursive)
        except DiskFault:
            raise
        except (OutOfSpace, StorageUnavailable):
            pass

    def folders(self, library: str, folder: str) -> tuple[str, ...]:
        with self._database.reading() as session:
            return folders(session, library, folder, limit=MAX_ALL_FOLDERS)

    def libraries(self) -> tuple[str, ...]:
        with self._database.reading() as session:
            return tuple(libraries(session))

    def ping(self, part: str | None = None) -> None:
        if part != "folder":
            with self._database.reading() as session:
                if session.scalar(select(Volume.id)) != self._volume:
                    raise StorageUnavailable("The database is another one than at the start.")
            self._database.check_writable()
        if part != "database":
            self._check_volume()
            self._disk.check_writable()

    def _check_volume(self) -> None:
        if not self._disk.is_volume(self._volume):
            raise StorageUnavailable("The folder of files is not the one that the database speaks of.")

    def undo_interrupted_move(self) -> None:
        """Undo the move of a process that died in it, if there is one: before anything is looked at."""
        if self._disk.is_moving():
            with self._reconciling():
                pass

    @contextmanager
    def _reconciling(self) -> Iterator[Reconciler]:
        with ExitStack() as told, self._database.writing() as session, self._alone():
            reconciler = Reconciler(
                self._database,
                session,
                self._disk,
                ignored=self._ignored,
                check_volume=self._check_volume,
            )
            told.callback(self._tell, reconciler)  # also when what was asked for is refused
            self._disk.undo_interrupted_move()
            yield reconciler
            reconciler.check_outcome()

    def _alone(self) -> AbstractContextManager[None]:
        # Else another process could change a file that this one, whose connection was lost, is changing.
        return nullcontext() if self._database.keeps_lock else self._disk.locked(LOCKED_FOR_S)

    def _tell(self, reconciler: Reconciler) -> None:
        if reconciler.committed and (reconciler.changes or reconciler.has_doubts):
            for change in reconciler.changes:
                if change.kind in (ChangeKind.DELETED, ChangeKind.MOVED):
                    self._scanner.forget(change.previous or change.info.key)
            self._feed.publish_threadsafe(reconciler.changes, unverified=True)

    def _settled(self, reconciler: Reconciler, key: Key) -> Media:
        row = reconciler.reconcile(key)
        if row is None:
            reconciler.commit()
            raise NotFound(_NO_FILE)
        return row


def _check(row: Media | None, expect: Expectation) -> None:
    """Hold a row against what is expected: AlreadyExists, VersionMismatch."""
    if row is None:
        check_expectation(None, expect)
    else:
        _check_version(info_of(row), expect)


def _check_version(info: FileInfo, expect: Expectation) -> None:
    # The hash may have given the earlier ETag back since the condition of a request was evaluated.
    if info.other_etag is None or info.other_etag != expect:
        check_expectation(info.etag, expect)

"""Stored files as ordinary files in a folder, with a row for each in an SQL database.

The file system is the source of truth; the database is an index over it. Every change acquires the write
lock, reconciles the row with the file, updates the row, takes the file step durably, and commits. A crash in
between leaves a complete file with no row or an outdated one, which the next reconciliation corrects.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypedDict, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import paging
from app.database.filesystem import Limits
from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import FileIdentity, FileStat, Match, compare
from app.database.filesystem.group_commit import GroupCommit, SmallUpload
from app.database.filesystem.integrity import FilesystemMaintenance
from app.database.filesystem.name_equivalence import check_exact_name, is_equivalent
from app.database.filesystem.open_cache import DiskReader, OpenCache
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import (
    check_row,
    check_version,
    find,
    looks_alike,
    new_row,
    path_at,
    path_of,
    place,
    record_stat_after_step,
    record_upload,
    stat_of,
)
from app.database.filesystem.scanner import Scanner
from app.database.filesystem.staging import StagedFile
from app.database.sql.engine import Database
from app.database.sql.list_index import SqlIndexRange, SqlListIndex, folders, libraries, write_files
from app.database.sql.schema import (
    FIELD_COLUMNS,
    INFO_COLUMNS,
    MediaRow,
    VolumeRow,
    info_of,
    key_of,
    parse_info,
)
from app.events.feed import ChangeFeed
from app.http.dates import modification_date
from app.storage.backend import Writer
from app.storage.cursors import Position
from app.storage.errors import (
    AlreadyExists,
    DiskFault,
    NotFound,
    OutOfSpace,
    PathConflict,
    StorageUnavailable,
    Unfinished,
)
from app.storage.file_text import FolderFormat, fill
from app.storage.ignored_names import IgnoredNames
from app.storage.types import (
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
    RenderedPage,
    already_exists,
    check_expectation,
    path_conflict,
    quoted,
)

T = TypeVar("T")

LOCK_TIMEOUT_S = 30
"""Time to wait for the file step of another process that has lost its connection to the database."""

_NO_FILE = "There is no such file."
_BEING_WRITTEN = "Another program is still writing the file. Try again when that program has finished."


class FilesystemBackend:
    """`storage.backend.Backend` over a folder of files and an SQL database.

    `volume` is the id that distinguishes this folder from an empty mount point. `chunk_size` is the number of
    bytes per read. `feed` receives the changes of other programs.
    """

    parts = ("database", "folder")

    def __init__(
        self,
        database: Database,
        disk: Disk,
        *,
        volume: str,
        chunk_size: int,
        ignored: IgnoredNames,
        feed: ChangeFeed | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.database = database
        """The database, which it shares with the accounts."""
        self.disk = disk
        self.volume = volume
        self._chunk_size = chunk_size
        self._ignored = ignored
        self._feed = feed or ChangeFeed()
        self._limits = limits or Limits()
        self._scanner = Scanner(database, disk, self.reconciling, ignored, self._limits)
        self.maintenance = FilesystemMaintenance(
            database, disk, self.reconciling, self._scanner, self._limits
        )
        self._group_commit = GroupCommit(database, disk, self._scanner, ignored, self._file_lock)
        self._open_cache = OpenCache(disk, chunk_size, self._limits)

    # Reading

    def try_open(self, address: Address) -> DiskReader | None:
        return self._open_cache.open(address)

    def open(self, address: Address, *, wait: bool) -> DiskReader | None:
        read_at_ns = time.time_ns()
        with self.database.reading() as session:
            row = find(session, address)
        if row is not None:
            path = path_of(row)
        elif isinstance(address, Key):
            path = path_at(address)
        else:
            raise NotFound(_NO_FILE)
        opened = self.disk.open(path)
        if row is None and opened is None and not self._exists_in_other_normalization(path):
            raise NotFound(_NO_FILE)
        if opened is not None:
            descriptor, status = opened
            match = None if row is None else self._compare(row, status)
            if row is not None and match is Match.SAME:
                self._open_cache.put(address, row, status, read_at_ns)
                return DiskReader(info_of(row), descriptor, self._chunk_size)
            if row is not None and match is Match.UNPROVEN and wait:
                return self._open_unproven(address, row, descriptor)
            os.close(descriptor)
        # Row and file disagree: a change is in progress, was interrupted, or was made by another program.
        return self.with_reserve(lambda: self._open_reconciled(address)) if wait else None

    def _exists_in_other_normalization(self, path: DiskPath) -> bool:
        if "".join(path).isascii():
            return False
        actual = self.disk.actual_path(path)
        return is_equivalent(actual, path) and self.disk.status(actual) is not None

    def _open_unproven(self, address: Address, row: MediaRow, descriptor: int) -> DiskReader:
        """Open a file of which only the ctime has changed, even if the database cannot record that."""
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                self.database.check_writable()  # it gives up sooner than a change would
                return self.with_reserve(lambda: self._open_reconciled(address))
            except Unfinished:
                raise
            except (OutOfSpace, StorageUnavailable):
                stack.pop_all()
                info = replace(info_of(row), sha256=None, is_utf8=None, doubtful=True)
                return DiskReader(info, descriptor, self._chunk_size)

    def _compare(self, row: MediaRow, status: os.stat_result) -> Match:
        found = FileIdentity(FileStat.of(status), self.disk.device_of(status))
        return compare(FileIdentity(stat_of(row), row.device), found)

    def _open_reconciled(self, address: Address) -> DiskReader:
        with self.reconciling() as reconciler:
            row = find(reconciler.session, address)  # again: it may have moved
            key = address if isinstance(address, Key) else key_of(row) if row is not None else None
            with suppress(PathConflict):  # a conflicting file cannot be adopted
                row = reconciler.reconcile(key) if key is not None else None
            reconciler.commit()
            opened = self.disk.open(path_of(row)) if row is not None else None
        if row is None or opened is None:
            raise NotFound(_NO_FILE)
        descriptor, status = opened
        if stat_of(row) != FileStat.of(status):
            os.close(descriptor)
            raise Unfinished(_BEING_WRITTEN)
        return DiskReader(info_of(row), descriptor, self._chunk_size)

    async def open_async(self, address: Address) -> None:
        """Return None: `try_open` has tried whatever needs no thread."""

    def check(self, key: Key, expect: Expectation) -> None:
        path = self.disk.actual_path(path_at(key))
        with _naming(key):
            self.disk.check_path_conflicts(path)
        try:
            reader = self.open(key, wait=True)
        except NotFound:
            if is_equivalent(path, path_at(key)) and self.disk.status(path) is not None:
                self._check_reconciled(key, path, expect)
            else:
                check_expectation(key, None, expect)
                with _naming(key):
                    check_exact_name(path_at(key), path)
        else:
            assert reader is not None
            reader.close()
            check_version(reader.info, expect)

    def _check_reconciled(self, key: Key, path: DiskPath, expect: Expectation) -> None:
        # A file without a row: a commit was in progress, or another program is writing it.
        with self.reconciling() as reconciler:
            row = reconciler.reconcile(key)
            reconciler.commit()
            if row is None and self.disk.status(path) is not None:
                raise AlreadyExists(f"Another program is writing {quoted(key.path)}. Choose another name.")
        check_row(key, row, expect)

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page | None:
        def read(session: Session) -> tuple[tuple[FileInfo, ...], str | None]:
            index = SqlListIndex(session, listing, INFO_COLUMNS)
            rows, next_cursor = paging.page(index, cursor=cursor, limit=limit)
            return tuple(map(parse_info, rows)), next_cursor

        nothing: tuple[FileInfo, ...] = ()
        found = self._list(listing, read, nothing, is_first=cursor is None, wait=wait)
        return None if found is None else Page(*found)

    def render_page(
        self,
        listing: Listing,
        format_of: FolderFormat,
        *,
        cursor: str | None,
        limit: int,
        wait: bool,
        turn: AbstractContextManager[object],
    ) -> RenderedPage | None:
        def write(files: SqlIndexRange, limit: int) -> tuple[bytes, Position | None] | None:
            with turn:
                return write_files(files, format_of(listing.folder), limit)

        def read(session: Session) -> tuple[bytes, str | None]:
            index = SqlListIndex(session, listing, FIELD_COLUMNS)
            written = paging.page_of_folder(listing, index.folder_range, write, cursor=cursor, limit=limit)
            if written is not None:
                return written
            rows: Sequence[Any]
            rows, next_cursor = paging.page(index, cursor=cursor, limit=limit)
            with turn:
                return fill(format_of, rows), next_cursor

        found = self._list(listing, read, b"", is_first=cursor is None, wait=wait)
        return None if found is None else RenderedPage(*found)

    def _list(
        self,
        listing: Listing,
        read: Callable[[Session], tuple[T, str | None]],
        nothing: T,
        *,
        is_first: bool,
        wait: bool,
    ) -> tuple[tuple[str, ...], T, str | None] | None:
        """Return the folders of a page, and what `read` returns: the files and the next cursor.

        The first page shows the changes of other programs. Returns None if it has to wait for that.
        """
        scanned = listing.library, listing.folder
        if is_first and wait:
            self._refresh(*scanned, recursive=listing.recursive)
        elif is_first and self._scanner.is_absent(*scanned):
            return (), nothing, None  # in a fifth of the time: each 404 below /files/ looks here
        with self.database.reading() as session:
            is_fresh = partial(self._scanner.is_fresh, session, *scanned, recursive=listing.recursive)
            if is_first and not wait and not is_fresh():
                return None
            files, next_cursor = read(session)
            names: tuple[str, ...] = ()
            if is_first and not listing.recursive and not listing.query.strip():
                names = folders(session, listing.library, listing.folder, limit=MAX_FOLDERS)
        return names, files, next_cursor

    def _refresh(self, library: str, folder: str, *, recursive: bool) -> None:
        """Scan for changes of other programs. Raises DiskFault.

        Changes that cannot be recorded now, because the disk is full or the database is overloaded, are found
        by a later list.
        """
        try:
            self._scanner.refresh(library, folder, recursive=recursive)
        except DiskFault:
            raise
        except (OutOfSpace, StorageUnavailable):
            pass

    def folders(self, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
        with self.database.reading() as session:
            return folders(session, library, folder, limit=limit)

    def libraries(self) -> tuple[str, ...]:
        with self.database.reading() as session:
            return tuple(libraries(session))

    def ping(self, part: str | None = None) -> None:
        if part != "folder":
            with self.database.reading() as session:
                if session.scalar(select(VolumeRow.id)) != self.volume:
                    raise StorageUnavailable(
                        "The database has been exchanged since the server started. Start the server again."
                    )
            self.database.check_writable()
        if part != "database":
            self._check_volume()
            self.disk.check_writable()

    def _check_volume(self) -> None:
        if not self.disk.is_volume(self.volume):
            raise StorageUnavailable(
                "The folder of files does not belong to the database. Check that its disk is mounted."
            )

    # Changes

    def stage(self, size: int | None) -> StagedFile:
        return self.disk.stage(size)

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
        stat = _sealed(writer, size)
        with _naming(key), self.reconciling() as reconciler:
            row = reconciler.reconcile(key)
            check_row(key, row, expect)
            if row is not None and looks_alike(row, stat):
                stat = writer.seal_after(row.mtime_ns)
            now = datetime.now(UTC)
            created = row is None
            if row is None:
                path = reconciler.new_path(key)
                row = new_row(reconciler.session, origin, now)
                place(row, key, path, self._ignored)
                reconciler.session.add(row)
            updated_at = origin.updated_at if origin else modification_date(now, row.updated_at, now)
            record_upload(
                row, stat, sha256=sha256, content_type=content_type, is_utf8=is_utf8, updated_at=updated_at
            )
            reconciler.session.flush()
            committed = Committed(info_of(row), created)
            path = path_of(row)
            step = self.disk.created(writer, path) if created else self.disk.replaced(writer, path)
            change = Change(ChangeKind.CREATED if created else ChangeKind.REPLACED, committed.info)
            try:
                self._commit_step(reconciler, row, change, step, path)
            except NotFound:  # not an answer to an upload, which can be sent again
                raise Unfinished("Another program has just removed the file. Try again.") from None
            return committed

    def store(
        self,
        key: Key,
        data: bytes,
        *,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed:
        details: _Details = {
            "sha256": sha256,
            "content_type": content_type,
            "expect": expect,
            "is_utf8": is_utf8,
        }
        committed = None
        if origin is None:  # the row of a copy depends on others
            with _staged(self.disk, data) as staged:
                stat = _sealed(staged, len(data))
                committed = self._group_commit.commit(SmallUpload(key, staged, stat, **details))
        if committed is None:
            with _staged(self.disk, data) as staged:
                committed = self.commit(key, staged, size=len(data), origin=origin, **details)
        return committed

    @property
    def waiting_uploads(self) -> int:
        """The number of small uploads that wait for their commit."""
        return self._group_commit.waiting

    async def store_async(self, key: Key, data: bytes, **details: object) -> None:
        """Return None: storing blocks."""

    def delete(self, key: Key, expect: Expectation) -> None:
        self.with_reserve(lambda: self._delete(key, expect))

    def _delete(self, key: Key, expect: Expectation) -> None:
        with self.reconciling() as reconciler:
            row = self._existing_row(reconciler, key)
            check_row(key, row, expect)
            path, deleted = path_of(row), Change(ChangeKind.DELETED, info_of(row))
            reconciler.session.delete(row)
            reconciler.session.flush()
            self._commit_step(reconciler, row, deleted, self.disk.removed(path), path)

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        with _naming(target):
            return self.with_reserve(lambda: self._move(source, target, expect))

    def _move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        with self.reconciling() as reconciler:
            row = self._existing_row(reconciler, source)
            check_row(source, row, expect)
            if source == target:
                return info_of(row)
            if reconciler.reconcile(target) is not None:
                raise already_exists(target)
            path = path_of(row)
            new_path, step = self._move_step(reconciler, path, target)
            reconciler.rename(row, target, new_path)
            reconciler.session.flush()
            moved = info_of(row)
            change = Change(ChangeKind.MOVED, moved, source)
            self._commit_step(reconciler, row, change, step, path, new_path)
            return moved

    def _move_step(
        self, reconciler: Reconciler, path: DiskPath, target: Key
    ) -> tuple[DiskPath, AbstractContextManager[os.stat_result | None]]:
        """Return the new path of the file, and the file step."""
        wanted = path_at(target)
        if self.disk.actual_path(wanted) == path and is_equivalent(path[:-1], wanted[:-1]):
            return (*path[:-1], wanted[-1]), self.disk.renamed_in_place(path, wanted[-1])
        new_path = reconciler.new_path(target)
        return new_path, self.disk.moved(path, new_path)

    def _commit_step(
        self,
        reconciler: Reconciler,
        row: MediaRow,
        change: Change,
        step: AbstractContextManager[os.stat_result | None],
        *paths: DiskPath,
    ) -> None:
        """Take the file step, record the status that it gave the file, and commit."""
        folders = self._scanner.big_unchanged_folders(*paths)
        with step as status:
            self._scanner.accept_own_change(folders)
            if status is not None:
                record_stat_after_step(row, FileStat.of(status), self.disk.device_of(status))
                reconciler.session.flush()
            reconciler.commit_step(row, change)

    def with_reserve(self, step: Callable[[], T]) -> T:
        """Call the step, and if the disk is full, call it again with the reserved space released.

        Users delete files to free space, and reading and moving need none, so these must not fail for lack
        of it.
        """
        try:
            return step()
        except OutOfSpace:
            with self.disk.release_reserve():
                self.database.checkpoint()
                return step()

    def undo_interrupted_move(self) -> None:
        """Undo a move that a crash interrupted; must be called before files are read."""
        if self.disk.is_moving():
            with self.reconciling():
                pass

    @contextmanager
    def reconciling(self) -> Iterator[Reconciler]:
        """Yield a Reconciler that holds the write lock. Publishes the changes of other programs that it
        committed, even if the body fails afterwards."""
        with ExitStack() as publishing, self.database.writing() as session, self._file_lock():
            reconciler = Reconciler(
                self.database,
                session,
                self.disk,
                ignored=self._ignored,
                check_volume=self._check_volume,
                limits=self._limits,
            )
            publishing.callback(self._publish, reconciler)
            self.disk.undo_interrupted_move()
            yield reconciler
            reconciler.check_outcome()

    def _file_lock(self) -> AbstractContextManager[None]:
        # If the connection of a writer is lost, the next one may begin before its file step ends.
        return nullcontext() if self.database.keeps_lock else self.disk.locked(LOCK_TIMEOUT_S)

    def _publish(self, reconciler: Reconciler) -> None:
        if reconciler.committed and (reconciler.changes or reconciler.has_doubts):
            for change in reconciler.changes:
                if change.kind in (ChangeKind.DELETED, ChangeKind.MOVED):
                    self._scanner.forget_parents(change.previous or change.info.key)
            self._feed.publish_threadsafe(reconciler.changes, unverified=True)

    def _existing_row(self, reconciler: Reconciler, key: Key) -> MediaRow:
        row = reconciler.reconcile(key)
        if row is None:
            reconciler.commit()
            raise NotFound(_NO_FILE)
        return row


class _Details(TypedDict):
    """Arguments that every commit of an upload has."""

    sha256: str
    content_type: str
    expect: Expectation
    is_utf8: bool | None


@contextmanager
def _staged(disk: Disk, data: bytes) -> Iterator[StagedFile]:
    staged = disk.stage()
    try:
        staged.write(data)
        yield staged
    finally:
        staged.discard()


def _sealed(staged: StagedFile, size: int) -> FileStat:
    """Make the bytes durable and return the status. Raises StorageUnavailable unless all are there."""
    stat = staged.seal()
    if stat.size != size:
        raise StorageUnavailable("The disk has lost a part of the upload. Upload the file again.")
    return stat


@contextmanager
def _naming(key: Key) -> Iterator[None]:
    """Name the path of the key in an error about it; the disk names one segment."""
    try:
        yield
    except AlreadyExists as error:
        raise already_exists(key) from error
    except PathConflict as error:
        raise path_conflict(key, str(error)) from error

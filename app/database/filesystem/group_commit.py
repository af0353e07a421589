"""Small uploads, of which those that wait at the same time are committed together.

Each thread stages its own file. The one that gets the turn to write takes all that wait: one BEGIN, a file
step for each, one fsync for each folder, one COMMIT. The group stores only files whose name is free on the
disk and in the database, or whose row and file agree. All others are left to a commit of their own, which
reconciles, and reports what is wrong.
"""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import FileIdentity, FileStat, Match, compare
from app.database.filesystem.posix import DiskPath, map_os_errors
from app.database.filesystem.rows import (
    check_row,
    looks_alike,
    path_at,
    place_without_words,
    record_stat_after_step,
    record_upload,
    stat_of,
    version_of,
)
from app.database.filesystem.scanner import Scanner
from app.database.filesystem.staging import StagedFile
from app.database.sql.engine import Database, OutcomeUnknown
from app.database.sql.plain_statements import FileStatements
from app.database.sql.schema import MediaRow, info_of
from app.http.dates import modification_date
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.search_tokens import tokenize
from app.storage.types import Change, ChangeKind, Committed, Expectation, Key


class _Alone(StorageError):
    """This upload needs a commit of its own."""


@dataclass(eq=False, slots=True)
class SmallUpload:
    """A sealed file, and the outcome of its commit: `committed`, `error`, or neither if it must go alone."""

    key: Key
    staged: StagedFile
    stat: FileStat
    sha256: str
    content_type: str
    expect: Expectation
    is_utf8: bool | None
    committed: Committed | None = None
    error: Exception | None = None
    has_ended: bool = False


@dataclass(eq=False, slots=True)
class _Placed:
    """An upload after its file step."""

    upload: SmallUpload
    row: MediaRow
    change: Change
    step: ExitStack
    """Undoes the file step if it exits with an exception."""

    def keep(self) -> None:
        with suppress(StorageError):  # a second name in the staging folder may remain, until a sweep
            self.step.close()

    def undo(self, error: BaseException) -> None:
        # If that fails too, the next reconciliation updates the row to what is on the disk.
        with suppress(StorageError):
            self.step.__exit__(type(error), error, error.__traceback__)


class _Group:
    """Uploads with different keys that one transaction commits."""

    def __init__(self, uploads: list[SmallUpload]) -> None:
        self.uploads = uploads
        self.has_begun = False
        self.placed: list[_Placed] = []
        self._folders: dict[tuple[DiskPath, int], int] = {}

    def sync_later(self, path: DiskPath, folder: int) -> None:
        """Make the folder at the path durable in `sync`."""
        # Another program may have removed the folder that the upload before found there.
        place = path, os.fstat(folder).st_ino
        if place not in self._folders:
            self._folders[place] = os.dup(folder)

    def sync(self) -> None:
        """Make the folders durable. The uploads into one that fails are undone; its error is theirs."""
        for (path, _), folder in self._folders.items():
            try:
                with map_os_errors():
                    os.fsync(folder)
            except StorageError as error:
                failed = [each for each in self.placed if path_at(each.upload.key)[:-1] == path]
                self.placed = [each for each in self.placed if each not in failed]
                for each in reversed(failed):
                    each.upload.error = error
                    each.undo(error)

    def undo(self, error: BaseException) -> None:
        for each in reversed(self.placed):
            each.undo(error)

    def close(self) -> None:
        for folder in self._folders.values():
            os.close(folder)


class GroupCommit:
    """Commits small uploads. Thread-safe; `file_lock` excludes the file steps of other processes."""

    def __init__(
        self,
        database: Database,
        disk: Disk,
        scanner: Scanner,
        ignored: IgnoredNames,
        file_lock: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._disk = disk
        self._scanner = scanner
        self._ignored = ignored
        self._file_lock = file_lock
        self._statements = FileStatements(database.engine.dialect)
        self._lock = threading.Lock()
        self._waiting: list[SmallUpload] = []

    @property
    def waiting(self) -> int:
        """The number of uploads that no group has taken yet."""
        return len(self._waiting)

    def commit(self, upload: SmallUpload) -> Committed | None:
        """Return when the upload is durable. Returns None if it must be staged again and committed alone.

        Raises AlreadyExists, VersionMismatch, StorageUnavailable, OutOfSpace.
        """
        with self._lock:
            self._waiting.append(upload)
        try:
            with self._database.turn():
                if not upload.has_ended:
                    self._commit_waiting()
        except StorageUnavailable:
            if self._withdraw(upload):
                raise
            while not upload.has_ended:  # a group has taken it, whose own limits of time apply
                with suppress(StorageUnavailable), self._database.turn():
                    pass
        if upload.error is not None:
            raise copy(upload.error) from upload.error  # which other threads raise too
        return upload.committed

    def _withdraw(self, upload: SmallUpload) -> bool:
        """Give up waiting. Return False if a group has taken the upload."""
        with self._lock:
            is_waiting = upload in self._waiting
            if is_waiting:
                self._waiting.remove(upload)
        return is_waiting

    def _commit_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        # Of several with one key, one is in the group: the step of each must be undone without the others.
        group = _Group(list({upload.key: upload for upload in waiting}.values()))
        try:
            self._commit_group(group)
        except Exception as error:
            # Once the transaction has begun, one of the uploads may be the reason: each tries alone.
            if len(group.uploads) == 1 or not group.has_begun or isinstance(error, OutcomeUnknown):
                for upload in group.uploads:
                    upload.error = upload.error or error
        finally:
            group.close()
            for upload in waiting:
                upload.has_ended = True

    def _commit_group(self, group: _Group) -> None:
        with self._database.writing_plainly() as connection, self._file_lock():
            group.has_begun = True
            self._disk.undo_interrupted_move()
            try:
                self._take_steps(group, self._statements.cursor(connection))
                self._commit_rows(group, connection)
            except OutcomeUnknown:
                # The files are as after the change, and the next reconciliation updates the rows.
                for each in group.placed:
                    each.keep()
                raise
            except BaseException as error:
                group.undo(error)
                raise
            for each in group.placed:
                each.upload.committed = Committed(each.change.info, each.change.kind is ChangeKind.CREATED)
                each.keep()

    def _take_steps(self, group: _Group, cursor: Any) -> None:
        """Give each file its name, durably, and write its row."""
        paths = [path_at(upload.key) for upload in group.uploads]
        folders = self._scanner.big_unchanged_folders(*paths)
        for upload, path in zip(group.uploads, paths, strict=True):
            with suppress(StorageError):  # its own commit reports it
                self._place(group, upload, path, cursor)
        group.sync()
        self._scanner.accept_own_change(folders)
        for each in group.placed:
            if each.change.kind is ChangeKind.CREATED:
                self._statements.add(cursor, each.row, tokenize(each.row.filename))
            else:
                self._statements.replace(cursor, each.row)

    def _place(self, group: _Group, upload: SmallUpload, path: DiskPath, cursor: Any) -> None:
        """Take the file step of an upload. Raises StorageError if it must go alone."""
        row = self._statements.find(cursor, upload.key)
        now = datetime.now(UTC)
        if row is None:
            kind, take = ChangeKind.CREATED, self._disk.created
            row = self._new_row(upload, path, cursor, now)
        else:
            kind, take = ChangeKind.REPLACED, self._disk.replaced
            if not self._is_current(row, path):
                raise _Alone
            try:
                check_row(upload.key, row, upload.expect)
            except StorageError as error:
                upload.error = error
                raise
            if looks_alike(row, upload.stat):
                upload.stat = upload.staged.seal_after(row.mtime_ns)
        record_upload(
            row,
            upload.stat,
            sha256=upload.sha256,
            content_type=upload.content_type,
            is_utf8=upload.is_utf8,
            updated_at=modification_date(now, row.updated_at, now),
        )
        step = ExitStack()
        status = step.enter_context(take(upload.staged, path, partial(group.sync_later, path[:-1])))
        group.placed.append(_Placed(upload, row, Change(kind, info_of(row)), step))
        if status is not None:
            record_stat_after_step(row, FileStat.of(status), self._disk.device_of(status))

    def _new_row(self, upload: SmallUpload, path: DiskPath, cursor: Any, now: datetime) -> MediaRow:
        """Return a row for a file whose name nothing has, nor an equivalent one. Raises _Alone."""
        is_expected = isinstance(upload.expect, str)
        if (
            is_expected
            or self._statements.has_odd_names(cursor, upload.key.library)
            or self._disk.actual_path(path) != path
        ):
            raise _Alone
        row = MediaRow(id=uuid4().hex, created_at=now)
        place_without_words(row, upload.key, path, self._ignored)
        return row

    def _is_current(self, row: MediaRow, path: DiskPath) -> bool:
        """Return whether the row describes the file at the path."""
        if row.disk_path is not None:
            return False
        status = self._disk.status(path)
        if status is None:
            return False
        found = FileIdentity(FileStat.of(status), self._disk.device_of(status))
        return compare(FileIdentity(stat_of(row), row.device), found) is Match.SAME

    def _commit_rows(self, group: _Group, connection: Connection) -> None:
        if not group.placed:
            return
        self._database.notify(connection, [each.change for each in group.placed])

        def were_made(session: Session) -> bool:
            rows = ((each.row, session.get(MediaRow, each.row.id)) for each in group.placed)
            return all(row is not None and version_of(row) == version_of(made) for made, row in rows)

        self._database.commit(connection, were_made)

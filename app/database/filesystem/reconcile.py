"""Reconciliation of rows with files. The file system is the source of truth; the database is an index."""

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import or_, select, union_all
from sqlalchemy.orm import Session

from app.database.filesystem import Limits
from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import TICK_S, FileIdentity, FileStat, Match, compare
from app.database.filesystem.name_equivalence import check_exact_name, is_equivalent
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.rows import (
    find,
    path_at,
    path_of,
    place,
    record_stat,
    set_version,
    stat_of,
    version_of,
)
from app.database.sql.engine import Database, OutcomeUnknown
from app.database.sql.schema import DepartedRow, MediaRow, info_of, key_of
from app.http.dates import modification_date
from app.http.media_types import media_type, media_type_after_rename
from app.storage.errors import PathConflict, Unfinished
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Change, ChangeKind, Key, quoted

OLD_ETAG_ACCEPTED_FOR = timedelta(hours=1)
"""Time for which the provisional ETag of a file is accepted after its hash has restored an earlier one."""

MAX_ETAG = 64

CHANGED_UNSEEN = (
    "%s has other bytes than before, but the same size and time: a program restored the time, or the disk "
    "corrupts files. If the file is damaged, restore it from a backup."
)

log = logging.getLogger(__name__)


class Reconciler:
    """A write transaction in which rows are updated to match their files.

    It needs the write lock: another writer could be between its row and its file step. `changes` are those of
    other programs, which become valid when the transaction commits. `has_doubts` is set if a file must be
    hashed again although it shows no change.
    """

    def __init__(
        self,
        database: Database,
        session: Session,
        disk: Disk,
        *,
        ignored: IgnoredNames,
        check_volume: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.session = session
        self.changes: list[Change] = []
        self.committed = False
        self.has_doubts = False
        self._unknown: OutcomeUnknown | None = None
        self._database = database
        self._disk = disk
        self._ignored = ignored
        self._check_volume = check_volume
        self._limits = limits

    def commit(self) -> None:
        self._database.notify(self.session, self.changes)
        self.session.commit()
        self.committed = True

    def commit_step(self, row: MediaRow, change: Change) -> None:
        """Commit a change of the row after its file step.

        The step is not undone if the outcome is unknown; `check_outcome` raises the error then.
        """
        row_id, expected = row.id, None if change.kind is ChangeKind.DELETED else version_of(row)
        self._database.notify(self.session, [*self.changes, change])

        def was_made(session: Session) -> bool:
            found = session.get(MediaRow, row_id)
            return (None if found is None else version_of(found)) == expected

        try:
            self._database.commit(self.session, was_made)
            self.committed = True
        except OutcomeUnknown as error:
            self._unknown = error

    def check_outcome(self) -> None:
        """Raise OutcomeUnknown if `commit_step` could not determine whether the database committed.

        The file is as after the change, and the next reconciliation updates the row.
        """
        if self._unknown is not None:
            raise self._unknown

    def reconcile(self, key: Key, found: DiskPath | None = None) -> MediaRow | None:
        """Return the row of the file at the key, updated; None if there is no file, or an incomplete new one.

        `found` is the path at which a scan found a file of this key. Raises Unfinished if a program is
        writing to a known file, PathConflict if another file than the found one has the key.
        """
        row = find(self.session, key)
        if row is not None:
            known = path_of(row)
            status = self._disk.status(known)
            if status is not None and found is not None:
                known, status = self._correct_path(row, known, status)
                if status is None:  # the file has another name, by which the scan will find it
                    self._remove(row)
                    return None
            if status is not None:
                if found is not None and found != known:
                    raise PathConflict(
                        "Another file has the same name in another Unicode normalization. Rename one of them."
                    )
                return self._update(row, known, status)
            self._remove(row)
        path = found or self._disk.actual_path(path_at(key))
        status = self._disk.status(path) if is_equivalent(path, path_at(key)) else None
        return None if status is None else self._adopt(key, path, status)

    def _correct_path(
        self, row: MediaRow, known: DiskPath, status: os.stat_result
    ) -> tuple[DiskPath, os.stat_result | None]:
        """Return the actual path of a row's file; without a status if it has another name."""
        actual = self._disk.actual_path(known)
        if not is_equivalent(actual, known):
            return known, None
        if actual != known:
            place(row, key_of(row), actual, self._ignored)
            self.session.flush()
        return actual, status

    def new_path(self, key: Key) -> DiskPath:
        """Return the path for a new file. Raises PathConflict."""
        self.check_path_conflicts(key)
        return check_exact_name(path_at(key), self._disk.actual_path(path_at(key)))

    def rename(self, row: MediaRow, key: Key, path: DiskPath) -> None:
        """Give the row the key and the path of its moved file."""
        row.content_type = media_type_after_rename(row.content_type, row.filename, key.filename)
        place(row, key, path, self._ignored)

    def record_hash(self, row: MediaRow, sha256: str, *, is_utf8: bool) -> None:
        """Record the hash and the encoding of the row's bytes."""
        changed = row.sha256 not in (None, sha256)
        if changed:  # other bytes under the same size and time
            now = datetime.now(UTC)
            set_version(row, etag=sha256, sha256=sha256, is_utf8=is_utf8)
            row.updated_at = modification_date(now, row.updated_at, now)
            # From now on a verification reports them as sound, so this is the only warning.
            log.warning(CHANGED_UNSEEN, "/".join(path_of(row)))
        elif row.other_etag is not None and row.other_sha256 == sha256:
            # The file holds the bytes of its earlier version again. Players still send the ETag of that, so
            # make it current; the replaced ETag stays valid for a while.
            accepted = row.etag, datetime.now(UTC) + OLD_ETAG_ACCEPTED_FOR
            set_version(row, etag=row.other_etag, sha256=sha256, is_utf8=is_utf8)
            row.other_etag, row.other_until = accepted
        else:
            changed = self._record_first_hash(row, sha256, is_utf8=is_utf8)
        self.session.flush()
        if changed:
            self._add_change(ChangeKind.REPLACED, row)

    def _record_first_hash(self, row: MediaRow, sha256: str, *, is_utf8: bool) -> bool:
        """Record a hash that contradicts no earlier one. Return whether clients see another version."""
        is_other = row.other_sha256 is not None
        etag, accepted = row.etag, (None, None) if is_other else (row.other_etag, row.other_until)
        if row.doubtful and row.sha256 is None:  # the ETag may be that of other bytes, never hashed
            etag, accepted = sha256, (row.etag, datetime.now(UTC) + OLD_ETAG_ACCEPTED_FOR)
        changed = is_other or etag != row.etag
        set_version(row, etag=etag, sha256=sha256, is_utf8=is_utf8)
        row.other_etag, row.other_until = accepted
        if is_other:
            row.updated_at = _modification_date(row.mtime_ns / 1e9, row.updated_at)
        return changed

    def check_path_conflicts(self, key: Key) -> None:
        """Raise PathConflict if a file has the name of a folder of the key, or a folder has its name.

        Only names in another normalization matter here: the disk itself detects all other conflicts.
        """
        odd = select(MediaRow.id).where(MediaRow.library == key.library, MediaRow.disk_path.is_not(None))
        folders = key.folder.split("/") if key.folder else []
        parents = [
            (MediaRow.folder == "/".join(folders[:depth])) & (MediaRow.filename == folders[depth])
            for depth in range(len(folders))
        ]
        # One index lookup for each: for an OR, SQLite may scan all rows with a `disk_path`.
        taken = union_all(*(odd.where(parent) for parent in parents)).limit(1) if parents else None
        if taken is not None and self.session.scalar(taken) is not None:
            raise PathConflict("One of its folders has the name of a file. Choose another folder.")
        # One range of an index: given two, SQLite may scan all rows. "0" follows "/", and rows between the
        # folder and its content are filtered out.
        inside = MediaRow.folder >= key.path, MediaRow.folder < f"{key.path}0"
        exact = or_(MediaRow.folder == key.path, MediaRow.folder > f"{key.path}/")
        if self.session.scalar(odd.where(*inside, exact).limit(1)) is not None:
            raise PathConflict(f"{quoted(key.filename)} is a folder. Choose another name.")

    def _update(self, row: MediaRow, path: DiskPath, status: os.stat_result) -> MediaRow:
        found = self._identity_of(status)
        match = compare(FileIdentity(stat_of(row), row.device), found)
        if match in (Match.SAME, Match.UNPROVEN):
            self._record_same_inode(row, found)
            return row
        # A file that was moved over another is complete; one that is written in place may just pause.
        if not self._is_complete(path, status, moved_there=row.inode != found.stat.inode):
            raise Unfinished(
                "Another program is still writing the file. Try again when that program has finished."
            )
        before = (row.other_etag, row.other_sha256) if row.other_sha256 else (row.etag, row.sha256)
        kept = row.content_type, row.updated_at
        self._describe(row, status)
        if match is Match.LOOKALIKE and before[1] is not None:
            # The hash may prove that the bytes are the same: a restored backup should keep its dates.
            row.other_etag, row.other_sha256 = before
            row.content_type, row.updated_at = kept
        self.session.flush()
        self._add_change(ChangeKind.REPLACED, row)
        return row

    def _record_same_inode(self, row: MediaRow, found: FileIdentity) -> None:
        """Record the status of the same inode, which must be hashed again if its ctime differs."""
        known = FileIdentity(stat_of(row), row.device)
        if known == found:
            return
        if compare(known, found) is not Match.SAME:
            row.unverified = row.doubtful = self.has_doubts = True
        record_stat(row, found.stat, found.device)
        self.session.flush()

    def _identity_of(self, status: os.stat_result) -> FileIdentity:
        return FileIdentity(FileStat.of(status), self._disk.device_of(status))

    def _adopt(self, key: Key, path: DiskPath, status: os.stat_result) -> MediaRow | None:
        if path != path_at(key):
            self._disk.check_path_conflicts(path_at(key))
        self.check_path_conflicts(key)
        row = self._find_moved(key, path, status)
        if row is not None:
            return row
        # A file that returns is complete: no program is still writing it.
        row = self._restore(key, status)
        if row is None:
            if not self._is_complete(path, status):
                return None
            row = MediaRow(id=uuid4().hex, created_at=datetime.now(UTC), filename=key.filename)
            self._describe(row, status)
        self._record_same_inode(row, self._identity_of(status))
        self.rename(row, key, path)
        self.session.add(row)
        self.session.flush()
        self._add_change(ChangeKind.CREATED, row)
        return row

    def _find_moved(self, key: Key, path: DiskPath, status: os.stat_result) -> MediaRow | None:
        """Return the row of this very file, updated, if it was at another path before."""
        stat = FileStat.of(status)
        query = select(MediaRow).where(
            MediaRow.inode == stat.inode,
            MediaRow.size == stat.size,
            MediaRow.mtime_ns == stat.mtime_ns,
        )
        for row in self.session.scalars(query):
            if row.library == key.library and self._has_left(path_of(row), stat.inode):
                previous = key_of(row)
                self._record_same_inode(row, self._identity_of(status))
                self.rename(row, key, path)
                self.session.flush()
                self._add_change(ChangeKind.MOVED, row, previous)
                return row
        return None

    def _has_left(self, path: DiskPath, inode: int) -> bool:
        """Return whether no entry at exactly this path is the file with this inode."""
        status = self._disk.status(path)
        if status is None or FileStat.of(status).inode != inode:
            return True
        return self._disk.actual_path(path) != path

    def _restore(self, key: Key, status: os.stat_result) -> MediaRow | None:
        """Return a row like that of this very file before it disappeared."""
        stat = FileStat.of(status)
        query = select(DepartedRow).where(
            DepartedRow.inode == stat.inode,
            DepartedRow.size == stat.size,
            DepartedRow.mtime_ns == stat.mtime_ns,
            DepartedRow.library == key.library,
        )
        departed = self.session.scalars(query.order_by(DepartedRow.departed_at.desc())).first()
        if departed is None:
            return None
        self.session.delete(departed)
        # `_record_same_inode` detects a change meanwhile by the ctime; without one, there is no proof.
        unproven = departed.ctime_ns is None
        unverified = departed.sha256 is None or unproven
        return MediaRow(**departed.shared_values(), unverified=unverified, doubtful=unproven)

    def _remove(self, row: MediaRow) -> None:
        """Delete the row of a missing file; keep its values in case the file returns."""
        self._check_volume()  # in a wrong folder every file would be missing
        known = row.shared_values() | ({"ctime_ns": None} if row.doubtful else {})
        self.session.merge(DepartedRow(**known, departed_at=datetime.now(UTC)))
        self._add_change(ChangeKind.DELETED, row)
        self.session.delete(row)
        self.session.flush()

    def _describe(self, row: MediaRow, status: os.stat_result) -> None:
        """Record a version with the bytes of this status, which are yet to be hashed."""
        record_stat(row, FileStat.of(status), self._disk.device_of(status))
        row.content_type = media_type(None, row.filename)
        # Clients would have to wait for a hash of all bytes, so the ETag is made from the status.
        set_version(row, etag=etag_of(status), sha256=None, is_utf8=None)
        row.doubtful = stat_of(row).ambiguous_for_s(time.time_ns()) > 0
        row.updated_at = _modification_date(status.st_mtime, row.updated_at)

    def _is_complete(self, path: DiskPath, status: os.stat_result, *, moved_there: bool = False) -> bool:
        age_s = _age_s(status)
        if not 0 <= age_s < max(self._limits.written_for_s, self._limits.stable_after_s):
            return True
        ambiguous_s = FileStat.of(status).ambiguous_for_s(time.time_ns())
        if ambiguous_s <= TICK_S:  # otherwise the row is marked doubtful, and clients need not wait so long
            time.sleep(ambiguous_s)
        return is_complete(
            age_s,
            self._disk.has_writer(path, status),
            moved_there=moved_there,
            stable_after_s=self._limits.stable_after_s,
            written_for_s=self._limits.written_for_s,
        )

    def _add_change(self, kind: ChangeKind, row: MediaRow, previous: Key | None = None) -> None:
        self.changes.append(Change(kind, info_of(row), previous))


def _modification_date(mtime: float, previous: datetime | None) -> datetime:
    now = datetime.now(UTC)
    date = datetime.fromtimestamp(max(0, min(mtime, now.timestamp())), UTC)
    return modification_date(date, previous, now)


def is_complete(
    age_s: float,
    has_writer: bool | None,
    *,
    moved_there: bool,
    stable_after_s: float,
    written_for_s: float,
) -> bool:
    """Return whether a file that changed so many seconds ago counts as complete.

    `has_writer` is None if unknown. A file that was moved over another was complete before.
    """
    if has_writer:
        return age_s >= written_for_s
    return has_writer is False or moved_there or age_s >= stable_after_s


def etag_of(status: os.stat_result) -> str:
    """Return the ETag of a file whose hash is unknown.

    No other file has it, nor this one after a change: every change alters the ctime, which cannot be set.
    """
    numbers = status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size
    return "-".join(f"{number:x}" for number in numbers)[-MAX_ETAG:]


def _age_s(status: os.stat_result) -> float:
    """Return the seconds since the last change; negative if the clock was set back, which must not hide
    files."""
    return (time.time_ns() - status.st_ctime_ns) / 1e9

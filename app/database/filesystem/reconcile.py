"""Making rows say what files are: the file system decides, the database remembers."""

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import or_, select, union_all
from sqlalchemy.orm import Session

from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import TICK_S, FileIdentity, FileStat, Match, compare
from app.database.filesystem.name_equivalence import check_exact_name, is_equivalent
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.rows import (
    be_version,
    find,
    info_of,
    key_of,
    path_at,
    path_of,
    place,
    record_stat,
    stat_of,
)
from app.database.sql.engine import Database, OutcomeUnknown
from app.database.sql.schema import Departed, Media
from app.http.dates import modification_date
from app.http.media_types import media_type, media_type_after_rename
from app.storage.errors import PathConflict, Unfinished
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Change, ChangeKind, Key

STABLE_AFTER_S = 2
"""A file that is new, or changed in place, is taken for finished when it has been still for so long, where
the system cannot tell whether a program has it open for writing."""

WRITTEN_FOR_S = 60
"""A file that is open for writing is taken for finished when it has not changed for so long: some programs
never close what they wrote."""


ACCEPTED_FOR = timedelta(hours=1)
"""How long the ETag is accepted that a file had until the hash proved its bytes to be those of before."""

MAX_ETAG = 64

CHANGED_UNSEEN = (
    "%s has other bytes than before, and the same size and time: a program put the time back, or the disk "
    "damages files. If it is damaged, restore it from a backup."
)

_log = logging.getLogger("seekable")


class Reconciler:
    """One transaction of the one writer, in which rows are made to say what files are.

    Only the one writer may do this: others could be between their row and their file step. `changes` are
    those that nobody asked for; they are true once the transaction is committed. `has_doubts` is whether a
    file is to be hashed again although nothing else is known to have become of it.
    """

    def __init__(
        self,
        database: Database,
        session: Session,
        files: Disk,
        *,
        ignored: IgnoredNames,
        check_volume: Callable[[], None],
    ) -> None:
        self.session = session
        self.changes: list[Change] = []
        self.committed = False
        self.has_doubts = False
        self._unknown: OutcomeUnknown | None = None
        self._database = database
        self._disk = files
        self._ignored = ignored
        self._check_volume = check_volume

    def commit(self) -> None:
        self._database.notify(self.session, self.changes)
        self.session.commit()
        self.committed = True

    def commit_step(self, row: Media, change: Change) -> None:
        """Commit the change of the row, whose file step is taken. It stays taken if nobody knows whether
        this was committed; `check_outcome` says so then."""
        identity, wanted = row.id, None if change.kind is ChangeKind.DELETED else _facts(row)
        self._database.notify(self.session, [*self.changes, change])

        def was_made(session: Session) -> bool:
            found = session.get(Media, identity)
            return (None if found is None else _facts(found)) == wanted

        try:
            self._database.commit(self.session, was_made)
            self.committed = True
        except OutcomeUnknown as error:
            self._unknown = error

    def check_outcome(self) -> None:
        """Raise OutcomeUnknown if nobody knows whether the step was committed. Its file is as it would be:
        the next look at it makes the row agree."""
        if self._unknown is not None:
            raise self._unknown

    def reconcile(self, key: Key, found: DiskPath | None = None) -> Media | None:
        """The row of the file at the key; None when there is none, or a new one that is being written.

        `found` is where a file of this key was found on the disk. Raises Unfinished while a known
        file is being written over, PathConflict when another file than the one found has the key.
        """
        row = find(self.session, key)
        if row is not None:
            known = path_of(row)
            status = self._disk.status(known)
            if status is not None and found is not None:
                known, status = self._as_spelled(row, known, status)
                if status is None:  # the file has another name, with which it will be found
                    self._forget(row)
                    return None
            if status is not None:
                if found is not None and found != known:
                    raise PathConflict("Another file has the same name but for its Unicode normalisation.")
                return self._compare(row, known, status)
            self._forget(row)
        path = found or self._disk.actual_path(path_at(key))
        status = self._disk.status(path) if is_equivalent(path, path_at(key)) else None
        return None if status is None else self._adopt(key, path, status)

    def _as_spelled(
        self, row: Media, known: DiskPath, status: os.stat_result
    ) -> tuple[DiskPath, os.stat_result | None]:
        """Return the path of a row as it is spelled on the disk; no status where that is another name."""
        actual = self._disk.actual_path(known)
        if not is_equivalent(actual, known):
            return known, None
        if actual != known:
            place(row, key_of(row), actual, self._ignored)
            self.session.flush()
        return actual, status

    def place_of(self, key: Key) -> DiskPath:
        """Return the path of a file that is new at the key. Raises PathConflict."""
        self.check_path_conflicts(key)
        return check_exact_name(path_at(key), self._disk.actual_path(path_at(key)))

    def rename(self, row: Media, key: Key, path: DiskPath) -> None:
        """Let the row speak of the file at another path."""
        row.content_type = media_type_after_rename(row.content_type, row.filename, key.filename)
        place(row, key, path, self._ignored)

    def hashed(self, row: Media, sha256: str, *, is_utf8: bool) -> None:
        """Record the hash and the encoding of the bytes that the row speaks of."""
        changed = row.sha256 not in (None, sha256)
        if changed:  # other bytes under the size and time of those that were there before
            now = datetime.now(UTC)
            be_version(row, etag=sha256, sha256=sha256, is_utf8=is_utf8)
            row.updated_at = modification_date(now, row.updated_at, now)
            _log.warning(
                CHANGED_UNSEEN, "/".join(path_of(row))
            )  # a verification finds them sound from now on
        elif row.other_etag is not None and row.other_sha256 == sha256:
            # The bytes of the version before, whose ETag players still send.
            accepted = row.etag, datetime.now(UTC) + ACCEPTED_FOR
            be_version(row, etag=row.other_etag, sha256=sha256, is_utf8=is_utf8)
            row.other_etag, row.other_until = accepted
        else:
            changed = self._first_hashed(row, sha256, is_utf8=is_utf8)
        self.session.flush()
        if changed:
            self._note(ChangeKind.REPLACED, row)

    def _first_hashed(self, row: Media, sha256: str, *, is_utf8: bool) -> bool:
        """Record a hash that no earlier one contradicts. Return whether clients see another version."""
        is_other = row.other_sha256 is not None
        etag, accepted = row.etag, (None, None) if is_other else (row.other_etag, row.other_until)
        if (
            row.doubtful and row.sha256 is None
        ):  # the ETag is of bytes that were never hashed, perhaps of others
            etag, accepted = sha256, (row.etag, datetime.now(UTC) + ACCEPTED_FOR)
        changed = is_other or etag != row.etag
        be_version(row, etag=etag, sha256=sha256, is_utf8=is_utf8)
        row.other_etag, row.other_until = accepted
        if is_other:
            row.updated_at = _modified_at(row.mtime_ns / 1e9, row.updated_at)
        return changed

    def check_path_conflicts(self, key: Key) -> None:
        """Raise PathConflict when a file cannot have this key because of the name of a folder or file that
        only normalisation makes the same: the disk would take them for two."""
        odd = select(Media.id).where(Media.library == key.library, Media.disk_path.is_not(None))
        folders = key.folder.split("/") if key.folder else []
        above = [
            (Media.folder == "/".join(folders[:depth])) & (Media.filename == folders[depth])
            for depth in range(len(folders))
        ]
        # One look into an index for each: SQLite may take an "or" for a reason to look at all that are odd.
        taken = union_all(*(odd.where(one) for one in above)).limit(1) if above else None
        if taken is not None and self.session.scalar(taken) is not None:
            raise PathConflict("One of its folders has the name of a file.")
        # One range of an index: given two, SQLite may look at all files. "0" comes right after "/", and what
        # lies between the folder and its inside is passed over.
        inside = Media.folder >= key.path, Media.folder < f"{key.path}0"
        meant = or_(Media.folder == key.path, Media.folder > f"{key.path}/")
        if self.session.scalar(odd.where(*inside, meant).limit(1)) is not None:
            raise PathConflict(f"{key.filename!r} is a folder, so that no file can have that name.")

    def _compare(self, row: Media, path: DiskPath, status: os.stat_result) -> Media:
        found = self._identity(status)
        like = compare(FileIdentity(stat_of(row), row.device), found)
        if like in (Match.SAME, Match.UNPROVEN):
            self._renew(row, found)
            return row
        # A file that was moved over another one is whole; one that is written in place may pause.
        if not self._is_finished(path, status, moved_there=row.inode != found.signature.inode):
            raise Unfinished("The file is being written; try again when that is done.")
        before = (row.other_etag, row.other_sha256) if row.other_sha256 else (row.etag, row.sha256)
        kept = row.content_type, row.updated_at
        self._describe(row, status)
        if like is Match.LOOKALIKE and before[1] is not None:
            # What is known stays until the hash proves otherwise: a restored backup keeps its dates, too.
            row.other_etag, row.other_sha256 = before
            row.content_type, row.updated_at = kept
        self.session.flush()
        self._note(ChangeKind.REPLACED, row)
        return row

    def _renew(self, row: Media, found: FileIdentity) -> None:
        """Let the row speak of the same inode, to which something may have happened."""
        known = FileIdentity(stat_of(row), row.device)
        if known == found:
            return
        if compare(known, found) is not Match.SAME:
            row.unverified = row.doubtful = self.has_doubts = True
        record_stat(row, found.signature, found.device)
        self.session.flush()

    def _identity(self, status: os.stat_result) -> FileIdentity:
        return FileIdentity(FileStat.of(status), self._disk.device_of(status))

    def _adopt(self, key: Key, path: DiskPath, status: os.stat_result) -> Media | None:
        if path != path_at(key):
            self._disk.check_path_conflicts(path_at(key))
        self.check_path_conflicts(key)
        row = self._moved(key, path, status)
        if row is not None:
            return row
        # A file that is known is no new one that somebody may still be writing.
        row = self._returned(key, status)
        if row is None:
            if not self._is_finished(path, status):
                return None
            row = Media(id=uuid4().hex, created_at=datetime.now(UTC), filename=key.filename)
            self._describe(row, status)
        self._renew(row, self._identity(status))
        self.rename(row, key, path)
        self.session.add(row)
        self.session.flush()
        self._note(ChangeKind.CREATED, row)
        return row

    def _moved(self, key: Key, path: DiskPath, status: os.stat_result) -> Media | None:
        """The row of this very file, if it was at another path until now."""
        signature = FileStat.of(status)
        query = select(Media).where(
            Media.inode == signature.inode,
            Media.size == signature.size,
            Media.mtime_ns == signature.mtime_ns,
        )
        for row in self.session.scalars(query):
            if row.library != key.library:
                continue
            there = self._disk.status(path_of(row))
            if (
                there is None
                or FileStat.of(there).inode != signature.inode
                or self._disk.actual_path(path_of(row))
                != path_of(row)  # one file under another name of its own
            ):
                previous = key_of(row)
                self._renew(row, self._identity(status))
                self.rename(row, key, path)
                self.session.flush()
                self._note(ChangeKind.MOVED, row, previous)
                return row
        return None

    def _returned(self, key: Key, status: os.stat_result) -> Media | None:
        """What was known of this very file when it went away."""
        signature = FileStat.of(status)
        query = select(Departed).where(
            Departed.inode == signature.inode,
            Departed.size == signature.size,
            Departed.mtime_ns == signature.mtime_ns,
            Departed.library == key.library,
        )
        departed = self.session.scalars(query.order_by(Departed.departed_at.desc())).first()
        if departed is None:
            return None
        self.session.delete(departed)
        # If it was touched meanwhile, `_renew` sees that by its ctime. An unknown one proves nothing.
        unproven = departed.ctime_ns is None
        unverified = departed.sha256 is None or unproven
        return Media(**departed.known(), unverified=unverified, doubtful=unproven)

    def _forget(self, row: Media) -> None:
        """Its file is gone."""
        self._check_volume()  # the right folder, or every row would seem to have lost its file
        known = row.known() | ({"ctime_ns": None} if row.doubtful else {})
        self.session.merge(Departed(**known, departed_at=datetime.now(UTC)))
        self._note(ChangeKind.DELETED, row)
        self.session.delete(row)
        self.session.flush()

    def _describe(self, row: Media, status: os.stat_result) -> None:
        """Let the row speak of these bytes, which are to be hashed."""
        record_stat(row, FileStat.of(status), self._disk.device_of(status))
        row.content_type = media_type(None, row.filename)
        # Reading it all to hash it would keep clients waiting, so its version comes from its identity.
        be_version(row, etag=etag_of(status), sha256=None, is_utf8=None)
        row.doubtful = stat_of(row).ambiguous_for_s(time.time_ns()) > 0
        row.updated_at = _modified_at(status.st_mtime, row.updated_at)

    def _is_finished(self, path: DiskPath, status: os.stat_result, *, moved_there: bool = False) -> bool:
        age_s = _age_s(status)
        if not 0 <= age_s < WRITTEN_FOR_S:
            return True
        unsure_s = FileStat.of(status).ambiguous_for_s(time.time_ns())
        if unsure_s <= TICK_S:  # else the file is doubtful: clients need not wait so long
            time.sleep(unsure_s)
        return is_finished(age_s, self._disk.has_writer(path, status), moved_there=moved_there)

    def _note(self, kind: ChangeKind, row: Media, previous: Key | None = None) -> None:
        self.changes.append(Change(kind, info_of(row), previous))


def _facts(row: Media) -> tuple[object, ...]:
    """What tells the row of one version at one place from all others."""
    return key_of(row), path_of(row), stat_of(row), row.etag, row.updated_at


def _modified_at(mtime: float, previous: datetime | None) -> datetime:
    now = datetime.now(UTC)
    return modification_date(datetime.fromtimestamp(max(0, min(mtime, now.timestamp())), UTC), previous, now)


def is_finished(age_s: float, has_writer: bool | None, *, moved_there: bool) -> bool:
    """Return whether a file may be taken for whole that changed so many seconds ago.

    `has_writer` is None where the system cannot tell. A file that was moved over another was whole before.
    """
    if has_writer:
        return age_s >= WRITTEN_FOR_S
    return has_writer is False or moved_there or age_s >= STABLE_AFTER_S


def etag_of(status: os.stat_result) -> str:
    """Return the version of a file whose hash is not known. No other file, and no later state of this one,
    has it: every change of a file changes its ctime, which no program can set."""
    numbers = status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size
    return "-".join(f"{number:x}" for number in numbers)[-MAX_ETAG:]


def _age_s(status: os.stat_result) -> float:
    """How long the file has been as it is, in seconds; below 0 if the clock was set back, which must not
    hide files."""
    return (time.time_ns() - status.st_ctime_ns) / 1e9

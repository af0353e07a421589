"""Making rows say what files are: the file system decides, the database remembers."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import or_, select, union_all
from sqlalchemy.orm import Session

from app.database.rules import type_after_move
from app.database.sql.engine import Database, OutcomeUnknown
from app.database.sql.rows import (
    find,
    info_of,
    key_of,
    looks_alike,
    path_at,
    path_of,
    place,
    sign,
    signature_of,
)
from app.database.sql.tables import Departed, Media
from app.storage.disk import Disk
from app.storage.errors import PathConflict, Unfinished
from app.storage.folders import Segments
from app.storage.ignored import Ignored
from app.storage.spelling import check_spelling, is_same
from app.storage.staging import Signature
from app.storage.types import Change, Key, Kind

STABLE_AFTER_S = 2
"""A file that is new, or changed in place, is taken for finished when it has been still for so long."""

WRITTEN_FOR_S = 60
"""A file that is open for writing is taken for finished when it has not changed for so long: some programs
never close what they wrote."""


class Settling:
    """One transaction of the one writer, in which rows are made to say what files are.

    Only the one writer may do this: others could be between their row and their file step. `changes` are
    those that nobody asked for; they are true once the transaction is committed.
    """

    def __init__(
        self,
        database: Database,
        session: Session,
        files: Disk,
        *,
        media_type: Callable[[str], str],
        ignored: Ignored,
        check_volume: Callable[[], None],
    ) -> None:
        self.session = session
        self.changes: list[Change] = []
        self.committed = False
        self._unknown: OutcomeUnknown | None = None
        self._database = database
        self._disk = files
        self._media_type = media_type
        self._ignored = ignored
        self._check_volume = check_volume

    def commit(self) -> None:
        self._database.tell(self.session, self.changes)
        self.session.commit()
        self.committed = True

    def commit_step(self, row: Media, change: Change) -> None:
        """Commit the change of the row, whose file step is taken. It stays taken if nobody knows whether
        this was committed; `check_outcome` says so then."""
        identity, wanted = row.id, None if change.kind is Kind.DELETED else _facts(row)
        self._database.tell(self.session, [*self.changes, change])

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

    def settle(self, key: Key, found: Segments | None = None) -> Media | None:
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
        path = found or self._disk.spelled(path_at(key))
        status = self._disk.status(path) if is_same(path, path_at(key)) else None
        return None if status is None else self._adopt(key, path, status)

    def _as_spelled(
        self, row: Media, known: Segments, status: os.stat_result
    ) -> tuple[Segments, os.stat_result | None]:
        """Return the path of a row as it is spelled on the disk; no status where that is another name."""
        actual = self._disk.spelled(known)
        if not is_same(actual, known):
            return known, None
        if actual != known:
            place(row, key_of(row), actual, self._ignored)
            self.session.flush()
        return actual, status

    def place_of(self, key: Key) -> Segments:
        """Return the path of a file that is new at the key. Raises PathConflict."""
        self.check_room(key)
        return check_spelling(path_at(key), self._disk.spelled(path_at(key)))

    def rename(self, row: Media, key: Key, path: Segments) -> None:
        """Let the row speak of the file at another path."""
        row.content_type = type_after_move(row.content_type, row.filename, key.filename, self._media_type)
        place(row, key, path, self._ignored)

    def hashed(self, row: Media, sha256: str, *, is_utf8: bool) -> None:
        """Record the hash and the encoding of the bytes that the row speaks of."""
        changed = row.sha256 not in (None, sha256)
        row.sha256, row.unverified, row.is_utf8 = sha256, False, is_utf8
        if changed:  # other bytes under the size and time of those that were there before
            row.etag, row.updated_at = sha256, datetime.now(UTC)
        self.session.flush()
        if changed:
            self._note(Kind.REPLACED, row)

    def check_room(self, key: Key) -> None:
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

    def _compare(self, row: Media, path: Segments, status: os.stat_result) -> Media:
        signature = Signature.of(status)
        if looks_alike(row, signature):
            if row.inode != signature.inode:
                # Another inode alone is a copy that was restored with its times, if it is what it seems.
                row.inode, row.unverified = signature.inode, True
                self.session.flush()
            return row
        # A file that was moved over another one is whole; one that is written in place may pause.
        if self._is_written(path, status) or (row.inode == signature.inode and _is_young(status)):
            raise Unfinished("The file is being written; try again when that is done.")
        self._describe(row, status)
        self.session.flush()
        self._note(Kind.REPLACED, row)
        return row

    def _adopt(self, key: Key, path: Segments, status: os.stat_result) -> Media | None:
        if path != path_at(key):
            self._disk.check_room(path_at(key))
        self.check_room(key)
        row = self._moved(key, path, status)
        if row is not None:
            return row
        # A file that is known is no new one that somebody may still be writing.
        row = self._returned(key, status)
        if row is None:
            if _is_young(status) or self._is_written(path, status):
                return None
            row = Media(id=uuid4().hex, created_at=datetime.now(UTC), filename=key.filename)
            self._describe(row, status)
        sign(row, Signature.of(status))
        self.rename(row, key, path)
        self.session.add(row)
        self.session.flush()
        self._note(Kind.CREATED, row)
        return row

    def _moved(self, key: Key, path: Segments, status: os.stat_result) -> Media | None:
        """The row of this very file, if it was at another path until now."""
        signature = Signature.of(status)
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
                or Signature.of(there).inode != signature.inode
                or self._disk.spelled(path_of(row)) != path_of(row)  # one file under another name of its own
            ):
                previous = key_of(row)
                self.rename(row, key, path)
                self.session.flush()
                self._note(Kind.MOVED, row, previous)
                return row
        return None

    def _returned(self, key: Key, status: os.stat_result) -> Media | None:
        """What was known of this very file when it went away."""
        signature = Signature.of(status)
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
        return Media(**departed.known(), unverified=True)  # nobody knows what became of it meanwhile

    def _forget(self, row: Media) -> None:
        """Its file is gone."""
        self._check_volume()  # the right folder, or every row would seem to have lost its file
        self.session.merge(Departed(**row.known(), departed_at=datetime.now(UTC)))
        self._note(Kind.DELETED, row)
        self.session.delete(row)
        self.session.flush()

    def _describe(self, row: Media, status: os.stat_result) -> None:
        """Let the row speak of these bytes, which nobody has read yet."""
        sign(row, Signature.of(status))
        row.content_type = self._media_type(row.filename)
        # Reading it all to hash it would keep everybody waiting, so its version comes from its signature.
        row.etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
        row.sha256, row.unverified, row.is_utf8 = None, True, None
        # Not in the future, which Last-Modified must not be (RFC 9110 8.8.2.1).
        row.updated_at = datetime.fromtimestamp(max(0, min(status.st_mtime, time.time())), UTC)

    def _is_written(self, path: Segments, status: os.stat_result) -> bool:
        return 0 <= _age_s(status) < WRITTEN_FOR_S and self._disk.is_written(path)

    def _note(self, kind: Kind, row: Media, previous: Key | None = None) -> None:
        self.changes.append(Change(kind, info_of(row), previous))


def _facts(row: Media) -> tuple[object, ...]:
    """What tells the row of one version at one place from all others."""
    return key_of(row), path_of(row), signature_of(row), row.etag, row.updated_at


def _is_young(status: os.stat_result) -> bool:
    """Whether the file changed so shortly ago that it may still be changing."""
    return 0 <= _age_s(status) < STABLE_AFTER_S


def _age_s(status: os.stat_result) -> float:
    """How long the file has been as it is, in seconds; below 0 if the clock was set back, which must not
    hide files."""
    return (time.time_ns() - status.st_ctime_ns) / 1e9

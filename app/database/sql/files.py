"""Stored files as ordinary files, with a row for each in an SQL database.

The file system decides, the database remembers. Every change goes the same way: begin as the only writer,
look again at row and file, write the row, take the file step and bring it to the disk, COMMIT, answer. What
a crash leaves in between is a whole file without a row, or with an old one; the next look settles that.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.sql import pages
from app.database.sql.engine import Database
from app.database.sql.tables import Media, Volume
from app.storage import disk
from app.storage.backend import Writer
from app.storage.disk import Disk
from app.storage.errors import (
    AlreadyExists,
    NotFound,
    OutOfSpace,
    StorageUnavailable,
    VersionMismatch,
)
from app.storage.folders import Segments
from app.storage.staging import Signature, StagedFile
from app.storage.types import (
    RESERVED,
    Address,
    Committed,
    Expect,
    Expectation,
    FileInfo,
    Key,
    Page,
)

T = TypeVar("T")

STABLE_AFTER_S = 2
"""A file without a row is taken for finished when it has not changed for so long."""

_NO_FILE = "There is no such file."


class DiskReader:
    """An open file and what its row said when it was opened."""

    def __init__(self, info: FileInfo, descriptor: int) -> None:
        self.info = info
        self._descriptor = descriptor

    def read(self, start: int, size: int) -> bytes:
        return disk.read(self._descriptor, start, size)

    def read_nowait(self, start: int, size: int) -> bytes | None:
        return disk.read_nowait(self._descriptor, start, size)

    def close(self) -> None:
        os.close(self._descriptor)


class FilesystemBackend:
    """`storage.backend.Backend` over a folder of files and an SQL database.

    `volume` is the id that tells this folder from an empty mount point. `media_type` guesses the type of a
    file that was not uploaded from its name.
    """

    def __init__(
        self, database: Database, files: Disk, *, volume: str, media_type: Callable[[str], str]
    ) -> None:
        self._database = database
        self._disk = files
        self._volume = volume
        self._media_type = media_type

    def open(self, address: Address, *, wait: bool) -> DiskReader | None:
        with self._database.reading() as session:
            row = _find(session, address)
        if row is None and not isinstance(address, Key):
            raise NotFound(_NO_FILE)
        key = _key(row) if row is not None else address
        assert isinstance(key, Key)
        descriptor = self._disk.open(_path(key))
        if descriptor is not None:
            status = os.fstat(descriptor)
            if row is not None and _signature(row) == Signature.of(status):
                return DiskReader(_info(row), descriptor)
            os.close(descriptor)
            if row is None and _is_young(status):
                raise NotFound(_NO_FILE)
        elif row is None:
            raise NotFound(_NO_FILE)
        # They disagree: a change is under way, or was cut short, or somebody worked in the folder by hand.
        return self._with_reserve(lambda: self._open_settled(address)) if wait else None

    def _open_settled(self, address: Address) -> DiskReader:
        with self._database.writing() as session:
            row = _find(session, address)  # again: it may have moved
            key = address if isinstance(address, Key) else _key(row) if row is not None else None
            row = self._settle(session, key) if key is not None else None
            session.commit()
            descriptor = self._disk.open(_path(_key(row))) if row is not None else None
        if row is None or descriptor is None:
            raise NotFound(_NO_FILE)
        return DiskReader(_info(row), descriptor)

    def check(self, key: Key, expect: Expectation) -> None:
        self._disk.check_room(_path(key))
        try:
            reader = self.open(key, wait=True)
        except NotFound:
            if self._disk.status(_path(key)) is None:
                _check(None, expect)
            else:
                self._check_settled(key, expect)
        else:
            assert reader is not None
            reader.close()
            _check(reader.info.etag, expect)

    def _check_settled(self, key: Key, expect: Expectation) -> None:
        # A file without a row: another commit was between the two, or somebody is putting it there.
        with self._database.writing() as session:
            row = self._settle(session, key)
            session.commit()
            if row is None and self._disk.status(_path(key)) is not None:
                raise AlreadyExists("A file of this name is being put there.")
        _check(row.etag if row is not None else None, expect)

    def stage(self, size: int | None) -> StagedFile:
        return self._disk.stage(size)

    def commit(
        self, key: Key, writer: Writer, *, size: int, sha256: str, content_type: str, expect: Expectation
    ) -> Committed:
        assert isinstance(writer, StagedFile)
        signature = writer.seal()
        if signature.size != size:
            raise StorageUnavailable("The disk did not keep all that was written.")
        with self._database.writing() as session:
            row = self._settle(session, key)
            _check(row.etag if row is not None else None, expect)
            if row is not None and _looks_alike(row, signature):
                signature = writer.seal_after(row.mtime_ns)
            now = datetime.now(UTC)
            created = row is None
            if row is None:
                row = Media(id=uuid4().hex, created_at=now)
                _place(row, key)
                session.add(row)
            _sign(row, signature)
            row.content_type, row.sha256, row.etag, row.updated_at = content_type, sha256, sha256, now
            session.flush()
            step = self._disk.created if created else self._disk.replaced
            with step(writer, _path(key)):
                session.commit()
            return Committed(_info(row), created)

    def delete(self, key: Key, expect: Expectation) -> None:
        self._with_reserve(lambda: self._delete(key, expect))

    def _with_reserve(self, step: Callable[[], T]) -> T:
        # Deleting is how people make room, and reading needs none: neither may fail for want of it.
        try:
            return step()
        except OutOfSpace:
            with self._disk.with_reserve():
                self._database.checkpoint()
                return step()

    def _delete(self, key: Key, expect: Expectation) -> None:
        with self._database.writing() as session:
            row = self._settled(session, key)
            _check(row.etag, expect)
            session.delete(row)
            session.flush()
            with self._disk.removed(_path(key)):
                session.commit()

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        with self._database.writing() as session:
            row = self._settled(session, source)
            _check(row.etag, expect)
            if source != target:
                if self._settle(session, target) is not None:
                    raise AlreadyExists("A file of this name exists.")
                _place(row, target)
                session.flush()
                with self._disk.moved(_path(source), _path(target)):
                    session.commit()
            return _info(row)

    def page(self, library: str, folder: str, *, cursor: str | None, limit: int) -> Page:
        with self._database.reading() as session:
            rows, next_cursor = pages.rows(session, library, folder, cursor=cursor, limit=limit)
            folders = pages.folders(session, library, folder) if cursor is None else ()
        return Page(folders, tuple(map(_info, rows)), next_cursor)

    def ping(self) -> None:
        with self._database.reading() as session:
            if session.scalar(select(Volume.id)) != self._volume:
                raise StorageUnavailable("The database is another one than at the start.")
        self._check_volume()

    def _check_volume(self) -> None:
        if self._disk.volume() != self._volume:
            raise StorageUnavailable("The folder of files is not the one that the database speaks of.")

    def _settled(self, session: Session, key: Key) -> Media:
        row = self._settle(session, key)
        if row is None:
            session.commit()
            raise NotFound(_NO_FILE)
        return row

    def _settle(self, session: Session, key: Key) -> Media | None:
        """Make the row say what the file is; None when there is no file, or one that is being written.

        Only the one writer may do this: others could be between their row and their file step.
        """
        row = _find(session, key)
        status = self._disk.status(_path(key))
        if status is None:
            if row is not None:
                self._check_volume()  # the right folder, or every row would seem to have lost its file
                session.delete(row)
                session.flush()
            return None
        signature = Signature.of(status)
        if row is not None and _looks_alike(row, signature):
            row.inode = signature.inode  # another one alone is a copy that was restored with its times
            session.flush()
            return row
        if row is None:
            if _is_young(status):
                return None
            row = Media(id=uuid4().hex, created_at=datetime.now(UTC))
            _place(row, key)
            session.add(row)
        _sign(row, signature)
        row.content_type = self._media_type(key.filename)
        # Reading it all to hash it would keep everybody waiting, so its version comes from its signature.
        row.etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
        row.sha256 = None
        # Not in the future, which Last-Modified must not be (RFC 9110 8.8.2.1).
        row.updated_at = datetime.fromtimestamp(max(0, min(status.st_mtime, time.time())), UTC)
        session.flush()
        return row


def _path(key: Key) -> Segments:
    segments = tuple(key.path.split("/"))
    # Not beside the shared files, where a library's name could be that of somebody's folder.
    return (RESERVED, "libraries", key.library, *segments) if key.library else segments


def _find(session: Session, address: Address) -> Media | None:
    query = select(Media).where(Media.library == address.library)
    if isinstance(address, Key):
        query = query.where(Media.folder == address.folder, Media.filename == address.filename)
    else:
        query = query.where(Media.id == address.id)
    return session.scalar(query)


def _check(etag: str | None, expect: Expectation) -> None:
    if expect is Expect.ABSENT:
        if etag is not None:
            raise AlreadyExists("A file of this name exists.")
    elif isinstance(expect, str) and etag != expect:
        raise VersionMismatch("The stored file is another version, or gone.")


def _is_young(status: os.stat_result) -> bool:
    return 0 <= time.time_ns() - status.st_ctime_ns < STABLE_AFTER_S * 1_000_000_000


def _signature(row: Media) -> Signature:
    return Signature(row.size, row.mtime_ns, row.inode)


def _looks_alike(row: Media, signature: Signature) -> bool:
    return (row.size, row.mtime_ns) == (signature.size, signature.mtime_ns)


def _sign(row: Media, signature: Signature) -> None:
    row.size, row.mtime_ns, row.inode = signature.size, signature.mtime_ns, signature.inode


def _place(row: Media, key: Key) -> None:
    row.library, row.folder, row.filename = key.library, key.folder, key.filename


def _key(row: Media) -> Key:
    return Key(row.library, row.folder, row.filename)


def _info(row: Media) -> FileInfo:
    return FileInfo(
        id=row.id,
        key=_key(row),
        size=row.size,
        content_type=row.content_type,
        etag=row.etag,
        sha256=row.sha256,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

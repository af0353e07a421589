"""Stored files as ordinary files, with a row for each in an SQL database.

The file system decides, the database remembers. Every change goes the same way: begin as the only writer,
look again at row and file, write the row, take the file step and bring it to the disk, COMMIT, answer. What
a crash leaves in between is a whole file without a row, or with an old one; the next look settles that.
"""

import base64
import binascii
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.sql.engine import Database
from app.database.sql.tables import Media, Volume
from app.storage import disk
from app.storage.backend import Writer
from app.storage.disk import Disk
from app.storage.errors import (
    AlreadyExists,
    InvalidCursor,
    NotFound,
    StorageUnavailable,
    VersionMismatch,
)
from app.storage.folders import Path
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

STABLE_AFTER_S = 2
"""A file without a row is taken for finished when it has not changed for so long."""

MAX_FOLDERS = 1000


class DiskReader:
    """An open file and what its row said when it was opened."""

    def __init__(self, info: FileInfo, descriptor: int) -> None:
        self.info = info
        self._descriptor = descriptor

    def read(self, start: int, size: int) -> bytes:
        return disk.read(self._descriptor, start, size)

    def is_cached(self, start: int, size: int) -> bool:
        return disk.is_cached(self._descriptor, start, size)

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

    def open(self, address: Address) -> DiskReader:
        with self._database.reading() as session:
            row = _find(session, address)
        if row is None and not isinstance(address, Key):
            raise NotFound("There is no such file.")
        key = _key(row) if row is not None else address
        assert isinstance(key, Key)
        descriptor = self._disk.open(_path(key))
        if descriptor is not None:
            if row is not None and _speaks_for(row, Signature.of(os.fstat(descriptor))):
                return DiskReader(_info(row), descriptor)
            os.close(descriptor)
        elif row is None:
            raise NotFound("There is no such file.")
        # They disagree: a change is under way, or was cut short, or somebody worked in the folder by hand.
        return self._open_settled(address, key)

    def _open_settled(self, address: Address, key: Key) -> DiskReader:
        with self._database.writing() as session:
            row = self._settle(session, key)
            session.commit()
            descriptor = self._disk.open(_path(key)) if row is not None else None
        if row is not None and descriptor is not None:
            if isinstance(address, Key) or address.id == row.id:
                return DiskReader(_info(row), descriptor)
            os.close(descriptor)
        raise NotFound("There is no such file.")

    def stat(self, address: Address) -> FileInfo:
        reader = self.open(address)
        reader.close()
        return reader.info

    def check(self, key: Key, expect: Expectation) -> None:
        self._disk.check_room(_path(key))
        try:
            _check(self.stat(key).etag, expect)
        except NotFound:
            if self._disk.status(_path(key)) is None:
                _check(None, expect)
            else:
                self._check_settled(key, expect)

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
        query = select(Media).where(Media.library == library, Media.folder == folder)
        if cursor is not None:
            query = query.where(Media.filename > _decode_cursor(cursor))
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(Media.filename).limit(limit + 1)).all()
            folders = _folders(session, library, folder) if cursor is None else ()
        items = tuple(_info(row) for row in rows[:limit])
        more = len(rows) > limit
        return Page(folders, items, _encode_cursor(items[-1].key.filename) if more else None)

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
            raise NotFound("There is no such file.")
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
        if row is not None and _speaks_for(row, signature):
            return row
        if row is None:
            if time.time_ns() - status.st_ctime_ns < STABLE_AFTER_S * 1_000_000_000:
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
        row.updated_at = min(datetime.fromtimestamp(status.st_mtime, UTC), datetime.now(UTC))
        session.flush()
        return row


def _path(key: Key) -> Path:
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


def _speaks_for(row: Media, signature: Signature) -> bool:
    # Another inode alone is a copy that was restored with its times.
    return row.size == signature.size and row.mtime_ns == signature.mtime_ns


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


def _folders(session: Session, library: str, folder: str) -> tuple[str, ...]:
    """The names of the folders directly inside, by jumping from one to the next along the index."""
    prefix = f"{folder}/" if folder else ""
    names: set[str] = set()
    # No legal name holds "\x01", so that it stands right behind a text and before all that go on from it;
    # and "0" comes right after "/".
    start, end = prefix or "\x01", f"{folder}0" if folder else None
    query = select(Media.folder).where(Media.library == library).order_by(Media.folder).limit(1)
    if end is not None:
        query = query.where(Media.folder < end)
    while len(names) < MAX_FOLDERS:
        found = session.scalar(query.where(Media.folder >= start))
        if found is None:
            break
        name, slash, _ = found[len(prefix) :].partition("/")
        names.add(name)
        # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
        start = f"{prefix}{name}0" if slash else f"{found}\x01"
    return tuple(sorted(names, key=str.encode))


def _encode_cursor(filename: str) -> str:
    return base64.urlsafe_b64encode(filename.encode()).decode("ascii").rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not name:
        raise InvalidCursor("The cursor is not one that a page gave.")
    return name

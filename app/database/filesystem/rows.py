"""Rows of stored files: their paths on disk, and their changes."""

import logging
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import bindparam, delete, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.posix import DiskPath
from app.database.sql.engine import Database
from app.database.sql.schema import DepartedRow, FileColumns, MediaRow, VolumeRow, WordRow, info_of, key_of
from app.storage.ignored_names import IgnoredNames
from app.storage.search_tokens import tokenize
from app.storage.types import (
    RESERVED,
    Address,
    Expectation,
    FileId,
    FileInfo,
    Key,
    check_expectation,
    is_storable,
)

log = logging.getLogger(__name__)


def root_of(library: str) -> DiskPath:
    """Return the folder of a library."""
    # Libraries are not stored beside the shared files, which may include a folder with the same name.
    return (RESERVED, "libraries", library) if library else ()


def path_at(key: Key) -> DiskPath:
    """Return the path at which the file of a key is stored."""
    return (*root_of(key.library), *key.path.split("/"))


def disk_path(library: str, path: str) -> DiskPath:
    """Return the path of a row's `disk_path`."""
    return (*root_of(library), *path.split("/"))


def path_of(row: MediaRow) -> DiskPath:
    """Return the path of a row's file."""
    if row.disk_path is None:
        return path_at(key_of(row))
    return disk_path(row.library, row.disk_path)


Place = tuple[Key, DiskPath]
"""A file, and its path on the disk."""


def places(
    session: Session, library: str, folder: str, after: tuple[str, str], *, beneath: bool, limit: int
) -> list[Place]:
    """Return the places of the rows in a folder, or also below it, after this folder and filename."""
    query = select(MediaRow.folder, MediaRow.filename, MediaRow.disk_path).where(
        MediaRow.library == library, tuple_(MediaRow.folder, MediaRow.filename) > tuple_(*after)
    )
    if not beneath:
        query = query.where(MediaRow.folder == folder)
    elif folder:
        # "0" is the character after "/". Folders that sort between the folder and its inside are skipped.
        inside = MediaRow.folder >= f"{folder}/"
        query = query.where(
            MediaRow.folder >= folder, MediaRow.folder < f"{folder}0", or_(MediaRow.folder == folder, inside)
        )
    rows = session.execute(query.order_by(MediaRow.folder, MediaRow.filename).limit(limit))
    keys = ((Key(library, folder, name), path) for folder, name, path in rows)
    return [(key, path_at(key) if path is None else disk_path(library, path)) for key, path in keys]


def disk_folders(session: Session, library: str, folder: str) -> set[DiskPath]:
    """Return the folders on the disk that have files of a folder under another spelling of its name."""
    differs = MediaRow.disk_path.is_not(None)
    query = select(MediaRow.disk_path).where(MediaRow.library == library, MediaRow.folder == folder, differs)
    paths = session.scalars(query.limit(10)).all()
    return {tuple(path.split("/")[:-1]) for path in paths if path is not None}


def find(session: Session, address: Address) -> MediaRow | None:
    if isinstance(address, FileId) and not is_storable(address.id):
        return None
    query = select(MediaRow).where(MediaRow.library == address.library)
    if isinstance(address, Key):
        query = query.where(MediaRow.folder == address.folder, MediaRow.filename == address.filename)
    else:
        query = query.where(MediaRow.id == address.id)
    return session.scalar(query)


def new_row(session: Session, origin: FileInfo | None, now: datetime) -> MediaRow:
    """Return the row of a new file, which may be a copy of another storage's."""
    if origin is None:
        return MediaRow(id=uuid4().hex, created_at=now)
    if session.get(MediaRow, origin.id) is not None:
        return MediaRow(id=uuid4().hex, created_at=origin.created_at)
    # Otherwise a removed file that returns would bring back the same id.
    session.execute(delete(DepartedRow).where(DepartedRow.id == origin.id))
    return MediaRow(id=origin.id, created_at=origin.created_at)


def place(row: MediaRow, key: Key, path: DiskPath, ignored: IgnoredNames) -> None:
    """Set the key of the row with its search tokens, and the path of its file."""
    place_without_words(row, key, path, ignored)
    row.words = [WordRow(library=key.library, word=word) for word in tokenize(key.filename)]


def place_without_words(row: MediaRow, key: Key, path: DiskPath, ignored: IgnoredNames) -> None:
    row.library, row.folder, row.filename = key.library, key.folder, key.filename
    row.disk_path = None if path == path_at(key) else "/".join(path[len(root_of(key.library)) :])
    row.ignored = ignored.matches(key)


def record_stat(row: MediaRow, stat: FileStat, device: int | None) -> None:
    row.size, row.mtime_ns, row.inode = stat.size, stat.mtime_ns, stat.inode
    row.ctime_ns, row.device = stat.ctime_ns, device


def record_stat_after_step(row: MediaRow, found: FileStat, device: int) -> None:
    """Record the ctime after a file step, unless another program has put another file there meanwhile: the
    ETag and the hash of our file would then seem to be those of its bytes."""
    if replace(stat_of(row), ctime_ns=None).agrees_with(found):
        record_stat(row, found, device)


def stat_of(row: FileColumns) -> FileStat:
    return FileStat(row.size, row.mtime_ns, row.inode, row.ctime_ns)


STAT_COLUMNS = (MediaRow.size, MediaRow.mtime_ns, MediaRow.inode, MediaRow.ctime_ns)
"""The columns of a FileStat."""


def set_version(row: MediaRow, *, etag: str, sha256: str | None, is_utf8: bool | None) -> None:
    """Set the version of the row; it is to be hashed if its hash is unknown."""
    row.etag, row.sha256, row.is_utf8 = etag, sha256, is_utf8
    row.unverified, row.doubtful = sha256 is None, False
    row.other_etag = row.other_sha256 = row.other_until = None


def record_upload(
    row: MediaRow,
    stat: FileStat,
    *,
    sha256: str,
    content_type: str,
    is_utf8: bool | None,
    updated_at: datetime,
) -> None:
    """Describe a staged file, whose ctime and device are those of its file step, which follows."""
    record_stat(row, stat, device=None)
    row.content_type, row.updated_at = content_type, updated_at
    set_version(row, etag=sha256, sha256=sha256, is_utf8=is_utf8)


def version_of(row: MediaRow) -> tuple[object, ...]:
    """Return values that identify a version of a file at a path."""
    return key_of(row), path_of(row), stat_of(row), row.etag, row.updated_at


def check_row(key: Key, row: MediaRow | None, expect: Expectation) -> None:
    """Compare a row with the expected version. Raises AlreadyExists, VersionMismatch."""
    if row is None:
        check_expectation(key, None, expect)
    else:
        check_version(info_of(row), expect)


def check_version(info: FileInfo, expect: Expectation) -> None:
    # The hash may have restored the earlier ETag since the conditions of the request were evaluated.
    if info.other_etag is None or info.other_etag != expect:
        check_expectation(info.key, info.etag, expect)


def looks_alike(row: MediaRow, stat: FileStat) -> bool:
    """Return whether a file, perhaps in another inode, has the size and modification time of the row."""
    return (row.size, row.mtime_ns) == (stat.size, stat.mtime_ns)


BATCH = 2_000
"""Rows that one query reads."""

_SAME = ("id", "library", "folder", "filename")
_COLUMNS = [getattr(MediaRow, name) for name in _SAME]
_FLAG = (
    update(MediaRow)
    .where(*(column == bindparam(f"same_{column.key}") for column in _COLUMNS))
    .values(ignored=bindparam("is_ignored"))
)
"""Executed on the connection, not the session, for many rows at once."""


def ignored_names(database: Database, wanted: IgnoredNames, *, serving: bool) -> IgnoredNames:
    """Return the patterns of the files that lists leave out.

    A server flags every row by the patterns that it wants, and returns those. A command returns those of
    the last server, because a shell may lack the server's settings.
    """
    with database.reading() as session:
        recorded = session.scalar(select(VolumeRow.ignore))
    if not serving:
        return wanted if recorded is None else IgnoredNames.parse(recorded)
    if recorded != wanted.text:
        _flag(database, wanted)
    return wanted


def _flag(database: Database, ignored: IgnoredNames) -> None:
    """Flag every row. Other processes may write meanwhile: a row is changed only if it still has the name
    that was read, because the process that renamed it has flagged it by the new name."""
    after = ""
    while True:
        query = (
            select(*_COLUMNS, MediaRow.ignored).where(MediaRow.id > after).order_by(MediaRow.id).limit(BATCH)
        )
        with database.reading() as session:
            rows = session.execute(query).all()
        if not rows:
            break
        if not after and len(rows) == BATCH:
            log.info("SEEKABLE_IGNORE has changed: checking the names of all files.")
        after = rows[-1].id
        changed = [
            {f"same_{name}": getattr(row, name) for name in _SAME} | {"is_ignored": not row.ignored}
            for row in rows
            if row.ignored != ignored.matches_path(row.folder, row.filename)
        ]
        if changed:
            with database.writing() as session:
                session.connection().execute(_FLAG, changed)
                session.commit()
    with database.writing() as session:
        session.execute(update(VolumeRow).values(ignore=ignored.text))
        session.commit()

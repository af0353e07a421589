"""Fill a library of any size by the fastest way that each database offers, to measure what grows with it.

A tenth of the files is in one folder, `inbox`; a fiftieth is in `zz/last`, and only there is the word `zulu`;
the rest is in folders of about a thousand files (`folders` changes that) below 30 shelves. Half of all names
contain the word `the`, a fifth `night`, another fifth `day`, five names both; one in 200 contains `heat`, ten
contain `rosebud`.
"""

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5
from itertools import islice
from pathlib import Path
from typing import Any

from bson import ObjectId
from sqlalchemy import Connection, Table

from app.database.filesystem.opening import open_database, open_filesystem
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import key_fields
from app.database.gridfs.opening import open_gridfs
from app.database.sql.schema import MediaRow, WordRow
from app.settings import Settings
from app.storage.ignored_names import IgnoredNames
from app.storage.search_tokens import tokenize
from app.storage.types import SHARED, Key

START = datetime(2020, 1, 1, tzinfo=UTC)
TYPES = (("mkv", "video/x-matroska"), ("mp4", "video/mp4"), ("flac", "audio/flac"), ("vtt", "text/vtt"))
SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mo", "nu", "pa", "ri", "so", "tu", "va", "we", "xi", "yo")
BATCH = 5000
_NOTHING_IGNORED = IgnoredNames(())


@dataclass(frozen=True, slots=True)
class File:
    """The invented metadata of one file."""

    id: str
    key: Key
    size: int
    content_type: str
    created_at: datetime
    updated_at: datetime


def files(n: int, folders: int | None = None) -> Iterator[File]:
    """Yield `n` files, always the same; `folders` is the number of folders below the shelves."""
    chance = random.Random(n)
    folders = folders or max(9, n // 1100)
    for number in range(n):
        some = [one for one, in_100 in (("the", 50), ("night", 20)) if chance.random() * 100 < in_100]
        if ("night" not in some and chance.random() < 0.25) or number % max(1, n // 5) == n // 7:
            some = [*some, "day"] if number % max(1, n // 5) != n // 7 else ["night", "day"]
        some += ["heat"] * (chance.random() < 0.005)
        some += ["rosebud"] * (number % max(1, n // 10) == n // 30)
        word = "".join(chance.choices(SYLLABLES, k=3))
        if number < n // 10:
            folder = "inbox"
        elif number >= n - n // 50:
            folder, some = "zz/last", [*some, "zulu"]
        else:
            inside = chance.randrange(folders)
            folder = f"shelf {inside % 30:02}/{SYLLABLES[inside % 16]} {inside:06}"
        ending, content_type = chance.choices(TYPES, (50, 30, 15, 5))[0]
        created_at = START + timedelta(milliseconds=chance.randrange(10**11))
        yield File(
            id=md5(b"%d" % number).hexdigest(),
            key=Key(SHARED, folder, f"{' '.join([word, *some])} {number:07}.{ending}"),
            size=chance.randrange(1 << 20),
            content_type=content_type,
            created_at=created_at,
            updated_at=created_at + timedelta(milliseconds=chance.choice((0, 0, 10**9))),
        )


def fill(settings: Settings, n: int, folders: int | None = None) -> None:
    """Fill an empty library with `n` files.

    On the disk they are sparse files of their size; in GridFS each has a document and no chunks.
    """
    if settings.storage == "gridfs":
        _fill_gridfs(settings, n, folders)
    else:
        _fill_filesystem(settings, n, folders)


def is_filled(settings: Settings) -> bool:
    """Return whether the library contains any file."""
    with ExitStack() as stack:
        if settings.storage == "gridfs":
            return bool(open_gridfs(settings, stack).libraries())
        return bool(open_filesystem(settings, stack).libraries())


def _batches(all_of_them: Iterable[File]) -> Iterator[list[File]]:
    rest = iter(all_of_them)
    while batch := list(islice(rest, BATCH)):
        yield batch


# Files and an SQL database


def _fill_filesystem(settings: Settings, n: int, folders: int | None) -> None:
    with ExitStack() as stack:
        open_filesystem(settings, stack)  # migrates
    media, word = MediaRow.__table__, WordRow.__table__
    assert isinstance(media, Table)
    assert isinstance(word, Table)
    indexes = [*media.indexes, *word.indexes]
    with ExitStack() as stack:
        database = open_database(settings, stack)
        connection = stack.enter_context(database.engine.execution_options(begin=("BEGIN",)).connect())
        if connection.dialect.name == "sqlite":
            # In KiB. With less, SQLite writes pages many times.
            connection.exec_driver_sql("PRAGMA cache_size = -2000000")
        for index in indexes:
            index.drop(connection)
        for batch in _batches(files(n, folders)):
            _insert(connection, media, (_row(settings.files_dir, one) for one in batch))
            _insert(
                connection,
                word,
                (
                    {"media_id": one.id, "word": found, "library": SHARED}
                    for one in batch
                    for found in tokenize(one.key.filename)
                ),
            )
        for index in indexes:
            index.create(connection)
        connection.commit()


def _insert(connection: Connection, table: Table, batch: Iterable[dict[str, Any]]) -> None:
    rows = list(batch)
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), rows)
        return
    # COPY is thirty times as fast as INSERT. Columns that rows leave out have defaults.
    names = list(rows[0])
    driver: Any = connection.connection.cursor()
    with driver, driver.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[name] for name in names])


def _row(root: Path, file: File) -> dict[str, Any]:
    status = _put(root / file.key.path, file.size)
    return {
        "id": file.id,
        "library": SHARED,
        "folder": file.key.folder,
        "filename": file.key.filename,
        "content_type": file.content_type,
        "etag": file.id,
        "sha256": file.id * 2,
        "created_at": file.created_at,
        "updated_at": file.updated_at,
        "size": file.size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "disk_path": None,
        "unverified": False,
    }


def _put(path: Path, size: int) -> os.stat_result:
    """Create a sparse file of this size, or keep the one that a library in another database created."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        return _put(path, size)
    try:
        status = os.fstat(descriptor)
        if status.st_size != size:
            os.ftruncate(descriptor, size)
            status = os.fstat(descriptor)
        return status
    finally:
        os.close(descriptor)


# GridFS


def _fill_gridfs(settings: Settings, n: int, folders: int | None) -> None:
    with ExitStack() as stack:
        database = MongoDatabase(settings.mongodb_url or "")
        stack.callback(database.close)
        database.media.drop_indexes() if database.exists() else None
        for batch in _batches(files(n, folders)):
            documents = [_document(one) for one in batch]
            database.media.insert_many(documents, ordered=False)
            database.files.insert_many(
                (
                    {
                        "_id": document["file"],
                        "filename": one.key.path,
                        "length": one.size,
                        "chunkSize": document["chunk_size"],
                        "uploadDate": one.created_at,
                        "metadata": {"library": SHARED},
                    }
                    for one, document in zip(batch, documents, strict=True)
                ),
                ordered=False,
            )
        database.ensure_indexes()


def _document(file: File) -> dict[str, Any]:
    return {
        "_id": file.id,
        **key_fields(file.key, _NOTHING_IGNORED),
        "file": ObjectId(),
        "size": file.size,
        "chunk_size": 261_120,
        "content_type": file.content_type,
        "etag": file.id,
        "sha256": file.id * 2,
        "unverified": False,
        "created_at": file.created_at,
        "updated_at": file.updated_at,
    }

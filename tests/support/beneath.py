"""Direct access to the storage beneath a library, which bypasses the program."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol
from uuid import uuid4

from bson import ObjectId
from gridfs import GridFSBucket
from sqlalchemy import NullPool, StaticPool, create_engine, insert, text

from app.database import prepare_database
from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.rows import path_at
from app.database.sql import postgresql
from app.database.sql.schema import MediaRow, Table
from app.settings import Settings
from app.storage.search_tokens import tokenize
from app.storage.types import SHARED, Key
from tests.support import Server, mongo

CHUNK_SIZE = 255 << 10  # the default of all drivers
WRITING = ("BEGIN", f"SELECT pg_advisory_xact_lock({postgresql._LOCK})")


class Beneath(Protocol):
    """The storage of one library, on any backend. Paths belong to the shared library."""

    def leftovers(self) -> set[str]:
        """Return the stored data that no file refers to: one item per upload in progress, and data that
        earlier uploads left behind."""

    def files(self) -> set[object]:
        """Return all files, each with all its recorded attributes."""

    def empty(self, folder: str) -> None:
        """Remove everything in a folder at once."""

    def clear(self) -> None:
        """Empty the tables of the database; creating them takes longer than most tests."""

    def close(self) -> None:
        """Close its connections."""

    def content(self, path: str) -> bytes | None:
        """Return the content that another program reads at a path, or None."""

    def add_file(self, path: str, size: int, end: bytes) -> None:
        """Add a sparse file of zeros that ends with `end`, as another program would; a scan finds it."""

    def clear_encodings(self) -> None:
        """Remove the attributes that versions before the detection of encodings did not record."""

    def fill(self, paths: Iterable[str], library: str = SHARED) -> None:
        """Add empty films directly; uploading them would take minutes."""

    def clear_ignored_flags(self) -> None:
        """Clear the flags of ignored files, as in a library of a version without ignore rules."""

    def broken(self) -> Any:
        """Return a context in which queries for files fail."""

    def replaced(self, file_id: str) -> Any:
        """Return a context in which another process changes the file's version to "newer"; it commits at the
        end."""


class Folder:
    """Files on a disk, and rows in an SQL database."""

    def __init__(self, settings: Settings, *, connected: bool) -> None:
        """With `connected`, keep one connection open."""
        self._settings = settings
        self._root = settings.files_dir
        url = settings.database_url or f"sqlite:///{self._root.absolute()}/.seekable/seekable.db"
        engine = create_engine(url, poolclass=StaticPool if connected else NullPool)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def leftovers(self) -> set[str]:
        internal = {self._root / ".seekable" / name for name in ("id", "reserve", "staging")}
        return {
            str(path.relative_to(self._root))
            for path in self._root.glob(".seekable/**/*")
            if path not in internal
            and not path.name.startswith("seekable.db")
            and not {"libraries", "leases"} & {*path.parts}
        }

    def files(self) -> set[object]:
        with self._engine.connect() as connection:
            found: set[object] = {*map(tuple, connection.execute(text("SELECT * FROM media")))}
        for folder, folders, names in os.walk(self._root):
            if folder == str(self._root):
                folders.remove(".seekable")
            for path in (f"{folder}/{name}" for name in names):
                found.add((path, FileStat.of(os.stat(path))))
        return found

    def empty(self, folder: str) -> None:
        inside = "folder = :folder OR folder >= :first AND folder < :end"
        place = {"folder": folder, "first": f"{folder}/", "end": f"{folder}0"}
        with self._engine.connect() as connection:
            words_of_it = f"DELETE FROM word WHERE media_id IN (SELECT id FROM media WHERE {inside})"
            for statement in (words_of_it, f"DELETE FROM media WHERE {inside}"):
                connection.execute(text(statement), place)
        shutil.rmtree(self._root / folder, ignore_errors=True)

    def clear(self) -> None:
        with self._engine.connect() as connection:
            for table in reversed(Table.metadata.sorted_tables):
                connection.execute(table.delete())

    def close(self) -> None:
        self._engine.dispose()

    def content(self, path: str) -> bytes | None:
        file = self._root / path
        return file.read_bytes() if file.exists() else None

    def add_file(self, path: str, size: int, end: bytes) -> None:
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(size - len(end))
            opened.seek(0, os.SEEK_END)
            opened.write(end)

    def clear_encodings(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(text("UPDATE media SET is_utf8 = NULL"))

    def fill(self, paths: Iterable[str], library: str = SHARED) -> None:
        prepare_database(self._settings)
        rows = []
        for key in (Key.at(library, path) for path in paths):
            file = self._root.joinpath(*path_at(key))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            found = FileStat.of(os.stat(file))
            rows.append(film(key) | {"size": 0, "mtime_ns": found.mtime_ns, "inode": found.inode})
        with self._engine.connect() as connection:
            connection.execute(text("BEGIN"))
            connection.execute(insert(MediaRow), rows)
            connection.execute(text("COMMIT"))
            if self._engine.name == "postgresql":  # autovacuum would do so later
                connection.execute(text("ANALYZE media"))

    def clear_ignored_flags(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(text("UPDATE media SET ignored = false"))
            connection.execute(text("UPDATE volume SET ignore = NULL"))

    @contextmanager
    def broken(self) -> Iterator[None]:
        with self._engine.connect() as connection:
            connection.execute(text("ALTER TABLE media RENAME TO lost"))
            try:
                yield
            finally:
                connection.execute(text("ALTER TABLE lost RENAME TO media"))

    @contextmanager
    def replaced(self, file_id: str) -> Iterator[None]:
        with self._engine.connect() as connection:
            # Begin like our own writers, so that other processes wait.
            begin = WRITING if self._engine.name == "postgresql" else ("BEGIN IMMEDIATE",)
            for statement in begin:
                connection.execute(text(statement))
            connection.execute(text("UPDATE media SET etag = 'newer' WHERE id = :id"), {"id": file_id})
            try:
                yield
            finally:
                connection.execute(text("COMMIT"))


class Bucket:
    """Documents, and GridFS."""

    def __init__(self, settings: Settings) -> None:
        assert settings.mongodb_url is not None
        self._settings = settings
        self._database = mongo.database(settings.mongodb_url)
        self._client = self._database.client

    def leftovers(self) -> set[str]:
        # Replaced and deleted versions stay for a day, for the clients that still read them.
        graced = {"expires_at": {"$gt": datetime.now(UTC) + timedelta(hours=1)}}
        uploads, files, chunks = (self._database[name] for name in ("media.uploads", "fs.files", "fs.chunks"))
        begun = uploads.distinct("_id", {"ahead": {"$ne": True}})  # without leases taken ahead of uploads
        stored = {*begun, *files.distinct("_id"), *chunks.distinct("files_id")}
        # In this order: a version that is replaced meanwhile is then in one of the two.
        referenced = {*self._database["media"].distinct("file")}
        return {str(file) for file in stored - referenced - {*uploads.distinct("_id", graced)}}

    def files(self) -> set[object]:
        return {repr(known) for known in self._database["media"].find()}

    def empty(self, folder: str) -> None:
        inside = {"library": SHARED, "folder": {"$gte": f"{folder}/", "$lt": f"{folder}0"}}
        for query in ({"library": SHARED, "folder": folder}, inside):
            if files := self._database["media"].distinct("file", query):
                self._database["media"].delete_many({"file": {"$in": files}})
                self._database["fs.files"].delete_many({"_id": {"$in": files}})
                self._database["fs.chunks"].delete_many({"files_id": {"$in": files}})

    def clear(self) -> None:
        for name in self._database.list_collection_names():
            self._database[name].delete_many({})

    def close(self) -> None:
        """Do nothing: all tests share the client."""

    def content(self, path: str) -> bytes | None:
        key = Key.at(SHARED, path)
        query = {"library": SHARED, "folder": key.folder, "filename": key.filename}
        found = self._database["media"].find_one(query)
        if found is None:
            return None
        with GridFSBucket(self._database).open_download_stream(found["file"]) as stream:
            return stream.read()

    def add_file(self, path: str, size: int, end: bytes) -> None:
        """Store only the first and the last chunk and those around 4 GiB."""
        file, last = ObjectId(), (size - 1) // CHUNK_SIZE
        around = (1 << 32) // CHUNK_SIZE
        for n in {0, around - 1, around, around + 1, last} & {*range(last + 1)}:
            length = min(CHUNK_SIZE, size - n * CHUNK_SIZE)
            data = end.rjust(length, b"\0") if n == last else bytes(length)
            self._database["fs.chunks"].insert_one({"files_id": file, "n": n, "data": data})
        self._database["fs.files"].insert_one(bucket_file(file, path, size))

    def clear_encodings(self) -> None:
        self._database["media"].update_many({}, {"$unset": {"is_utf8": True}})

    def fill(self, paths: Iterable[str], library: str = SHARED) -> None:
        prepare_database(self._settings)
        keys = [(ObjectId(), Key.at(library, path)) for path in paths]
        self._database["fs.files"].insert_many(bucket_file(file, key.path, 0) for file, key in keys)
        known = {"size": 0, "chunk_size": CHUNK_SIZE, "sha256": None}
        self._database["media"].insert_many(
            {"_id": row.pop("id"), **row, **known, "file": file, "words": list(tokenize(key.filename))}
            for file, key in keys
            for row in [film(key)]
        )

    def clear_ignored_flags(self) -> None:
        self._database["media"].update_many({}, {"$unset": {"ignored": ""}})
        self._database["media.ignore"].drop()

    @contextmanager
    def broken(self) -> Iterator[None]:
        refuse = {
            "failCommands": ["find", "aggregate", "distinct", "count"],
            "namespace": f"{self._database.name}.media",
            "errorCode": 8,  # UnknownError
        }
        self._client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": refuse})
        try:
            yield
        finally:
            self._client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    @contextmanager
    def replaced(self, file_id: str) -> Iterator[None]:
        media, bucket = self._database["media"], GridFSBucket(self._database)
        old = media.find_one({"_id": file_id}, {"file": True})
        assert old is not None
        with bucket.open_download_stream(old["file"]) as stream:
            new = bucket.upload_from_stream(stream.name, stream, metadata={"library": SHARED})
        with self._client.start_session() as session, session.start_transaction():
            media.update_one({"_id": file_id}, {"$set": {"etag": "newer", "file": new}}, session=session)
            yield
        bucket.delete(old["file"])


def bucket_file(file: ObjectId, path: str, size: int) -> dict[str, Any]:
    """Return a document of fs.files as any driver writes it."""
    now = datetime.now(UTC)
    return {"_id": file, "filename": path, "length": size, "chunkSize": CHUNK_SIZE, "uploadDate": now}


def film(key: Key) -> dict[str, Any]:
    """Return the attributes of an empty film."""
    then = datetime(2024, 1, 1, tzinfo=UTC)
    return {
        "id": uuid4().hex,
        "library": key.library,
        "folder": key.folder,
        "filename": key.filename,
        "content_type": "video/mp4",
        "etag": "e",
        "unverified": False,
        "created_at": then,
        "updated_at": then,
    }


def beneath(library: Settings | Server, *, connected: bool = False) -> Beneath:
    settings = library if isinstance(library, Settings) else _settings(tuple(library.settings.items()))
    return Bucket(settings) if settings.storage == "gridfs" else Folder(settings, connected=connected)


@lru_cache(maxsize=100)
def _settings(given: tuple[tuple[str, Any], ...]) -> Settings:
    """Return cached settings: creating them takes as long as a request, and thousands of tests use them
    twice."""
    return Settings(_env_file=None, **dict(given))

"""Stored files as documents of MongoEngine, with their bytes in GridFS.

A file exists while a document names it. Its bytes are in the bucket before the one insert or update that
makes the document name them, and stay there for a while after the one that ends it (see `leases`). So every
change is one write, and what a crash leaves is at most a file of the bucket that nobody names, which a sweep
removes.
"""

from concurrent.futures import Executor
from datetime import UTC, datetime

from mongoengine.fields import GridFSProxy

from app.database import paging
from app.database.gridfs import upload_leases
from app.database.gridfs.connection import Database
from app.database.gridfs.documents import NOT_LIKE_OURS, Media, at, find, info_in, info_of, infos_in, place
from app.database.gridfs.integrity import GridMaintenance
from app.database.gridfs.list_index import MongoListIndex, folders, libraries
from app.database.gridfs.reader import GridReader
from app.database.gridfs.scanner import Scanner
from app.database.gridfs.staging import StagedFile
from app.database.gridfs.writes import NO_FILE, Changes, check_room
from app.storage.backend import Writer
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.types import (
    MAX_ALL_FOLDERS,
    MAX_FOLDERS,
    Address,
    Committed,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    check_expectation,
)

BIG = 16 << 20
"""Bytes that are worth asking for whether there is room: a database whose disk fills up may stop."""


class GridBackend:
    """`storage.backend.Backend` over a MongoDB database.

    `keeper` holds the leases of what is written, `senders` bring it to the database. `ignored` decides
    which files lists and scans leave out.
    """

    parts = ("database",)

    def __init__(
        self,
        database: Database,
        keeper: upload_leases.Keeper,
        senders: Executor,
        *,
        ignored: IgnoredNames,
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._senders = senders
        self._changes = Changes(database, ignored)
        self._ignored = ignored
        scanner = Scanner(database, ignored=ignored)
        self.maintenance = GridMaintenance(database, scanner)

    @property
    def database(self) -> Database:
        """Where they are."""
        return self._database

    def try_open(self, address: Address) -> None:
        """Which version is the current one only the database knows."""

    def open(self, address: Address, *, wait: bool) -> GridReader:
        with self._database.asked():
            media = self._database.media.find_one(at(address))
        if media is None:
            raise NotFound(NO_FILE)
        try:
            return GridReader(self._database, info_in(media), media["file"], int(media["chunk_size"]))
        except NOT_LIKE_OURS as error:
            raise StorageUnavailable(f"The document of the file cannot be read: {error!r}.") from error

    def check(self, key: Key, expect: Expectation) -> None:
        with self._database.asked():
            media = find(self._database.media, key)
            if media is None:
                check_room(self._database.media, key)
        check_expectation(None if media is None else media.etag, expect)

    def stage(self, size: int | None) -> StagedFile:
        if size is not None and size >= BIG and self._database.room() < size:
            raise OutOfSpace("The disk of the database has no room for it.")
        return StagedFile(self._database, self._keeper, self._senders)

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
        if writer.seal(key, content_type, sha256) != size:
            raise StorageUnavailable("The database did not keep all that was written.")
        now = datetime.now(UTC)
        new = Media(
            file=GridFSProxy(writer.id),
            size=size,
            chunk_size=writer.chunk_size,
            content_type=content_type,
            etag=sha256,
            sha256=sha256,
            unverified=False,
            is_utf8=is_utf8,
            created_at=_in_ms(now if origin is None else origin.created_at),
            updated_at=_in_ms(now if origin is None else origin.updated_at),
            **place(key, self._ignored),
        )
        try:
            created = self._changes.store(new, expect, origin)
        except StorageUnavailable:
            writer.keep()  # the document may name it, or come to name it
            raise
        writer.keep()
        return Committed(info_of(new), created)

    def delete(self, key: Key, expect: Expectation) -> None:
        self._changes.delete(key, expect)

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        return info_of(self._changes.move(source, target, expect))

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page:
        media = self._database.media
        with self._database.asked():
            index = MongoListIndex(media, listing)
            found, next_cursor = paging.page(index, cursor=cursor, limit=limit)
            names: tuple[str, ...] = ()
            if cursor is None and not listing.recursive and not listing.query.strip():
                names = folders(media, listing.library, listing.folder, limit=MAX_FOLDERS)
        return Page(names, tuple(infos_in(found)), next_cursor)

    def folders(self, library: str, folder: str) -> tuple[str, ...]:
        with self._database.asked():
            return folders(self._database.media, library, folder, limit=MAX_ALL_FOLDERS)

    def libraries(self) -> tuple[str, ...]:
        with self._database.asked():
            return libraries(self._database.media)

    def ping(self, part: str | None = None) -> None:
        self._database.ping()


def _in_ms(time: datetime) -> datetime:
    """As the database keeps it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)

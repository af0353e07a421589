"""The backend of MongoDB: a document for each stored file, and its bytes in GridFS.

A file exists while a document refers to it. Its bytes are in the bucket before the one insert or update that
makes the document refer to them, and stay there for a while after the one that ends it. So every change is
one write, and a crash leaves at most an unreferenced file of the bucket, which garbage collection removes.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from mongoengine.fields import GridFSProxy

from app.database import paging
from app.database.gridfs.bucket import DEFAULT_SIZES, GridWriter, TransferSizes
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import (
    MALFORMED,
    Media,
    RawDocument,
    address_filter,
    find_media,
    info_of,
    key_fields,
    parse_all_fields,
    parse_info,
    parse_infos,
)
from app.database.gridfs.garbage_collection import LeaseRenewer
from app.database.gridfs.grid_reader import GridReader
from app.database.gridfs.integrity import GridMaintenance
from app.database.gridfs.lease_stock import LeaseStock
from app.database.gridfs.list_index import MongoListIndex, folders, libraries
from app.database.gridfs.loop_client import LoopClient
from app.database.gridfs.upload_groups import UploadGroups
from app.database.gridfs.upload_steps import GroupedUpload
from app.database.gridfs.writes import NO_FILE, MediaWrites, check_path_conflicts
from app.storage.backend import Writer
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.file_text import FolderFormat, fill
from app.storage.ignored_names import IgnoredNames
from app.storage.types import (
    MAX_FOLDERS,
    Address,
    Committed,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    RenderedPage,
    check_expectation,
)

MIN_CHECKED_SIZE = 16 << 20
"""Bytes from which an upload checks the free space first: MongoDB may stop when its disk is full."""


class GridBackend:
    """`storage.backend.Backend` over a MongoDB database.

    Lists and scans leave out the `ignored` names. `senders` insert chunks, `client` sends queries and
    small uploads from the event loop, with ids of the `stock`.
    """

    parts = ("database",)

    def __init__(
        self,
        database: MongoDatabase,
        leases: LeaseRenewer,
        senders: Executor,
        client: LoopClient,
        stock: LeaseStock,
        *,
        ignored: IgnoredNames,
        sizes: TransferSizes = DEFAULT_SIZES,
    ) -> None:
        self.database = database
        self.maintenance = GridMaintenance(database, ignored, sizes)
        self._leases = leases
        self._senders = senders
        self.client = client
        self._ignored = ignored
        self._sizes = sizes
        self._writes = MediaWrites(database, ignored)
        self._groups = UploadGroups(database, self._writes, ignored, stock, client, sizes.chunk_size)

    def try_open(self, address: Address) -> None:
        """Return None: only the database knows the current version, and a query blocks."""

    def open(self, address: Address, *, wait: bool) -> GridReader:
        with self.database.operation():
            media = self.database.media.find_one(address_filter(address))
        return self._reader(media)

    async def open_async(self, address: Address) -> GridReader | None:
        media = self.database.media
        command = {
            "find": media.name,
            "filter": address_filter(address),
            "limit": 1,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }
        replies = await self.client.run([command])
        if replies is None:
            return None
        found = replies[0]["cursor"]["firstBatch"]
        return self._reader(found[0] if found else None)

    def _reader(self, media: RawDocument | None) -> GridReader:
        """Return the reader of a document. Raises NotFound, StorageUnavailable."""
        if media is None:
            raise NotFound(NO_FILE)
        try:
            info, size = parse_info(media), int(media["chunk_size"])
            return GridReader(self.database, info, media["file"], size, self._sizes, self.client)
        except MALFORMED as error:
            raise StorageUnavailable(f"The document of this file is malformed: {error!r}.") from error

    def check(self, key: Key, expect: Expectation) -> None:
        with self.database.operation():
            media = find_media(self.database.media, key)
            if media is None:
                check_path_conflicts(self.database.media, key)
        check_expectation(key, None if media is None else media.etag, expect)

    def stage(self, size: int | None) -> GridWriter:
        if size is not None and size >= MIN_CHECKED_SIZE and self.database.free_bytes() < size:
            raise OutOfSpace(
                "The disk of the database has too little free space for this file. Delete some files first."
            )
        return GridWriter(self.database, self._leases, self._senders, self._sizes)

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
        assert isinstance(writer, GridWriter)
        if writer.seal(key, content_type, sha256) != size:
            raise StorageUnavailable("The database did not store the whole file. Upload it again.")
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
            created_at=_to_milliseconds(now if origin is None else origin.created_at),
            updated_at=_to_milliseconds(now if origin is None else origin.updated_at),
            **key_fields(key, self._ignored),
        )
        try:
            created = self._writes.store(new, expect, origin)
        except StorageUnavailable:
            writer.keep()  # the document may refer to it, now or later
            raise
        writer.keep()
        return Committed(info_of(new), created)

    def store(
        self,
        key: Key,
        data: bytes,
        *,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed:
        if origin is None:
            upload = GroupedUpload(key, data, sha256, content_type, expect, is_utf8)
            if (committed := self._groups.commit(upload)) is not None:
                return committed
        self.check(key, expect)
        writer = self.stage(len(data))
        try:
            writer.write(data)
            return self.commit(
                key,
                writer,
                size=len(data),
                sha256=sha256,
                content_type=content_type,
                expect=expect,
                origin=origin,
                is_utf8=is_utf8,
            )
        finally:
            writer.discard()

    async def store_async(
        self,
        key: Key,
        data: bytes,
        *,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed | None:
        if origin is not None:
            return None
        upload = GroupedUpload(key, data, sha256, content_type, expect, is_utf8)
        return await self._groups.commit_async(upload)

    def delete(self, key: Key, expect: Expectation) -> None:
        self._writes.delete(key, expect)

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        return info_of(self._writes.move(source, target, expect))

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page:
        names, found, next_cursor = self._documents(listing, cursor=cursor, limit=limit)
        return Page(names, tuple(parse_infos(found)), next_cursor)

    def render_page(
        self,
        listing: Listing,
        format_of: FolderFormat,
        *,
        cursor: str | None,
        limit: int,
        wait: bool,
        turn: AbstractContextManager[object],
    ) -> RenderedPage:
        names, found, next_cursor = self._documents(listing, cursor=cursor, limit=limit)
        with turn:
            return RenderedPage(names, fill(format_of, parse_all_fields(found)), next_cursor)

    def _documents(
        self, listing: Listing, *, cursor: str | None, limit: int
    ) -> tuple[tuple[str, ...], Sequence[RawDocument], str | None]:
        """Return the folders, documents and next cursor of a page."""
        media = self.database.media
        with self.database.operation():
            index = MongoListIndex(media, listing)
            found, next_cursor = paging.page(index, cursor=cursor, limit=limit)
            names: tuple[str, ...] = ()
            if cursor is None and not listing.recursive and not listing.query.strip():
                names = folders(media, listing.library, listing.folder, limit=MAX_FOLDERS)
        return names, found, next_cursor

    def folders(self, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
        with self.database.operation():
            return folders(self.database.media, library, folder, limit=limit)

    def libraries(self) -> tuple[str, ...]:
        with self.database.operation():
            return libraries(self.database.media)

    def ping(self, part: str | None = None) -> None:
        self.database.ping()


def _to_milliseconds(time: datetime) -> datetime:
    """Return the time as MongoDB stores it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)

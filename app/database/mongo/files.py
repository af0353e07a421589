"""Stored files as documents of MongoEngine, with their bytes in GridFS.

A file exists while a document names it. Its bytes are in the bucket before the one insert or update that
makes the document name them, and stay there for a while after the one that ends it (see `leases`). So every
change is one write, and what a crash leaves is at most a file of the bucket that nobody names, which a sweep
removes.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

from mongoengine.fields import GridFSProxy
from pymongo.errors import DuplicateKeyError

from app.database.mongo import leases, pages, paths
from app.database.mongo.connection import Database
from app.database.mongo.documents import Media, Stored, as_it_is, find, info_of, key_of, place
from app.database.mongo.hashing import Hasher
from app.database.mongo.reading import GridReader
from app.database.mongo.room import check_room
from app.database.mongo.scanning import Scanner
from app.database.mongo.staging import OURS, StagedFile
from app.database.rules import check, type_after_move
from app.storage.backend import Writer
from app.storage.errors import (
    AlreadyExists,
    NotFound,
    OutOfSpace,
    PathConflict,
    StorageError,
    StorageUnavailable,
)
from app.storage.types import (
    MAX_ALL_FOLDERS,
    MAX_FOLDERS,
    Address,
    Change,
    Committed,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
)
from app.storage.upkeep import Scanned, Usage, Verified

BIG = 16 << 20
"""Bytes that are worth asking for whether there is room: a database whose disk fills up may stop."""

LOOK_S = 1.0
"""How long it is looked up whether a change whose outcome is not known has happened."""

_NO_FILE = "There is no such file."


class GridBackend:
    """`storage.backend.Backend` over a MongoDB database.

    `media_type` guesses the type of a file that was not uploaded from its name. `notice` is told what became
    of files by other programs, by any thread.
    """

    def __init__(
        self,
        database: Database,
        *,
        media_type: Callable[[str], str],
        notice: Callable[[Sequence[Change]], None],
    ) -> None:
        self._database = database
        self._media_type = media_type
        self._scanner = Scanner(database, media_type=media_type, notice=notice)
        self._hasher = Hasher(database)

    def open(self, address: Address, *, wait: bool) -> GridReader:
        with self._database.asked():
            media = find(self._database.media, address)
        if media is None:
            raise NotFound(_NO_FILE)
        return GridReader(self._database, media)

    def check(self, key: Key, expect: Expectation) -> None:
        with self._database.asked():
            media = find(self._database.media, key)
            if media is None:
                check_room(self._database.media, key)
        check(None if media is None else media.etag, expect)

    def stage(self, size: int | None) -> StagedFile:
        if size is not None and size >= BIG and self._database.room() < size:
            raise OutOfSpace("The disk of the database has no room for it.")
        return StagedFile(self._database)

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
    ) -> Committed:
        assert isinstance(writer, StagedFile)
        if writer.seal(key, content_type, sha256) != size:
            raise StorageUnavailable("The database did not keep all that was written.")
        now = datetime.now(UTC)
        created_at, updated_at = (now, now) if origin is None else (origin.created_at, origin.updated_at)
        while True:  # until nobody else is faster
            with self._database.asked():
                old = find(self._database.media, key)
            check(None if old is None else old.etag, expect)
            new = Media(
                id=self._free_id(origin) if old is None else old.id,
                file=GridFSProxy(writer.id),
                size=size,
                chunk_size=writer.chunk_size,
                content_type=content_type,
                etag=sha256,
                sha256=sha256,
                unverified=False,
                created_at=_in_ms(created_at) if old is None else old.created_at,
                updated_at=_in_ms(updated_at),
                **place(key),
            )
            try:
                done = self._create(new) if old is None else self._replace(old, new)
                if done:
                    self._check_held(old, new)
            except StorageUnavailable:
                writer.keep()  # a document may name it
                raise
            if done:
                writer.keep()
                return Committed(info_of(new), old is None)

    def _check_held(self, old: Media | None, new: Media) -> None:
        """Take back a change that comes so late, of a process that was stopped meanwhile, that a sweep may
        have removed the bytes."""
        with self._database.asked():
            if leases.is_held(self._database, new.file.grid_id):
                return
            if old is None:
                self._database.media.delete_one(as_it_is(new))
            else:  # which is not gone: it was retired only just now
                self._database.media.update_one(as_it_is(new), {"$set": _fields(old)})
        raise StorageUnavailable("The upload paused for so long that it was given up.")

    def _free_id(self, origin: FileInfo | None) -> str:
        if origin is not None:
            with self._database.asked():
                if self._database.media.find_one({"_id": origin.id}, {"_id": True}) is None:
                    return origin.id
        return uuid4().hex

    def _create(self, new: Media) -> bool:
        """Whether the name was still free."""
        key, media = key_of(new), self._database.media
        with self._database.asked():
            check_room(media, key)

        def insert() -> bool:
            try:
                media.insert_one(_fields(new))
            except DuplicateKeyError:
                return named()  # by an attempt whose answer was lost
            return True

        def named() -> bool:
            return media.find_one({"file": new.file.grid_id}, {"_id": True}) is not None

        if not self._step(insert, named):
            return False
        try:
            with self._database.asked():
                check_room(media, key)  # again: nothing but this keeps a file and a folder from one name
        except PathConflict:
            if self._step(lambda: media.delete_one(as_it_is(new)).deleted_count == 1, lambda: not named()):
                raise
            # Somebody moved or replaced it meanwhile, so that it was there.
        return True

    def _replace(self, old: Media, new: Media) -> bool:
        """Whether the old version was still there."""
        media = self._database.media
        self._retire(old)
        return self._step(
            lambda: media.update_one(as_it_is(old), {"$set": _fields(new)}).matched_count == 1,
            lambda: media.find_one({"file": new.file.grid_id}, {"_id": True}) is not None,
        )

    def delete(self, key: Key, expect: Expectation) -> None:
        while not self._delete(self._expected(key, expect)):
            pass  # somebody else was faster: look again

    def _delete(self, old: Media) -> bool:
        """Whether it was still there."""
        media = self._database.media
        self._retire(old)
        return self._step(
            lambda: media.delete_one(as_it_is(old)).deleted_count == 1,
            lambda: media.find_one({"file": old.file.grid_id}, {"_id": True}) is None,
        )

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo:
        while True:
            media = self._expected(source, expect)
            if source == target or self._move(media, target):
                return info_of(media)

    def _move(self, media: Media, target: Key) -> bool:
        """Whether it was still where it was, and the new name free."""
        source, before = key_of(media), as_it_is(media)
        with self._database.asked():
            if find(self._database.media, target) is not None:
                raise AlreadyExists("A file of this name exists.")
            check_room(self._database.media, target)
        media.content_type = type_after_move(
            media.content_type, source.filename, target.filename, self._media_type
        )
        if not self._put(media, target, before):
            return False
        try:
            with self._database.asked():
                check_room(self._database.media, target)
        except PathConflict:
            if self._put(media, source, as_it_is(media)):
                raise
            # Somebody took the old name meanwhile, so that the file stays.
        with suppress(StorageError), self._database.asked():  # other programs may find it by its path
            ours = {"_id": media.file.grid_id, **OURS}
            self._database.files.update_one(ours, {"$set": {"filename": target.path}})
        return True

    def _put(self, media: Media, key: Key, before: Stored) -> bool:
        """Give the file the key, if it still is as before and the key is free."""
        collection = self._database.media
        for name, value in place(key).items():
            setattr(media, name, value)

        def update() -> bool:
            try:
                return collection.update_one(before, {"$set": _fields(media)}).matched_count == 1
            except DuplicateKeyError:
                return False

        return self._step(update, lambda: collection.find_one(as_it_is(media), {"_id": True}) is not None)

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page:
        media = self._database.media
        with self._database.asked():
            found, next_cursor = pages.rows(media, listing, cursor=cursor, limit=limit)
            folders: tuple[str, ...] = ()
            if cursor is None and not listing.recursive and not listing.query.strip():
                folders = paths.folders(media, listing.library, listing.folder, limit=MAX_FOLDERS)
        return Page(folders, tuple(map(info_of, found)), next_cursor)

    def folders(self, library: str, folder: str) -> tuple[str, ...]:
        with self._database.asked():
            return paths.folders(self._database.media, library, folder, limit=MAX_ALL_FOLDERS)

    def libraries(self) -> tuple[str, ...]:
        with self._database.asked():
            return paths.libraries(self._database.media)

    def ping(self) -> None:
        self._database.ping()

    def usage(self) -> Usage:
        return self._hasher.usage()

    def to_scan(self) -> int:
        return self._scanner.to_scan()

    def scan(self) -> Generator[Scanned]:
        return self._scanner.scan()

    def hash_unverified(self) -> Generator[int]:
        return self._hasher.hash_unverified()

    def verify(self) -> Generator[Verified]:
        return self._hasher.verify()

    def _expected(self, key: Key, expect: Expectation) -> Media:
        with self._database.asked():
            media = find(self._database.media, key)
        if media is None:
            raise NotFound(_NO_FILE)
        check(media.etag, expect)
        return media

    def _retire(self, media: Media) -> None:
        with self._database.asked():
            leases.retire(self._database, media.file.grid_id)

    def _step(self, write: Callable[[], bool], happened: Callable[[], bool]) -> bool:
        """Make a change by one write. Whether it was made.

        When the answer is lost, it is looked up whether it happened. StorageUnavailable says that this is not
        known: it may happen yet.
        """
        try:
            with self._database.asked():
                return write()
        except StorageError:
            with suppress(StorageError), self._database.asked(LOOK_S, fail_fast=False):
                if happened():
                    return True
            raise


def _in_ms(time: datetime) -> datetime:
    """As the database keeps it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _fields(media: Media) -> Stored:
    media.validate()
    fields: Stored = media.to_mongo().to_dict()
    return fields

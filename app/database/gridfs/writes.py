"""Changes of what is stored in GridFS: each is one write of one document, before and after which it is looked
whether it may be."""

from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from app.database.gridfs import own_writes, upload_leases
from app.database.gridfs.connection import Database
from app.database.gridfs.documents import Media, Stored, as_it_is, find, key_of, place
from app.database.gridfs.own_writes import Mark
from app.database.gridfs.staging import NOT_OURS, OURS
from app.http.dates import modification_date
from app.http.media_types import media_type_after_rename
from app.storage.errors import AlreadyExists, NotFound, PathConflict, StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Expectation, FileInfo, Key, check_expectation

_BEGINNINGS = ("", "/", "./", "//")
"""Beginnings that mean the top folder. Few, so that all spellings of a path are looked up along an index."""


def path_of(name: str) -> str:
    """Return the path that a name means: `/films/a.mp4` is `films/a.mp4`, as it would be on a disk.

    Names that end with a slash stand for folders in other stores; they, and all other unusual names, stay as
    they are, and no key can be made of them.
    """
    beginning = max((text for text in _BEGINNINGS if name.startswith(text)), key=len)
    return name[len(beginning) :]


def spellings(name: str) -> list[str]:
    """Return all names that mean the same path as this one."""
    path = path_of(name)
    return [f"{beginning}{path}" for beginning in _BEGINNINGS]


def check_room(collection: Collection[Stored], key: Key) -> None:
    """Raise PathConflict when a folder of the key is a file, or the key is a folder, as on a disk."""
    taken = collection.find_one({"$or": conflicts(key)}, {"folder": True, "filename": True})
    if taken is None:
        return
    path = f"{taken['folder']}/{taken['filename']}".lstrip("/")
    if key.path.startswith(f"{path}/"):
        raise PathConflict(f"{taken['filename']!r} is no folder, so that no file can be inside it.")
    raise PathConflict(f"{key.filename!r} is a folder, so that no file can have that name.")


def conflicts(key: Key) -> list[Stored]:
    """What finds files that are where a folder has to be, or beneath the file."""
    names = key.folder.split("/") if key.folder else []
    above: list[Stored] = [
        {"library": key.library, "folder": "/".join(names[:depth]), "filename": names[depth]}
        for depth in range(len(names))
    ]
    beneath: list[Stored] = [
        {"library": key.library, "folder": key.path},
        # "0" comes right after "/"
        {"library": key.library, "folder": {"$gt": f"{key.path}/", "$lt": f"{key.path}0"}},
    ]
    return above + beneath


LOOK_S = 1.0
"""How long it is looked up whether a change whose outcome is not known has happened."""

NO_FILE = "There is no such file."


class Changes:
    """Makes them, each as its namesake in `contract.Storage` promises. `ignored` decides which files lists
    leave out."""

    def __init__(self, database: Database, ignored: IgnoredNames) -> None:
        self._database = database
        self._ignored = ignored

    def store(self, new: Media, expect: Expectation, origin: FileInfo | None) -> bool:
        """Put the document in its place. Whether it is a new one."""
        created_at, updated_at = new.created_at, new.updated_at
        while True:
            with self._database.asked():
                old = find(self._database.media, key_of(new))
            check_expectation(None if old is None else old.etag, expect)
            if old is None:
                new.id, new.created_at = self._free_id(origin), created_at
                done = self._create(new)
            else:
                new.id, new.created_at = old.id, old.created_at
                if origin is None:
                    new.updated_at = modification_date(updated_at, old.updated_at, updated_at)
                done = self._replace(old, new)
            if done:
                self._hand_over(old, new)
                return old is None
            # Somebody else was faster: look again.

    def _hand_over(self, old: Media | None, new: Media) -> None:
        """End the lease on the bytes, now that the document names them. A change that comes so late, of a
        process that was stopped meanwhile, that a sweep may have removed them, is taken back."""
        file = new.file.grid_id
        with self._database.asked():
            if upload_leases.hand_over(self._database, file):
                return
            upload_leases.take(self._database, file)  # or what is left of it would be nobody's
            if old is None:
                self._database.media.delete_one(as_it_is(new))
            else:  # which is not gone: it was retired only just now
                self._database.media.update_one(as_it_is(new), {"$set": _fields(old)})
        raise StorageUnavailable(upload_leases.GIVEN_UP)

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

        if not self._step(own_writes.stored(new.file.grid_id), insert, named):
            return False
        try:
            with self._database.asked():
                check_room(media, key)  # again: nothing but this keeps a file and a folder from one name
        except PathConflict:
            mark = own_writes.deleted(new.id)
            if self._step(
                mark, lambda: media.delete_one(as_it_is(new)).deleted_count == 1, lambda: not named()
            ):
                raise
            # Somebody moved or replaced it meanwhile, so that it was there.
        return True

    def _replace(self, old: Media, new: Media) -> bool:
        """Whether the old version was still there."""
        media = self._database.media
        self._retire(old)
        return self._step(
            own_writes.stored(new.file.grid_id),
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
            own_writes.deleted(old.id),
            lambda: media.delete_one(as_it_is(old)).deleted_count == 1,
            lambda: media.find_one({"file": old.file.grid_id}, {"_id": True}) is None,
        )

    def move(self, source: Key, target: Key, expect: Expectation) -> Media:
        while True:
            media = self._expected(source, expect)
            if source == target or self._move(media, target):
                return media

    def _move(self, media: Media, target: Key) -> bool:
        """Whether it was still where it was, and the new name free."""
        source, content_type = key_of(media), media.content_type
        with self._database.asked():
            if find(self._database.media, target) is not None:
                raise AlreadyExists("A file with this name already exists. Choose another name.")
            check_room(self._database.media, target)
        suggested = media_type_after_rename(content_type, source.filename, target.filename)
        if not self._put(media, target, suggested):
            return False
        try:
            with self._database.asked():
                check_room(self._database.media, target)
        except PathConflict:
            if self._put(media, source, content_type):
                raise
            # Somebody took the old name meanwhile, so that the file stays.
        with suppress(StorageError), self._database.asked():  # other programs may find it by its path
            ours = {"_id": media.file.grid_id, **OURS}
            self._database.files.update_one(ours, {"$set": {"filename": target.path}})
        return True

    def _put(self, media: Media, key: Key, content_type: str) -> bool:
        """Give the file the key and the type, if it still is as it was and the key is free."""
        collection, before = self._database.media, as_it_is(media)
        fields = {**place(key, self._ignored), "content_type": content_type}
        after = before | {name: fields[name] for name in ("library", "folder", "filename")}

        def update() -> bool:
            try:
                return collection.update_one(before, {"$set": fields}).matched_count == 1
            except DuplicateKeyError:
                return False

        mark = own_writes.moved(media.id, key.library, key.folder, key.filename)
        if not self._step(mark, update, lambda: collection.find_one(after, {"_id": True}) is not None):
            return False
        for name, value in fields.items():
            setattr(media, name, value)
        return True

    def _expected(self, key: Key, expect: Expectation) -> Media:
        with self._database.asked():
            media = find(self._database.media, key)
        if media is None:
            raise NotFound(NO_FILE)
        check_expectation(media.etag, expect)
        return media

    def _retire(self, media: Media) -> None:
        file = media.file.grid_id
        with self._database.asked():
            upload_leases.retire(self._database, file)
            strange = self._database.files.find_one({"_id": file, **NOT_OURS}, {"filename": True})
            if strange is not None:
                # Or older ones of its name would take its place when it is gone.
                same_path = {"filename": {"$in": spellings(strange["filename"])}}
                older = {**same_path, "_id": {"$ne": file}, **NOT_OURS}
                for other in self._database.files.find(older, {"_id": True}):
                    upload_leases.pass_over(self._database, other["_id"])

    def _step(self, mark: Mark, write: Callable[[], bool], happened: Callable[[], bool]) -> bool:
        """Make the change of this mark by one write. Whether it was made.

        When the answer is lost, it is looked up whether it happened. StorageUnavailable says that this is not
        known: it may happen yet.
        """

        def made() -> bool:
            try:
                with self._database.asked():
                    return write()
            except StorageError:
                with suppress(StorageError), self._database.asked(LOOK_S, fail_fast=False):
                    if happened():
                        return True
                raise

        return self._database.own_writes.run(mark, made)


def _fields(media: Media) -> Stored:
    media.validate()
    fields: Stored = media.to_mongo().to_dict()
    return fields

"""Changes of the stored files: each is one write of one document, with checks before and after."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NoReturn
from uuid import uuid4

from pymongo.collection import Collection as Documents
from pymongo.errors import DuplicateKeyError

from app.database.gridfs import own_writes
from app.database.gridfs.bucket import FOREIGN, OURS
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import (
    BY_KEY,
    Media,
    RawDocument,
    find_media,
    key_fields,
    key_of,
    unchanged_filter,
)
from app.database.gridfs.garbage_collection import begin_lease, end_lease, pass_over, retire
from app.database.gridfs.own_writes import Mark
from app.http.dates import modification_date
from app.http.media_types import media_type_after_rename
from app.storage.errors import NotFound, PathConflict, StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.types import (
    Expectation,
    FileInfo,
    Key,
    already_exists,
    check_expectation,
    path_conflict,
    quoted,
)

_TOP_FOLDER_PREFIXES = ("", "/", "./", "//")
"""Prefixes that mean the top folder. Few, so that an index finds all spellings of a path."""

LOOKUP_TIMEOUT_S = 1.0
"""Seconds to look up whether a write with a lost reply has happened."""

MAX_ATTEMPTS = 300
"""Attempts at a change. Each fails because a concurrent one was faster, or because of an index that an
administrator has added."""

NO_FILE = "There is no such file."


def normalize_filename(name: str) -> str:
    """Return the path that a filename of the bucket means: `/films/a.mp4` is `films/a.mp4`, as on a disk.

    Names that end with a slash, which stand for folders in other stores, and all other unusual names are
    returned unchanged: they are no valid keys.
    """
    prefix = max((prefix for prefix in _TOP_FOLDER_PREFIXES if name.startswith(prefix)), key=len)
    return name[len(prefix) :]


def equivalent_filenames(name: str) -> list[str]:
    """Return all filenames that mean the same path as this one."""
    path = normalize_filename(name)
    return [f"{prefix}{path}" for prefix in _TOP_FOLDER_PREFIXES]


def check_path_conflicts(collection: Documents[RawDocument], key: Key) -> None:
    """Raise PathConflict if a folder of the key is a file, or the key is a folder.

    MongoDB has no directory tree that would prevent this.
    """
    conflict = find_path_conflict(collection, [key])
    if conflict is None:
        return
    path = f"{conflict['folder']}/{conflict['filename']}".lstrip("/")
    if key.path.startswith(f"{path}/"):
        raise path_conflict(
            key, f"{quoted(conflict['filename'])} is a file, not a folder. Choose another folder."
        )
    raise path_conflict(key, f"{quoted(key.filename)} is a folder. Choose another name.")


def find_path_conflict(collection: Documents[RawDocument], keys: Iterable[Key]) -> RawDocument | None:
    """Return a document whose path conflicts with one of the keys, or None."""
    place = {"folder": True, "filename": True}
    return collection.find_one({"$or": path_conflicts(keys)}, place, hint=BY_KEY)


def path_conflicts(keys: Iterable[Key]) -> list[RawDocument]:
    """Return filters that find files in the place of the keys' folders, and files beneath the keys."""
    above: dict[tuple[str, str], set[str]] = defaultdict(set)
    beneath: list[RawDocument] = []
    for key in keys:
        names = key.folder.split("/") if key.folder else []
        for depth, name in enumerate(names):
            above[key.library, "/".join(names[:depth])].add(name)
        beneath.append({"library": key.library, "folder": key.path})
        # "0" follows "/"
        within = {"$gt": f"{key.path}/", "$lt": f"{key.path}0"}
        beneath.append({"library": key.library, "folder": within})
    return [*files_in(above), *beneath]


def files_in(folders: Mapping[tuple[str, str], Collection[str]]) -> list[RawDocument]:
    """Return filters that find files by their names, which are given for each library and folder."""
    return [
        {"library": library, "folder": folder, "filename": {"$in": sorted(names)}}
        for (library, folder), names in folders.items()
    ]


class OccupiedPaths:
    """Paths of files. A look-up takes as long for many files as for one: hundreds of uploads may wait."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._files: set[tuple[str, str]] = set()
        self._folders: set[tuple[str, str]] = set()
        for key in keys:
            self.add(key)

    def add(self, key: Key) -> None:
        self._files.add((key.library, key.path))
        self._folders.update(_folders_of(key))

    def has(self, key: Key) -> bool:
        """Return whether one of the files has this key."""
        return (key.library, key.path) in self._files

    def conflicts_with(self, key: Key) -> bool:
        """Return whether the key cannot exist beside them: one would be a folder of the other."""
        return (key.library, key.path) in self._folders or not self._files.isdisjoint(_folders_of(key))


def _folders_of(key: Key) -> Iterator[tuple[str, str]]:
    """Yield the library and the path of each folder above a file."""
    names = key.path.split("/")
    return ((key.library, "/".join(names[:depth])) for depth in range(1, len(names)))


def _attempts() -> Iterator[int]:
    """Yield the number of each attempt at a change. Raises StorageUnavailable after the last."""
    yield from range(MAX_ATTEMPTS)
    raise StorageUnavailable(
        "Concurrent changes, or an index of the database, refuse this change. Try again in a few seconds."
    )


class MediaWrites:
    """The writes of stored files, each as its namesake in `contract.Storage` promises."""

    def __init__(self, database: MongoDatabase, ignored: IgnoredNames) -> None:
        self._database = database
        self._ignored = ignored

    def store(self, new: Media, expect: Expectation, origin: FileInfo | None) -> bool:
        """Insert the document or replace the one with its key. Return whether it was inserted."""
        created_at, updated_at = new.created_at, new.updated_at
        for _ in _attempts():
            with self._database.operation():
                old = find_media(self._database.media, key_of(new))
            check_expectation(key_of(new), None if old is None else old.etag, expect)
            if old is None:
                new.id, new.created_at = self._free_id(origin), created_at
                done = self._create(new)
            else:
                new.id, new.created_at = old.id, old.created_at
                if origin is None:
                    new.updated_at = modification_date(updated_at, old.updated_at, updated_at)
                done = self._replace(old, new)
            if done:
                self._end_lease(old, new)
                break
        return old is None

    def _end_lease(self, old: Media | None, new: Media) -> None:
        """End the lease of the bytes, now that the document refers to them.

        If this process was paused so long that a sweep may have removed them, the change is undone.
        """
        file = new.file.grid_id
        with self._database.operation():
            if end_lease(self._database, file):
                return
        self.give_up(unchanged_filter(new), None if old is None else _validated_fields(old))

    def give_up(self, unchanged: RawDocument, old: RawDocument | None) -> NoReturn:
        """Undo the change to a document whose bytes may be lost: delete it, or restore the old fields."""
        with self._database.operation():
            begin_lease(self._database, unchanged["file"])  # so that a sweep removes the remaining chunks
            if old is None:
                self._database.media.delete_one(unchanged)
            else:  # whose bytes still exist: they were retired only now
                self._database.media.update_one(unchanged, {"$set": old})
        raise StorageUnavailable("The upload paused for too long and was given up. Upload the file again.")

    def _free_id(self, origin: FileInfo | None) -> str:
        if origin is not None:
            with self._database.operation():
                if self._database.media.find_one({"_id": origin.id}, {"_id": True}) is None:
                    return origin.id
        return uuid4().hex

    def _create(self, new: Media) -> bool:
        """Insert the document. Return False if the name is taken by now."""
        key, media = key_of(new), self._database.media
        with self._database.operation():
            check_path_conflicts(media, key)

        def insert() -> bool:
            try:
                media.insert_one(_validated_fields(new))
            except DuplicateKeyError:
                return is_inserted()  # by an attempt whose reply was lost
            return True

        def is_inserted() -> bool:
            return media.find_one({"file": new.file.grid_id}, {"_id": True}) is not None

        if not self._write(own_writes.stored(new.file.grid_id), insert, is_inserted):
            return False
        self.withdraw_if_conflicting(key, unchanged_filter(new))
        return True

    def withdraw_if_conflicting(self, key: Key, unchanged: RawDocument) -> None:
        """Delete a new document and raise PathConflict if its path conflicts with that of another file.

        Needed after each insert: no index prevents a file and a folder of one name.
        """
        media = self._database.media
        try:
            with self._database.operation():
                check_path_conflicts(media, key)
        except PathConflict:
            if self._write(
                own_writes.deleted(unchanged["_id"]),
                lambda: media.delete_one(unchanged).deleted_count == 1,
                lambda: media.find_one({"file": unchanged["file"]}, {"_id": True}) is None,
            ):
                raise
            # Another client has moved or replaced the file meanwhile, so it was stored.

    def _replace(self, old: Media, new: Media) -> bool:
        """Replace the document. Return False if the old version was changed meanwhile."""
        media = self._database.media
        self._retire(old)
        return self._write(
            own_writes.stored(new.file.grid_id),
            lambda: (
                media.update_one(unchanged_filter(old), {"$set": _validated_fields(new)}).matched_count == 1
            ),
            lambda: media.find_one({"file": new.file.grid_id}, {"_id": True}) is not None,
        )

    def delete(self, key: Key, expect: Expectation) -> None:
        for _ in _attempts():
            if self._delete(self._find_expected(key, expect)):
                return

    def _delete(self, old: Media) -> bool:
        """Delete the document. Return False if it was changed meanwhile."""
        media = self._database.media
        self._retire(old)
        return self._write(
            own_writes.deleted(old.id),
            lambda: media.delete_one(unchanged_filter(old)).deleted_count == 1,
            lambda: media.find_one({"file": old.file.grid_id}, {"_id": True}) is None,
        )

    def move(self, source: Key, target: Key, expect: Expectation) -> Media:
        for _ in _attempts():
            media = self._find_expected(source, expect)
            if source == target or self._move(media, target):
                break
        return media

    def _move(self, media: Media, target: Key) -> bool:
        """Move the file. Return False if it was changed, or the new name taken, meanwhile."""
        source, content_type = key_of(media), media.content_type
        with self._database.operation():
            if find_media(self._database.media, target) is not None:
                raise already_exists(target)
            check_path_conflicts(self._database.media, target)
        suggested = media_type_after_rename(content_type, source.filename, target.filename)
        if not self._rename(media, target, suggested):
            return False
        try:
            with self._database.operation():
                check_path_conflicts(self._database.media, target)
        except PathConflict:
            if self._rename(media, source, content_type):
                raise
            # The old name was taken meanwhile, so the file stays.
        with suppress(StorageError), self._database.operation():  # other programs may find it by its path
            ours = {"_id": media.file.grid_id, **OURS}
            self._database.files.update_one(ours, {"$set": {"filename": target.path}})
        return True

    def _rename(self, media: Media, key: Key, content_type: str) -> bool:
        """Set the key and the type. Return False if the file was changed, or the key taken, meanwhile."""
        collection, before = self._database.media, unchanged_filter(media)
        fields = {**key_fields(key, self._ignored), "content_type": content_type}
        after = before | {name: fields[name] for name in ("library", "folder", "filename")}

        def update() -> bool:
            try:
                return collection.update_one(before, {"$set": fields}).matched_count == 1
            except DuplicateKeyError:
                return False

        mark = own_writes.moved(media.id, key.library, key.folder, key.filename)
        if not self._write(mark, update, lambda: collection.find_one(after, {"_id": True}) is not None):
            return False
        for name, value in fields.items():
            setattr(media, name, value)
        return True

    def _find_expected(self, key: Key, expect: Expectation) -> Media:
        with self._database.operation():
            media = find_media(self._database.media, key)
        if media is None:
            raise NotFound(NO_FILE)
        check_expectation(key, media.etag, expect)
        return media

    def _retire(self, media: Media) -> None:
        file = media.file.grid_id
        with self._database.operation():
            retire(self._database, file)
            foreign = self._database.files.find_one({"_id": file, **FOREIGN}, {"filename": True})
            if foreign is not None:
                # Otherwise a scan would put older foreign files with this name in its place.
                same_path = {"filename": {"$in": equivalent_filenames(foreign["filename"])}}
                older = {**same_path, "_id": {"$ne": file}, **FOREIGN}
                for other in self._database.files.find(older, {"_id": True}):
                    pass_over(self._database, other["_id"])

    def _write(self, mark: Mark, write: Callable[[], bool], has_happened: Callable[[], bool]) -> bool:
        """Run one write with this mark. Return whether it changed the database.

        If the reply is lost, `has_happened` looks up the outcome. Raises StorageUnavailable if the outcome
        stays unknown: the write may still happen.
        """

        def run() -> bool:
            try:
                with self._database.operation():
                    return write()
            except StorageError:
                with suppress(StorageError), self._database.operation(LOOKUP_TIMEOUT_S, fail_fast=False):
                    if has_happened():
                        return True
                raise

        return self._database.own_writes.run(mark, run)


def _validated_fields(media: Media) -> RawDocument:
    media.validate()
    fields: RawDocument = media.to_mongo().to_dict()
    return fields

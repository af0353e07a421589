"""The documents of stored files; their bytes are in GridFS.

Any program may read them, with MongoEngine or a driver: `Media.file` is the id of a file in the bucket `fs`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from mongoengine import (
    BooleanField,
    DateTimeField,
    Document,
    FileField,
    IntField,
    ListField,
    LongField,
    StringField,
)
from mongoengine.errors import ValidationError
from mongoengine.queryset import QuerySet
from pymongo.collection import Collection

from app.storage import search_tokens
from app.storage.errors import InvalidName
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Address, FileFields, FileInfo, Key, timestamp

T = TypeVar("T")

RawDocument = dict[str, Any]
"""A document, or a part of a query, as the driver takes and returns it."""

BY_KEY = [("library", 1), ("folder", 1), ("filename", 1)]
"""The unique index of `Media`. As a hint it spares the server the comparison of a dozen indexes, which takes
it longer than a look-up."""

UNJUDGED: RawDocument = {"is_utf8": None, "content_type": {"$gte": "text/", "$lt": "text0"}}
"""Selects texts that were not checked for UTF-8: not hashed yet, or stored by an older version."""

UNJUDGED_INDEX = [("_id", 1), ("content_type", 1)]


def index(*fields: str) -> dict[str, Any]:
    return {"fields": list(fields), "cls": False}


class GridFile(FileField):  # type: ignore[misc]
    """A FileField for ids of any type, which other programs use. MongoEngine accepts only ObjectIds."""

    def validate(self, value: Any) -> None:
        if not isinstance(value, self.proxy_class) or value.grid_id is None:
            self.error("The field must refer to a file of the bucket.")


class Media(Document):  # type: ignore[misc]
    """One stored file."""

    meta: ClassVar[dict[str, Any]] = {
        "collection": "media",
        "strict": False,  # other programs and newer versions may add fields
        "auto_create_index": False,  # connection.py creates the missing ones
        # Lists are ranges of these indexes, in their order: one by name, and for each other `Sort` one of a
        # folder and one of a library.
        "indexes": [
            index("library", "folder", "filename") | {"unique": True},
            index("library", "ignored", "folder", "filename"),
            index("file") | {"unique": True},
            *(
                index("library", "ignored", *fields)
                for key in ("size", "created_at", "updated_at")
                for fields in (("folder", key, "filename"), (key, "folder", "filename"))
            ),
            index("library", "content_type"),
            index("library", "words"),
            index("unverified") | {"partialFilterExpression": {"unverified": True}},
            index("id", "content_type") | {"partialFilterExpression": UNJUDGED},
        ],
    }

    id = StringField(primary_key=True)
    library = StringField(required=True)
    folder = StringField(required=True)
    filename = StringField(required=True)
    file = GridFile(required=True)
    size = LongField(required=True)
    chunk_size = IntField(required=True)
    content_type = StringField(required=True)
    etag = StringField(required=True)
    sha256 = StringField(null=True)
    # True while the hash is unknown.
    unverified = BooleanField(required=True)
    created_at = DateTimeField(required=True)
    updated_at = DateTimeField(required=True)
    # Whether the bytes are valid UTF-8 without NUL; absent or null while unknown.
    is_utf8 = BooleanField(null=True)
    # The search tokens of the filename; see storage.search_tokens.
    words = ListField(StringField())
    # True if lists leave the file out because of its name, else absent or null. See storage.ignored_names.
    ignored = BooleanField(null=True)


def query_media(collection: Collection[RawDocument]) -> QuerySet:
    """Return a query of a collection. (MongoEngine's `Media.objects` supports one database per process.)"""
    return QuerySet(Media, collection)


def find_media(collection: Collection[RawDocument], address: Address) -> Media | None:
    found: Media | None = query_media(collection)(__raw__=address_filter(address)).first()
    return found


def address_filter(address: Address) -> RawDocument:
    """Return the filter that selects the document of a file."""
    if isinstance(address, Key):
        return {"library": address.library, "folder": address.folder, "filename": address.filename}
    return {"_id": address.id, "library": address.library}


OBSOLETE_INDEXES = [
    fields
    for key in ("size", "created_at", "updated_at")
    for fields in (("library", "folder", key, "filename"), ("library", key, "folder", "filename"))
]
"""Indexes of `Media` of versions without ignored names."""


def key_fields(key: Key, ignored: IgnoredNames) -> RawDocument:
    """Return the fields that depend on the key of a file."""
    return {
        "library": key.library,
        "folder": key.folder,
        "filename": key.filename,
        "words": list(search_tokens.tokenize(key.filename)),
        "ignored": ignored.matches(key) or None,
    }


MALFORMED = (
    ArithmeticError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    ValidationError,
    InvalidName,
)
"""Errors that a document with a missing field or one of a wrong type raises."""


def display_name(document: Mapping[str, Any]) -> str:
    """Return a name for a document in which any field may be missing."""
    names = [document.get("folder"), document.get("filename")]
    path = "/".join(name for name in names if isinstance(name, str) and name)
    return path or str(document.get("_id"))


def key_of(media: Media) -> Key:
    return Key(media.library, media.folder, media.filename)


def info_of(media: Media) -> FileInfo:
    return FileInfo(
        id=media.id,
        key=key_of(media),
        size=media.size,
        content_type=media.content_type,
        etag=media.etag,
        sha256=media.sha256,
        created_at=media.created_at,
        updated_at=media.updated_at,
        is_utf8=media.is_utf8,
    )


INFO_FIELDS = [name for name in FileInfo.__annotations__ if name not in ("id", "key")]
INFO_FIELDS += ["library", "folder", "filename"]
"""The fields of a FileInfo, except the id. (Objects of MongoEngine would take most of the time of a list, and
half of that of an open.)"""


def parse_info(stored: RawDocument) -> FileInfo:
    """Return the FileInfo of a document that has the INFO_FIELDS."""
    key = Key(stored["library"], stored["folder"], stored["filename"])
    return FileInfo(
        id=stored["_id"],
        key=key,
        size=int(stored["size"]),  # other programs may have written 10.0
        content_type=stored["content_type"],
        etag=stored["etag"],
        sha256=stored.get("sha256"),
        created_at=stored["created_at"],
        updated_at=stored["updated_at"],
        is_utf8=stored.get("is_utf8"),
    )


def parse_fields(stored: RawDocument) -> FileFields:
    """Return the FileFields of a document that has the INFO_FIELDS."""
    key = Key(stored["library"], stored["folder"], stored["filename"])
    fields = FileFields(
        stored["_id"],
        key.folder,
        key.filename,
        int(stored["size"]),
        stored["content_type"],
        stored["etag"],
        stored.get("sha256"),
        timestamp(stored["created_at"]),
        timestamp(stored["updated_at"]),
    )
    for text in (fields.id, fields.content_type, fields.etag, fields.sha256 or ""):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not text.")
    return fields


def parse_infos(found: Iterable[RawDocument]) -> Iterator[FileInfo]:
    """Yield the FileInfo of each document. Malformed ones are left out; a scan reports them."""
    return _well_formed(parse_info, found)


def parse_all_fields(found: Iterable[RawDocument]) -> Iterator[FileFields]:
    """Yield the FileFields of each document, except malformed ones."""
    return _well_formed(parse_fields, found)


def _well_formed(parse: Callable[[RawDocument], T], found: Iterable[RawDocument]) -> Iterator[T]:
    for stored in found:
        with suppress(*MALFORMED):
            yield parse(stored)


def after_id(identity: Any) -> RawDocument:
    """Return the filter that selects later ids of any type; outside of $expr, $gt compares one type only."""
    return {"$expr": {"$gt": ["$_id", {"$literal": identity}]}}


def unchanged_filter(media: Media) -> RawDocument:
    """Return the filter that selects the document unless it was changed, moved or deleted meanwhile."""
    return unchanged_document({"_id": media.id, "file": media.file.grid_id, **_place(media)})


def unchanged_document(stored: RawDocument) -> RawDocument:
    """Return the same filter for a document as the database stores it."""
    return {name: stored[name] for name in ("_id", "library", "folder", "filename", "file")}


def _place(media: Media) -> RawDocument:
    return {"library": media.library, "folder": media.folder, "filename": media.filename}

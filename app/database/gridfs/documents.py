"""What is known of stored files, as documents; their bytes are in GridFS.

Any program may read them, with MongoEngine or a driver: `Media.file` is the id of a file in the bucket `fs`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

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
from app.storage.types import Address, FileInfo, Key

Stored = dict[str, Any]
"""A document as the driver gives and takes it."""


UNJUDGED: Stored = {"is_utf8": None, "content_type": {"$gte": "text/", "$lt": "text0"}}
"""Texts not known to be UTF-8 or not: those that older versions stored, and those not hashed yet."""

UNJUDGED_INDEX = [("_id", 1), ("content_type", 1)]


def index(*fields: str) -> dict[str, Any]:
    return {"fields": list(fields), "cls": False}


class GridFile(FileField):  # type: ignore[misc]
    """MongoEngine refuses ids that are no ObjectId; GridFS takes any, and other programs give them."""

    def validate(self, value: Any) -> None:
        if not isinstance(value, self.proxy_class) or value.grid_id is None:
            self.error("It is no file of the bucket.")


class Media(Document):  # type: ignore[misc]
    """What is known of one stored file."""

    meta: ClassVar[dict[str, Any]] = {
        "collection": "media",
        "strict": False,  # other programs, and newer versions, may note more than we know of
        "auto_create_index": False,  # connection.py makes them, and knows whether they are there
        # Lists are ranges of these indexes, in their order: one by name, and by each other `Sort` one for a
        # folder and one for all that is in a library.
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
    # The hash is not known.
    unverified = BooleanField(required=True)
    created_at = DateTimeField(required=True)
    updated_at = DateTimeField(required=True)
    # Whether the bytes are valid UTF-8 without NUL; absent or null while that is not known.
    is_utf8 = BooleanField(null=True)
    # What the file is found by; see storage.words.
    words = ListField(StringField())
    # True if lists leave it out because of its name; else absent, or null. See storage.ignored.
    ignored = BooleanField(null=True)


def media_in(collection: Collection[Stored]) -> QuerySet:
    """The documents of a collection. (MongoEngine's own `Media.objects` knows one database a process.)"""
    return QuerySet(Media, collection)


def find(collection: Collection[Stored], address: Address) -> Media | None:
    found: Media | None = media_in(collection)(__raw__=at(address)).first()
    return found


def at(address: Address) -> Stored:
    """What finds the document of a file."""
    if isinstance(address, Key):
        return {"library": address.library, "folder": address.folder, "filename": address.filename}
    return {"_id": address.id, "library": address.library}


OBSOLETE_INDEXES = [
    fields
    for key in ("size", "created_at", "updated_at")
    for fields in (("library", "folder", key, "filename"), ("library", key, "folder", "filename"))
]
"""Of `Media`, made by versions that knew no ignored files."""


def place(key: Key, ignored: IgnoredNames) -> Stored:
    """The fields that say where a file is."""
    return {
        "library": key.library,
        "folder": key.folder,
        "filename": key.filename,
        "words": list(search_tokens.tokenize(key.filename)),
        "ignored": ignored.matches(key) or None,
    }


NOT_LIKE_OURS = (
    ArithmeticError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    ValidationError,
    InvalidName,
)
"""Errors that a document raises in which a field is missing, or is of another kind."""


def name_of(document: Mapping[str, Any]) -> str:
    """Return what to call a document in which anything may be missing."""
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


KNOWN = [name for name in FileInfo.__annotations__ if name not in ("id", "key")]
KNOWN += ["library", "folder", "filename"]
"""What a FileInfo is made of, beside the id. (Objects of MongoEngine take most of the time of a list, and
half of that of an open.)"""


def info_in(stored: Stored) -> FileInfo:
    """What a document says that has what is KNOWN."""
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


def infos_in(found: Iterable[Stored]) -> Iterator[FileInfo]:
    """Yield what documents say; a scan names those that are left out."""
    for stored in found:
        with suppress(*NOT_LIKE_OURS):
            yield info_in(stored)


def behind(identity: Any) -> Stored:
    """What finds the documents that come later in the order of ids, whatever the type of those is. ($gt
    outside of an expression finds only ids of the same type.)"""
    return {"$expr": {"$gt": ["$_id", {"$literal": identity}]}}


def as_it_is(media: Media) -> Stored:
    """What finds the document if nobody has changed, moved or deleted it."""
    return {
        "_id": media.id,
        "library": media.library,
        "folder": media.folder,
        "filename": media.filename,
        "file": media.file.grid_id,
    }

"""The types of the storage contract: keys, files, changes, listings."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from app.storage.errors import AlreadyExists, InvalidName, PathConflict, VersionMismatch

RESERVED = ".seekable"
"""The first path segment that is reserved for the storage's own files."""

SHARED = ""
"""The library that all users share."""

Piece = bytes | memoryview
"""Bytes of a file on their way to a client."""

MAX_SEGMENT_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 32

MAX_SHOWN = 60
"""Characters of a name that an error message quotes."""

_IGNORABLE = {"\u034f", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))}
"""Invisible marks: the grapheme joiner and the variation selectors."""


def quoted(text: str, *, limit: int = MAX_SHOWN) -> str:
    """Return the name for a message: in quotes, shortened, with escapes for invisible characters."""
    short = text if len(text) <= limit else f"{text[:limit]}…"
    visible = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in short)
    return f"“{''.join(visible)}”"


_ILLEGAL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]").search
"""Finds a control character (Unicode's category Cc) or a backslash."""


def _check_segment(segment: str) -> None:
    if segment in (".", ".."):
        raise InvalidName(f"{quoted(segment)} cannot be the name of a file or folder. Choose another name.")
    if "\\" in segment:
        raise InvalidName(f"{quoted(segment)} contains a backslash. Write / instead.")
    if control := _ILLEGAL(segment):
        raise InvalidName(
            f"{quoted(segment)} contains the control character U+{ord(control[0]):04X}. Remove it."
        )
    if (length := len(segment.encode())) > MAX_SEGMENT_BYTES:
        raise InvalidName(
            f"{quoted(segment)} is {length} bytes long in UTF-8. Shorten it to at most {MAX_SEGMENT_BYTES}."
        )


def _check_path(path: str) -> None:
    try:
        length = len(path.encode())
    except UnicodeEncodeError:  # lone surrogates
        raise InvalidName(f"{quoted(path)} is not valid UTF-8.") from None
    # The length first: the following checks take time for every character.
    if length > MAX_PATH_BYTES:
        raise _too_long(path)
    if not unicodedata.is_normalized("NFC", path):
        raise InvalidName("A path must be in Unicode normalisation form NFC.")
    if not path:
        raise InvalidName("The name is empty. Choose one.")
    if _is_plain(path, length):
        return
    segments = path.split("/")
    if "" in segments:
        raise InvalidName(f"{quoted(path)} contains an empty name. Remove the extra slash.")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidName(
            f"{quoted(path)} has {len(segments)} segments, of at most {MAX_SEGMENTS}. Use fewer folders."
        )
    for segment in segments:
        _check_segment(segment)
    if segments[0] == RESERVED:
        raise _reserved(path)


def _is_plain(path: str, length: int) -> bool:
    """Return whether a path, which is not empty, is legal for these simple reasons; others may be, too.

    Lists check thousands of paths, most of them plain.
    """
    return (
        length <= MAX_SEGMENT_BYTES
        and path[0] not in "./"
        and path[-1] != "/"
        and "/." not in path
        and "//" not in path
        and path.count("/") < MAX_SEGMENTS
        and not _ILLEGAL(path)
    )


def _too_long(path: str) -> InvalidName:
    return InvalidName(
        f"The path {quoted(path)} is too long: at most {MAX_PATH_BYTES} bytes in UTF-8 fit. "
        "Shorten a name, or use fewer folders."
    )


def _reserved(path: str) -> InvalidName:
    first = path.partition("/")[0]
    return InvalidName(
        f"{quoted(first)} is reserved for the server: a path must not start with “{RESERVED}”, in any "
        "spelling. Choose another name."
    )


def is_reserved(segment: str) -> bool:
    """Return whether some file system treats the segment as RESERVED.

    APFS, HFS+, NTFS and others ignore case; some ignore compatibility forms and invisible characters, like
    Unicode's NFKC_Casefold.
    """
    if segment.isascii():
        return segment.lower() == RESERVED
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", segment).casefold())
    return "".join(character for character in folded if not _is_ignorable(character)) == RESERVED


def _is_ignorable(character: str) -> bool:
    return character in _IGNORABLE or unicodedata.category(character) == "Cf"


def _check_reserved(path: str) -> None:
    # Not in Key itself: earlier versions accepted such paths, and their rows must still load.
    if is_reserved(path.partition("/")[0]):
        raise _reserved(path)


def normalize_folder(folder: str) -> str:
    """Return the folder in NFC; "" is the top. Raises InvalidName."""
    if folder:
        folder = _nfc(folder)
        _check_path(folder)
        _check_reserved(folder)
    return folder


def _nfc(text: str) -> str:
    # Normalisation can take more than linear time, so text that is too long in any case is refused first:
    # no NFC form is more than three times shorter in UTF-8 than its original.
    if len(text) > 3 * MAX_PATH_BYTES:
        raise _too_long(text)
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True, slots=True)
class Key:
    """The place of a file: a filename in a folder in a library. Every instance is valid.

    `library` is SHARED, or one path segment. `folder` is "" for the top, else `a/b` with no slash at either
    end. Raises InvalidName.
    """

    library: str
    folder: str
    filename: str

    def __post_init__(self) -> None:
        for name in (self.filename, self.library):
            if "/" in name:
                raise InvalidName(f"The name {quoted(name)} contains a slash. Give the folder separately.")
        if self.library:
            _check_path(self.library)
        _check_path(self.path)

    @classmethod
    @lru_cache(1024)  # a player sends thousands of requests for one film
    def of(cls, library: str, folder: str, filename: str) -> "Key":
        """Return the key of names in any normalisation. Keys are in NFC, so that no two look the same."""
        key = cls(library, _nfc(folder), _nfc(filename))
        _check_reserved(key.path)
        return key

    @classmethod
    def at(cls, library: str, path: str) -> "Key":
        """Return the key of a path `folder/filename` in any normalisation."""
        folder, slash, filename = path.rpartition("/")
        if slash and not folder:
            raise InvalidName(f"{quoted(path)} begins with a slash. Remove it.")
        return cls.of(library, folder, filename)

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.filename}" if self.folder else self.filename


def is_storable(text: str) -> bool:
    """Return whether every database accepts the text: PostgreSQL and MongoDB's patterns refuse NUL."""
    return "\0" not in text


@dataclass(frozen=True, slots=True)
class FileId:
    """A file by its opaque id, which stays when the file is replaced or moved."""

    library: str
    id: str


Address = Key | FileId


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The metadata of one version of one stored file."""

    id: str
    key: Key
    size: int
    """In bytes."""
    content_type: str
    etag: str
    """Without the quotes of HTTP. Changes whenever the bytes change."""
    sha256: str | None
    """In hexadecimal; None until the bytes are hashed."""
    created_at: datetime
    """In UTC, like all times here, with a precision of a millisecond or better."""
    updated_at: datetime
    """When these bytes were stored; up to a second in the future, if they just replaced others."""
    is_utf8: bool | None = None
    """Whether the bytes are valid UTF-8 without NUL; None until they are examined."""
    doubtful: bool = False
    """Whether the bytes may have changed without a new ETag; a hash will decide. Until then no response
    confirms a client's copy (304), and Last-Modified proves nothing."""
    other_etag: str | None = None
    """An earlier ETag of the same bytes, which If-Match and If-Range accept for a while."""


class FileFields(NamedTuple):
    """The metadata of a file that its JSON contains; a list has thousands of them."""

    id: str
    folder: str
    filename: str
    size: int
    content_type: str
    etag: str
    sha256: str | None
    created_at: str
    """As `timestamp` returns it."""
    updated_at: str

    @classmethod
    def of(cls, info: FileInfo) -> "FileFields":
        return cls(
            info.id,
            info.key.folder,
            info.key.filename,
            info.size,
            info.content_type,
            info.etag,
            info.sha256,
            timestamp(info.created_at),
            timestamp(info.updated_at),
        )


def timestamp(time: datetime) -> str:
    """Return a time in UTC as RFC 3339 §5.6 writes it, with microseconds unless they are 0."""
    # Without the time zone, whose offset a driver's class may compute in Python.
    return f"{time.replace(tzinfo=None).isoformat()}Z"


def already_exists(key: Key) -> AlreadyExists:
    """Return the error about a key that is taken. It names the whole path: a program may show it alone."""
    return AlreadyExists(f"{quoted(key.path, limit=MAX_PATH_BYTES)} already exists. Choose another name.")


def path_conflict(key: Key, reason: str) -> PathConflict:
    """Return the error about a key that conflicts with a stored path; the reason is about one segment."""
    return PathConflict(f"{quoted(key.path, limit=MAX_PATH_BYTES)} cannot be stored. {reason}")


class Expect(Enum):
    """A precondition of a change."""

    ANY = "any"
    ABSENT = "absent"


Expectation = Expect | str
"""ANY: no precondition. ABSENT: no file is stored at the key, else AlreadyExists. An ETag without quotes:
that version is stored there, else VersionMismatch."""


def check_expectation(key: Key, etag: str | None, expect: Expectation) -> None:
    """Compare the version stored at the key (None: no file). Raises AlreadyExists, VersionMismatch."""
    if expect is Expect.ABSENT:
        if etag is not None:
            raise already_exists(key)
    elif isinstance(expect, str) and etag != expect:
        raise VersionMismatch("The file was changed or deleted meanwhile. Reload it and try again.")


@dataclass(frozen=True, slots=True)
class Committed:
    info: FileInfo
    created: bool
    """False if the file replaced an earlier version."""


MAX_FOLDERS = 1000
"""The most folders that a page names."""


class ChangeKind(Enum):
    CREATED = "created"
    REPLACED = "replaced"
    MOVED = "moved"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    kind: ChangeKind
    info: FileInfo
    """After the change; the last version of a deleted file."""
    previous: Key | None = None
    """The earlier key of a moved file."""


class Sort(Enum):
    """The order of a list. Equal files are in the order of NAME."""

    NAME = "name"
    """The bytes of the folder, then those of the filename."""
    SIZE = "size"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"


@dataclass(frozen=True, slots=True)
class Listing:
    """A selection of files and their order."""

    library: str
    folder: str = ""
    """As `normalize_folder` returns it."""
    recursive: bool = False
    """Include files in all folders below."""
    query: str = ""
    """Only files whose names have, for each word of the query, a word that begins with it; see `tokenize`. A
    blank query selects all files; another one without words selects none."""
    content_type: str = ""
    """Only files of this media type, with any parameters: `video/mp4`, or `video` for all video types."""
    sort: Sort = Sort.NAME
    descending: bool = False
    """Reverse the whole order, that of equal files too."""
    ignored: bool = False
    """Select the files with ignored names instead of all others; see `ignored_names`."""

    def covers(self, folder: str) -> bool:
        """Return whether the listing includes files of this folder."""
        if not self.recursive:
            return folder == self.folder
        return not self.folder or f"{folder}/".startswith(f"{self.folder}/")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the files of a listing, in its order."""

    folders: tuple[str, ...]
    """The names of the folders directly inside, in byte order, at most MAX_FOLDERS. Only on the first page,
    and only if the listing is neither recursive nor has a query."""
    items: tuple[FileInfo, ...]
    next_cursor: str | None
    """The cursor of the next page, or None on the last page. Other pages may have few files or none, if few
    of those examined match."""


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """A `Page` whose files were rendered where they were read."""

    folders: tuple[str, ...]
    items: bytes
    next_cursor: str | None

"""The nouns of the storage contract."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache

from app.storage.errors import AlreadyExists, InvalidName, VersionMismatch

RESERVED = ".seekable"
"""The first segment that no stored path may have: the storage keeps its own things there."""

SHARED = ""
"""The library that everybody has together."""

MAX_SEGMENT_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 32

MAX_SHOWN = 60
"""Characters of a name that a message about it shows."""

_IGNORABLE = {"\u034f", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))}
"""Marks that are not seen: the grapheme joiner and the variation selectors."""


def _shown(text: str) -> str:
    """Quote a name in a message: shortened, and with escapes for what cannot be seen."""
    short = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    seen = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)
    return f"“{''.join(seen)}”"


def _check_segment(segment: str) -> None:
    if segment in (".", ".."):
        raise InvalidName(f"{_shown(segment)} is no name of a file or a folder. Choose another.")
    if "\\" in segment:
        raise InvalidName(f"A path must hold no backslash: {_shown(segment)} has one. Write / instead.")
    control = next((one for one in segment if unicodedata.category(one) == "Cc"), None)
    if control is not None:
        raise InvalidName(
            f"A path must hold no control characters: {_shown(segment)} has U+{ord(control):04X}."
        )
    if (length := len(segment.encode())) > MAX_SEGMENT_BYTES:
        raise InvalidName(
            f"{_shown(segment)} is {length} bytes long in UTF-8. At most {MAX_SEGMENT_BYTES} fit."
        )


def _check_path(path: str) -> None:
    try:
        length = len(path.encode())
    except UnicodeEncodeError:  # lone surrogates
        raise InvalidName(f"{_shown(path)} is not valid UTF-8.") from None
    # The length first: what follows costs time for every character.
    if length > MAX_PATH_BYTES:
        raise _too_long(path)
    if not unicodedata.is_normalized("NFC", path):
        raise InvalidName("A path must be in Unicode normalisation form NFC.")
    if not path:
        raise InvalidName("A name is empty. Choose one.")
    segments = path.split("/")
    if "" in segments:
        raise InvalidName(f"{_shown(path)} has an empty name in it. Leave out the extra slash.")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidName(
            f"{_shown(path)} has {len(segments)} folders and names. A path has at most {MAX_SEGMENTS}."
        )
    for segment in segments:
        _check_segment(segment)
    if segments[0] == RESERVED:
        raise _reserved(path)


def _too_long(path: str) -> InvalidName:
    return InvalidName(
        f"The path {_shown(path)} is too long: it has at most {MAX_PATH_BYTES} bytes in UTF-8. "
        "Shorten a name, or use fewer folders."
    )


def _reserved(path: str) -> InvalidName:
    first = path.partition("/")[0]
    return InvalidName(
        f"{_shown(first)} at the top belongs to the server: a path must not start with {RESERVED!r}, in any "
        "spelling. Choose another name."
    )


def is_reserved(segment: str) -> bool:
    """Return whether some file system takes the segment for RESERVED.

    APFS, HFS+, NTFS and others ignore case, some ignore compatibility and characters that are not seen (as
    Unicode's NFKC_Casefold does).
    """
    if segment.isascii():
        return segment.lower() == RESERVED
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", segment).casefold())
    return "".join(character for character in folded if not _is_ignorable(character)) == RESERVED


def _is_ignorable(character: str) -> bool:
    return character in _IGNORABLE or unicodedata.category(character) == "Cf"


def _check_reserved(path: str) -> None:
    # A path of a stored row may fold so: earlier versions took it, and its file is still to be shown.
    if is_reserved(path.partition("/")[0]):
        raise _reserved(path)


def normalize_folder(folder: str) -> str:
    """The folder in NFC; "" is the top. Raises InvalidName."""
    if folder:
        folder = _nfc(folder)
        _check_path(folder)
        _check_reserved(folder)
    return folder


def _nfc(text: str) -> str:
    # Normalising can be made to cost more than linear time, so only what may be legal is normalised:
    # no NFC form is more than three times shorter in UTF-8 than what it was made from.
    if len(text) > 3 * MAX_PATH_BYTES:
        raise _too_long(text)
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True, slots=True)
class Key:
    """Where a file is: a filename in a folder in a library. A Key that exists is a legal one.

    `library` is SHARED, or one path segment.
    `folder` is "" for the top, else `a/b` with no slash at either end. Raises InvalidName.
    """

    library: str
    folder: str
    filename: str

    def __post_init__(self) -> None:
        for name in (self.filename, self.library):
            if "/" in name:
                raise InvalidName(
                    f"A name must hold no slash, and {_shown(name)} has one. Name the folder apart."
                )
        if self.library:
            _check_path(self.library)
        _check_path(self.path)

    @classmethod
    @lru_cache(1024)  # of one film there are thousands of requests
    def of(cls, library: str, folder: str, filename: str) -> "Key":
        """The key of names as somebody typed them: brought to NFC, so that twins cannot exist."""
        key = cls(library, _nfc(folder), _nfc(filename))
        _check_reserved(key.path)
        return key

    @classmethod
    def at(cls, library: str, path: str) -> "Key":
        """The key of a path `folder/filename` as somebody typed it."""
        folder, slash, filename = path.rpartition("/")
        if slash and not folder:
            raise InvalidName(f"{_shown(path)} begins with a slash. Leave it out.")
        return cls.of(library, folder, filename)

    @property
    def path(self) -> str:
        """The folder and the filename, joined by a slash."""
        return f"{self.folder}/{self.filename}" if self.folder else self.filename


def is_storable(text: str) -> bool:
    """Return whether every database accepts the text. PostgreSQL and MongoDB's patterns refuse NUL, even in a
    search."""
    return "\0" not in text


@dataclass(frozen=True, slots=True)
class FileId:
    """A file by its opaque id, which it keeps when it is replaced or moved."""

    library: str
    id: str


Address = Key | FileId


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of one version of one stored file."""

    id: str
    key: Key
    size: int
    """In bytes."""
    content_type: str
    etag: str
    """Changes whenever the bytes change; without the quotes that HTTP puts around it."""
    sha256: str | None
    """In hexadecimal; None while the bytes have not been hashed."""
    created_at: datetime
    """With time zone UTC, as all times here, and kept to the millisecond at least."""
    updated_at: datetime
    """When these bytes came to be stored; up to a second in the future, if they replaced others just now."""
    is_utf8: bool | None = None
    """Whether the bytes are valid UTF-8 without NUL; None while that is not known."""
    doubtful: bool = False
    """Whether a hash has yet to prove that the bytes are those of before. Until then no answer says that a
    client's copy is still right, and the date of the last change proves nothing."""
    other_etag: str | None = None
    """Another ETag of the same bytes, which If-Match and If-Range accept for a while."""


class Expect(Enum):
    """What a change takes for granted about what is stored at its key."""

    ANY = "any"
    ABSENT = "absent"


Expectation = Expect | str
"""ANY: nothing is taken for granted. ABSENT: nothing is stored there, else AlreadyExists. A version (an
ETag without quotes): that one is stored there, else VersionMismatch."""


def check_expectation(etag: str | None, expect: Expectation) -> None:
    """Compare the stored version, None if there is no file, with the expected one.

    Raises AlreadyExists, VersionMismatch.
    """
    if expect is Expect.ABSENT:
        if etag is not None:
            raise AlreadyExists("A file of this name exists.")
    elif isinstance(expect, str) and etag != expect:
        raise VersionMismatch("The stored file is another version, or gone.")


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did."""

    info: FileInfo
    created: bool
    """False when it replaced an earlier version."""


MAX_FOLDERS = 1000
"""Folders that a page names at most."""

MAX_ALL_FOLDERS = 100_000
"""Folders inside one that are named at most, by any means."""


class ChangeKind(Enum):
    """What became of a file."""

    CREATED = "created"
    REPLACED = "replaced"
    MOVED = "moved"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a file."""

    kind: ChangeKind
    info: FileInfo
    """As it is now; a deleted file as it was last."""
    previous: Key | None = None
    """Where it was before, if it was moved."""


class Sort(Enum):
    """What a list is in the order of. Where that is equal, paths decide, in the order of NAME."""

    NAME = "name"
    """The bytes of the folder, then those of the filename."""
    SIZE = "size"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files are listed, and in which order."""

    library: str
    folder: str = ""
    """As `clean_folder` gives it."""
    recursive: bool = False
    """Also those in folders inside it."""
    query: str = ""
    """Only files of which each word of this begins a word of the filename; see `words`. Blank, it asks
    for nothing; what is not blank and has no word finds nothing."""
    content_type: str = ""
    """Only those of this media type, whatever its parameters: `video/mp4`, or `video` for all of them."""
    sort: Sort = Sort.NAME
    descending: bool = False
    """The whole order from its end, that of equals too."""
    ignored: bool = False
    """The files whose names are ignored, instead of all others; see `ignored`."""

    def covers(self, folder: str) -> bool:
        """Whether files in this folder may be listed."""
        if not self.recursive:
            return folder == self.folder
        return not self.folder or f"{folder}/".startswith(f"{self.folder}/")


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the files of a listing, in its order."""

    folders: tuple[str, ...]
    """Names of the folders directly inside, in byte order; only on the first page, at most
    MAX_FOLDERS, and none when the listing is recursive or has a query."""
    items: tuple[FileInfo, ...]
    next_cursor: str | None
    """What to ask the next page with; None when this page is the last. One that is not may hold few files or
    none, if these are rare among what was looked at."""

"""The storage as the rest of the program uses it: asynchronous Protocols and their promises."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from app.storage.errors import NotFound
from app.storage.file_text import FolderFormat
from app.storage.maintenance import ScanStep, Usage, VerifyStep
from app.storage.types import (
    Address,
    Committed,
    Expect,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    Piece,
    RenderedPage,
)


class OpenFile(Protocol):
    """One version of one file, whose bytes stay readable when the key is replaced, moved or deleted."""

    @property
    def info(self) -> FileInfo: ...

    def fileno(self) -> int | None:
        """Return a descriptor of a regular file that holds exactly these bytes, or None.

        Read it at offsets (pread, sendfile) and only until this file is closed. Never seek or close it.
        """

    async def preload(self, start: int, stop: int) -> None:
        """Read these bytes of the descriptor into memory, so that sending them does not wait for the disk.

        Skipped if the first and the last of them are in memory already. Raises the errors of `read`.
        """

    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        """Yield the bytes [start, stop) in order; the next batch is read while you send one.

        Raises Truncated instead of ending early, StorageUnavailable if the storage fails. Close it
        (`contextlib.aclosing`) when you leave before its end.
        """

    def reopenable(self) -> "ReopenableFile | None":
        """Return this version for repeated opens; None if its address cannot be checked without blocking."""


class ReopenableFile(Protocol):
    """One version of one file, which can be opened again cheaply. Used from the event loop only."""

    @property
    def expires_at(self) -> float:
        """The monotonic time from which `descriptor` returns -1, until the file is opened otherwise."""

    def descriptor(self, start: int, stop: int, now: float) -> int:
        """Return a descriptor of the version, for use before control returns to the event loop.

        Returns -1 if the address does not name this version any more, and if it cannot be opened or its bytes
        [start, stop) cannot be read without blocking. `now` is the monotonic time.
        """

    def hold(self) -> AbstractAsyncContextManager[OpenFile]:
        """Return the file of which `descriptor` has just returned the descriptor.

        It stays open from this call on, until the context exits.
        """


SMALL_UPLOAD = 256 << 10
"""Bytes of an upload that stays in memory until its commit, which then does everything in one call."""


class Staged(Protocol):
    """Bytes that are being uploaded, before they have a key."""

    async def write(self, data: bytes) -> None:
        """Take the next bytes. Holds a bounded amount in memory.

        Raises OutOfSpace, StorageUnavailable, possibly about the data of an earlier call.
        """

    async def flush(self) -> None:
        """Wait until all bytes are written, counted and hashed. Raises the errors of `write`."""

    @property
    def size(self) -> int:
        """The number of bytes flushed."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes flushed, in hexadecimal."""

    def digest(self, algorithm: str) -> bytes:
        """Return the hash of the bytes flushed, by SHA-256 or an algorithm that was passed to `stage`."""

    @property
    def is_utf8(self) -> bool:
        """As `FileInfo.is_utf8`, of the bytes flushed."""


class Storage(Protocol):
    """Stored files. Every method may raise StorageUnavailable; InvalidName is raised by Key alone."""

    @property
    def read_only(self) -> bool:
        """Whether check, stage, commit, delete and move raise ReadOnly. Other programs may change files."""

    def check_changeable(self) -> None:
        """Raise ReadOnly if no file can be changed."""

    def open(self, address: Address) -> AbstractAsyncContextManager[OpenFile]:
        """Open the current version until the context exits, also by cancellation. Raises NotFound."""

    async def stat(self, address: Address) -> FileInfo:
        """Return the current version's metadata. Raises NotFound."""

    async def check(self, key: Key, expect: Expectation) -> None:
        """Refuse an upload early: raise the present error of such a commit, though only a commit decides."""

    def stage(
        self, *, size: int | None = None, algorithms: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Staged]:
        """Stage the bytes of an upload. If the context exits without a commit, they are discarded.

        `size` is their number, if known: raises OutOfSpace at once if more than SMALL_UPLOAD do not fit.
        `algorithms` are names of hashlib, to be computed in addition to SHA-256.
        """

    async def commit(
        self,
        key: Key,
        staged: Staged,
        *,
        content_type: str,
        expect: Expectation = Expect.ANY,
        origin: FileInfo | None = None,
    ) -> Committed:
        """Store the staged bytes at the key, once for each stage.

        Atomic and durable: readers see the old file until this returns. Raises AlreadyExists,
        VersionMismatch, PathConflict or OutOfSpace if nothing has changed. A replaced file keeps its id and
        created_at.

        `origin` is the file of another storage that this is a copy of. A new file takes its created_at, its
        updated_at and, unless another file here has that, its id; a replaced file takes its updated_at. The
        ETag is that of an upload, even if the origin has another.
        """

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        """Delete the file durably. Open files stay readable. Raises NotFound, VersionMismatch."""

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        """Give the file another key, durably. Its id and version stay.

        Its media type stays too, unless it is the one that the old name suggests and the new name suggests
        another. `expect` is about the source. Raises NotFound, AlreadyExists, PathConflict or VersionMismatch
        if nothing has changed.
        """

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        """Return the page of the listing after the one that gave `cursor`; the first page if it is None.

        Every file that exists unchanged the whole time appears exactly once, whatever else changes. The list
        of a missing folder is empty. Every page but the last has `limit` files, except in a search, a filter
        by type or a recursive sort: there a page may have fewer or none, because a call examines a bounded
        number of files. Raises InvalidCursor if no page of such a listing gave the cursor.
        """

    async def render_page(
        self,
        listing: Listing,
        format_of: FolderFormat,
        *,
        cursor: str | None,
        limit: int,
    ) -> RenderedPage:
        """Return what `page` returns, with the files as text.

        The database writes it, or the thread that read the files: for a thousand of them that takes
        milliseconds, which would delay every response on the event loop.
        """

    async def folders(self, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
        """Return the names of the first `limit` folders directly inside `folder`, in byte order."""

    async def libraries(self) -> tuple[str, ...]:
        """Return the names of all libraries that have files, in byte order; SHARED is one of them."""

    async def usage(self, library: str | None = None) -> Usage:
        """Return the number and total size of the files in the library, or in all libraries."""

    async def estimate_file_count(self) -> int:
        """Return roughly how many files a scan will look at, for a progress bar. Counting takes a while."""

    def scan(self) -> AsyncGenerator[ScanStep, None]:
        """Find changes by other programs, and clean up after crashes. Other processes may scan as well."""

    def adopt_all(self, library: str) -> AsyncGenerator[ScanStep, None]:
        """Add every file that other programs put into an account's library, ignored names included.

        Needed before the library is deleted or moved, since a scan leaves ignored names alone.
        """

    def hash_unverified(self) -> AsyncGenerator[int, None]:
        """Hash files that were not uploaded or may have changed unnoticed, and detect the encoding of texts.

        Each step is the number of bytes that were read.
        """

    def verify(self) -> AsyncGenerator[VerifyStep, None]:
        """Compare every file with its hash; change nothing. The last step of each file has its verdict."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that can fail independently: the database, and where the bytes are."""

    async def ping(self, part: str | None = None) -> None:
        """Return when all parts respond, or this one. A cancelled ping costs nothing further.

        Raises StorageUnavailable, which names the part that does not respond.
        """


async def find_file(storage: Storage, address: Address) -> FileInfo | None:
    """Return the current version's metadata; None if there is no file."""
    try:
        return await storage.stat(address)
    except NotFound:
        return None


async def all_pages(
    storage: Storage, listing: Listing, *, limit: int, first: Page | None = None
) -> AsyncGenerator[Page, None]:
    """Yield the pages of a listing in order; `first` is its first one, if known."""
    page = first or await storage.page(listing, cursor=None, limit=limit)
    yield page
    while page.next_cursor is not None:
        page = await storage.page(listing, cursor=page.next_cursor, limit=limit)
        yield page


MILLISECOND = timedelta(milliseconds=1)
"""The precision to which every backend keeps times."""


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """A file that `seekable copy` stored; `id`, `path`, `etag` and `updated_at` are those of the copy."""

    id: str
    path: str
    etag: str
    updated_at: datetime
    source: str
    """The id of the library that it was copied from."""
    origin: str
    """The id of the file there."""

    @classmethod
    def of(cls, info: FileInfo, source: str, origin: str) -> "CopyRecord":
        return cls(info.id, info.key.path, info.etag, info.updated_at, source, origin)

    def is_version(self, info: FileInfo) -> bool:
        """Return whether the file still has the copied bytes; it may have been moved."""
        return not info.doubtful and self.seems_version(info)

    def seems_version(self, info: FileInfo) -> bool:
        """Return `is_version`, without the proof that a doubtful file still lacks."""
        same_time = abs(info.updated_at - self.updated_at) < MILLISECOND
        return (info.id, info.etag) == (self.id, self.etag) and same_time

    def is_untouched(self, info: FileInfo) -> bool:
        """Return whether the file was neither changed nor moved since it was copied."""
        return self.is_version(info) and info.key.path == self.path


class CopyRecords(Protocol):
    """The copies in one library, by id. Blocking and thread-safe. Raises StorageUnavailable."""

    def find(self, ids: Sequence[str]) -> Mapping[str, CopyRecord]:
        """Return the records that exist for these ids."""

    def save(self, copy: CopyRecord) -> None:
        """Add the record, or replace that of the same id."""

    def remove(self, copy: str) -> None: ...

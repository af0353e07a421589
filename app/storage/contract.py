"""The storage as the program sees it: two asynchronous Protocols and what they promise."""

from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.storage.maintenance import ScanStep, Usage, VerifyStep
from app.storage.types import Address, Committed, Expect, Expectation, FileInfo, Key, Listing, Page


class OpenFile(Protocol):
    """One version of one file. It keeps giving these bytes even if the key is replaced, moved or deleted."""

    @property
    def info(self) -> FileInfo: ...

    def fileno(self) -> int | None:
        """A descriptor of a regular file that holds exactly these bytes, or None. It stays ours: read at
        offsets (pread, sendfile), never seek or close it, and use it only until this file is closed."""

    async def preload(self, start: int, stop: int) -> None:
        """Return when these bytes of the descriptor are in memory, as far as that can be told, so that
        whoever reads them next does not wait for the disk. It may fail for the reasons of `read`."""

    def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) in order, the next batch fetched while you send one.

        Raises Truncated sooner than end early, StorageUnavailable when the storage fails. Close it
        (`contextlib.aclosing`) when you leave before its end.
        """


class Staged(Protocol):
    """Bytes on their way in, before it is known where they will be stored."""

    async def write(self, data: bytes) -> None:
        """Take the next bytes. They may be written later, so a failure may show in a later call or in the
        commit: OutOfSpace, StorageUnavailable. Holds a bounded amount in memory."""

    async def flush(self) -> None:
        """Return when all that was written so far is counted and hashed."""

    @property
    def size(self) -> int:
        """How many bytes were flushed."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes flushed, in hexadecimal."""

    def digest(self, algorithm: str) -> bytes:
        """The hash of the bytes flushed: SHA-256, or one of those that the stage was asked for."""

    @property
    def is_utf8(self) -> bool:
        """As `FileInfo.is_utf8`, of the bytes flushed."""


class Storage(Protocol):
    """Stored files. Every method may raise StorageUnavailable; all raise InvalidName through Key alone."""

    @property
    def read_only(self) -> bool:
        """Whether no file can be changed through this storage: check, stage, commit, delete and move raise
        ReadOnly. What other programs change is still taken note of."""

    def check_changeable(self) -> None:
        """Raise ReadOnly if no file can be changed."""

    def open(self, address: Address) -> AbstractAsyncContextManager[OpenFile]:
        """The current version. NotFound. It is closed when the context ends, also on cancellation."""

    async def stat(self, address: Address) -> FileInfo:
        """What is known of the current version. NotFound."""

    async def check(self, key: Key, expect: Expectation) -> None:
        """Raise now what a commit with this expectation would raise now. It promises nothing of later:
        only the commit decides. For refusing an upload before its bytes arrive."""

    def stage(
        self, *, size: int | None = None, algorithms: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Staged]:
        """Room for bytes on their way in. `size` is how many will come, if known: OutOfSpace at once when
        they cannot fit. `algorithms` are those of hashlib whose hashes are wanted, beside SHA-256. Left
        without a commit, for any reason, nothing of them remains."""

    async def commit(
        self,
        key: Key,
        staged: Staged,
        *,
        content_type: str,
        expect: Expectation = Expect.ANY,
        origin: FileInfo | None = None,
    ) -> Committed:
        """Store the staged bytes at the key; once for each stage.

        All or nothing: readers see the old file until this returns; then it is durable. AlreadyExists,
        VersionMismatch, PathConflict, OutOfSpace: nothing has changed. The id and created_at of a file
        outlive its replacement.

        `origin` is a file of another storage that this is a copy of: a new file takes over its id, unless
        another file here has that, and its created_at and updated_at; one that is replaced takes over its
        updated_at. The ETag is that of an upload, even if the origin has another.
        """

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        """Forget the file, durably. NotFound, VersionMismatch. Readers that have it open keep their bytes."""

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        """Give the file another key, durably; id and version stay, and so does the media type, unless it is
        what the old name suggests and the new one suggests another. `expect` is about the source.
        NotFound, AlreadyExists, PathConflict, VersionMismatch: nothing has changed."""

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        """Files of the listing, after those that earlier pages gave. Every file that exists unchanged the
        whole time appears exactly once, whatever comes and goes meanwhile. A folder that no file has is
        empty. A page that is not the last has as many as wanted, or, of files that are looked for by words or
        a type or sorted beneath a folder, those among so many that were looked at: fewer, or none. A cursor
        that no page of such a listing gave raises InvalidCursor."""

    async def folders(self, library: str, folder: str) -> tuple[str, ...]:
        """Names of the folders directly inside, in byte order: all of them, or the first MAX_ALL_FOLDERS."""

    async def libraries(self) -> tuple[str, ...]:
        """The names of all libraries that have files, in byte order; SHARED is one of them."""

    async def usage(self, library: str | None = None) -> Usage:
        """How many files are stored, in this library or in all, and how long they are together."""

    async def estimate_file_count(self) -> int:
        """How many files a scan will look at, about. For a progress bar: counting them takes a while."""

    def scan(self) -> AsyncGenerator[ScanStep, None]:
        """Look through everything for what was put there, changed or taken away by other programs, and for
        what crashes left; take note of it, and clean up. Harmless to repeat, beside other processes too."""

    def adopt_all(self, library: str) -> AsyncGenerator[ScanStep, None]:
        """Take in every file that other programs put into the library of an account, also those with ignored
        names, which a scan leaves alone. Needed before the library is deleted or moved elsewhere."""

    def hash_unverified(self) -> AsyncGenerator[int, None]:
        """Hash what was not uploaded, or may have changed unseen, and judge the encoding of texts that were
        stored before it was judged. Each step is the bytes it read."""

    def verify(self) -> AsyncGenerator[VerifyStep, None]:
        """Read every file and hold it against its hash. Changes nothing. The last step of each file has
        its verdict."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What it consists of that can fail by itself: the database, and where the bytes are."""

    async def ping(self, part: str | None = None) -> None:
        """Return when all of it answers, or this part; else StorageUnavailable says what does not. A ping
        that nobody waits for any more costs nothing further."""

"""The blocking Protocols that one database implements; threads, read-ahead and hashing are added above."""

from typing import Protocol

from app.storage.maintenance import Maintenance
from app.storage.types import Address, Committed, Expectation, FileInfo, Key, Listing, Page


class Reader(Protocol):
    """One version of one file, as `contract.OpenFile` promises. Used by several threads at once."""

    @property
    def info(self) -> FileInfo: ...

    def fileno(self) -> int | None:
        """As `contract.OpenFile.fileno`."""

    @property
    def unit(self) -> int:
        """The bytes are best read from multiples of this to others."""

    @property
    def most(self) -> int:
        """How many units are best read in one go, if there is memory for them; two more, if that is all."""

    def read(self, start: int, size: int) -> list[bytes]:
        """Up to `size` bytes from `start`, in the pieces in which they were found; fewer only where the bytes
        really end. Raises Truncated, StorageUnavailable."""

    def read_nowait(self, start: int, size: int) -> bytes | None:
        """What `read` would give, if it is in memory; None where that would have to wait. Never raises."""

    def is_cached(self, start: int, stop: int) -> bool:
        """Return whether the bytes [start, stop) of the descriptor are in memory, as far as that is known."""

    def preload(self, start: int, stop: int) -> None:
        """Read the bytes [start, stop) of the descriptor into memory. Raises StorageUnavailable."""

    def close(self) -> None:
        """Give back what it holds. Called once, when no read is under way."""

    def close_nowait(self) -> bool:
        """What `close` does, if that need not wait; False where it may, and nothing was done."""


class Writer(Protocol):
    """Bytes on their way in. Used by one thread at a time."""

    def write(self, data: bytes) -> None:
        """Write all of it. OutOfSpace, StorageUnavailable."""

    def discard(self) -> None:
        """Give back what it holds, and remove every byte that was not committed. Called once, last."""


class Backend(Protocol):
    """Stored files over one database, blocking. Called by many threads at once.

    Each method keeps the promise of its namesake in `contract.Storage`.
    """

    def try_open(self, address: Address) -> Reader | None:
        """What `open` would give, if that can be said at once; None where it would have to wait, or fail.
        Never raises, and may be called on an event loop."""

    def open(self, address: Address, *, wait: bool) -> Reader | None:
        """None only if not to wait, and the answer has to wait for a change that may be under way."""

    def check(self, key: Key, expect: Expectation) -> None: ...

    def stage(self, size: int | None) -> Writer: ...

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
        """`size`, `sha256` and `is_utf8` are of all that the writer was given; it came from here."""

    def delete(self, key: Key, expect: Expectation) -> None: ...

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo: ...

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page | None:
        """None only if not to wait, and the answer has to wait for a change that may be due."""

    def folders(self, library: str, folder: str) -> tuple[str, ...]: ...

    def libraries(self) -> tuple[str, ...]: ...

    @property
    def parts(self) -> tuple[str, ...]: ...

    def ping(self, part: str | None = None) -> None: ...

    @property
    def maintenance(self) -> Maintenance: ...

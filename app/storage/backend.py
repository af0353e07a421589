"""The Protocols that a database implements; threads, read-ahead and hashing are added above them.

All calls block, but for the few coroutines, which return None where a thread has to make the blocking call.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from app.storage.file_text import FolderFormat
from app.storage.maintenance import Maintenance
from app.storage.types import (
    Address,
    Committed,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    RenderedPage,
)


class Reader(Protocol):
    """One version of one file, as `contract.OpenFile` promises. Thread-safe."""

    @property
    def info(self) -> FileInfo: ...

    def fileno(self) -> int | None:
        """As `contract.OpenFile.fileno`."""

    @property
    def unit(self) -> int:
        """The size in bytes of the units in which the file is stored: reads are aligned to them."""

    @property
    def max_units(self) -> int:
        """The number of units to read in one batch, if the memory budget allows it."""

    def read(self, start: int, size: int) -> list[bytes]:
        """Return `size` bytes from `start`, in the pieces in which they are stored.

        There are fewer bytes only where the file ends. Raises Truncated, StorageUnavailable.
        """

    @property
    def reads_async(self) -> bool:
        """Whether `read_async` may read: otherwise `read`, in a thread, is the only way."""

    async def read_async(self, start: int, size: int) -> Sequence[memoryview] | None:
        """As `read`, from an event loop. Returns None if `read` has to be called instead.

        Cancelled, it releases all memory at once. Pass each piece to `recycle` when it was sent.
        """

    def recycle(self, piece: memoryview) -> None:
        """Take the memory of a piece back. It is not used again while anything else refers to it."""

    def read_nowait(self, start: int, size: int) -> bytes | None:
        """Return the bytes if they are in memory, or None if reading would block. Never raises."""

    def is_cached(self, start: int, stop: int) -> bool:
        """Return whether the bytes [start, stop) of the descriptor are known to be in memory."""

    def preload(self, start: int, stop: int) -> None:
        """Read the bytes [start, stop) of the descriptor into memory. Raises StorageUnavailable."""

    @property
    def provable_until(self) -> float:
        """The monotonic time until which `is_ready` may return True; 0 if it never does."""

    def is_ready(self, start: int, stop: int, now: float) -> bool:
        """Return whether the address is proved to still name this version, and the bytes [start, stop) of the
        descriptor are known to be in memory. `now` is the monotonic time. A renamed folder may go unnoticed
        for a tenth of a second. Never raises; for event loops."""

    def close(self) -> None:
        """Release everything that is held. Called once, when no read is in progress."""

    def close_nowait(self) -> bool:
        """Close the reader if that does not block. Return whether it was closed."""


def count_units(start: int, stop: int, unit: int) -> int:
    """Return how many units the bytes [start, stop) touch."""
    return -(-stop // unit) - start // unit


def end_of_batch(start: int, stop: int, unit: int, units: int) -> int:
    """Return the end, at most `stop`, of a batch of so many units from `start`; batches share no unit."""
    return min(stop, (start // unit + units) * unit)


def batches(start: int, stop: int, *, unit: int, max_units: int) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each batch of the bytes [start, stop)."""
    while start < stop:
        end = end_of_batch(start, stop, unit, max_units)
        yield start, end
        start = end


class Writer(Protocol):
    """Bytes that are being uploaded. Used by one thread at a time."""

    def write(self, data: bytes) -> None:
        """Write all of the data. Raises OutOfSpace, StorageUnavailable."""

    def discard(self) -> None:
        """Release everything that is held; remove the bytes unless they were committed. Called once."""


class Backend(Protocol):
    """The files of one database, as `contract.Storage` promises for each method. Thread-safe."""

    def try_open(self, address: Address) -> Reader | None:
        """Open the file, or return None if that would block or fail. Never raises; for event loops."""

    def open(self, address: Address, *, wait: bool) -> Reader | None:
        """Open the file. Returns None only without `wait`, if a change may be in progress."""

    async def open_async(self, address: Address) -> Reader | None:
        """As `open`, from an event loop. Returns None if `open` has to be called instead."""

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
        """Store the bytes of a writer of this backend; `size`, `sha256` and `is_utf8` are theirs."""

    def store(
        self,
        key: Key,
        data: bytes,
        *,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed:
        """Store a small file in one call; calls that are in progress at once may be committed together.

        Each call returns when its own file is durable, and fails alone.
        """

    async def store_async(
        self,
        key: Key,
        data: bytes,
        *,
        sha256: str,
        content_type: str,
        expect: Expectation,
        origin: FileInfo | None = None,
        is_utf8: bool | None = None,
    ) -> Committed | None:
        """As `store`, from an event loop. Returns None if `store` has to be called instead.

        A cancellation is delayed until the outcome is known.
        """

    def delete(self, key: Key, expect: Expectation) -> None: ...

    def move(self, source: Key, target: Key, expect: Expectation) -> FileInfo: ...

    def page(self, listing: Listing, *, cursor: str | None, limit: int, wait: bool) -> Page | None:
        """Return a page. Returns None only without `wait`, if the folder has to be refreshed first."""

    def render_page(
        self,
        listing: Listing,
        format_of: FolderFormat,
        *,
        cursor: str | None,
        limit: int,
        wait: bool,
        turn: AbstractContextManager[object],
    ) -> RenderedPage | None:
        """Return a page as `page` does, with the files as text. It is written while `turn` is entered."""

    def folders(self, library: str, folder: str, *, limit: int) -> tuple[str, ...]: ...

    def libraries(self) -> tuple[str, ...]: ...

    @property
    def parts(self) -> tuple[str, ...]: ...

    def ping(self, part: str | None = None) -> None: ...

    @property
    def maintenance(self) -> Maintenance: ...

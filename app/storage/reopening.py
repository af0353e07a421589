"""Versions of files that are opened again and again: their descriptors are kept open for a second.

Opening a file and proving that its row is still true takes longer than sending a short range of it. A kept
descriptor is proved at each use by fstat(2), and every tenth of a second by a stat(2) of the path.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from weakref import WeakValueDictionary

from app.storage.backend import Reader
from app.storage.readahead import ThreadedOpenFile
from app.storage.types import Address, FileInfo

KEPT_S = 1.0
"""Seconds for which a descriptor is kept; so long the blocks of a file may stay allocated that another
program deleted."""

MAX_KEPT = 64
"""Maximum number of kept descriptors. `server.connection_limits.RESERVED_DESCRIPTORS` includes them."""


class ReopenedFiles:
    """The kept descriptors of one storage. Used from the event loop only."""

    def __init__(
        self,
        try_open: Callable[[Address], Reader | None],
        as_open_file: Callable[[Reader, Address], ThreadedOpenFile],
        close: Callable[[Reader], None],
    ) -> None:
        """`close` closes a reader without blocking, in a thread if need be."""
        self.try_open = try_open
        self.as_open_file = as_open_file
        self._close = close
        self._versions: WeakValueDictionary[Address, ReopenedFile] = WeakValueDictionary()
        self._open: dict[ReopenedFile, None] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def version(self, address: Address, reader: Reader) -> "ReopenedFile | None":
        """Return the version of an open file; the same object for the same one. None if it has no proof."""
        expires_at = reader.provable_until
        if not expires_at:
            return None
        known = self._versions.get(address)
        if known is None or known.info is not reader.info or known.expires_at != expires_at:
            known = self._versions[address] = ReopenedFile(self, address, reader.info, expires_at)
        return known

    def keep(self, version: "ReopenedFile") -> None:
        """Close the descriptor of a version that was just opened when its time is over."""
        self._open[version] = None
        if len(self._open) > MAX_KEPT:
            next(iter(self._open)).close()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._close_outdated)

    def _close_outdated(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._open:
            oldest = next(iter(self._open))
            if oldest.kept_until > now:
                self._timer = loop.call_later(oldest.kept_until - now, self._close_outdated)
                return
            oldest.close()

    def forget(self, version: "ReopenedFile") -> None:
        self._open.pop(version, None)

    def release(self, shared: "_SharedReader") -> None:
        """Give up one use of a reader; the last one closes it."""
        shared.users -= 1
        if not shared.users:
            self._close(shared.reader)

    def close_all(self) -> None:
        """Close the kept descriptors, so that a deleted file frees its space. Those in use stay open."""
        for version in list(self._open):
            version.close()

    def stop(self) -> None:
        """Close the kept descriptors for good."""
        if self._timer is not None:
            self._timer.cancel()
        self.close_all()


class _SharedReader:
    """An open reader and the number of its users: the cache, and responses that have not ended."""

    __slots__ = ("reader", "users")

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.users = 1


def _is_never_ready(start: int, stop: int, now: float) -> bool:
    return False


class ReopenedFile:
    """`contract.ReopenableFile` over the readers of a backend."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_fileno",
        "_files",
        "_is_ready",
        "_shared",
        "expires_at",
        "info",
        "kept_until",
    )

    def __init__(self, files: ReopenedFiles, address: Address, info: FileInfo, expires_at: float) -> None:
        self.info = info
        self.expires_at = expires_at
        self.kept_until = 0.0
        self._files = files
        self._address = address
        self._shared: _SharedReader | None = None
        self._fileno = -1
        self._is_ready = _is_never_ready

    def descriptor(self, start: int, stop: int, now: float) -> int:
        if now >= self.kept_until:
            self._reopen(now)
        return self._fileno if self._is_ready(start, stop, now) else -1

    def _reopen(self, now: float) -> None:
        self.close()
        reader = self._files.try_open(self._address) if now < self.expires_at else None
        if reader is None:
            return
        descriptor = reader.fileno()
        if descriptor is None or reader.info != self.info:
            self._files.release(_SharedReader(reader))
            return
        self._shared, self._fileno, self._is_ready = _SharedReader(reader), descriptor, reader.is_ready
        self.kept_until = now + KEPT_S
        self._files.keep(self)

    def close(self) -> None:
        """Close the kept descriptor, once no response needs it."""
        shared, self._shared, self._fileno, self.kept_until = self._shared, None, -1, 0.0
        self._is_ready = _is_never_ready
        if shared is not None:
            self._files.forget(self)
            self._files.release(shared)

    def hold(self) -> "_Held":
        assert self._shared is not None
        return _Held(self._files, self._address, self._shared)


class _Held:
    """A context in which a kept file stays open."""

    def __init__(self, files: ReopenedFiles, address: Address, shared: _SharedReader) -> None:
        self._files = files
        self._shared = shared
        self._file = files.as_open_file(shared.reader, address)
        shared.users += 1

    async def __aenter__(self) -> ThreadedOpenFile:
        return self._file

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._file.wait_for_reads()
        finally:
            self._files.release(self._shared)

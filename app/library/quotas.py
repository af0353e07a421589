"""Quotas: how many bytes the files of an account may have together."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from weakref import WeakValueDictionary

from app.accounts.errors import NotSignedIn
from app.accounts.models import Account
from app.storage.contract import Storage, find_file
from app.storage.types import FileInfo, Key
from app.storage.workers import wait_until_done

MAX_SHARED_S = 1.0
"""Seconds for which uploads may join those that share a library. Then others get their turn."""

Acquire = Callable[[str], AbstractAsyncContextManager[None]]
"""Holds a lease of this name among all processes."""


class QuotaExceeded(Exception):
    """The files of the account would exceed its quota. The message may be shown to the client."""


class _Sharers:
    """Uploads that hold a library together. One task acquires the lease for all of them, and releases it."""

    def __init__(self, hold: AbstractAsyncContextManager[None]) -> None:
        self.count = 0
        self.is_open = True
        """Whether others may join."""
        self._left = asyncio.Event()
        self._held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closes_at: float | None = None  # while the lease is awaited, all may join
        self._task = asyncio.create_task(self._hold_until_all_left(hold))

    def may_join(self) -> bool:
        return self.is_open and (self._closes_at is None or time.monotonic() < self._closes_at)

    async def wait_until_held(self) -> None:
        """Raises HeldElsewhere, StorageUnavailable."""
        await asyncio.wait([self._held])
        self._held.result()

    async def leave(self) -> None:
        """Give up one part. The last one waits until the library is free."""
        self.count -= 1
        if self.count:
            return
        self.is_open = False
        self._left.set()
        if not self._held.done():
            self._task.cancel()
        await wait_until_done(self._task)

    async def _hold_until_all_left(self, hold: AbstractAsyncContextManager[None]) -> None:
        try:
            async with hold:
                self._closes_at = time.monotonic() + MAX_SHARED_S
                self._held.set_result(None)
                await self._left.wait()
        except Exception as error:
            self.is_open = False
            if self._held.done():
                raise
            self._held.set_exception(error)
        finally:
            self._held.cancel()  # does nothing unless this task was cancelled first


class _Library:
    """The uploads that are on their way into a library of this process."""

    def __init__(self, name: str, acquire: Acquire) -> None:
        self.reserved = 0
        """Bytes of all of them."""
        self._name = name
        self._acquire = acquire
        self._lock = asyncio.Lock()  # of the tasks that wait in this process, one at a time asks the database
        self._sharers: _Sharers | None = None

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold the library while no other task of any process does. Raises HeldElsewhere."""
        if self._sharers is not None:
            self._sharers.is_open = False  # or they would keep the library for as long as others join them
        async with self._hold():
            yield

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the library, perhaps together with others of this process. Raises HeldElsewhere."""
        if self._sharers is None or not self._sharers.may_join():
            self._sharers = _Sharers(self._hold())
        sharers = self._sharers
        sharers.count += 1
        try:
            await sharers.wait_until_held()
            yield
        finally:
            await sharers.leave()

    @asynccontextmanager
    async def _hold(self) -> AsyncIterator[None]:
        async with self._lock, self._acquire(f"library {self._name}"):
            yield


class _LookUps:
    """Look-ups of accounts, each shared by all that asked for it before it began."""

    def __init__(self, may_store: Callable[[str], Awaitable[bool]]) -> None:
        self._may_store = may_store
        self._next: dict[str, asyncio.Task[bool]] = {}
        self._current: dict[str, asyncio.Task[bool]] = {}

    async def may_store(self, account_id: str) -> bool:
        """Return the result of a look-up that begins after this call."""
        look_up = self._next.get(account_id)
        if look_up is None:
            current = self._current.get(account_id)
            look_up = self._next[account_id] = asyncio.create_task(self._begin_after(current, account_id))
        return await asyncio.shield(look_up)

    async def _begin_after(self, current: asyncio.Task[bool] | None, account_id: str) -> bool:
        if current is not None:
            await asyncio.wait([current])
        look_up = self._current[account_id] = self._next.pop(account_id)
        try:
            return await self._may_store(account_id)
        finally:
            if self._current.get(account_id) is look_up:
                del self._current[account_id]


class Quotas:
    """Admits uploads that fit, and checks again when each is stored, because several may be admitted at once.

    `default` is in bytes, for accounts without a quota of their own; None is no limit. `may_store` looks up
    whether an account still exists. `acquire` holds a lease of this name among all processes. Used from the
    event loop only.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        default: int | None,
        may_store: Callable[[str], Awaitable[bool]],
        acquire: Acquire,
    ) -> None:
        self._storage = storage
        self._default = default
        self._look_ups = _LookUps(may_store)
        self._acquire = acquire
        self._libraries: WeakValueDictionary[str, _Library] = WeakValueDictionary()

    def of(self, account: Account) -> int | None:
        """Return the quota of an account in bytes; None for no limit."""
        return self._default if account.quota is None else account.quota

    @asynccontextmanager
    async def reserve(
        self, account: Account, *, replacing: FileInfo | None = None, early: bool = True
    ) -> AsyncIterator["QuotaReservation"]:
        """Reserve bytes for one upload, which may replace an existing file, until the context exits.

        With `early`, stored files count from the beginning; else only when the upload is stored.
        """
        library = self._library(account.library)
        quota = self.of(account)
        used = (await self._storage.usage(account.library)).size if quota is not None and early else 0
        used -= replacing.size if replacing else 0
        reservation = QuotaReservation(self, account, library, quota, used)
        try:
            yield reservation
        finally:
            reservation.release()

    @asynccontextmanager
    async def exclusive(self, library: str) -> AsyncIterator[None]:
        """Keep other uploads, of any process, from being stored in the library. Raises HeldElsewhere."""
        held = self._library(library)  # the variable keeps the weak entry, and so the lock, alive
        async with held.alone():
            yield

    def _library(self, name: str) -> _Library:
        library = self._libraries.get(name)
        if library is None:
            library = self._libraries[name] = _Library(name, self._acquire)
        return library

    async def _check(self, account: Account, key: Key, size: int) -> None:
        if not await self._look_ups.may_store(account.id):
            raise NotSignedIn("Your account no longer exists, or is disabled. Ask the administrator.")
        quota = self.of(account)
        if quota is None:
            return
        replaced = await find_file(self._storage, key)
        growth = size - (replaced.size if replaced else 0)
        if (await self._storage.usage(account.library)).size + growth > quota:
            raise _exceeded(quota)


class QuotaReservation:
    """The bytes that one upload takes of a quota."""

    def __init__(
        self, quotas: Quotas, account: Account, library: _Library, quota: int | None, used: int
    ) -> None:
        self._quotas = quotas
        self._account = account
        self._library = library
        self._quota = quota
        self._free = None if quota is None else quota - used
        self._size = 0

    def resize(self, size: int) -> None:
        """Reserve this many bytes in total. Raises QuotaExceeded if they do not fit beside other uploads."""
        self._library.reserved += size - self._size
        self._size = size
        if self._quota is not None and self._free is not None and self._library.reserved > self._free:
            raise _exceeded(self._quota)

    @asynccontextmanager
    async def storing(self, key: Key, size: int) -> AsyncIterator[None]:
        """Hold the library while the upload is stored. Raises QuotaExceeded if it does not fit.

        Uploads without a quota share it, so that small ones can be committed together.
        """
        library = self._quotas._library(key.library)
        async with library.shared() if self._quota is None else library.alone():
            await self._quotas._check(self._account, key, size)
            yield

    def release(self) -> None:
        """Give the bytes back: the upload is stored, or failed."""
        self._library.reserved -= self._size
        self._size = 0


def _exceeded(quota: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"This upload exceeds your quota of {quota:,} bytes for all files together. Delete some files first."
    )

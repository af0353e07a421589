"""Quotas: how many bytes the files of an account may have together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from app.accounts.errors import NotSignedIn
from app.accounts.models import Account
from app.storage.contract import Storage, find_file
from app.storage.types import FileInfo, Key


class QuotaExceeded(Exception):
    """The files of the account would exceed its quota. The message may be shown to the client."""


@dataclass
class _Library:
    """The uploads that are on their way into a library of this process."""

    lock: asyncio.Lock
    """Held while one of them is stored."""
    reserved: int = 0
    """Bytes of all of them."""


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
        acquire: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._storage = storage
        self._default = default
        self._may_store = may_store
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
        # Of the tasks that wait in this process, one at a time asks the database.
        async with held.lock, self._acquire(f"library {library}"):
            yield

    def _library(self, name: str) -> _Library:
        library = self._libraries.get(name)
        if library is None:
            library = self._libraries[name] = _Library(asyncio.Lock())
        return library

    async def _check(self, account: Account, key: Key, size: int) -> None:
        if not await self._may_store(account.id):
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
        """Hold the library while the upload is stored. Raises QuotaExceeded if it does not fit."""
        async with self._quotas.exclusive(key.library):
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

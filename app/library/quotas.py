"""How many bytes the files of an account may have together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from app.accounts.errors import NotSignedIn
from app.accounts.models import Account
from app.storage.contract import Storage
from app.storage.errors import NotFound
from app.storage.types import FileInfo, Key


class QuotaExceeded(Exception):
    """The message is a sentence that may be shown to the person who asked."""


@dataclass
class _Library:
    """What is on its way into a library, and whose turn it is to store something there."""

    turn: asyncio.Lock
    coming: int = 0
    """Bytes."""


class Quotas:
    """Lets uploads in, and sees once more when they are stored that all files fit: of those that were let in
    together, those that come first. Used from the event loop only.

    `default` is in bytes, for accounts with no quota of their own; None is no limit. `may_store` tells
    whether an account is still there, looking anew. Inside a `turn` no other process has one of that name.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        default: int | None,
        may_store: Callable[[str], Awaitable[bool]],
        turn: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._storage = storage
        self._default = default
        self._may_store = may_store
        self._turn = turn
        self._libraries: WeakValueDictionary[str, _Library] = WeakValueDictionary()

    def of(self, account: Account) -> int | None:
        """Bytes, or None for no limit."""
        return self._default if account.quota is None else account.quota

    @asynccontextmanager
    async def room(
        self, account: Account, *, replacing: FileInfo | None = None, early: bool = True
    ) -> AsyncIterator["Room"]:
        """Room for one upload, perhaps in place of a file that is there. Count stored files `early`, or only
        when the upload is to be stored: until then uploads alone have to fit."""
        library = self._library(account.library)
        quota = self.of(account)
        used = (await self._storage.usage(account.library)).size if quota is not None and early else 0
        room = Room(self, account, library, quota, used - (replacing.size if replacing else 0))
        try:
            yield room
        finally:
            room.leave()

    @asynccontextmanager
    async def turn(self, library: str) -> AsyncIterator[None]:
        """Inside, nobody else stores anything in the library, in no process. HeldElsewhere."""
        held = self._library(library)  # by a name, or it is gone at once, and the next to come gets another
        # Of all who wait here one asks the database.
        async with held.turn, self._turn(f"library {library}"):
            yield

    def _library(self, name: str) -> _Library:
        library = self._libraries.get(name)
        if library is None:
            library = self._libraries[name] = _Library(asyncio.Lock())
        return library

    async def _check(self, account: Account, key: Key, size: int) -> None:
        if not await self._may_store(account.id):
            raise NotSignedIn("The account is gone.")
        quota = self.of(account)
        if quota is None:
            return
        try:
            replaced = (await self._storage.stat(key)).size
        except NotFound:
            replaced = 0
        if (await self._storage.usage(account.library)).size - replaced + size > quota:
            raise _exceeded(quota)


class Room:
    """What one upload takes of a quota."""

    def __init__(
        self, quotas: Quotas, account: Account, library: _Library, quota: int | None, used: int
    ) -> None:
        self._quotas = quotas
        self._account = account
        self._library = library
        self._quota = quota
        self._free = None if quota is None else quota - used
        self._taken = 0

    def take(self, size: int) -> None:
        """The upload has, or will have, so many bytes. QuotaExceeded."""
        self._library.coming += size - self._taken
        self._taken = size
        if self._quota is not None and self._free is not None and self._library.coming > self._free:
            raise _exceeded(self._quota)

    @asynccontextmanager
    async def stored(self, key: Key, size: int) -> AsyncIterator[None]:
        """Inside, the upload is to be stored, and nothing else is: QuotaExceeded, if it does not fit."""
        async with self._quotas.turn(key.library):
            await self._quotas._check(self._account, key, size)
            yield

    def leave(self) -> None:
        """It has ended, whatever became of it."""
        self._library.coming -= self._taken
        self._taken = 0


def _exceeded(quota: int) -> QuotaExceeded:
    return QuotaExceeded(f"All your files together may have {quota:,} bytes; this would be more.")

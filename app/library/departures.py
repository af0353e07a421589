"""Accounts that are being deleted: their files go first, and then themselves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from app.accounts.models import Account
from app.library.quotas import Quotas
from app.library.service import Library
from app.storage.contract import Storage
from app.storage.errors import NotFound, StorageError, StorageUnavailable
from app.storage.leases import HeldElsewhere, Leases
from app.storage.types import Expect, FileInfo, Listing

LOOK_EVERY_S = 60
"""How often it is looked for accounts that a command marked, or another process left behind."""

LOOK_AGAIN_S = 3.0
"""The same while another process sees to one, which may have been killed. If two do, that harms nothing."""

_PAGE_SIZE = 100

_log = logging.getLogger("seekable")


class Departures:
    """Removes the files of accounts that are leaving, and then the accounts. What is broken off is gone on
    with later, after a restart too. `leaving` names them, and `remove` forgets one by its id."""

    def __init__(
        self,
        storage: Storage,
        library: Library,
        quotas: Quotas,
        *,
        leaving: Callable[[], Awaitable[Sequence[Account]]],
        remove: Callable[[str], Awaitable[None]],
        leases: Leases,
    ) -> None:
        self._storage = storage
        self._library = library
        self._quotas = quotas
        self._leaving = leaving
        self._remove = remove
        self._leases = leases
        self._asked = asyncio.Event()

    def soon(self) -> None:
        """Say that an account is leaving. Called in the event loop."""
        self._asked.set()

    async def run(self) -> None:
        """Go on until cancelled. What goes wrong is logged, and tried again."""
        while True:
            self._asked.clear()
            rest_s: float = LOOK_EVERY_S
            async with _logged():
                for account in await self._leaving():
                    async with _logged():  # each by itself, or one that cannot go keeps all behind it
                        try:
                            await self._see_off(account)
                        except HeldElsewhere:
                            rest_s = LOOK_AGAIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._asked.wait()

    async def _see_off(self, account: Account) -> None:
        # Nobody else need do it too.
        async with self._leases.turn(f"departure {account.id}", within_s=0, lasts_s=LOOK_AGAIN_S):
            await self._clear(account)
            await self._remove(account.id)

    async def _clear(self, account: Account) -> None:
        # Uploads that were let in before it was marked end before this begins, in all processes.
        async with self._quotas.turn(account.library):
            pass
        for ignored in (False, True):
            await self._clear_listed(Listing(account.library, recursive=True, ignored=ignored))

    async def _clear_listed(self, listing: Listing) -> None:
        while (page := await self._storage.page(listing, cursor=None, limit=_PAGE_SIZE)).items:
            removed = [await self._removed(info) for info in page.items]
            if not any(removed):
                raise StorageUnavailable("They are listed, and not found.")

    async def _removed(self, info: FileInfo) -> bool:
        try:
            await self._library.remove(info, expect=Expect.ANY)
        except NotFound:
            return False
        return True


@contextlib.asynccontextmanager
async def _logged() -> AsyncIterator[None]:
    """What goes wrong inside is told to the log."""
    try:
        yield
    except StorageError as error:
        _log.error("The files of an account that was deleted are still there: %s", error)
    except Exception:
        _log.exception("The files of an account that was deleted are still there")

"""Deletion of accounts: first their files are deleted or moved to another library, then the account."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import count

from app.accounts.models import Account, Destination
from app.library.quotas import Quotas
from app.library.service import Library
from app.storage.contract import Storage, find_file
from app.storage.errors import (
    AlreadyExists,
    InvalidName,
    NotFound,
    PathConflict,
    StorageError,
    StorageUnavailable,
)
from app.storage.leases import HeldElsewhere, Leases
from app.storage.maintenance import ScanOutcome, Usage
from app.storage.types import MAX_SEGMENT_BYTES, SHARED, Expect, FileInfo, Key, Listing

IN_PLACE = Destination(library="", folder="")
"""The destination if the files stay where they are, because the account's library is the shared one."""

MAX_NUMBERED = 9
"""Names to try for a file in its own folder, before it is moved to the top of the destination."""

MAX_FLAT = 1_000
"""Names to try at the top of the destination."""

MAX_EXTENSION_BYTES = 32
"""Longer texts after the last full stop of a name are not extensions, but parts of a sentence."""


async def usage_before_deletion(storage: Storage, library: str) -> Usage:
    """Return the usage of a library, including files that other programs have just put there."""
    await storage.page(Listing(library, recursive=True), cursor=None, limit=1)
    return await storage.usage(library)


async def free_destination(storage: Storage, library: str, email: str) -> Destination:
    """Return a folder of the library that is named for the account and does not exist yet."""
    # Names that begin with a full stop are hidden on many systems, and some of them are ignored in lists.
    name = email.lstrip(".").replace("/", "-").replace("\\", "-")
    for number in count(1):
        folder = numbered(name, number, is_file=False)
        if not await _is_taken(storage, library, folder):
            return Destination(library, folder)
    raise AssertionError("unreachable")


async def _is_taken(storage: Storage, library: str, folder: str) -> bool:
    for ignored in (False, True):
        beneath = Listing(library, folder=folder, recursive=True, ignored=ignored)
        if (await storage.page(beneath, cursor=None, limit=1)).items:
            return True
    return await find_file(storage, Key.of(library, "", folder)) is not None


def candidates(destination: Destination, key: Key) -> Iterator[Key]:
    """Yield the keys to try for a file: below the destination, in its own folder, with a number if necessary;
    then, because that folder may be impossible, at the top of the destination."""
    folder = f"{destination.folder}/{key.folder}" if key.folder else destination.folder
    for place, most in ((folder, MAX_NUMBERED), (destination.folder, MAX_FLAT)):
        for number in range(1, most + 1):
            try:
                yield Key.of(destination.library, place, numbered(key.filename, number))
            except InvalidName:  # too deep, or too long
                break


def numbered(name: str, number: int, *, is_file: bool = True) -> str:
    """Return the name with a number before its extension, unless it is 1; cut to the length of a name."""
    stem, dot, extension = name.rpartition(".")
    if not is_file or not stem.strip(".") or len(extension.encode()) > MAX_EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    end = (f" ({number})" if number > 1 else "") + dot + extension
    space = MAX_SEGMENT_BYTES - len(end.encode())
    return stem.encode()[: max(0, space)].decode(errors="ignore") + end


CHECK_EVERY_S = 60
"""Seconds between two searches for accounts that a command marked, or that a killed process left."""

RECHECK_AFTER_S = 3.0
"""Seconds until the next attempt while another process, which may have been killed, deletes an account. It is
harmless if two processes do."""

_PAGE_SIZE = 100

MOVE_BATCH = 10
"""Files that are moved into a library before its uploads may be stored again."""

log = logging.getLogger(__name__)


class AccountDeletion:
    """Deletes accounts that are marked as leaving, with their files. Continues after failures and restarts.

    `leaving` returns the marked accounts, `remove` removes one by its id, and `is_staying` returns whether an
    account exists and is not marked.
    """

    def __init__(
        self,
        storage: Storage,
        library: Library,
        quotas: Quotas,
        *,
        leaving: Callable[[], Awaitable[Sequence[Account]]],
        remove: Callable[[str], Awaitable[None]],
        leases: Leases,
        is_staying: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._storage = storage
        self._library = library
        self._quotas = quotas
        self._leaving = leaving
        self._remove = remove
        self._leases = leases
        self._is_staying = is_staying
        self._requested = asyncio.Event()

    def start_soon(self) -> None:
        """Search for marked accounts now. Call this from the event loop."""
        self._requested.set()

    async def run(self) -> None:
        """Run until cancelled. Failures are logged, and retried."""
        while True:
            self._requested.clear()
            rest_s: float = CHECK_EVERY_S
            async with _logged():
                for account in await self._leaving():
                    async with _logged():  # for each account, so that one failure does not block the others
                        try:
                            await self._delete(account)
                        except HeldElsewhere:
                            rest_s = RECHECK_AFTER_S
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._requested.wait()

    async def _delete(self, account: Account) -> None:
        # The lease keeps other processes from doing the same work. Earlier releases use the same name.
        async with self._leases.acquire(f"departure {account.id}", timeout_s=0, lease_s=RECHECK_AFTER_S):
            await self._clear(account)
            await self._remove(account.id)

    async def _clear(self, account: Account) -> None:
        # Waits for uploads, of all processes, that were admitted before the account was marked.
        async with self._quotas.exclusive(account.library):
            pass
        if account.keep == IN_PLACE and account.library == SHARED:
            return
        if account.library != SHARED:
            await self._adopt_all(account)
        for ignored in (False, True):
            await self._clear_listed(account, Listing(account.library, recursive=True, ignored=ignored))

    async def _adopt_all(self, account: Account) -> None:
        """Record the files that other programs put into the library, or ignored ones would be left behind."""
        async with aclosing(self._storage.adopt_all(account.library)) as steps:
            async for step in steps:
                for finding in step.findings:
                    if finding.outcome is ScanOutcome.UNFINISHED:
                        raise StorageUnavailable(f"{finding.path!r}: {finding.reason}")

    async def _clear_listed(self, account: Account, listing: Listing) -> None:
        while (page := await self._storage.page(listing, cursor=None, limit=_PAGE_SIZE)).items:
            if account.keep is None:
                done = [await self._removed(info) for info in page.items]
            else:
                done = await self._moved(page.items, account, account.keep)
            if not any(done):
                raise StorageUnavailable("Files are listed, but do not exist.")

    async def _moved(
        self, files: Sequence[FileInfo], account: Account, destination: Destination
    ) -> list[bool]:
        """Move files whatever the quota, because they must not get lost; return whether each existed."""
        moved: list[bool] = []
        for start in range(0, len(files), MOVE_BATCH):
            # Like an upload, so that no file enters the library of an account that is being deleted.
            async with self._quotas.exclusive(destination.library):
                await self._check_receiver(account, destination)
                for info in files[start : start + MOVE_BATCH]:
                    moved.append(await self._moved_once(info.key, destination))
        return moved

    async def _moved_once(self, key: Key, destination: Destination) -> bool:
        """Move one file, never over another. Return False if it does not exist."""
        for target in candidates(destination, key):
            try:
                await self._library.rename(key, target, expect=Expect.ANY)
            except (AlreadyExists, PathConflict):
                continue
            except NotFound:
                return False
            return True
        raise StorageUnavailable(f"No name for {key.path!r} is free in {destination.folder!r}.")

    async def _check_receiver(self, account: Account, destination: Destination) -> None:
        """Raise StorageUnavailable if files in the destination would be deleted as well."""
        others = (one for one in await self._leaving() if one.id != account.id)
        is_kept = all(one.library != destination.library for one in others)
        if is_kept and destination.library != SHARED and self._is_staying is not None:
            is_kept = await self._is_staying(destination.library)  # libraries have the ids of their accounts
        if not is_kept:
            raise StorageUnavailable(
                "The account that should receive them is deleted or being deleted. Run `seekable account "
                "remove` again and choose another."
            )

    async def _removed(self, info: FileInfo) -> bool:
        try:
            await self._library.remove(info, expect=Expect.ANY)
        except NotFound:
            return False
        return True


@asynccontextmanager
async def _logged() -> AsyncIterator[None]:
    """Log errors of the context instead of raising them."""
    try:
        yield
    except StorageError as error:
        log.error("An account could not be deleted yet; the server will retry: %s", error)
    except Exception:
        log.exception("An account could not be deleted yet; the server will retry")

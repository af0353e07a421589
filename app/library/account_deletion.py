"""Accounts that are being deleted: their files are deleted or moved first, and then themselves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import count

from app.accounts.models import Account, Destination
from app.library.quotas import Quotas
from app.library.service import Library
from app.storage.contract import Storage
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
"""Of the account whose library is the shared one: its files are ordinary files in the folder already."""

MAX_NUMBERED = 9
"""Names that are tried for a file in its own folder, before it goes to the top of the destination."""

MAX_FLAT = 1_000

MAX_EXTENSION_BYTES = 32
"""What follows the last full stop of a longer name is a part of a sentence."""


async def usage_before_deletion(storage: Storage, library: str) -> Usage:
    """Return what would be deleted with the library, also what was put there by hand just now."""
    await storage.page(Listing(library, recursive=True), cursor=None, limit=1)
    return await storage.usage(library)


async def free_destination(storage: Storage, library: str, email: str) -> Destination:
    """Return a folder of the library that is named for the account and is not there yet."""
    # Names with a full stop at their beginning are hidden on many systems, and some of them in lists here.
    wanted = email.lstrip(".").replace("/", "-").replace("\\", "-")
    for number in count(1):
        folder = numbered(wanted, number, is_file=False)
        if not await _is_taken(storage, library, folder):
            return Destination(library, folder)
    raise AssertionError("There are more numbers than folders.")


async def _is_taken(storage: Storage, library: str, folder: str) -> bool:
    for ignored in (False, True):
        beneath = Listing(library, folder=folder, recursive=True, ignored=ignored)
        if (await storage.page(beneath, cursor=None, limit=1)).items:
            return True
    try:
        await storage.stat(Key.of(library, "", folder))
    except NotFound:
        return False
    return True


def candidates(destination: Destination, key: Key) -> Iterator[Key]:
    """Return the names to try for a file, the best first: where it was, below the folder of the destination;
    with a number where that is taken; and at the top of that folder, where its own folders cannot be made."""
    folder = f"{destination.folder}/{key.folder}" if key.folder else destination.folder
    for place, most in ((folder, MAX_NUMBERED), (destination.folder, MAX_FLAT)):
        for number in range(1, most + 1):
            try:
                yield Key.of(destination.library, place, numbered(key.filename, number))
            except InvalidName:  # too deep, or too long
                break


def numbered(name: str, number: int, *, is_file: bool = True) -> str:
    """Return the name with a number before its extension, unless the number is 1; short enough for a name."""
    stem, dot, extension = name.rpartition(".")
    if not is_file or not stem.strip(".") or len(extension.encode()) > MAX_EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    end = (f" ({number})" if number > 1 else "") + dot + extension
    room = MAX_SEGMENT_BYTES - len(end.encode())
    return stem.encode()[: max(0, room)].decode(errors="ignore") + end


LOOK_EVERY_S = 60
"""How often it is looked for accounts that a command marked, or another process left behind."""

LOOK_AGAIN_S = 3.0
"""The same while another process sees to one, which may have been killed. If two do, that harms nothing."""

_PAGE_SIZE = 100

MOVED_AT_ONCE = 10
"""Files that are moved into a library while its uploads wait to be stored."""

_log = logging.getLogger("seekable")


class Departures:
    """Removes the files of accounts that are leaving, and then the accounts. What is broken off is gone on
    with later, after a restart too. `leaving` names them, and `remove` forgets one by its id; `is_staying`
    returns whether an account is there that is not leaving."""

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
        async with self._leases.acquire(f"departure {account.id}", timeout_s=0, lease_s=LOOK_AGAIN_S):
            await self._clear(account)
            await self._remove(account.id)

    async def _clear(self, account: Account) -> None:
        # Uploads that were let in before it was marked end before this begins, in all processes.
        async with self._quotas.turn(account.library):
            pass
        if account.keep == IN_PLACE and account.library == SHARED:
            return
        if account.library != SHARED:
            await self._adopt_all(account)
        for ignored in (False, True):
            await self._clear_listed(account, Listing(account.library, recursive=True, ignored=ignored))

    async def _adopt_all(self, account: Account) -> None:
        """Take in what lies in the library by hand, or files that no list names would be left behind."""
        async with contextlib.aclosing(self._storage.adopt_all(account.library)) as steps:
            async for step in steps:
                for finding in step.findings:
                    if finding.outcome is ScanOutcome.UNFINISHED:
                        raise StorageUnavailable(f"{finding.path!r}: {finding.reason}")

    async def _clear_listed(self, account: Account, listing: Listing) -> None:
        while (page := await self._storage.page(listing, cursor=None, limit=_PAGE_SIZE)).items:
            if account.keep is None:
                gone = [await self._removed(info) for info in page.items]
            else:
                gone = await self._moved(page.items, account, account.keep)
            if not any(gone):
                raise StorageUnavailable("They are listed, and not found.")

    async def _moved(
        self, files: Sequence[FileInfo], account: Account, destination: Destination
    ) -> list[bool]:
        """Move files to where they are kept. Whatever its quota is, an account takes them: they are stored
        already, and must not get lost."""
        moved: list[bool] = []
        for start in range(0, len(files), MOVED_AT_ONCE):
            # As for uploads: when an account is leaving, nothing more comes into its library.
            async with self._quotas.turn(destination.library):
                await self._check_receiver(account, destination)
                for info in files[start : start + MOVED_AT_ONCE]:
                    moved.append(await self._moved_once(info.key, destination))
        return moved

    async def _moved_once(self, key: Key, destination: Destination) -> bool:
        """Move one file, never over another. Return False if it is not there any more."""
        for target in candidates(destination, key):
            try:
                await self._library.rename(key, target, expect=Expect.ANY)
            except (AlreadyExists, PathConflict):
                continue
            except NotFound:
                return False
            return True
        raise StorageUnavailable(f"There is no free name for one in {destination.folder!r}.")

    async def _check_receiver(self, account: Account, destination: Destination) -> None:
        """Raise StorageUnavailable if files that are moved there would be deleted, or be lost."""
        others = (one for one in await self._leaving() if one.id != account.id)
        is_there = all(one.library != destination.library for one in others)
        if is_there and destination.library != SHARED and self._is_staying is not None:
            is_there = await self._is_staying(destination.library)  # which is named like its account
        if not is_there:
            raise StorageUnavailable(
                "The account that gets them is gone or leaving: `seekable account remove` it once more, and "
                "choose another."
            )

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

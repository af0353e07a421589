"""Leases: what only one at a time does, of all processes that share a database."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol
from uuid import uuid4

from app.storage.errors import StorageError, StorageUnavailable
from app.storage.workers import Pool, settled

_log = logging.getLogger("seekable")

LASTS_S = 15.0
"""How long work stands still whose process was killed. It is renewed three times as often."""

TURN_LASTS_S = 10.0
"""The same of turns, which somebody waits for."""

TURN_WITHIN_S = 60.0
"""How long a turn is waited for."""

LONGEST_PAUSE_S = 0.1
"""Between two looks at whether it is our turn."""

ALONE_S = 1.0
"""How long one process may take turn after turn. Then it waits for one look of others: those who wait in it
know at once, and would always be faster."""

AT_ONCE_S = 0.005
"""Between two turns that follow one another."""


class HeldElsewhere(StorageUnavailable):
    """Somebody else holds it, and has not given it back for so long."""


class LeaseStore(Protocol):
    """Which names are held, and by whom. Plain blocking calls, from any thread.

    What a process held that was killed is free again when its time is over, at the latest, by the clock of
    the database, so that those of the machines need not agree. StorageUnavailable, OutOfSpace.
    """

    def lease(self, name: str, holder: str, for_s: float) -> bool:
        """Hold the name for so many seconds from now, anew or on. False while another holder does."""
        ...

    def release(self, name: str, holder: str) -> None:
        """Give it back, if this holder has it."""
        ...


class Leases:
    """Holds names for as long as something is done. Used from the event loop only."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._pool = Pool(4, "lease")
        self._taken: dict[str, tuple[float, float]] = {}
        """Of turns that were here lately, since when one followed another, and when the last one ended."""

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.close()

    @asynccontextmanager
    async def turn(
        self, name: str, *, within_s: float = TURN_WITHIN_S, lasts_s: float = TURN_LASTS_S
    ) -> AsyncIterator[None]:
        """Hold the name inside. HeldElsewhere, if others do all the time."""
        lease = _Lease(self._store, self._pool, name, lasts_s)
        try:
            await self._let_others(name)
            await self._wait(lease, within_s)
            renewing = asyncio.create_task(lease.kept())
            try:
                yield
            finally:
                await _ended(renewing)
        finally:
            await lease.give_back()
            self._ended(name)

    async def _let_others(self, name: str) -> None:
        since, ended = self._taken.get(name, (0.0, 0.0))
        now = time.monotonic()
        if now - ended > AT_ONCE_S:
            since = now
        elif now - since > ALONE_S:
            await asyncio.sleep(LONGEST_PAUSE_S * 1.2)
            since = time.monotonic()
        self._taken[name] = (since, now)

    def _ended(self, name: str) -> None:
        now = time.monotonic()
        since, _ = self._taken.pop(name, (now, now))
        self._taken[name] = (since, now)
        while now - next(iter(self._taken.values()))[1] > AT_ONCE_S:
            del self._taken[next(iter(self._taken))]

    async def _wait(self, lease: "_Lease", within_s: float) -> None:
        deadline, pause = time.monotonic() + within_s, 0.005
        while not await lease.take():
            if time.monotonic() >= deadline:
                raise HeldElsewhere("Another server is busy with this; try again soon.")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def whenever_held(
        self, name: str, work: Callable[[], Awaitable[None]], *, lasts_s: float = LASTS_S
    ) -> None:
        """Do the work while this process holds the name, and wait while another does; until cancelled. What
        could not be renewed is given up: the work is cancelled before another may begin with it."""
        silent = False
        while True:
            lease = _Lease(self._store, self._pool, name, lasts_s)
            try:
                if await lease.take():
                    silent = False
                    await _until_lost(lease, work)
            except StorageError as error:
                if not silent:  # once, however long the database is down
                    _log.error("It cannot be told who looks after the library: %s", error)
                silent = True
            except Exception:
                _log.exception("Looking after the library has ended, and begins anew")
            finally:
                await lease.give_back()
            await asyncio.sleep(lasts_s / 3)


class _Lease:
    """One holder of a name."""

    def __init__(self, store: LeaseStore, pool: Pool, name: str, lasts_s: float) -> None:
        self._store, self._pool, self._name, self._lasts_s = store, pool, name, lasts_s
        self._holder = uuid4().hex
        self._until = 0.0
        self._may_be_ours = False
        self._renewing: asyncio.Future[bool] | None = None

    async def take(self) -> bool:
        asked = time.monotonic()
        self._may_be_ours = True  # whatever becomes of the answer
        taken = await self._pool.run(self._store.lease, self._name, self._holder, self._lasts_s)
        self._until = asked + self._lasts_s * 5 / 6  # sooner than for others
        self._may_be_ours = taken
        return taken

    async def kept(self) -> None:
        """Renew it; return when it is lost, or may be."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(self._lasts_s / 3, left))
            self._renewing = asyncio.create_task(self.take())
            # Its thread may wait longer for a database than the lease lasts.
            await asyncio.wait([self._renewing], timeout=max(left / 2, self._until - time.monotonic()))
            if not self._renewing.done():
                return
            if self._renewing.exception() is None and not self._renewing.result():
                return

    async def give_back(self) -> None:
        """If that fails, it is over by itself."""
        if self._renewing is not None:  # or it would be held again, and by nobody
            await settled(self._renewing)
        if self._may_be_ours:
            with suppress(StorageError):
                await self._pool.run(self._store.release, self._name, self._holder)


async def _until_lost(lease: _Lease, work: Callable[[], Awaitable[None]]) -> None:
    working, keeping = asyncio.ensure_future(work()), asyncio.create_task(lease.kept())
    try:
        await asyncio.wait([working, keeping], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            _log.warning("Another process may look after the library now.")
    finally:
        await _ended(working, keeping)


async def _ended(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Leases: of the processes that share a database, only the holder does a piece of work."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol
from uuid import uuid4

from app.storage.errors import StorageError, StorageUnavailable
from app.storage.workers import Pool, wait_until_done

log = logging.getLogger(__name__)

LEASE_S = 15.0
"""Seconds until another process takes over the work of one that was killed. Leases are renewed three times as
often."""

SHORT_LEASE_S = 10.0
"""The same for leases that a client waits for."""

TIMEOUT_S = 60.0
"""Seconds to wait for a lease."""

MAX_POLL_PAUSE_S = 0.1
"""Seconds between two attempts to acquire a lease."""

MAX_STREAK_S = 1.0
"""Seconds for which one process may acquire a lease again and again. Then it pauses for one poll of the
others: waiters in the same process are woken at once, and would always be faster."""

STREAK_GAP_S = 0.005
"""Seconds between two uses of a lease that count as one streak."""


class HeldElsewhere(StorageUnavailable):
    """Another holder kept the lease until the timeout."""


class LeaseStore(Protocol):
    """The leases in a shared database, blocking. Thread-safe. Raises StorageUnavailable, OutOfSpace.

    A lease expires by the clock of the database, so that the clocks of the machines need not agree.
    """

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        """Acquire or renew the lease for so many seconds. Return False if another holder has it."""

    def release(self, name: str, holder: str) -> None:
        """Release the lease, if this holder has it."""


class Leases:
    """Holds leases while work is done. Used from the event loop only."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._pool = Pool(4, "lease")
        self._streaks: dict[str, tuple[float, float]] = {}
        """By name: when the current streak began, and when its last use ended."""

    def close(self) -> None:
        """Wait for the calls in progress."""
        self._pool.close()

    @asynccontextmanager
    async def acquire(
        self, name: str, *, timeout_s: float = TIMEOUT_S, lease_s: float = SHORT_LEASE_S
    ) -> AsyncIterator[None]:
        """Hold the lease in the context. Raises HeldElsewhere after `timeout_s`."""
        lease = _Lease(self._store, self._pool, name, lease_s)
        try:
            await self._yield_to_others(name)
            await _poll(lease, timeout_s)
            renewing = asyncio.create_task(lease.renew_until_lost())
            try:
                yield
            finally:
                await _cancel(renewing)
        finally:
            await lease.release()
            self._note_end(name)

    async def _yield_to_others(self, name: str) -> None:
        since, ended = self._streaks.get(name, (0.0, 0.0))
        now = time.monotonic()
        if now - ended > STREAK_GAP_S:
            since = now
        elif now - since > MAX_STREAK_S:
            await asyncio.sleep(MAX_POLL_PAUSE_S * 1.2)
            since = time.monotonic()
        self._streaks[name] = (since, now)

    def _note_end(self, name: str) -> None:
        now = time.monotonic()
        since, _ = self._streaks.pop(name, (now, now))
        self._streaks[name] = (since, now)
        while now - next(iter(self._streaks.values()))[1] > STREAK_GAP_S:
            del self._streaks[next(iter(self._streaks))]

    async def run_while_held(
        self, name: str, work: Callable[[], Awaitable[None]], *, lease_s: float = LEASE_S
    ) -> None:
        """Run the work whenever this process can hold the lease, until cancelled.

        The work is cancelled when the lease could not be renewed, before another process may begin.
        """
        logged = False
        while True:
            lease = _Lease(self._store, self._pool, name, lease_s)
            try:
                if await lease.acquire():
                    logged = False
                    await _run_until_lost(lease, work)
            except StorageError as error:
                if not logged:  # once, however long the database is down
                    log.error("The lease %r cannot be acquired: %s", name, error)
                logged = True
            except Exception:
                log.exception("The work under the lease %r failed; it restarts in %.0f s", name, lease_s / 3)
            finally:
                await lease.release()
            await asyncio.sleep(lease_s / 3)


async def _poll(lease: "_Lease", timeout_s: float) -> None:
    deadline, pause = time.monotonic() + timeout_s, 0.005
    while not await lease.acquire():
        if time.monotonic() >= deadline:
            raise HeldElsewhere("Another server is working on this. Try again in a few seconds.")
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_POLL_PAUSE_S)


class _Lease:
    def __init__(self, store: LeaseStore, pool: Pool, name: str, lease_s: float) -> None:
        self.name = name
        self._store, self._pool, self._lease_s = store, pool, lease_s
        self._holder = uuid4().hex
        self._expires_at = 0.0
        self._may_be_ours = False
        self._renewing: asyncio.Future[bool] | None = None

    async def acquire(self) -> bool:
        requested_at = time.monotonic()
        self._may_be_ours = True  # until the answer arrives
        acquired = await self._pool.run(self._store.acquire, self.name, self._holder, self._lease_s)
        self._expires_at = requested_at + self._lease_s * 5 / 6  # before others may take it
        self._may_be_ours = acquired
        return acquired

    async def renew_until_lost(self) -> None:
        """Renew the lease. Return when it is lost, or may be."""
        while (left_s := self._expires_at - time.monotonic()) > 0:
            await asyncio.sleep(min(self._lease_s / 3, left_s))
            self._renewing = asyncio.create_task(self.acquire())
            # Its thread may wait longer for the database than the lease lasts.
            await asyncio.wait([self._renewing], timeout=max(left_s / 2, self._expires_at - time.monotonic()))
            if not self._renewing.done():
                return
            if self._renewing.exception() is None and not self._renewing.result():
                return

    async def release(self) -> None:
        """Release the lease. If that fails, it expires."""
        if self._renewing is not None:  # a late renewal would hold it again, with no one to release it
            await wait_until_done(self._renewing)
        if self._may_be_ours:
            with suppress(StorageError):
                await self._pool.run(self._store.release, self.name, self._holder)


async def _run_until_lost(lease: _Lease, work: Callable[[], Awaitable[None]]) -> None:
    working, renewing = asyncio.ensure_future(work()), asyncio.create_task(lease.renew_until_lost())
    try:
        await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            log.warning("The lease %r was lost; another process may continue its work", lease.name)
    finally:
        await _cancel(working, renewing)


async def _cancel(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

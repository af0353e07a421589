"""Background maintenance: scans and hashes the stored files while the server runs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TypeVar

from app.events.feed import Batch
from app.storage.contract import Storage
from app.storage.errors import StorageError

T = TypeVar("T")

LONGEST_REST_S = 1
"""Seconds of rest after a step, at most."""

RETRY_AFTER_S = 60
"""Seconds until a failed scan is repeated, at most."""

HASH_EVERY_S = 60
"""Seconds between two searches for files without a hash, if the change feed reports none."""

log = logging.getLogger(__name__)


class MaintenanceLoop:
    """Scans at the start, then every `interval_s`; hashes new files. Rests half the time for the server."""

    def __init__(self, storage: Storage, interval_s: float, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        self._storage = storage
        self._interval_s = interval_s
        self._retry_after_s = retry_after_s
        self._to_hash = asyncio.Event()

    def receive(self, batch: Batch) -> None:
        """Start to hash if a batch of the change feed reports unverified files."""
        if batch.unverified:
            self._to_hash.set()

    async def run(self) -> None:
        """Run until cancelled. Failures are logged, and retried."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._scan_periodically())
            tasks.create_task(self._hash_periodically())

    async def _scan_periodically(self) -> None:
        while True:
            rest_s = self._interval_s
            try:
                await self._scan()
            except StorageError as error:
                log.error("The files could not be scanned: %s", error)
                rest_s = min(rest_s, self._retry_after_s)
            except Exception:
                log.exception("The files could not be scanned")
            self._to_hash.set()
            await asyncio.sleep(rest_s)

    async def _scan(self) -> None:
        found: Counter[str] = Counter()
        async for step in with_rests(self._storage.scan()):
            found.update(finding.outcome.value for finding in step.findings)
        if found:
            log.info("Scanned the files: %s", ", ".join(f"{n} {word}" for word, n in sorted(found.items())))

    async def _hash_periodically(self) -> None:
        while True:
            try:
                async for _ in with_rests(self._storage.hash_unverified()):
                    pass
            except StorageError as error:
                log.error("The files could not be hashed: %s", error)
            except Exception:
                log.exception("The files could not be hashed")
            # With a timeout, because other processes find files as well, and do not report those to this one.
            with suppress(TimeoutError):
                async with asyncio.timeout(HASH_EVERY_S):
                    await self._to_hash.wait()
            self._to_hash.clear()


async def with_rests(
    steps: AsyncGenerator[T, None], *, longest_s: float = LONGEST_REST_S
) -> AsyncGenerator[T, None]:
    """Yield the steps, each followed by a rest of its own length."""
    async with aclosing(steps):
        began = time.monotonic()
        async for step in steps:
            yield step
            await asyncio.sleep(min(time.monotonic() - began, longest_s))
            began = time.monotonic()

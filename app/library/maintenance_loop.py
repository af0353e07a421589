"""Looks after the stored files while the server runs."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from app.events.feed import Batch
from app.storage.contract import Storage
from app.storage.errors import StorageError

T = TypeVar("T")

_log = logging.getLogger("seekable")

LONGEST_REST_S = 1
RETRY_AFTER_S = 60

LOOK_EVERY_S = 60
"""How often it is looked for files without a hash, if nobody says that there are some."""


class Upkeep:
    """Scans everything at the start and then every `interval_s` seconds, and hashes what was found.

    It takes no more than about half of one thread's time, so that whoever streams is not disturbed.
    """

    def __init__(self, storage: Storage, interval_s: float) -> None:
        self._storage = storage
        self._interval_s = interval_s
        self._to_hash = asyncio.Event()

    def hash_soon(self) -> None:
        """Start to hash files that have no hash. Call this from the event loop."""
        self._to_hash.set()

    def receive(self, batch: Batch) -> None:
        """Start to hash if a batch of the change feed reports unverified files."""
        if batch.unverified:
            self.hash_soon()

    async def run(self) -> None:
        """Go on until cancelled. What goes wrong is logged, and tried again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._scan_again_and_again())
            tasks.create_task(self._hash_again_and_again())

    async def _scan_again_and_again(self) -> None:
        while True:
            rest = self._interval_s
            try:
                await self._scan()
            except StorageError as error:
                _log.error("The files could not be scanned: %s", error)
                rest = min(rest, RETRY_AFTER_S)
            except Exception:
                _log.exception("The files could not be scanned")
            self._to_hash.set()
            await asyncio.sleep(rest)

    async def _scan(self) -> None:
        found: Counter[str] = Counter()
        async for step in _unhurried(self._storage.scan()):
            found.update(finding.outcome.value for finding in step.findings)
        if found:
            _log.info("Scanned the files: %s", ", ".join(f"{n} {word}" for word, n in sorted(found.items())))

    async def _hash_again_and_again(self) -> None:
        while True:
            try:
                async for _ in _unhurried(self._storage.hash_unverified()):
                    pass
            except StorageError as error:
                _log.error("The files could not be hashed: %s", error)
            except Exception:
                _log.exception("The files could not be hashed")
            # Other processes find files too, and tell nobody.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._to_hash.wait()
            self._to_hash.clear()


async def _unhurried(steps: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The steps, each followed by a rest of its own length."""
    async with aclosing(steps):
        began = time.monotonic()
        async for step in steps:
            yield step
            await asyncio.sleep(min(time.monotonic() - began, LONGEST_REST_S))
            began = time.monotonic()

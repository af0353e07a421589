"""Looks after the stored files while the server runs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from app.storage.contract import Storage
from app.storage.errors import StorageError

T = TypeVar("T")

_log = logging.getLogger("seekable")

LONGEST_REST_S = 1
RETRY_AFTER_S = 60


class Upkeep:
    """Scans everything at the start and then every `interval_s` seconds, and hashes what was found.

    It takes no more than about half of one thread's time, so that whoever streams is not disturbed.
    """

    def __init__(self, storage: Storage, interval_s: float) -> None:
        self._storage = storage
        self._interval_s = interval_s
        self._to_hash = asyncio.Event()

    def hash_soon(self) -> None:
        """Say that there may be files without a hash. Called in the event loop."""
        self._to_hash.set()

    async def run(self) -> None:
        """Go on until cancelled. What goes wrong is logged, and tried again."""
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
            await self._hash_until(time.monotonic() + rest)

    async def _scan(self) -> None:
        found: Counter[str] = Counter()
        async for step in _unhurried(self._storage.scan()):
            found.update(finding.outcome.value for finding in step.findings)
        if found:
            _log.info("Scanned the files: %s", ", ".join(f"{n} {word}" for word, n in sorted(found.items())))

    async def _hash_until(self, end: float) -> None:
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._to_hash.wait()
            except TimeoutError:
                return
            self._to_hash.clear()
            try:
                async for _ in _unhurried(self._storage.hash_unverified()):
                    pass
            except StorageError as error:
                _log.error("The files could not be hashed: %s", error)
            except Exception:
                _log.exception("The files could not be hashed")


async def _unhurried(steps: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The steps, each followed by a rest of its own length."""
    async with aclosing(steps):
        began = time.monotonic()
        async for step in steps:
            yield step
            await asyncio.sleep(min(time.monotonic() - began, LONGEST_REST_S))
            began = time.monotonic()

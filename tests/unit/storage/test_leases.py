"""Fairness between processes that compete for a lease."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from app.database.filesystem.shared_state import FlockLeases
from app.storage.leases import Leases


def test_lease_reaches_other_process_when_holder_has_many_waiters(tmp_path: Path) -> None:
    """Waiters in the holder's process are notified at once; another process polls ten times a second."""

    async def wait() -> float:
        locks = [FlockLeases(lambda: os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) for _ in range(2)]
        busy, other = map(Leases, locks)
        queue = asyncio.Lock()

        async def repeat() -> None:
            while True:
                async with queue, busy.acquire("library"):
                    await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(repeat()) for _ in range(4)]
        await asyncio.sleep(0.3)
        began = time.monotonic()
        async with other.acquire("library"):
            waited = time.monotonic() - began
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for each in (busy, other, *locks):
            each.close()
        return waited

    assert asyncio.run(wait()) < 6

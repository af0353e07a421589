"""Turns of processes that always want one."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from app.database.filesystem.flock_leases import LockedFiles
from app.storage.leases import Leases


def test_who_has_many_that_wait_lets_another_process_pass(tmp_path: Path) -> None:
    """Its own hear at once that a turn is over, and the other looks ten times a second."""

    async def wait() -> float:
        locks = [LockedFiles(lambda: os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) for _ in range(2)]
        busy, other = map(Leases, locks)
        ours = asyncio.Lock()

        async def again_and_again() -> None:
            while True:
                async with ours, busy.turn("library"):
                    await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(again_and_again()) for _ in range(4)]
        await asyncio.sleep(0.3)
        began = time.monotonic()
        async with other.turn("library"):
            waited = time.monotonic() - began
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for each in (busy, other, *locks):
            each.close()
        return waited

    assert asyncio.run(wait()) < 6

"""Leases on flock(2) locks: the lock files appear and disappear with them."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.database.filesystem.shared_state import FlockLeases


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[FlockLeases]]:
    """Open the locks four times, like several processes."""
    with ExitStack() as stack:
        locks = [FlockLeases(lambda: os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) for _ in range(4)]
        for one in locks:
            stack.callback(one.close)
        yield locks


def test_lease_is_exclusive_when_many_compete(processes: list[FlockLeases], tmp_path: Path) -> None:
    inside, takes = threading.Lock(), 0
    ends = time.monotonic() + 0.7

    def take_repeatedly(locks: FlockLeases) -> int:
        takes = 0
        holder = str(id(locks))
        while time.monotonic() < ends:
            if locks.acquire("name", holder, 60):
                assert inside.acquire(blocking=False)
                takes += 1
                inside.release()
                locks.release("name", holder)
        return takes

    with ThreadPoolExecutor(len(processes)) as pool:
        takes = sum(pool.map(take_repeatedly, processes))
    assert takes > 100
    assert list(tmp_path.iterdir()) == [], "no lock file may remain"


def test_lease_passes_to_another_holder_when_not_renewed(processes: list[FlockLeases]) -> None:
    assert processes[0].acquire("name", "a", 0.6)
    assert not processes[0].acquire("name", "b", 60)
    assert processes[0].acquire("name", "a", 0.6)
    time.sleep(0.65)
    assert processes[0].acquire("name", "b", 60)
    processes[0].release("name", "a")
    assert not processes[1].acquire("name", "c", 60)
    processes[0].release("name", "b")
    assert processes[1].acquire("name", "c", 60)

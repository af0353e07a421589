"""Leases as locks of the system, which come and go with their files."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.database.filesystem.flock_leases import LockedFiles


@pytest.fixture
def several(tmp_path: Path) -> Iterator[list[LockedFiles]]:
    """As several processes have them."""
    with ExitStack() as stack:
        locks = [LockedFiles(lambda: os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) for _ in range(4)]
        for one in locks:
            stack.callback(one.close)
        yield locks


def test_of_many_who_take_it_in_no_time_each_has_it_alone(several: list[LockedFiles], tmp_path: Path) -> None:
    inside, takes = threading.Lock(), 0
    ends = time.monotonic() + 0.7

    def take(locks: LockedFiles) -> int:
        takes = 0
        holder = str(id(locks))
        while time.monotonic() < ends:
            if locks.lease("name", holder, 60):
                assert inside.acquire(blocking=False)
                takes += 1
                inside.release()
                locks.release("name", holder)
        return takes

    with ThreadPoolExecutor(len(several)) as pool:
        takes = sum(pool.map(take, several))
    assert takes > 100
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


def test_in_one_process_a_holder_that_did_not_renew_gives_way(several: list[LockedFiles]) -> None:
    assert several[0].lease("name", "a", 0.6)
    assert not several[0].lease("name", "b", 60)
    assert several[0].lease("name", "a", 0.6)
    time.sleep(0.65)
    assert several[0].lease("name", "b", 60)
    several[0].release("name", "a")
    assert not several[1].lease("name", "c", 60)
    several[0].release("name", "b")
    assert several[1].lease("name", "c", 60)

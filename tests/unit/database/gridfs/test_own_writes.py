"""The filter of a process's own writes in the change stream."""

import threading
import time

import pytest

from app.database.gridfs.own_writes import OwnWrites, stored


@pytest.fixture
def own_writes() -> OwnWrites:
    own_writes = OwnWrites()
    own_writes.enabled = True
    return own_writes


def test_own_write_is_filtered_as_often_as_it_was_made(own_writes: OwnWrites) -> None:
    for _ in range(2):
        own_writes.run(stored(1), lambda: True)
    own_writes.run(stored(2), lambda: False)
    with pytest.raises(ZeroDivisionError):
        own_writes.run(stored(3), lambda: 1 / 0)
    assert [own_writes.take(stored(1)) for _ in range(3)] == [True, True, False]
    assert not own_writes.take(stored(2))
    assert not own_writes.take(stored(3))
    own_writes.run(stored(4), lambda: True)
    own_writes.clear()
    assert not own_writes.take(stored(4))


@pytest.mark.parametrize("succeeds", [True, False])
def test_take_blocks_until_write_returns(own_writes: OwnWrites, *, succeeds: bool) -> None:
    """The change stream may deliver the event before the write returns."""
    started, end = threading.Event(), threading.Event()

    def change() -> bool:
        started.set()
        return end.wait(5) and succeeds

    maker = threading.Thread(target=lambda: own_writes.run(stored(1), change))
    maker.start()
    started.wait(5)
    threading.Timer(0.05, end.set).start()
    start = time.monotonic()
    assert own_writes.take(stored(1)) == succeeds
    assert time.monotonic() - start >= 0.04
    maker.join()


def test_own_writes_without_event_are_dropped_eventually() -> None:
    own_writes = OwnWrites(max_marks=3)
    own_writes.enabled = True
    for number in range(5):
        own_writes.run(stored(number), lambda: True)
    assert [own_writes.take(stored(number)) for number in range(5)] == [False, False, True, True, True]


def test_own_writes_are_not_recorded_without_listener() -> None:
    own_writes = OwnWrites()
    own_writes.run(stored(1), lambda: True)
    assert not own_writes.take(stored(1))

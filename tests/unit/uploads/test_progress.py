"""How often the progress of an upload is published."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.feed import Message
from app.http.errors import BadForm
from app.uploads.service import Progress


class Recorder:
    """A recorder of published messages with their times, by a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.published: list[tuple[float, str, dict[str, Any]]] = []
        self.other_processes: list[float] = []

    def publish(self, message: Message, *, across_processes: bool) -> None:
        if across_processes:
            self.other_processes.append(self.now)
        self.published.append((self.now, message.sid, json.loads(message.text)["progress"]))

    def progress(self, *, sid: str | None = "s", total: int | None = None) -> Progress:
        return Progress(self.publish, library="", sid=sid, filename="a", total=total, clock=lambda: self.now)

    def received(self) -> list[int]:
        return [message["received"] for _, _, message in self.published]


@pytest.mark.parametrize(
    ("total", "steps", "expected"),
    [
        (None, [(0.0, 5)], [(5, None), (5, 5)]),
        (None, [], [(0, 0)]),
        (0, [(0.0, 0)], [(0, 0)]),
        (5, [(0.0, 5)], [(5, 5)]),  # the last message is published when the file is stored
        (9, [(0.0, 1), (0.0, 1), (0.1, 1), (0.1, 1), (0.0, 5)], [(1, 9), (4, 9), (9, 9)]),
        (9, [(0.0, 1), (5.0, 1), (0.124, 1), (0.0, 6)], [(1, 9), (2, 9), (9, 9)]),
    ],
)
def test_progress_is_published_at_once_then_every_eighth_of_a_second(
    total: int | None, steps: list[tuple[float, int]], expected: list[tuple[int, int | None]]
) -> None:
    recorder = Recorder()
    progress = recorder.progress(total=total)
    for wait, size in steps:
        recorder.now += wait
        progress.advance(size)
    progress.finish()
    assert [(message["received"], message["total"]) for _, _, message in recorder.published] == expected
    assert {sid for _, sid, _ in recorder.published} == {"s"}


@given(st.lists(st.floats(0, 0.3), max_size=300))
def test_progress_publishes_at_most_ten_a_second_and_always_the_last(waits: list[float]) -> None:
    recorder = Recorder()
    progress = recorder.progress(total=len(waits) + 1)
    for wait in waits:
        recorder.now += wait
        progress.advance(1)
    progress.advance(1)
    progress.finish()
    times = [time for time, _, _ in recorder.published]
    assert all(sum(start <= time <= start + 1 for time in times) <= 10 for start in times)
    assert recorder.received() == sorted(recorder.received())
    assert recorder.published[-1][2] == {"filename": "a", "received": len(waits) + 1, "total": len(waits) + 1}
    *other_processes, last = recorder.other_processes
    assert last == recorder.now
    assert all(later - sooner >= 1 for sooner, later in pairwise(other_processes))
    assert all(any(0 <= time - one < 1 for one in other_processes) for time in times[:-1]), (
        "other processes did not receive progress every second"
    )


def test_progress_is_not_published_until_a_sid_is_given() -> None:
    recorder = Recorder()
    progress = recorder.progress(sid=None)
    progress.advance(1)
    progress.follow("late")
    progress.advance(2)
    progress.finish()
    assert recorder.received() == [3, 3]


def test_progress_is_not_published_without_a_sid() -> None:
    recorder = Recorder()
    for sid in (None, ""):
        progress = recorder.progress(sid=sid)
        progress.follow("")
        progress.advance(1)
        progress.finish()
    assert recorder.published == []


def test_second_sid_or_overlong_sid_is_refused() -> None:
    progress = Recorder().progress(sid="s")
    progress.follow("s")
    progress.follow("")
    with pytest.raises(BadForm, match="different"):
        progress.follow("t")
    with pytest.raises(BadForm, match="at most 64"):
        progress.follow("s" * 65)

"""How often is told how much of an upload has come."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.uploads.errors import BadForm
from app.uploads.progress import Progress


class Listener:
    """What was told, when, and a clock to set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[tuple[float, str, dict[str, Any]]] = []
        self.elsewhere: list[float] = []

    def tell(self, sid: str, text: str, *, elsewhere: bool) -> None:
        if elsewhere:
            self.elsewhere.append(self.now)
        self.told.append((self.now, sid, json.loads(text)["progress"]))

    def progress(self, *, sid: str | None = "s", total: int | None = None) -> Progress:
        return Progress(self.tell, sid=sid, filename="a", total=total, clock=lambda: self.now)

    def received(self) -> list[int]:
        return [message["received"] for _, _, message in self.told]


@pytest.mark.parametrize(
    ("total", "steps", "told"),
    [
        (None, [(0.0, 5)], [(5, None), (5, 5)]),
        (None, [], [(0, 0)]),
        (0, [(0.0, 0)], [(0, 0)]),
        (5, [(0.0, 5)], [(5, 5)]),  # that all has come is said when it is stored
        (9, [(0.0, 1), (0.0, 1), (0.1, 1), (0.1, 1), (0.0, 5)], [(1, 9), (4, 9), (9, 9)]),
        (9, [(0.0, 1), (5.0, 1), (0.124, 1), (0.0, 6)], [(1, 9), (2, 9), (9, 9)]),
    ],
)
def test_what_is_told(
    total: int | None, steps: list[tuple[float, int]], told: list[tuple[int, int | None]]
) -> None:
    listener = Listener()
    progress = listener.progress(total=total)
    for wait, size in steps:
        listener.now += wait
        progress.advance(size)
    progress.finish()
    assert [(message["received"], message["total"]) for _, _, message in listener.told] == told
    assert {sid for _, sid, _ in listener.told} == {"s"}


@given(st.lists(st.floats(0, 0.3), max_size=300))
def test_never_more_than_ten_in_any_second_and_the_last_is_never_left_out(waits: list[float]) -> None:
    listener = Listener()
    progress = listener.progress(total=len(waits) + 1)
    for wait in waits:
        listener.now += wait
        progress.advance(1)
    progress.advance(1)
    progress.finish()
    times = [time for time, _, _ in listener.told]
    assert all(sum(start <= time <= start + 1 for time in times) <= 10 for start in times)
    assert listener.received() == sorted(listener.received())
    assert listener.told[-1][2] == {"filename": "a", "received": len(waits) + 1, "total": len(waits) + 1}
    *elsewhere, last = listener.elsewhere
    assert last == listener.now
    assert all(later - sooner >= 1 for sooner, later in pairwise(elsewhere))
    assert all(any(0 <= time - one < 1 for one in elsewhere) for time in times[:-1]), (
        "once a second it is told"
    )


def test_nobody_is_told_until_a_sid_is_named() -> None:
    listener = Listener()
    progress = listener.progress(sid=None)
    progress.advance(1)
    progress.follow("late")
    progress.advance(2)
    progress.finish()
    assert listener.received() == [3, 3]


def test_without_a_sid_nobody_is_told() -> None:
    listener = Listener()
    for sid in (None, ""):
        progress = listener.progress(sid=sid)
        progress.follow("")
        progress.advance(1)
        progress.finish()
    assert listener.told == []


def test_two_sids_or_an_endless_one_are_refused() -> None:
    progress = Listener().progress(sid="s")
    progress.follow("s")
    progress.follow("")
    with pytest.raises(BadForm, match="different"):
        progress.follow("t")
    with pytest.raises(BadForm, match="at most 64"):
        progress.follow("s" * 65)

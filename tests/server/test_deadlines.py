"""What a client is waited for, and for how long."""

from dataclasses import replace
from itertools import product

import pytest

from app.server.deadlines import Clock, Limits, Pace, State, Waiting, Watch, waiting_for

LIMITS = Limits(head_size=1000, head=10, body=30, body_rate=1000, reader=60, idle=5)

# begun, head, answering, reading, unsent, new
CASES: dict[str, tuple[tuple[int, int, int, int, int, int], Waiting | None]] = {
    "nothing was said": ((0, 0, 0, 1, 0, 1), Waiting.HEAD),
    "half of the first head": ((1, 0, 0, 1, 0, 1), Waiting.HEAD),
    "half of a later head": ((1, 0, 0, 1, 0, 0), Waiting.HEAD),
    "a body is coming": ((1, 1, 1, 1, 0, 0), Waiting.BODY),
    "more came than the program took": ((1, 1, 1, 0, 0, 0), None),
    "the program works": ((0, 1, 1, 1, 0, 0), None),
    "the program works, and the next request waits": ((0, 1, 1, 0, 0, 0), None),
    "the program works, and half of the next head is there": ((1, 0, 1, 1, 0, 0), None),
    "an answer is not read": ((0, 1, 1, 1, 1, 0), Waiting.READER),
    "an answer is not read, and the next request waits": ((0, 1, 1, 0, 1, 0), Waiting.READER),
    "an answer is not read, and half of the next head is there": ((1, 0, 1, 1, 1, 0), Waiting.READER),
    "an early answer is not read, amid a body": ((1, 1, 1, 1, 1, 0), Waiting.READER),
    "the end of an answer is not read": ((0, 1, 0, 1, 1, 0), Waiting.READER),
    "a body was refused": ((1, 1, 0, 1, 0, 0), Waiting.REST),
    "all is answered": ((0, 1, 0, 1, 0, 0), Waiting.NEXT),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_client_is_waited_for(case: str) -> None:
    state, waiting = CASES[case]
    assert waiting_for(State(*map(bool, state))) is waiting


def test_there_is_no_state_in_which_a_client_may_stay_for_ever() -> None:
    """Nobody is waited for only while the program works on an answer, which ends by itself."""
    for flags in product((False, True), repeat=6):
        state = State(*flags)
        if waiting_for(state) is None:
            assert state.answering
            assert not state.unsent


@pytest.mark.parametrize(
    ("waiting", "seconds"),
    [(Waiting.HEAD, 10), (Waiting.BODY, 30), (Waiting.REST, 30), (Waiting.READER, 60), (Waiting.NEXT, 5)],
)
def test_each_has_its_limit(waiting: Waiting, seconds: float) -> None:
    watch = Watch()
    assert not watch.is_over(waiting, 1, LIMITS, 100.0)
    assert not watch.is_over(waiting, 1, LIMITS, 100.0 + seconds - 0.1)
    assert watch.is_over(waiting, 1, LIMITS, 100.0 + seconds)


# What is seen at each second, and whether the client is let go of: w(aited for) with what progress.
@pytest.mark.parametrize(
    ("seen", "over"),
    [
        ([(0, Waiting.NEXT, 0), (5, Waiting.NEXT, 0)], [False, True]),
        ([(0, Waiting.NEXT, 0), (4, Waiting.NEXT, 1), (8, Waiting.NEXT, 1)], [False, False, False]),
        ([(0, Waiting.NEXT, 0), (4, Waiting.HEAD, 0), (8, Waiting.HEAD, 0)], [False, False, False]),
        ([(0, Waiting.NEXT, 0), (4, None, 0), (8, Waiting.NEXT, 0)], [False, False, False]),
        (
            [(0, Waiting.NEXT, 0), (4, None, 0), (8, Waiting.NEXT, 0), (13, Waiting.NEXT, 0)],
            [False] * 3 + [True],
        ),
        ([(0, None, 0), (1000, None, 0)], [False, False]),
    ],
    ids=["nothing happens", "progress", "another wait", "the program's turn", "and again", "never theirs"],
)
def test_what_begins_it_anew(seen: list[tuple[float, Waiting | None, object]], over: list[bool]) -> None:
    watch = Watch()
    assert [watch.is_over(waiting, progress, LIMITS, now) for now, waiting, progress in seen] == over


def test_the_time_in_which_the_server_stood_still_does_not_count() -> None:
    clock = Clock()
    assert [clock.time(now) for now in (1000.0, 1000.5, 1001.25, 1001.25, 5000.0, 5000.5)] == [
        0.0,
        0.5,
        1.25,
        1.25,
        2.25,
        2.75,
    ]


ANOTHER, NOTHING = "another request", "nothing is waited for"


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ([1000] * 100, False),
        ([999] * 30, True),
        ([999] * 29, False),
        ([0] * 29 + [30_000], False),
        ([30_000] + [0] * 29, False),
        ([30_000] + [0] * 29 + [1000] * 30, False),
        ([30_000] + [0] * 30 + [999] * 29, True),
        ([60_000] + [0] * 59, True),
        ([1] * 29 + [ANOTHER] + [1] * 29, False),
        ([1] * 29 + [ANOTHER] + [1] * 30, True),
        ([1] * 29 + [NOTHING] * 100, False),
        ([1] * 29 + [NOTHING] * 100 + [1, 1], True),
    ],
)
def test_a_body_has_a_least_pace(seconds: list[int | str], slow: bool) -> None:
    """Bytes that come in each second; a thousand are demanded, over 30 seconds."""
    pace, now, received, request = Pace(), 100.0, 5000, 0
    found = pace.is_too_slow(request, waits=True, received=received, limits=LIMITS, now=now)
    for second in seconds:
        now += 1
        if isinstance(second, int):
            received += second
        elif second == ANOTHER:
            request += 1000
        found = pace.is_too_slow(request, waits=second != NOTHING, received=received, limits=LIMITS, now=now)
        if found:
            break
    assert found == slow


def test_no_pace_is_demanded_by_zero() -> None:
    pace = Pace()
    limits = replace(LIMITS, body_rate=0)
    for now in range(100):
        assert not pace.is_too_slow(0, waits=True, received=0, limits=limits, now=float(now))

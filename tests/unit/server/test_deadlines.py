"""Deadlines: the client input that the server awaits, and for how long."""

from dataclasses import replace
from itertools import product

import pytest

from app.server.deadlines import (
    BodyRate,
    ClientLimits,
    ConnectionState,
    StallClock,
    StepTimer,
    WaitingFor,
    awaited_step,
)

LIMITS = ClientLimits(head_size=1000, head=10, body=30, body_rate=1000, reader=60, idle=5)

# begun, head, answering, reading, unsent, new
CASES: dict[str, tuple[tuple[int, int, int, int, int, int], WaitingFor | None]] = {
    "no bytes yet": ((0, 0, 0, 1, 0, 1), WaitingFor.HEAD),
    "part of the first head": ((1, 0, 0, 1, 0, 1), WaitingFor.HEAD),
    "part of a later head": ((1, 0, 0, 1, 0, 0), WaitingFor.HEAD),
    "a body is arriving": ((1, 1, 1, 1, 0, 0), WaitingFor.BODY),
    "the application has not read all received bytes": ((1, 1, 1, 0, 0, 0), None),
    "the application runs": ((0, 1, 1, 1, 0, 0), None),
    "the application runs, and the next request is queued": ((0, 1, 1, 0, 0, 0), None),
    "the application runs, and part of the next head has arrived": ((1, 0, 1, 1, 0, 0), None),
    "a response is unread": ((0, 1, 1, 1, 1, 0), WaitingFor.READER),
    "a response is unread, and the next request is queued": ((0, 1, 1, 0, 1, 0), WaitingFor.READER),
    "a response is unread, and part of the next head has arrived": ((1, 0, 1, 1, 1, 0), WaitingFor.READER),
    "an early response is unread while the body arrives": ((1, 1, 1, 1, 1, 0), WaitingFor.READER),
    "the end of a response is unread": ((0, 1, 0, 1, 1, 0), WaitingFor.READER),
    "the body was refused": ((1, 1, 0, 1, 0, 0), WaitingFor.REST),
    "all requests are answered": ((0, 1, 0, 1, 0, 0), WaitingFor.NEXT),
}


@pytest.mark.parametrize("case", CASES)
def test_awaited_step_follows_connection_state(case: str) -> None:
    state, waiting = CASES[case]
    assert awaited_step(ConnectionState(*map(bool, state))) is waiting


def test_every_state_has_a_deadline_unless_application_runs() -> None:
    """Only a running application has no deadline: it ends by itself."""
    for flags in product((False, True), repeat=6):
        state = ConnectionState(*flags)
        if awaited_step(state) is None:
            assert state.responding
            assert not state.unsent


@pytest.mark.parametrize(
    ("waiting", "seconds"),
    [
        (WaitingFor.HEAD, 10),
        (WaitingFor.BODY, 30),
        (WaitingFor.REST, 30),
        (WaitingFor.READER, 60),
        (WaitingFor.NEXT, 5),
    ],
)
def test_step_timer_expires_at_the_limit_of_its_wait(waiting: WaitingFor, seconds: float) -> None:
    timer = StepTimer()
    assert not timer.has_expired(waiting, 1, LIMITS, 100.0)
    assert not timer.has_expired(waiting, 1, LIMITS, 100.0 + seconds - 0.1)
    assert timer.has_expired(waiting, 1, LIMITS, 100.0 + seconds)


# (time, wait, progress) at each check, and whether the deadline has passed by then.
@pytest.mark.parametrize(
    ("observations", "expired"),
    [
        ([(0, WaitingFor.NEXT, 0), (5, WaitingFor.NEXT, 0)], [False, True]),
        ([(0, WaitingFor.NEXT, 0), (4, WaitingFor.NEXT, 1), (8, WaitingFor.NEXT, 1)], [False, False, False]),
        ([(0, WaitingFor.NEXT, 0), (4, WaitingFor.HEAD, 0), (8, WaitingFor.HEAD, 0)], [False, False, False]),
        ([(0, WaitingFor.NEXT, 0), (4, None, 0), (8, WaitingFor.NEXT, 0)], [False, False, False]),
        (
            [(0, WaitingFor.NEXT, 0), (4, None, 0), (8, WaitingFor.NEXT, 0), (13, WaitingFor.NEXT, 0)],
            [False] * 3 + [True],
        ),
        ([(0, None, 0), (1000, None, 0)], [False, False]),
    ],
    ids=[
        "no progress",
        "progress",
        "another wait",
        "application ran",
        "application ran, then no progress",
        "no wait",
    ],
)
def test_step_timer_restarts_on_progress_or_another_wait(
    observations: list[tuple[float, WaitingFor | None, object]], expired: list[bool]
) -> None:
    timer = StepTimer()
    assert [
        timer.has_expired(waiting, progress, LIMITS, now) for now, waiting, progress in observations
    ] == expired


def test_clock_leaves_out_time_in_which_event_loop_was_blocked() -> None:
    clock = StallClock()
    assert [clock.time(now) for now in (1000.0, 1000.5, 1001.25, 1001.25, 5000.0, 5000.5)] == [
        0.0,
        0.5,
        1.25,
        1.25,
        2.25,
        2.75,
    ]


NEXT_REQUEST, NO_WAIT = "next request", "no wait"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1000] * 100, False),
        ([999] * 30, True),
        ([999] * 29, False),
        ([0] * 29 + [30_000], False),
        ([30_000] + [0] * 29, False),
        ([30_000] + [0] * 29 + [1000] * 30, False),
        ([30_000] + [0] * 30 + [999] * 29, True),
        ([60_000] + [0] * 59, True),
        ([1] * 29 + [NEXT_REQUEST] + [1] * 29, False),
        ([1] * 29 + [NEXT_REQUEST] + [1] * 30, True),
        ([1] * 29 + [NO_WAIT] * 100, False),
        ([1] * 29 + [NO_WAIT] * 100 + [1, 1], True),
    ],
)
def test_pace_is_too_slow_below_minimum_rate(seconds: list[int | str], expected: bool) -> None:
    """The bytes received in each second; the minimum is 1,000 a second over 30 seconds."""
    body_rate, now, received, request = BodyRate(), 100.0, 5000, 0
    too_slow = body_rate.is_too_slow(request, waits=True, received=received, limits=LIMITS, now=now)
    for second in seconds:
        now += 1
        if isinstance(second, int):
            received += second
        elif second == NEXT_REQUEST:
            request += 1000
        too_slow = body_rate.is_too_slow(
            request, waits=second != NO_WAIT, received=received, limits=LIMITS, now=now
        )
        if too_slow:
            break
    assert too_slow == expected


def test_pace_is_never_too_slow_when_rate_is_zero() -> None:
    body_rate = BodyRate()
    limits = replace(LIMITS, body_rate=0)
    for now in range(100):
        assert not body_rate.is_too_slow(0, waits=True, received=0, limits=limits, now=float(now))

"""The memory that many readers share."""

import pytest

from app.storage.memory_budget import IDLE_S, Budget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Reading:
    """A reader that holds `held` bytes and gives them all back on request."""

    def __init__(self, budget: Budget, held: int) -> None:
        self.budget = budget
        self.held = held
        assert budget.take(held)

    def let_go(self) -> None:
        self.budget.give(self.held)
        self.held = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> Budget:
    return Budget(100, clock)


def test_budget_refuses_more_than_its_size(budget: Budget) -> None:
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    budget.give(60)
    assert budget.take(60)


def test_reader_that_waits_longest_for_client_lets_go_first(budget: Budget, clock: Clock) -> None:
    first, second = Reading(budget, 40), Reading(budget, 40)
    budget.waits(first)
    budget.waits(second)
    clock.now += IDLE_S
    assert budget.take(50)
    assert (first.held, second.held) == (0, 40)
    assert budget.take(30)
    assert second.held == 0


@pytest.mark.parametrize("waits", [True, False])
def test_no_reader_lets_go_when_client_reads_quickly(budget: Budget, clock: Clock, waits: bool) -> None:
    reading = Reading(budget, 80)
    budget.waits(reading)
    clock.now += IDLE_S
    budget.goes_on(reading)
    if waits:  # again, but only briefly
        budget.waits(reading)
    clock.now += IDLE_S / 2
    assert not budget.take(30)
    assert reading.held == 80


def test_minimum_is_granted_when_budget_is_exhausted(budget: Budget) -> None:
    waiting, working = Reading(budget, 50), Reading(budget, 50)
    budget.waits(waiting)
    budget.take_least(30)
    assert (waiting.held, working.held) == (0, 50)
    budget.take_least(30)  # no waiting reader is left to give memory back
    assert budget.held == 110


def test_budget_lends_at_most_half(budget: Budget) -> None:
    assert budget.take(100)
    assert budget.lend(30)
    assert not budget.lend(21)
    assert budget.lend(20)
    budget.returned(30)
    assert (budget.held, budget.lent) == (70, 20)
    assert budget.lend(30)

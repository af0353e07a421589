"""The memory that many readers share."""

import pytest

from app.storage.readahead import IDLE_S, MemoryBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Reading:
    """A reader that holds `held` bytes and releases them all on request."""

    def __init__(self, budget: MemoryBudget, held: int) -> None:
        self.budget = budget
        self.held = held
        assert budget.reserve(held)

    def drop_buffers(self) -> None:
        self.budget.release(self.held)
        self.held = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> MemoryBudget:
    return MemoryBudget(100, clock)


def test_budget_refuses_more_than_its_size(budget: MemoryBudget) -> None:
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert budget.reserve(40)
    budget.release(60)
    assert budget.reserve(60)


def test_reader_that_waits_longest_for_client_drops_buffers_first(budget: MemoryBudget, clock: Clock) -> None:
    first, second = Reading(budget, 40), Reading(budget, 40)
    budget.begin_wait(first)
    budget.begin_wait(second)
    clock.now += IDLE_S
    assert budget.reserve(50)
    assert (first.held, second.held) == (0, 40)
    assert budget.reserve(30)
    assert second.held == 0


@pytest.mark.parametrize("waits", [True, False])
def test_no_reader_drops_buffers_when_client_reads_quickly(
    budget: MemoryBudget, clock: Clock, waits: bool
) -> None:
    reading = Reading(budget, 80)
    budget.begin_wait(reading)
    clock.now += IDLE_S
    budget.end_wait(reading)
    if waits:  # again, but only briefly
        budget.begin_wait(reading)
    clock.now += IDLE_S / 2
    assert not budget.reserve(30)
    assert reading.held == 80


def test_minimum_is_granted_when_budget_is_exhausted(budget: MemoryBudget) -> None:
    waiting, working = Reading(budget, 50), Reading(budget, 50)
    budget.begin_wait(waiting)
    budget.reserve_minimum(30)
    assert (waiting.held, working.held) == (0, 50)
    budget.reserve_minimum(30)  # no waiting reader is left to release memory
    assert budget.held == 110


def test_budget_lends_at_most_half(budget: MemoryBudget) -> None:
    assert budget.reserve(100)
    assert budget.lend(30)
    assert not budget.lend(21)
    assert budget.lend(20)
    budget.release_lent(30)
    assert (budget.held, budget.lent) == (70, 20)
    assert budget.lend(30)

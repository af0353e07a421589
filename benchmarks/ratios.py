"""Statistics of figures that were measured in turns; pure functions."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles: half of all rounds are between `low` and `high`."""

    median: float
    low: float
    high: float


def round_order(names: Sequence[Name], number: int) -> list[Name]:
    """Return the order of a round: the first contestant rotates, and every second round is reversed."""
    first = number // 2 % max(1, len(names))
    order = [*names[first:], *names[:first]]
    return order[::-1] if number % 2 else order


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high)


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Return the ratio of ours to theirs for each round that both have.

    A ratio within a round cancels what slows the machine down for a while.
    """
    pairs = zip(ours, theirs, strict=False)
    return [one / other for one, other in pairs if one is not None and other]

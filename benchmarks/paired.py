"""What is made of figures that were measured in turns: pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class Spread:
    """The median, and the quartiles about it: half of all rounds were between `low` and `high`."""

    median: float
    low: float
    high: float


def turn(names: Sequence[Name], number: int) -> list[Name]:
    """Who is measured when in a round: another begins each time, and every other round goes backwards."""
    first = number // 2 % max(1, len(names))
    order = [*names[first:], *names[:first]]
    return order[::-1] if number % 2 else order


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high)


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Ours to theirs, round by round: what slows the machine down for a while slows both. A round that one of
    them lacks is left out."""
    pairs = zip(ours, theirs, strict=False)
    return [one / other for one, other in pairs if one is not None and other]

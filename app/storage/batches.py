"""Which bytes are read from a storage in one go. It keeps bytes in units of so many."""

from collections.abc import Iterator


def units_in(start: int, stop: int, unit: int) -> int:
    """How many units the bytes [start, stop) touch."""
    return -(-stop // unit) - start // unit


def end_of(start: int, stop: int, unit: int, units: int) -> int:
    """Where a batch ends that begins at `start`, touches so many units, and goes no further than `stop`.

    No two batches touch the same unit.
    """
    return min(stop, (start // unit + units) * unit)


def batches(start: int, stop: int, *, unit: int, most: int) -> Iterator[tuple[int, int]]:
    """The start and stop of each batch of the bytes [start, stop), of `most` units each."""
    while start < stop:
        end = end_of(start, stop, unit, most)
        yield start, end
        start = end

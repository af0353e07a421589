"""Which bytes are read from a storage in one go."""

from collections.abc import Iterator


def batches(start: int, stop: int, *, unit: int, most: int = 1, whole: int = 1) -> Iterator[tuple[int, int]]:
    """The start and stop of each batch of the bytes [start, stop).

    The storage keeps bytes in units of so many. No two batches touch the same unit. The first, for which
    somebody waits, touches one; each that follows at most twice as many as that before it, and none more than
    `most`; unless all of it touches no more than `whole`, so that it is one batch.
    """
    touched = -(-stop // unit) - start // unit
    units = touched if touched <= whole else 1
    while start < stop:
        end = min(stop, (start // unit + units) * unit)
        yield start, end
        start, units = end, min(2 * units, most)

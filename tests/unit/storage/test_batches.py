"""Byte ranges that one read covers."""

import pytest

from app.storage.backend import batches, count_units, end_of_batch


@pytest.mark.parametrize(
    ("start", "stop", "max_units", "expected"),
    [
        (0, 0, 4, []),
        (5, 5, 4, []),
        (0, 1, 4, [(0, 1)]),
        (0, 10, 1, [(0, 10)]),
        (0, 11, 1, [(0, 10), (10, 11)]),
        (9, 11, 1, [(9, 10), (10, 11)]),
        (0, 40, 4, [(0, 40)]),
        (9, 41, 4, [(9, 40), (40, 41)]),
        (25, 100, 3, [(25, 50), (50, 80), (80, 100)]),
    ],
)
def test_batches_end_on_unit_boundaries(
    start: int, stop: int, max_units: int, expected: list[tuple[int, int]]
) -> None:
    assert list(batches(start, stop, unit=10, max_units=max_units)) == expected


@pytest.mark.parametrize(
    ("start", "stop", "units"), [(0, 1, 1), (0, 10, 1), (0, 11, 2), (9, 10, 1), (9, 11, 2), (9, 31, 4)]
)
def test_end_of_batch_is_end_of_its_last_unit(start: int, stop: int, units: int) -> None:
    assert count_units(start, stop, 10) == units
    assert end_of_batch(start, stop, 10, units) == stop
    assert units == 1 or end_of_batch(start, stop, 10, units - 1) == (start // 10 + units - 1) * 10


def test_batches_yield_first_batch_at_once_for_any_length() -> None:
    assert next(batches(0, 1 << 62, unit=255 << 10, max_units=4)) == (0, 4 * (255 << 10))

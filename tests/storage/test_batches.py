"""Which bytes are read in one go."""

import pytest

from app.storage.batches import batches


@pytest.mark.parametrize(
    ("start", "stop", "most", "expected"),  # where whole is as much as most
    [
        (0, 0, 4, []),
        (5, 5, 4, []),
        (0, 1, 4, [(0, 1)]),
        (0, 10, 1, [(0, 10)]),
        (0, 11, 1, [(0, 10), (10, 11)]),
        (9, 11, 1, [(9, 10), (10, 11)]),
        # All of it touches few units, so that it is one batch.
        (0, 40, 4, [(0, 40)]),
        (9, 31, 4, [(9, 31)]),
        (5, 45, 5, [(5, 45)]),
        # It touches more: small first, and then ever more at once, up to the most.
        (0, 41, 4, [(0, 10), (10, 30), (30, 41)]),
        (9, 41, 4, [(9, 10), (10, 30), (30, 41)]),
        (5, 200, 4, [(5, 10), (10, 30), (30, 70), (70, 110), (110, 150), (150, 190), (190, 200)]),
        (25, 100, 3, [(25, 30), (30, 50), (50, 80), (80, 100)]),
    ],
)
def test_batches_of_units_of_ten(start: int, stop: int, most: int, expected: list[tuple[int, int]]) -> None:
    assert list(batches(start, stop, unit=10, most=most, whole=most)) == expected


def test_a_short_range_may_be_longer_than_a_batch() -> None:
    assert list(batches(9, 51, unit=10, most=4, whole=6)) == [(9, 51)]
    assert list(batches(9, 61, unit=10, most=4, whole=6)) == [(9, 10), (10, 30), (30, 61)]


def test_a_file_of_any_length_is_begun_at_once() -> None:
    assert next(batches(0, 1 << 62, unit=255 << 10, most=4)) == (0, 255 << 10)

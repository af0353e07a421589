"""How long after a change a file's times may not show a further change."""

import pytest

from app.database.filesystem.file_identity import COARSE_TICK_S, TICK_S, FileStat

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("ctime_ns", "age_s", "expected"),
    [
        (5 * SECOND + 1, 0, TICK_S),
        (5 * SECOND + 1, TICK_S / 2, TICK_S / 2),
        (5 * SECOND + 1, TICK_S, 0),
        (5 * SECOND + 1, 60, 0),
        (5 * SECOND, 0, COARSE_TICK_S),  # a file system that stores whole seconds
        (5 * SECOND, 1.5, COARSE_TICK_S - 1.5),
        (5 * SECOND, COARSE_TICK_S, 0),
        (5 * SECOND, -1, 0),  # the clock was set back
        (None, 0, 0),  # a row of an earlier release
    ],
)
def test_change_may_not_show_within_a_tick(ctime_ns: int | None, age_s: float, expected: float) -> None:
    now_ns = (ctime_ns or 0) + int(age_s * SECOND)
    assert FileStat(4, 10, 7, ctime_ns).ambiguous_for_s(now_ns) == pytest.approx(expected)

"""Pure rules: the match of a file with its row, its completeness, its times, and modification dates."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.database.filesystem.file_identity import (
    COARSE_TICK_S,
    TICK_S,
    FileIdentity,
    FileStat,
    Match,
    compare,
)
from app.database.filesystem.reconcile import is_complete
from app.http.dates import modification_date

SECOND = 1_000_000_000
ROW = FileStat(size=4, mtime_ns=10, inode=7, ctime_ns=20)
OLD_ROW = replace(ROW, ctime_ns=None)


@pytest.mark.parametrize(
    ("row", "row_device", "found", "device", "expected"),
    [
        (ROW, 0, ROW, 0, Match.SAME),
        (ROW, 5, ROW, 6, Match.SAME),  # after a reboot
        (ROW, None, ROW, 0, Match.SAME),
        (ROW, 0, replace(ROW, ctime_ns=21), 0, Match.UNPROVEN),
        (ROW, 0, replace(ROW, ctime_ns=19), 0, Match.UNPROVEN),  # the clock was set back
        (ROW, None, replace(ROW, ctime_ns=21), 0, Match.UNPROVEN),
        (ROW, 5, replace(ROW, ctime_ns=21), 6, Match.LOOKALIKE),  # the same inode number elsewhere
        (ROW, 0, replace(ROW, inode=8, ctime_ns=21), 0, Match.LOOKALIKE),  # touch -r, mv
        (ROW, 0, replace(ROW, mtime_ns=11, ctime_ns=21), 0, Match.LOOKALIKE),  # touch
        (ROW, 0, replace(ROW, size=5), 0, Match.DIFFERENT),
        (ROW, 0, FileStat(5, 11, 8, 21), 0, Match.DIFFERENT),
        # Rows of earlier releases have neither ctime nor device.
        (OLD_ROW, None, ROW, 0, Match.SAME),
        (OLD_ROW, None, replace(ROW, inode=8), 0, Match.LOOKALIKE),
        (OLD_ROW, None, replace(ROW, size=5), 0, Match.DIFFERENT),
    ],
)
def test_compare_matches_file_with_row(
    row: FileStat, row_device: int | None, found: FileStat, device: int, expected: Match
) -> None:
    assert compare(FileIdentity(row, row_device), FileIdentity(found, device)) is expected


@pytest.mark.parametrize(
    ("age_s", "has_writer", "moved_there", "expected"),
    [
        (0.0, False, False, True),  # closed by its only writer, or renamed into the folder
        (0.0, True, False, False),
        (0.0, True, True, False),
        (0.0, None, False, False),  # the system has no leases
        (0.0, None, True, True),
        (2.0, None, False, True),
        (2.0, True, False, False),
        (60.0, True, False, True),  # some programs never close their files
    ],
)
def test_is_complete_needs_age_or_no_writer(
    age_s: float, has_writer: bool | None, moved_there: bool, expected: bool
) -> None:
    found = is_complete(age_s, has_writer, moved_there=moved_there, stable_after_s=2, written_for_s=60)
    assert found is expected


NOON = datetime(2026, 11, 30, 12, 0, 0, 500_000, tzinfo=UTC)
ONE_SECOND = timedelta(seconds=1)
MS = timedelta(milliseconds=1)
NEXT_SECOND = NOON.replace(microsecond=0) + ONE_SECOND


@pytest.mark.parametrize(
    ("date", "previous", "expected"),
    [
        (NOON - 60 * ONE_SECOND, None, NOON - 60 * ONE_SECOND),
        (NOON + 60 * ONE_SECOND, None, NOON),  # never in the future
        (NOON - 60 * ONE_SECOND, NOON - 90 * ONE_SECOND, NOON - 60 * ONE_SECOND),
        (NOON - 90 * ONE_SECOND, NOON - 60 * ONE_SECOND, NOON),  # an older file moved over a newer one
        (NOON - 60 * ONE_SECOND, NOON - 60 * ONE_SECOND, NOON),
        (NOON - 60 * ONE_SECOND, NOON - 60 * ONE_SECOND - MS, NOON),  # in the same second
        (NOON, NOON - MS, NEXT_SECOND),
        (NOON - 60 * ONE_SECOND, NOON - MS, NEXT_SECOND),
        (NOON, NEXT_SECOND, NEXT_SECOND + MS),  # the third version within a second
    ],
)
def test_modified_at_never_goes_back(date: datetime, previous: datetime | None, expected: datetime) -> None:
    assert modification_date(date, previous, NOON) == expected


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
def test_stat_is_ambiguous_within_a_tick(ctime_ns: int | None, age_s: float, expected: float) -> None:
    now_ns = (ctime_ns or 0) + int(age_s * SECOND)
    assert FileStat(4, 10, 7, ctime_ns).ambiguous_for_s(now_ns) == pytest.approx(expected)

"""Tests of History, which decides whether restored files are correct."""

import pytest

from tests.system.live.history import ABSENT, Change, History

# `a` was replaced, then deleted; `b` was moved to `c`.
HISTORY = History(
    changes={
        "a": [Change("1", 1, 2), Change("2", 5, 6), Change(ABSENT, 9, 10)],
        "b": [Change("film", 1, 2), Change(ABSENT, 5, 6)],
        "c": [Change("film", 5, 6)],
    }
)


@pytest.mark.parametrize(
    ("path", "begin", "end", "versions"),
    [
        ("a", 3, 4, {"1"}),
        ("a", 0, 0.5, {ABSENT}),
        ("a", 2, 4, {ABSENT, "1"}),  # acknowledged at 2, and perhaps stored only then
        ("a", 3, 5, {"1", "2"}),  # the request for "2" was sent at 5
        ("a", 6.5, 7, {"2"}),
        ("a", 4, 9.5, {"1", "2", ABSENT}),
        ("a", 11, 12, {ABSENT}),
        ("c", 3, 4, {ABSENT}),
        ("c", 3, 7, {ABSENT, "film"}),
        ("none", 3, 4, {ABSENT}),
    ],
)
def test_may_hold_returns_versions_possible_in_span(
    path: str, begin: float, end: float, versions: set[str]
) -> None:
    assert HISTORY.may_hold(path, begin, end) == versions


@pytest.mark.parametrize(
    ("begin", "end", "versions"),
    [
        (1, 4, set()),
        (2.5, 4, {"1", "film"}),
        (2.5, 5, {"film"}),
        (2.5, 8, {"film"}),  # at either path
        (7, 8, {"2", "film"}),
        (7, 9, {"film"}),
    ],
)
def test_must_hold_returns_versions_stored_throughout_span(
    begin: float, end: float, versions: set[str]
) -> None:
    assert HISTORY.must_hold(begin, end) == versions

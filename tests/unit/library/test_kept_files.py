"""Destinations for the files of a deleted account."""

from itertools import islice
from pathlib import Path

import pytest

from app.accounts.models import Destination
from app.database import open_stores
from app.library.account_deletion import candidates, free_destination, numbered
from app.settings import Settings
from app.storage.types import SHARED, Key


@pytest.mark.parametrize(
    ("name", "number", "is_file", "expected"),
    [
        ("film.mp4", 1, True, "film.mp4"),
        ("film.mp4", 2, True, "film (2).mp4"),
        ("film.tar.gz", 12, True, "film.tar (12).gz"),
        ("film", 2, True, "film (2)"),
        (".hidden", 2, True, ".hidden (2)"),
        ("St. " + "x" * 40, 2, True, "St. " + "x" * 40 + " (2)"),
        ("anna@example.org", 2, False, "anna@example.org (2)"),
        ("x" * 251 + ".mp4", 10, True, "x" * 246 + " (10).mp4"),
        ("ü" * 127, 2, False, "ü" * 125 + " (2)"),
    ],
)
def test_numbered_inserts_number_before_extension(
    name: str, number: int, is_file: bool, expected: str
) -> None:
    assert numbered(name, number, is_file=is_file) == expected
    assert len(expected.encode()) <= 255


@pytest.mark.parametrize(
    ("folder", "first", "second", "flat"),
    [
        ("", "anna/film.mp4", "anna/film (2).mp4", "anna/film.mp4"),
        ("a/b", "anna/a/b/film.mp4", "anna/a/b/film (2).mp4", "anna/film.mp4"),
        # One more folder would make these paths too deep or too long.
        ("/".join("d" * 31), "anna/film.mp4", "anna/film (2).mp4", None),
        ("/".join(["x" * 253] * 4), "anna/film.mp4", "anna/film (2).mp4", None),
    ],
)
def test_candidates_keep_folder_when_possible(folder: str, first: str, second: str, flat: str | None) -> None:
    key = Key.of("leaver", folder, "film.mp4")
    found = list(islice(candidates(Destination("receiver", "anna"), key), 20))
    assert {one.library for one in found} == {"receiver"}
    assert [one.path for one in found[:2]] == [first, second]
    if flat is not None:
        assert found[9].path == flat


@pytest.mark.anyio
async def test_destination_is_never_an_ignored_name(tmp_path: Path) -> None:
    async with open_stores(Settings(_env_file=None, files_dir=tmp_path)) as stores:
        for email, folder in (("._a/b@nas", "_a-b@nas"), (".nfs@nas", "nfs@nas")):
            assert await free_destination(stores.storage, SHARED, email) == Destination(SHARED, folder)

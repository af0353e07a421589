"""Names that a file system treats as equal."""

import os
import unicodedata
from pathlib import Path

import pytest

from app.database.filesystem.name_equivalence import (
    actual_path,
    equivalent_entries,
    equivalent_names,
    is_equivalent,
)
from app.database.filesystem.posix import Root
from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, is_reserved, normalize_folder

NFC = "Amélie.mkv"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("segment", "reserved"),
    [
        (".seekable", True),
        (".SEEKABLE", True),
        (".Seekable", True),
        (".\u017feekable", True),  # the long s
        ("\uff0e\uff53eekable", True),  # fullwidth forms
        ("\u2024seekable", True),  # ONE DOT LEADER
        (".see\u212aable", True),  # the Kelvin sign
        (".see\u200ckable", True),  # HFS+ ignores this character
        ("\ufeff.seekable\u00ad", True),
        (".seekable\ufe0f", True),
        (".seek\u034fable", True),
        (".seekable2", False),
        ("seekable", False),
        (".seekablé", False),
        (".seekable ", False),
    ],
)
def test_reserved_name_is_refused_in_every_spelling(segment: str, reserved: bool) -> None:
    assert is_reserved(segment) is reserved
    for create in (lambda: Key.of(SHARED, segment, "x"), lambda: Key.of("anna", "", segment)):
        if reserved:
            with pytest.raises(InvalidName, match=r"must not start with “\.seekable”"):
                create()
            with pytest.raises(InvalidName):
                normalize_folder(f"{segment}/libraries")
        else:
            create()
            normalize_folder(f"{segment}/libraries")


def test_reserved_name_is_allowed_below_top_level() -> None:
    assert Key.of(SHARED, "films/.SEEKABLE", ".Seekable").folder == "films/.SEEKABLE"


def test_key_of_earlier_version_stays_valid() -> None:
    """On a case-sensitive file system such a folder was valid."""
    assert Key(SHARED, ".SEEKABLE", "film.mp4").path == ".SEEKABLE/film.mp4"


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("film.mp4", ("FILM.MP4",)),
        ("2001", ()),
        ("Ö", ("ö", "O\u0308")),
        ("é1x", ("É1X", "é1X", "e\u03011x")),
        ("straße", ("STRASSE", "STRAßE")),
        ("映", ()),
    ],
)
def test_alike_returns_spellings_that_reveal_case_sensitivity(name: str, others: tuple[str, ...]) -> None:
    assert equivalent_names(name) == others


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        (NFC, [NFC, "x"], [NFC]),
        (NFC, [NFD, NFC], [NFC, NFD]),
        (NFC, [NFD], [NFD]),
        (NFC, [NFC.upper(), "Amelie.mkv"], []),
        ("K", ["k", "\u212a", "K"], ["K", "\u212a"]),
        ("x", ["\udcff", "x"], ["x"]),
    ],
)
def test_entries_of_finds_names_that_differ_in_normalization(
    name: str, names: list[str], found: list[str]
) -> None:
    assert equivalent_entries(name, names) == found


def test_is_same_ignores_normalization_only() -> None:
    assert is_equivalent(("a", NFD), ("a", NFC))
    assert not is_equivalent(("a", NFD), ("A", NFC))


@pytest.mark.parametrize(
    ("existing", "path", "expected"),
    [
        ([], "a/b", "a/b"),
        (["a/b"], "a/b", "a/b"),
        (["A/b"], "a/b", "a/b"),
        (["a/b", "A/b", "a/B"], "a/B", "a/B"),
        (["é/é"], "é/é", "é/é"),
        (["e\u0301/film"], "é/film", "e\u0301/film"),
        (["e\u0301/film"], "é/other", "e\u0301/other"),
        (["e\u0301/o\u0308/film"], "é/ö/ü", "e\u0301/o\u0308/ü"),
        # Both spellings exist: the one that holds the file.
        (["é/x", "e\u0301/film"], "é/film", "e\u0301/film"),
        (["é/x", "e\u0301/film"], "é/new", "é/new"),
        (["éo\u0308/film"], "éö/film", "éo\u0308/film"),  # one letter composed, the other decomposed
        (["film"], "film/é", "film/é"),
    ],
)
def test_actual_path_has_names_that_folders_contain(
    tmp_path: Path, existing: list[str], path: str, expected: str
) -> None:
    for one in existing:
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one).touch()
    root = os.open(tmp_path, os.O_RDONLY)
    found = actual_path(Root(root), tuple(path.split("/")))
    os.close(root)
    assert "/".join(found) == expected

"""Names that a file system takes for one another."""

import os
import unicodedata
from pathlib import Path

import pytest

from app.database.filesystem.name_equivalence import alike, entries_of, is_same, spelled
from app.database.filesystem.posix import Root
from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, clean_folder, is_reserved

NFC = "Amélie.mkv"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("segment", "reserved"),
    [
        (".seekable", True),
        (".SEEKABLE", True),
        (".Seekable", True),
        (".\u017feekable", True),  # the long s
        ("\uff0e\uff53eekable", True),  # as wide as Chinese
        ("\u2024seekable", True),  # a leader of one dot
        (".see\u212aable", True),  # the Kelvin sign
        (".see\u200ckable", True),  # HFS+ does not see it
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
    for typed in (lambda: Key.of(SHARED, segment, "x"), lambda: Key.of("anna", "", segment)):
        if reserved:
            with pytest.raises(InvalidName, match=r"must not start with '\.seekable'"):
                typed()
            with pytest.raises(InvalidName):
                clean_folder(f"{segment}/libraries")
        else:
            typed()
            clean_folder(f"{segment}/libraries")


def test_reserved_name_is_a_name_like_others_below_the_top() -> None:
    assert Key.of(SHARED, "films/.SEEKABLE", ".Seekable").folder == "films/.SEEKABLE"


def test_row_of_an_earlier_version_is_still_a_key() -> None:
    """Where case counts, such a folder was no fault."""
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
def test_spellings_that_tell_whether_case_counts(name: str, others: tuple[str, ...]) -> None:
    assert alike(name) == others


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
def test_entries_that_differ_in_normalisation(name: str, names: list[str], found: list[str]) -> None:
    assert entries_of(name, names) == found


def test_paths_are_the_same_but_for_normalisation() -> None:
    assert is_same(("a", NFD), ("a", NFC))
    assert not is_same(("a", NFD), ("A", NFC))


@pytest.mark.parametrize(
    ("there", "path", "expected"),
    [
        ([], "a/b", "a/b"),
        (["a/b"], "a/b", "a/b"),
        (["A/b"], "a/b", "a/b"),
        (["a/b", "A/b", "a/B"], "a/B", "a/B"),
        (["é/é"], "é/é", "é/é"),
        (["e\u0301/film"], "é/film", "e\u0301/film"),
        (["e\u0301/film"], "é/other", "e\u0301/other"),
        (["e\u0301/o\u0308/film"], "é/ö/ü", "e\u0301/o\u0308/ü"),
        (["é/x", "e\u0301/film"], "é/film", "e\u0301/film"),  # twins: the one where it is
        (["é/x", "e\u0301/film"], "é/new", "é/new"),
        (["éo\u0308/film"], "éö/film", "éo\u0308/film"),  # half in one, half in the other
        (["film"], "film/é", "film/é"),
    ],
)
def test_path_is_as_the_folders_spell_it(tmp_path: Path, there: list[str], path: str, expected: str) -> None:
    for one in there:
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one).touch()
    root = os.open(tmp_path, os.O_RDONLY)
    found = spelled(Root(root), tuple(path.split("/")))
    os.close(root)
    assert "/".join(found) == expected

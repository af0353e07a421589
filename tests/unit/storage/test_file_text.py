"""Which texts a database may write, and how it escapes them for URLs."""

from functools import reduce
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.storage.file_text import MAX_ESCAPED, quote_path, url_escapes

PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace('"', "").replace("\\", "")


@given(st.text())
def test_quoted_path_equals_urllib(path: str) -> None:
    assert quote_path(path) == quote(path)


@pytest.mark.parametrize(
    ("names", "escaped"),
    [
        ("", ""),
        ("film.mp4~_-/9", ""),
        ("a film, with (signs).mp4", " ,()"),
        ("100%25 'it'.mp4", "% '"),
        ("é e\u0301 映🎬.mp4", " é\u0301映🎬"),
        ("\x7f", "\x7f"),
    ],
)
def test_url_escapes_are_those_of_urllib(names: str, escaped: str) -> None:
    assert url_escapes(names.encode(), b"") == {one: quote(one) for one in escaped}


@given(st.text(alphabet="% ,é'a2", max_size=8))
def test_name_with_replaced_escapes_is_quoted(name: str) -> None:
    escapes = url_escapes(name.encode(), b"")
    assert escapes is not None
    assert reduce(lambda text, escape: text.replace(*escape), escapes.items(), name) == quote(name)


@pytest.mark.parametrize("odd", ['"', "\\", "\n", "\0", "\x1f"])
def test_database_writes_no_text_that_json_escapes(odd: str) -> None:
    assert url_escapes(f"a{odd}b".encode(), b"") is None
    assert url_escapes(b"", f"a{odd}b".encode()) is None


def test_database_escapes_limited_number_of_characters() -> None:
    many = "".join(map(chr, range(0x430, 0x430 + MAX_ESCAPED)))
    assert url_escapes(many.encode(), b"") is not None
    assert url_escapes(f"{many}!".encode(), b"") is None


def test_database_writes_no_other_text_beyond_ascii() -> None:
    assert url_escapes(b"", "é".encode()) is None
    assert url_escapes(b"", PRINTABLE.encode()) == {}

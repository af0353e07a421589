"""Refused names: the message quotes the invalid part and gives a remedy."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, normalize_folder

REFUSED = {
    "films/../x.mp4": "“..” cannot be the name of a file or folder. Choose another name.",
    "films/./x.mp4": "“.” cannot be the name of a file or folder. Choose another name.",
    "C:\\films\\x.mp4": "“C:\\films\\x.mp4” contains a backslash. Write / instead.",
    "films/a\tb": "“a\\tb” contains the control character U+0009. Remove it.",
    "films/a\x9b31mb": "“a\\x9b31mb” contains the control character U+009B. Remove it.",
    "films//x.mp4": "“films//x.mp4” contains an empty name. Remove the extra slash.",
    "/films/x.mp4": "“/films/x.mp4” contains an empty name. Remove the extra slash.",
    "/x.mp4": "“/x.mp4” begins with a slash. Remove it.",
    "films/": "“films/” contains an empty name. Remove the extra slash.",
    "": "The name is empty. Choose one.",
    "films/" + "é" * 128: f"“{'é' * 60}…” is 256 bytes long in UTF-8. Shorten it to at most 255.",
    "/".join("a" * 33): f"“{('a/' * 33)[:60]}…” has 33 segments, of at most 32. Use fewer folders.",
    "/".join(["x" * 200] * 6): f"The path “{'x' * 60}…” is too long: at most 1024 bytes in UTF-8 fit. "
    "Shorten a name, or use fewer folders.",
    "a" * 5000: f"The path “{'a' * 60}…” is too long: at most 1024 bytes in UTF-8 fit. "
    "Shorten a name, or use fewer folders.",
    "a\udcff.mp4": "“a\\udcff.mp4” is not valid UTF-8.",
    ".SEEKABLE/x": "“.SEEKABLE” is reserved for the server: "
    "a path must not start with “.seekable”, in any spelling. Choose another name.",
}


@pytest.mark.parametrize(("path", "message"), REFUSED.items(), ids=lambda value: ascii(value)[:40])
def test_message_quotes_invalid_part(path: str, message: str) -> None:
    with pytest.raises(InvalidName) as refused:
        Key.at(SHARED, path)
    assert str(refused.value) == message
    assert str(refused.value).isprintable()


def test_message_quotes_filename_with_slash() -> None:
    with pytest.raises(
        InvalidName, match=r"^The name “a/b” contains a slash\. Give the folder separately\.$"
    ):
        Key.of(SHARED, "films", "a/b")


def test_message_quotes_folder() -> None:
    with pytest.raises(InvalidName, match=r"“\.\.” cannot be the name"):
        normalize_folder("films/..")


_PARTS = st.sampled_from(
    ["a", ".", "/", "é", "e\u0301", "\\", "\n", "\x7f", "\x9f", "\xa0", ".seekable", "x" * 130, "é" * 64]
)


def is_legal(path: str) -> bool:
    """Return whether a path is legal, by the rules one after the other."""
    segments = path.split("/")
    return (
        len(path.encode()) <= 1024
        and len(segments) <= 32
        and unicodedata.normalize("NFC", path) == path
        and not {"", ".", ".."}.intersection(segments)
        and segments[0] != ".seekable"
        and all(len(segment.encode()) <= 255 for segment in segments)
        and not any(character == "\\" or unicodedata.category(character) == "Cc" for character in path)
    )


@given(st.lists(_PARTS, max_size=70).map("".join))
@example("/".join("a" * 32))
@example("/".join("a" * 33))
@example("a/" * 127 + "a")
def test_key_is_valid_by_the_rules_only(path: str) -> None:
    folder, slash, filename = path.rpartition("/")
    if slash and not folder:  # no folder has this name
        return
    try:
        Key(SHARED, folder, filename)
    except InvalidName:
        assert not is_legal(path)
    else:
        assert is_legal(path)


def test_key_refuses_exactly_the_control_characters() -> None:
    """In short names, and in long ones, which are checked in another way."""
    for folder in ("", "x" * 250):
        refused = set()
        for character in map(chr, range(0x3000)):
            try:
                Key(SHARED, folder, f"a{character}b-long-name")
            except InvalidName as error:
                if "control character" in str(error):
                    refused.add(character)
        everything = map(chr, range(0x3000))
        assert refused == {each for each in everything if unicodedata.category(each) == "Cc"}

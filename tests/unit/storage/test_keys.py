"""Refused names: the message quotes the invalid part and gives a remedy."""

import pytest

from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, normalize_folder

REFUSED = {
    "films/../x.mp4": "“..” is no name of a file or a folder. Choose another.",
    "films/./x.mp4": "“.” is no name of a file or a folder. Choose another.",
    "C:\\films\\x.mp4": "A path must hold no backslash: “C:\\films\\x.mp4” has one. Write / instead.",
    "films/a\tb": "A path must hold no control characters: “a\\tb” has U+0009.",
    "films/a\x9b31mb": "A path must hold no control characters: “a\\x9b31mb” has U+009B.",
    "films//x.mp4": "“films//x.mp4” has an empty name in it. Leave out the extra slash.",
    "/films/x.mp4": "“/films/x.mp4” has an empty name in it. Leave out the extra slash.",
    "/x.mp4": "“/x.mp4” begins with a slash. Leave it out.",
    "films/": "“films/” has an empty name in it. Leave out the extra slash.",
    "": "A name is empty. Choose one.",
    "films/" + "é" * 128: f"“{'é' * 60}…” is 256 bytes long in UTF-8. At most 255 fit.",
    "/".join("a" * 33): f"“{('a/' * 33)[:60]}…” has 33 folders and names. A path has at most 32.",
    "/".join(["x" * 200] * 6): f"The path “{'x' * 60}…” is too long: it has at most 1024 bytes in UTF-8. "
    "Shorten a name, or use fewer folders.",
    "a" * 5000: f"The path “{'a' * 60}…” is too long: it has at most 1024 bytes in UTF-8. "
    "Shorten a name, or use fewer folders.",
    "a\udcff.mp4": "“a\\udcff.mp4” is not valid UTF-8.",
    ".SEEKABLE/x": "“.SEEKABLE” at the top belongs to the server: "
    "a path must not start with '.seekable', in any spelling. Choose another name.",
}


@pytest.mark.parametrize(("path", "message"), REFUSED.items(), ids=lambda value: ascii(value)[:40])
def test_message_quotes_invalid_part(path: str, message: str) -> None:
    with pytest.raises(InvalidName) as refused:
        Key.at(SHARED, path)
    assert str(refused.value) == message
    assert str(refused.value).isprintable()


def test_message_quotes_filename_with_slash() -> None:
    with pytest.raises(
        InvalidName, match=r"^A name must hold no slash, and “a/b” has one\. Name the folder apart\.$"
    ):
        Key.of(SHARED, "films", "a/b")


def test_message_quotes_folder() -> None:
    with pytest.raises(InvalidName, match=r"“\.\.” is no name"):
        normalize_folder("films/..")

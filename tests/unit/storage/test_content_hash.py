"""The content hash: SHA-256 and whether they are UTF-8 text, independent of how the bytes are split."""

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.storage.content_hash import ContentHash

TEXTS = {
    "nothing": b"",
    "ASCII": b"plain text\r\n",
    "umlauts": "Größe – 北京 🎬".encode(),
    "byte order mark": "\ufeffé".encode(),
    "the last character": b"\xf4\x8f\xbf\xbf",
    "control characters": b"\x1b[2J\x07",
    "longer than a step": "é".encode() * 100_000,
}
NO_TEXTS = {
    "Latin-1": "Größe".encode("latin-1"),
    "Windows-1252": "„so“".encode("cp1252"),
    "UTF-16 with a mark": "text".encode("utf-16"),
    "UTF-16 without a mark": "text".encode("utf-16-le"),
    "NUL": b"a\0b",
    "overlong": b"\xc0\xae",
    "a surrogate": b"\xed\xa0\x80",
    "past the last character": b"\xf4\x90\x80\x80",
    "cut short": b"caf\xc3",
    "a stray continuation": b"a\x80",
    "late": b"x" * 200_000 + b"\xff",
}


def hashed(*pieces: bytes) -> ContentHash:
    found = ContentHash()
    for piece in pieces:
        found.update(piece)
    return found


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_content_hash_recognizes_text_at_any_split(data: bytes) -> None:
    assert hashed(data).is_utf8
    for cut in range(1, min(len(data), 40)):
        found = hashed(data[:cut], data[cut:])
        assert found.is_utf8
        assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", NO_TEXTS.values(), ids=NO_TEXTS)
def test_content_hash_rejects_other_bytes_at_any_split(data: bytes) -> None:
    assert not hashed(data).is_utf8
    assert not hashed(data, b"more").is_utf8
    for cut in range(1, min(len(data), 40)):
        assert not hashed(data[:cut], data[cut:]).is_utf8


@given(st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=3).map(str.encode)), max_size=6))
def test_hash_of_pieces_equals_hash_of_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    try:
        is_text = b"\0" not in whole and bool(whole.decode() or True)
    except UnicodeDecodeError:
        is_text = False
    assert hashed(*pieces).is_utf8 is is_text


def test_content_hash_costs_little_more_than_sha256_when_not_text() -> None:
    """After the first byte that is not text, the check stops."""
    found, plain, data = hashed(b"\xff"), hashlib.sha256(), b"x" * (1 << 20)
    costs = []
    for update in (plain.update, found.update):
        began = time.process_time()
        for _ in range(30):
            update(data)
        costs.append(time.process_time() - began)
    assert costs[1] < 2 * costs[0] + 0.01

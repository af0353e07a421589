"""Cursors decode to the position that was encoded; any other text is refused."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage import cursors
from app.storage.cursors import Position
from app.storage.errors import InvalidCursor
from app.storage.types import SHARED, Listing, Sort

ALL = Listing(SHARED, "", recursive=True)
DAY = datetime(2026, 11, 21, 17, 0, 0, 123456, tzinfo=UTC)

POSITIONS = [
    (Sort.NAME, Position(None, "", "film.mp4")),
    (Sort.NAME, Position(None, "a/b", ":é 🎬:")),
    (Sort.NAME, Position(None, "/".join(["x" * 200] * 4), "y" * 220)),
    (Sort.SIZE, Position(0, "a", "b")),
    (Sort.SIZE, Position((1 << 63) - 1, "a", "b")),
    (Sort.CREATED_AT, Position(DAY, "a", "b")),
    (Sort.UPDATED_AT, Position(datetime(1, 1, 1, tzinfo=UTC), "a", "b")),
    (Sort.UPDATED_AT, Position(datetime.max.replace(tzinfo=UTC), "a", "b")),
]


def encoded(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("sort", "position"), POSITIONS)
def test_decode_returns_encoded_position(sort: Sort, position: Position, descending: bool) -> None:
    listing = replace(ALL, sort=sort, descending=descending)
    cursor = cursors.encode(listing, position)
    assert len(cursor) < 1500, "cursors must fit into a URL"
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert cursors.decode(listing, cursor) == position


@pytest.mark.parametrize(
    ("sort", "text"),
    [
        (Sort.NAME, ""),
        (Sort.NAME, "name"),
        (Sort.NAME, "name::"),
        (Sort.NAME, "name::/"),
        (Sort.NAME, "name::film"),  # without the slash that every cursor has
        (Sort.NAME, "name::a//b"),
        (Sort.NAME, "name::/../x"),
        (Sort.NAME, "name::/.seekable/x"),
        (Sort.NAME, "name::/a\0"),
        (Sort.NAME, "name::/\ud800"),
        (Sort.NAME, b"name::/\xff"),
        (Sort.NAME, "name::/e\u0301"),  # not NFC
        (Sort.NAME, "name::/" + "x" * 256),
        (Sort.NAME, "name::/" + "x" * 100_000),
        (Sort.NAME, "name:1:/film"),
        (Sort.NAME, "-name::/film"),
        (Sort.NAME, "size:1:/film"),
        (Sort.SIZE, "size::/film"),
        (Sort.SIZE, "size:x:/film"),
        (Sort.SIZE, "size:-1:/film"),
        (Sort.SIZE, "size:+1:/film"),
        (Sort.SIZE, "size:01:/film"),
        (Sort.SIZE, "size:1_0:/film"),
        (Sort.SIZE, "size: 1:/film"),
        (Sort.SIZE, "size:1.0:/film"),
        (Sort.SIZE, "size:١:/film"),
        (Sort.SIZE, f"size:{1 << 63}:/film"),
        (Sort.SIZE, f"size:{'9' * 1000}:/film"),
        (Sort.CREATED_AT, f"created_at:{1 << 63}:/film"),
        (Sort.CREATED_AT, f"created_at:{'9' * 1000}:/film"),
        (Sort.CREATED_AT, f"created_at:-{1 << 62}:/film"),
        (Sort.CREATED_AT, "created_at::/film"),
        (Sort.CREATED_AT, "updated_at:1:/film"),
    ],
)
def test_decode_refuses_text_that_encode_never_returns(sort: Sort, text: str | bytes) -> None:
    with pytest.raises(InvalidCursor):
        cursors.decode(replace(ALL, sort=sort), encoded(text))


@pytest.mark.parametrize("cursor", ["", "=", "a", "é", "%", " ", "\ud800", "\0", "A" * 5000, "name::/film"])
def test_decode_refuses_text_that_is_not_base64(cursor: str) -> None:
    for sort in Sort:
        with pytest.raises(InvalidCursor):
            cursors.decode(replace(ALL, sort=sort), cursor)


def test_decode_accepts_only_canonical_base64() -> None:
    cursor = encoded("name::/ab")  # 9 bytes
    assert cursors.decode(ALL, cursor)
    longer = encoded("name::/abc")
    for other in (
        f"{cursor}=",
        f"{cursor}\n",
        f" {cursor}",
        longer + "==",
        longer[:-1] + "x",
        encoded("é") + "==",
    ):
        with pytest.raises(InvalidCursor):
            cursors.decode(ALL, other)


@pytest.mark.parametrize(
    ("listing", "folder", "is_accepted"),
    [
        (Listing(SHARED, "a"), "a", True),
        (Listing(SHARED, "a"), "", False),
        (Listing(SHARED, "a"), "a/b", False),
        (Listing(SHARED, "a"), "a-b", False),
        (Listing(SHARED, ""), "a", False),
        (Listing(SHARED, "a", recursive=True), "a", True),
        (Listing(SHARED, "a", recursive=True), "a/b/c", True),
        (Listing(SHARED, "a", recursive=True), "a-b", False),
        (Listing(SHARED, "a", recursive=True), "", False),
        (Listing(SHARED, "", recursive=True), "a/b", True),
    ],
)
def test_decode_refuses_position_outside_listing(listing: Listing, folder: str, is_accepted: bool) -> None:
    cursor = cursors.encode(listing, Position(None, folder, "film"))
    if is_accepted:
        assert cursors.decode(listing, cursor).folder == folder
    else:
        with pytest.raises(InvalidCursor):
            cursors.decode(listing, cursor)


@settings(deadline=None)
@given(st.sampled_from(POSITIONS), st.data())
def test_decode_refuses_tampered_cursor_unless_canonical(
    case: tuple[Sort, Position], data: st.DataObject
) -> None:
    listing = replace(ALL, sort=case[0])
    text = bytearray(cursors.encode(listing, case[1]).encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0x20, 0x7E))
    try:
        position = cursors.decode(listing, text.decode())
    except InvalidCursor:
        return
    assert cursors.encode(listing, position) == text.decode()

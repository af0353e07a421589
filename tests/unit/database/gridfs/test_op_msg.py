"""Messages of MongoDB's wire protocol: commands, headers, and the chunks of a reply, byte by byte."""

import struct
from mmap import mmap
from typing import Any

import bson
import pytest
from bson import Binary, Int64, ObjectId

from app.database.gridfs.op_msg import (
    ChunkRange,
    MalformedReply,
    check_body,
    decode_document,
    decode_header,
    encode_command,
    has_cursor,
    join_chunks,
)

FILE = ObjectId()
DATA = bytes(range(256)) * 10
CHUNK = 1000  # two whole chunks, and one of 560 bytes


def test_command_is_encoded() -> None:
    message = encode_command(7, {"ping": 1, "$db": "admin"})
    assert message == struct.pack("<iiiiIB", len(message), 7, 0, 2013, 0, 0) + bson.encode(
        {"ping": 1, "$db": "admin"}
    )


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ((100, 1, 7, 2013), 100),
        ((26, 1, 7, 2013), 26),  # an empty document
        ((1000, 1, 7, 2013), 1000),
        ((1001, 1, 7, 2013), None),
        ((25, 1, 7, 2013), None),
        ((-1, 1, 7, 2013), None),
        ((0, 1, 7, 2013), None),
        ((100, 1, 8, 2013), None),  # to another request
        ((100, 1, 7, 1), None),  # OP_REPLY
        ((100, 1, 7, 2012), None),  # compressed
    ],
)
def test_header_is_that_of_the_reply(header: tuple[int, ...], length: int | None) -> None:
    packed = struct.pack("<iiii", *header)
    if length is None:
        with pytest.raises(MalformedReply):
            decode_header(packed, number=7, max_size=1000)
    else:
        assert decode_header(packed, number=7, max_size=1000) == length


def body(document: dict[str, Any] | bytes, *, flags: int = 0, kind: int = 0) -> mmap:
    """Return a received body, in memory that is longer than it."""
    raw = document if isinstance(document, bytes) else bson.encode(document)
    content = struct.pack("<IB", flags, kind) + raw
    buffer = mmap(-1, len(content) + 100)
    buffer[: len(content)] = content
    return buffer


EMPTY = bson.encode({})


@pytest.mark.parametrize(
    ("received", "size"),
    [
        (body(EMPTY, flags=1), 10),
        (body(EMPTY, flags=2), 10),
        (body(EMPTY, kind=1), 10),
        (body(EMPTY), 9),
        (body(EMPTY), 11),
    ],
)
def test_body_other_than_one_document_is_refused(received: mmap, size: int) -> None:
    check_body(body(EMPTY), 10)
    with pytest.raises(MalformedReply):
        check_body(received, size)


def test_document_is_decoded_or_refused() -> None:
    found = {"ok": 1.0, "cursor": {"firstBatch": [{"a": 1}]}}
    assert decode_document(body(found), 5 + len(bson.encode(found))) == found
    with pytest.raises(MalformedReply):
        decode_document(body(b"\x0a\0\0\0\x02a\0\xff\xff\xff"), 15)


def chunk(number: int, **changes: Any) -> dict[str, Any]:
    data = DATA[number * CHUNK : (number + 1) * CHUNK]
    return {"_id": ObjectId(), "files_id": FILE, "n": number, "data": data} | changes


def reply(chunks: list[dict[str, Any]], **changes: Any) -> mmap:
    cursor = {"firstBatch": chunks, "id": Int64(0), "ns": "films.fs.chunks"} | changes
    return body({"cursor": cursor, "ok": 1.0, "operationTime": Int64(5)})


def size_of(received: mmap) -> int:
    return 5 + int(struct.unpack_from("<i", received, 5)[0])


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 2560), (0, 1), (999, 1001), (1000, 2000), (1999, 2560), (2559, 2560), (500, 2100)]
)
def test_chunks_are_joined(start: int, stop: int) -> None:
    wanted = ChunkRange(FILE, len(DATA), CHUNK, start, stop)
    found = reply([chunk(number) for number in range(wanted.first, wanted.last + 1)])
    assert has_cursor(found)
    joined = join_chunks(found, size_of(found), wanted)
    assert joined is not None
    assert bytes(joined) == DATA[start:stop]


@pytest.mark.parametrize(
    "received",
    [
        reply([]),
        reply([chunk(0), chunk(1)]),
        reply([chunk(0), chunk(2)]),
        reply([chunk(1), chunk(2)]),
        reply([chunk(0), chunk(2), chunk(1)]),
        reply([chunk(0), chunk(1), chunk(1)]),
        reply([chunk(0), chunk(1, data=DATA[:999]), chunk(2)]),
        reply([chunk(0), chunk(1, data=DATA[:1001]), chunk(2)]),
        reply([chunk(0), chunk(1), chunk(2, data=DATA[:559])]),
        reply([chunk(0), chunk(1), chunk(2), chunk(3)]),
        reply([chunk(0), chunk(1, data="text"), chunk(2)]),
        reply([chunk(0), chunk(1, data=Binary(DATA[1000:2000], 2)), chunk(2)]),
        reply([chunk(0), chunk(1, n=1.0), chunk(2)]),
        reply([chunk(0), chunk(1, files_id=ObjectId()), chunk(2)]),
        reply([chunk(0), chunk(1, _id="text"), chunk(2)]),
        reply([chunk(0), chunk(1, more=1), chunk(2)]),
        reply([chunk(0), chunk(1), chunk(2)], id=Int64(1)),  # the server kept a cursor
        body({"ok": 0.0, "errmsg": "not primary", "code": 10107}),
        body({"ok": 1.0}),
        body(
            {"cursor": {"firstBatch": [chunk(0), chunk(1), chunk(2)], "id": Int64(0), "ns": "a.b"}, "ok": 0.0}
        ),
        body({"cursor": {"firstBatch": [chunk(0), chunk(1), chunk(2)], "id": Int64(0), "ns": "a.b"}}),
        body({"cursor": {"id": Int64(0), "firstBatch": [chunk(0), chunk(1), chunk(2)]}, "ok": 1.0}),
    ],
)
def test_anything_but_the_chunks_is_left_to_the_driver(received: mmap) -> None:
    wanted = ChunkRange(FILE, len(DATA), CHUNK, 0, len(DATA))
    assert join_chunks(received, size_of(received), wanted) is None


def test_reply_cut_at_any_byte_is_left_to_the_driver() -> None:
    """Its own length is right, but those inside are not; the memory after it holds an earlier reply."""
    chunks = [chunk(0), chunk(1), chunk(2)]
    wanted = ChunkRange(FILE, len(DATA), CHUNK, 0, len(DATA))
    whole = size_of(reply(chunks))
    for size in range(5, whole - 30, 7):  # the last bytes are those of another field
        assert join_chunks(reply(chunks), size, wanted) is None
    assert join_chunks(reply(chunks), whole, wanted) is not None


def test_reply_cut_where_its_memory_ends_is_left_to_the_driver() -> None:
    chunks = [chunk(0), chunk(1), chunk(2)]
    wanted = ChunkRange(FILE, len(DATA), CHUNK, 0, len(DATA))
    whole = reply(chunks)[: size_of(reply(chunks))]
    for size in range(70, len(whole)):
        with mmap(-1, size) as received:
            received[:] = whole[:size]
            joined = join_chunks(received, size, wanted)
            assert joined is None or size > len(whole) - 30
            if joined is not None:
                joined.release()


def test_longest_reply_holds_all_chunks() -> None:
    wanted = ChunkRange(FILE, len(DATA), CHUNK, 0, len(DATA))
    length = struct.unpack_from("<i", reply([chunk(0), chunk(1), chunk(2)]), 5)[0]
    assert length + 21 <= wanted.max_reply_size <= length + 10_000
    assert ChunkRange(FILE, 1 << 40, 1 << 30, 0, 1 << 40).max_reply_size <= 48_000_000

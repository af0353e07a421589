"""The wire format of MongoDB, pure: a command as an OP_MSG, its reply, and the chunks in a reply to a find.

Source: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ and https://bsonspec.org. Replies
are untrusted: each length is compared with the bytes that are there.
"""

import struct
from collections.abc import Mapping
from mmap import mmap
from typing import Any, NamedTuple

import bson
from bson import ObjectId
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions
from bson.errors import BSONError

OP_MSG = 2013
HEADER_SIZE = 16
MAX_REPLY_SIZE = 48_000_000
"""Bytes of the longest message of any server (its `maxMessageSizeBytes`)."""

_HEADER = struct.Struct("<iiii")  # length, id, id of the request, kind of message
_SECTION = struct.Struct("<IB")  # flags; kind of section: 0 is one document
_INT32 = struct.Struct("<i")
_DOUBLE = struct.Struct("<d")

_CURSOR = b"\x03cursor\0"

_BODY = HEADER_SIZE + _SECTION.size
"""The offset of the document in a message."""


class MalformedReply(Exception):
    """The bytes are no reply to the command. Nothing that follows on the connection can be trusted."""


def encode_command(number: int, command: Mapping[str, Any]) -> bytes:
    """Return the message of a command. `number` is its request id."""
    body = bson.encode(command)
    return _HEADER.pack(_BODY + len(body), number, 0, OP_MSG) + _SECTION.pack(0, 0) + body


def decode_header(header: bytes | bytearray | memoryview, *, number: int, max_size: int) -> int:
    """Return the length in bytes of the message that replies to request `number`.

    Raises MalformedReply if it is another message, shorter than any, or longer than `max_size`.
    """
    length, _, response_to, kind = _HEADER.unpack(header)
    if kind != OP_MSG:
        raise MalformedReply(f"a message of kind {kind}")
    if response_to != number:
        raise MalformedReply(f"a reply to request {response_to} instead of {number}")
    if not _BODY + 5 <= length <= max_size:
        raise MalformedReply(f"a message of {length} bytes")
    return int(length)


def check_body(body: bytes | mmap, size: int) -> None:
    """Raise MalformedReply unless the `size` bytes after a header are one document without flags.

    The server sets a flag only if the client did.
    """
    flags, kind = _SECTION.unpack_from(body)
    (length,) = _INT32.unpack_from(body, _SECTION.size)
    if flags or kind or length != size - _SECTION.size:
        raise MalformedReply("a message that is not one document")


def decode_document(
    body: bytes | mmap, size: int, options: CodecOptions[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the document of a checked body. Raises MalformedReply."""
    try:
        return bson.decode(body[_SECTION.size : size], options or DEFAULT_CODEC_OPTIONS)
    except (BSONError, ValueError) as error:
        raise MalformedReply(str(error)) from error


class ChunkRange(NamedTuple):
    """The bytes [start, stop) of a file of the bucket, all of whose chunks but the last are of one size."""

    file: ObjectId
    size: int
    """Bytes of the whole file."""
    chunk_size: int
    start: int
    stop: int

    @property
    def first(self) -> int:
        """The number of the first chunk."""
        return self.start // self.chunk_size

    @property
    def last(self) -> int:
        return (self.stop - 1) // self.chunk_size

    @property
    def max_reply_size(self) -> int:
        """Bytes that the reply with these chunks cannot exceed, unless other programs added fields."""
        count = self.last - self.first + 1
        return min(count * (self.chunk_size + 200) + 4096, MAX_REPLY_SIZE)


def join_chunks(body: mmap, size: int, wanted: ChunkRange) -> memoryview | None:
    """Return the bytes of a range, moved together within the checked body of the reply to their find.

    The body has `size` bytes; those after it in the buffer may belong to an earlier reply.

    Returns None if the reply is anything else than the chunks as drivers write them, one after another: an
    error, a chunk that is missing or of a wrong length, or an additional field.
    """
    batch = _find_batch(body) if size >= _MIN_BATCH else None
    if batch is None:
        return None
    position, cursor_end = batch
    begin, out = _SECTION.size, _SECTION.size
    for number in range(wanted.first, wanted.last + 1):
        offset = number * wanted.chunk_size
        length = min(wanted.chunk_size, wanted.size - offset)
        before, after = _chunk_head(wanted.file, number - wanted.first, number, length)
        data = position + len(before) + 12 + len(after)  # 12 bytes: the id of the chunk, which may be any
        if body[position : position + len(before)] != before or body[data - len(after) : data] != after:
            return None
        if data + length >= size:
            return None
        used = max(wanted.start - offset, 0)
        count = min(wanted.stop - offset, length) - used
        body.move(out, data + used, count)
        out += count
        position = data + length + 1  # the end of the document
        if body[position - 1]:
            return None
    if not (position < cursor_end <= size - len(_OK) and _ends_well(body, position, cursor_end)):
        return None
    return memoryview(body)[begin:out]


_FIRST_BATCH = b"\x04firstBatch\0"
_AFTER_BATCH = b"\0\x12id\0" + bytes(8)  # the server keeps no cursor
_MIN_BATCH = 64
"""Bytes that the body of every reply with a batch has."""

_OK = b"\x01ok\0" + _DOUBLE.pack(1.0)


def has_cursor(body: bytes | mmap) -> bool:
    """Return whether the document of a checked body begins with a cursor: an error does not."""
    begin = _SECTION.size + 4
    return body[begin : begin + len(_CURSOR)] == _CURSOR


def _find_batch(body: mmap) -> tuple[int, int] | None:
    """Return where the first document of the batch begins, and where the document of the cursor ends."""
    cursor = _SECTION.size + 4 + len(_CURSOR)
    batch = cursor + 4 + len(_FIRST_BATCH)
    if body[cursor - len(_CURSOR) : cursor] != _CURSOR or body[cursor + 4 : batch] != _FIRST_BATCH:
        return None
    return batch + 4, cursor + _INT32.unpack_from(body, cursor)[0]


def _ends_well(body: mmap, position: int, cursor_end: int) -> bool:
    """Return whether the batch ends at the position, the cursor is exhausted, and the command succeeded."""
    return (
        body[position : position + len(_AFTER_BATCH)] == _AFTER_BATCH
        and body[cursor_end : cursor_end + len(_OK)] == _OK
    )


def _chunk_head(file: ObjectId, index: int, number: int, length: int) -> tuple[bytes, bytes]:
    """Return the expected beginning of a chunk's document, before and after the bytes of its own id."""
    after = b"\x07files_id\0" + file.binary + b"\x10n\0" + _INT32.pack(number)
    after += b"\x05data\0" + _INT32.pack(length) + b"\0"
    size = 4 + 5 + 12 + len(after) + length + 1
    return b"\x03%d\0" % index + _INT32.pack(size) + b"\x07_id\0", after

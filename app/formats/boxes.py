"""Boxes of ISO BMFF (ISO/IEC 14496-12 §4.2): bounded reading of hostile bytes, and writing. Pure."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.formats.errors import Malformed

_HEADER = struct.Struct(">I4s")

MAX_HEADER = 16
"""Bytes of the largest header, with a size of 64 bits."""

MAX_BOXES = 10_000
"""Boxes of one parent."""


class Box(NamedTuple):
    """The place of one box in the bytes of its parent."""

    kind: bytes
    start: int
    body: int
    """Where its content begins."""
    stop: int


def read_header(data: bytes, at: int = 0) -> Box | None:
    """Return the box whose header is at `at`; None if the header is not whole. Raises Malformed.

    The box may reach beyond the data. A size of 0, which means up to the end of the file, is malformed: it
    cannot be followed by further boxes.
    """
    left = len(data) - at
    if left < 8:
        return None
    size, kind = _HEADER.unpack_from(data, at)
    header = 8
    if size == 1:
        if left < MAX_HEADER:
            return None
        size, header = int.from_bytes(data[at + 8 : at + 16], "big"), MAX_HEADER
    if size < header:
        raise Malformed(f"The MP4 box {_printable(kind)} has an impossible size.")
    return Box(kind, at, at + header, at + size)


def read_boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Box]:
    """Yield the boxes between two places. Raises Malformed if one leaves its parent."""
    end = len(data) if stop is None else stop
    at = start
    for _ in range(MAX_BOXES):
        if at + 8 > end:  # a few bytes of padding are common at the end of sample entries
            return
        found = read_header(data, at)
        if found is None or found.stop > end:
            raise Malformed("An MP4 box is larger than its parent.")
        yield found
        at = found.stop
    raise Malformed("An MP4 box contains too many boxes.")


def find_box(data: bytes, parent: Box, *path: bytes) -> Box | None:
    """Return the first box along a path of kinds below the parent; None if it is missing.

    Raises Malformed.
    """
    found: Box | None = parent
    for kind in path:
        if found is None:
            return None
        found = next((one for one in read_boxes(data, found.body, found.stop) if one.kind == kind), None)
    return found


def require_box(data: bytes, parent: Box, *path: bytes) -> Box:
    """Return the first box along a path of kinds below the parent. Raises Malformed if it is missing."""
    found = find_box(data, parent, *path)
    if found is None:
        raise Malformed(f"The MP4 box {_printable(parent.kind)} contains no {_printable(path[-1])}.")
    return found


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box with its header."""
    size = 8 + sum(map(len, parts))
    if size >= 1 << 32:
        return b"".join([b"\x00\x00\x00\x01", kind, (size + 8).to_bytes(8, "big"), *parts])
    return b"".join([size.to_bytes(4, "big"), kind, *parts])


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """Return a box that begins with its version and flags."""
    return box(kind, (version << 24 | flags).to_bytes(4, "big"), *parts)


def _printable(kind: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in kind)

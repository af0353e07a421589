"""EBML elements (RFC 8794), and the lacing of Matroska blocks (RFC 9559 §10). Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from app.formats.errors import Malformed

MAX_ELEMENTS = 10_000
"""Elements of one parent."""

MAX_FRAMES = 256
"""Frames of one block."""


class Header(NamedTuple):
    """The head of an element."""

    id: int
    """With its length marker, as RFC 9559 writes it."""
    length: int
    """Bytes of the head."""
    size: int | None
    """Bytes of the content; None if they are not known."""


def read_element_header(data: bytes, at: int) -> Header | None:
    """Return the head of the element at `at`; None if the head is not whole. Raises Malformed."""
    if at >= len(data):
        return None
    id_length = 9 - data[at].bit_length()
    if id_length > 4:
        raise Malformed("The Matroska stream contains an invalid element.")
    start = at + id_length
    if start >= len(data):
        return None
    found = _vint(data, start, len(data))
    if found is None:
        return None
    size, length = found
    is_unknown = size == (1 << 7 * length) - 1
    return Header(int.from_bytes(data[at:start], "big"), id_length + length, None if is_unknown else size)


def _vint(data: bytes, at: int, stop: int) -> tuple[int, int] | None:
    """Return the value and the length of a number of variable length; None if it is not whole."""
    if at >= stop:
        return None
    length = 9 - data[at].bit_length()
    if length > 8:
        raise Malformed("The Matroska stream contains an invalid number.")
    if at + length > stop:
        return None
    value = int.from_bytes(data[at : at + length], "big")
    return value & ((1 << 7 * length) - 1), length


def read_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield id and content of each element of a whole parent. Raises Malformed."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        if at >= len(data):
            return
        header = read_element_header(data, at)
        start = at + header.length if header else 0
        if header is None or header.size is None or start + header.size > len(data):
            raise Malformed("A Matroska element is larger than its parent.")
        at = start + header.size
        yield header.id, data[start:at]
    raise Malformed("A Matroska element contains too many elements.")


def unsigned(content: bytes) -> int:
    if len(content) > 8:
        raise Malformed("A Matroska element contains a number of more than 64 bits.")
    return int.from_bytes(content, "big")


class Block(NamedTuple):
    """The content of a SimpleBlock or Block (RFC 9559 §10.1)."""

    track: int
    time: int
    """Relative to that of the cluster, in its ticks."""
    is_key: bool
    """The flag of a SimpleBlock."""
    frames: list[bytes]


def parse_block(data: bytes) -> Block:
    """Parse a block. Raises Malformed."""
    found = _vint(data, 0, len(data))
    if found is None or len(data) < found[1] + 3:
        raise Malformed("A Matroska block is too short.")
    track, at = found
    time = int.from_bytes(data[at : at + 2], "big", signed=True)
    flags = data[at + 2]
    lacing = flags >> 1 & 3
    at += 3
    frames = [data[at:]] if lacing == 0 else _laced(data, at, lacing)
    return Block(track, time, flags & 0x80 != 0, frames)


def _laced(data: bytes, at: int, lacing: int) -> list[bytes]:
    """Return the frames of a laced block (§10.3)."""
    if at >= len(data):
        raise Malformed("A Matroska block is too short.")
    count = data[at] + 1
    at += 1
    if lacing == 1:
        sizes, at = _xiph_sizes(data, at, count)
    elif lacing == 3:
        sizes, at = _ebml_sizes(data, at, count)
    else:
        sizes = [(len(data) - at) // count] * (count - 1)
    last = len(data) - at - sum(sizes)
    if last < 0 or min(sizes, default=0) < 0:
        raise Malformed("The frames of a Matroska block are longer than it.")
    frames = []
    for size in [*sizes, last]:
        frames.append(data[at : at + size])
        at += size
    return frames


def _xiph_sizes(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    sizes = []
    for _ in range(count - 1):
        size = 0
        while at < len(data) and data[at] == 0xFF:
            size += 0xFF
            at += 1
        if at >= len(data):
            raise Malformed("A Matroska block is too short.")
        sizes.append(size + data[at])
        at += 1
    return sizes, at


def _ebml_sizes(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return the sizes: the first one, and signed differences from each to the next (§10.3.3)."""
    sizes: list[int] = []
    for _ in range(count - 1):
        found = _vint(data, at, len(data))
        if found is None:
            raise Malformed("A Matroska block is too short.")
        value, length = found
        at += length
        sizes.append(sizes[-1] + value - ((1 << 7 * length - 1) - 1) if sizes else value)
    return sizes, at

"""Long bodies: their bytes go from the kernel to the program past the HTTP parser."""

import asyncio
from collections.abc import Callable, Iterable

SIZE = 512 << 10
"""Bytes that are read in one go, at most."""

LONG = 256 << 10
"""Bytes of a body that are still to come from which on it is worth it: the event loops read so many at once
for the parser."""

# One for all connections: what is read into it is taken out before anything else is read.
_buffer = memoryview(bytearray(SIZE))


def length_of(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """How long a body is whose head the parser has accepted; 0 where only its end will tell."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return 0
        if name == b"content-length" and value.strip().isdigit():
            length = int(value)
    return length


class BodyReader(asyncio.BufferedProtocol):
    """Stands in for the protocol of a connection while the next `left` bytes come, and takes no more.

    The parser copies what it is given, after the event loop has copied it, in smaller pieces. `take` is given
    each piece and how much is left then. All else that happens to the connection is told to its protocol.
    """

    def __init__(self, protocol: asyncio.Protocol, left: int, take: Callable[[bytes, int], None]) -> None:
        self._left = left
        self._take = take
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        self._take(bytes(_buffer[:nbytes]), self._left)

"""A connection to a MongoDB server in the event loop: each reply is received once, into the memory from which
it is sent."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NamedTuple, cast

from app.database.gridfs.op_msg import (
    HEADER_SIZE,
    MalformedReply,
    check_body,
    decode_header,
    encode_command,
)

BUFFER_UNIT = 64 << 10
"""Buffers have a multiple of so many bytes, so that a later reply of similar length fits."""

MAX_NUMBER = (1 << 31) - 1
"""The largest id of a command."""

MAX_RETURNED = 6
"""Buffers that are kept for later replies, because the kernel clears new memory first."""

_SCRATCH = memoryview(bytearray(64 << 10))
"""Memory for bytes that nothing reads."""


class ReplyBuffers:
    """Memory for replies. It is mapped: unlike that of the heap, it returns to the system in any order."""

    def __init__(self) -> None:
        self._returned: list[mmap] = []

    def take(self, size: int) -> mmap:
        """Return a buffer of at least so many bytes, to which nothing else refers."""
        length = -(-size // BUFFER_UNIT) * BUFFER_UNIT
        for index, buffer in enumerate(self._returned):
            if len(buffer) == length and _is_free(buffer):
                return self._returned.pop(index)
        return mmap(-1, length, flags=MAP_PRIVATE | MAP_ANONYMOUS)

    def give(self, piece: memoryview) -> None:
        """Take back the buffer of a piece, for the time when nothing refers to its bytes any more."""
        buffer = piece.obj
        if isinstance(buffer, mmap):
            self._returned.append(buffer)
            del self._returned[:-MAX_RETURNED]


def _is_free(buffer: mmap) -> bool:
    try:
        buffer.resize(len(buffer))  # changes nothing, but is refused while there are views
    except (BufferError, SystemError, ValueError):
        return False
    return True


class Reply(NamedTuple):
    """A reply whose header, length and form were checked."""

    body: mmap
    """The bytes after the header; the buffer may be longer."""
    size: int


class LoopConnection(asyncio.BufferedProtocol):
    """One connection, closed after any irregularity.

    `ended` is called when a dropped reply has arrived, and when the connection was lost.
    """

    def __init__(self, buffers: ReplyBuffers, ended: Callable[["LoopConnection"], None]) -> None:
        self._buffers = buffers
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._header = memoryview(bytearray(HEADER_SIZE))
        self._body: mmap | None = None
        self._view: memoryview | None = self._header  # None: the bytes are dropped
        self._size, self._received = HEADER_SIZE, 0  # of the header or the body, whichever is arriving
        self._in_body = False
        self._number, self._max_size = 0, 0  # of the command whose reply is next
        self._replies_due = 0
        self._replies: list[Reply] = []
        self._waiter: asyncio.Future[list[Reply]] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_busy(self) -> bool:
        """Whether a reply is on its way."""
        return self._waiter is not None

    async def ask(self, command: Mapping[str, Any], max_size: int) -> Reply:
        """As `ask_all`, for one command."""
        [reply] = await self.ask_all([command], max_size)
        return reply

    def ask_all(self, commands: Sequence[Mapping[str, Any]], max_size: int) -> asyncio.Future[list[Reply]]:
        """Send commands, when no reply is on its way. The server runs one after another.

        The future raises ConnectionError, or MalformedReply if a reply is not to its command or has more
        than `max_size` bytes. If it is cancelled, call `drop_reply`.
        """
        if self._transport is None or self._waiter is not None:
            raise ConnectionResetError("the connection cannot be used")
        first = self._number + 1
        if first > MAX_NUMBER - len(commands):
            first = 1
        self._number, self._replies_due, self._max_size = first, len(commands), max_size
        self._waiter = asyncio.get_running_loop().create_future()
        messages = [encode_command(number, command) for number, command in enumerate(commands, first)]
        self._transport.write(b"".join(messages))
        return self._waiter

    def drop_reply(self, within_s: float) -> None:
        """Release the memory of the replies, and receive the rest; close the connection if they are late."""
        assert self._waiter is not None
        self._waiter.cancel()
        self._replies = []
        if self._in_body:
            self._body = self._view = None
        self._deadline = asyncio.get_running_loop().call_later(within_s, self.abort)

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionResetError("the server closed the connection"))
        self._ended(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._view is None:
            return _SCRATCH[: self._size - self._received]
        return self._view[self._received : self._size]

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        if self._received < self._size:
            return
        try:
            if self._in_body:
                self._complete()
            else:
                self._begin_body()
        except MalformedReply as error:
            self._fail(error)
            self.abort()

    def _begin_body(self) -> None:
        if self._waiter is None:
            raise MalformedReply("a message that is no reply")
        self._size = decode_header(self._header, number=self._number, max_size=self._max_size) - HEADER_SIZE
        self._received, self._in_body, self._view = 0, True, None
        if not self._waiter.cancelled():
            self._body = self._buffers.take(self._size)
            self._view = memoryview(self._body)

    def _complete(self) -> None:
        waiter, body, size = self._waiter, self._body, self._size
        if self._view is not None:
            self._view.release()
        self._expect_header()
        assert waiter is not None
        self._replies_due -= 1
        if body is not None and not waiter.cancelled():
            try:
                check_body(body, size)
            except MalformedReply as error:
                waiter.set_exception(error)
                raise
            self._replies.append(Reply(body, size))
        if self._replies_due:
            self._number += 1
            return
        replies = self._replies
        self._reset()
        if waiter.cancelled():
            self._ended(self)
        else:
            waiter.set_result(replies)

    def _fail(self, error: Exception) -> None:
        waiter = self._waiter
        self._reset()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _expect_header(self) -> None:
        """Prepare for the next header. The memory of the present reply is released."""
        self._body = None
        self._view = self._header
        self._size, self._received, self._in_body = HEADER_SIZE, 0, False

    def _reset(self) -> None:
        """Expect no reply."""
        self._expect_header()
        self._waiter = None
        self._replies = []
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

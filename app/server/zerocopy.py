"""Sending files without a copy: sendfile() on the socket of an event loop's connection."""

import asyncio
import errno
import os
import sys

from app.storage.errors import StorageUnavailable, Truncated

EXTENSION = "http.response.zerocopysend"
"""The ASGI extension that is offered: https://asgi.readthedocs.io/en/latest/extensions.html"""

IS_POSSIBLE = sys.platform == "linux"
"""Elsewhere sendfile() means something else, or is not there."""

BLOCK = 1 << 20
"""Bytes that one client is sent before the others get their turn."""

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.EBADF}


class FileSender:
    """Sends parts of files, one after the other, to a socket that belongs to a transport with nothing unsent.

    Event loops let nobody else watch a transport's own descriptor, so that a duplicate of it is watched, for
    as long as a part has to wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: int) -> None:
        self._loop = loop
        self._socket = socket
        self._waiting: asyncio.Future[None] | None = None
        self.sent = 0
        """Bytes, of all parts so far."""

    @property
    def is_waiting(self) -> bool:
        """Whether the client has to read before anything more can be sent."""
        return self._waiting is not None

    def send_now(self, file: int, offset: int, count: int) -> int:
        """How many bytes the socket took at once, which may be none. Raises what `send` does."""
        return self._step(self._socket, file, offset, offset + count)

    async def send(self, file: int, offset: int, count: int) -> None:
        """Return when the socket has taken all of it, which has to be waited for: see `send_now`.

        ConnectionError when the client has left, Truncated when the file is too short, StorageUnavailable
        when it cannot be read.
        """
        stop = offset + count
        try:
            watched = os.dup(self._socket)
        except OSError as error:
            raise StorageUnavailable(f"The file could not be sent: {error.strerror}.") from error
        self._waiting = waiting = self._loop.create_future()

        def on_writable() -> None:
            nonlocal offset
            if waiting.done():
                return
            try:
                offset += self._step(watched, file, offset, stop)
            except Exception as error:
                waiting.set_exception(error)
            else:
                if offset == stop:
                    waiting.set_result(None)

        try:
            self._loop.add_writer(watched, on_writable)
            await waiting
        finally:
            self._waiting = None
            self._loop.remove_writer(watched)  # before it is closed: another connection may get its number
            os.close(watched)

    def lose(self) -> None:
        """The connection is lost: let go of its descriptor."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("The client has left."))

    def _step(self, socket: int, file: int, offset: int, stop: int) -> int:
        """Send what fits. How many bytes that were; 0 when nothing fits."""
        try:
            sent = os.sendfile(socket, file, offset, min(stop - offset, BLOCK))
        except BlockingIOError:
            return 0
        except OSError as error:
            if isinstance(error, ConnectionError) or error.errno in _GONE:
                raise ConnectionResetError("The client has left.") from error
            raise StorageUnavailable(f"The file could not be read: {error.strerror}.") from error
        if sent == 0:
            raise Truncated(f"The file ends at byte {offset}.")
        self.sent += sent
        return sent

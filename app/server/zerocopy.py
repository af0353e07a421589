"""Zero-copy sending: sendfile(2) on the socket of an asyncio transport."""

import asyncio
import errno
import os
import sys

from app.storage.errors import StorageUnavailable, Truncated

EXTENSION = "http.response.zerocopysend"
"""The ASGI extension: https://asgi.readthedocs.io/en/latest/extensions.html"""

IS_POSSIBLE = sys.platform == "linux"
"""On other systems sendfile() differs or is missing."""

BLOCK = 1 << 20
"""Bytes to send to one client before the event loop serves the others."""

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.EBADF}


class FileSender:
    """A sender of spans of files, one at a time, to the socket of a transport whose write buffer is empty.

    Event loops allow no second watcher on a transport's descriptor, so a duplicate is watched while a span
    has to wait. It is kept for the next span of the same response.
    """

    __slots__ = ("_file", "_loop", "_offset", "_socket", "_stop", "_waiting", "_watched", "sent")

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: int) -> None:
        self._loop = loop
        self._socket = socket
        self._waiting: asyncio.Future[None] | None = None
        self._watched = -1  # the duplicate
        self._file = -1  # of the span that waits, as the next two
        self._offset = self._stop = 0
        self.sent = 0
        """Bytes sent so far, over all spans."""

    @property
    def is_waiting(self) -> bool:
        """Whether sending is blocked until the client reads."""
        return self._waiting is not None

    def send_now(self, file: int, offset: int, count: int) -> int:
        """Send without waiting, and return the number of bytes sent. Raises the errors of `send`."""
        return self._step(self._socket, file, offset, offset + count)

    async def send(self, file: int, offset: int, count: int) -> None:
        """Send the span, waiting until the socket is writable. Call `end` after the last span of a response.

        Raises ConnectionError if the client has left, Truncated if the file is too short, StorageUnavailable
        if it cannot be read.
        """
        self._file, self._offset, self._stop = file, offset, offset + count
        # Only `self` refers to it: a local variable and the traceback of its exception would be a cycle.
        self._waiting = self._loop.create_future()
        try:
            self._watch()
            await self._waiting
        except BaseException:
            self.end()
            raise
        finally:
            self._waiting = None

    def _watch(self) -> None:
        if self._watched < 0:
            try:
                self._watched = os.dup(self._socket)
            except OSError as error:
                raise StorageUnavailable(f"The file could not be sent: {error.strerror}.") from error
            self._loop.add_writer(self._watched, self._on_writable)

    def _on_writable(self) -> None:
        waiting = self._waiting
        if waiting is None:  # the next span takes long: the socket must not wake the loop meanwhile
            self.end()
        elif not waiting.done():
            try:
                self._offset += self._step(self._watched, self._file, self._offset, self._stop)
            except Exception as error:
                waiting.set_exception(error)
            else:
                if self._offset == self._stop:
                    waiting.set_result(None)

    def end(self) -> None:
        """Release the duplicate, if there is one."""
        watched, self._watched = self._watched, -1
        if watched >= 0:
            self._loop.remove_writer(watched)  # before close(2): a new connection may reuse the number
            os.close(watched)

    def connection_lost(self) -> None:
        """Fail a pending `send`, and release its descriptor."""
        self.end()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("The client has left."))

    def _step(self, socket: int, file: int, offset: int, stop: int) -> int:
        """Call sendfile(2) once and return the number of bytes sent; 0 if the socket is full."""
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

"""The log of requests: one line each on standard output, written together once per turn of the event loop."""

import asyncio
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from app import logs

MAX_UNWRITTEN = 1 << 20
"""Bytes that wait while the reader of a pipe is slow. Beyond, records are dropped and counted."""

_RETRY_S = 0.05
"""Seconds between two attempts to write to a full pipe."""

_PIECE = select.PIPE_BUF
"""Bytes of one write into a pipe: as many as it takes without blocking, if poll(2) reports room."""

_LINE_FEED = ord("\n")


class Request(NamedTuple):
    """The fields of a record that are known before the response is sent."""

    client: str
    method: str
    path: str
    """The path, percent-encoded, and the query."""
    version: str
    status: int

    @classmethod
    def of(cls, scope: Any, status: int) -> "Request":
        """Return the fields of an ASGI request."""
        return cls(
            get_client_addr(scope),
            scope["method"],
            get_path_with_query_string(scope),
            scope["http_version"],
            status,
        )


class LineForm:
    """A record as one line of text."""

    @staticmethod
    def prepare(request: Request) -> str:
        """Return the part of a record that the request and its status determine."""
        client, method, path, version, status = request
        return logs.escaped(
            f'INFO {logs.masked(client)} - "{method} {logs.masked(path)} HTTP/{version}" {status}'
        )

    @staticmethod
    def complete(at: str, prepared: str, received: int, sent: int, duration: float, request_id: str) -> str:
        """Return the record, with its end of line."""
        return f"{at} {prepared} in={received} out={sent} s={duration:.4f} id={logs.masked(request_id)}\n"


class JsonForm:
    """A record as one JSON object."""

    @staticmethod
    def prepare(request: Request) -> str:
        client, method, path, version, status = request
        path = logs.masked(path)
        # As ASCII, so that no character of a client can end a line or control a terminal.
        return (
            f'"level": "INFO", "message": {_quoted(f"{method} {path} {status}")}, '
            f'"client": {_quoted(logs.masked(client))}, "method": {_quoted(method)}, '
            f'"path": {_quoted(path)}, "version": {_quoted(version)}, "status": {status}'
        )

    @staticmethod
    def complete(at: str, prepared: str, received: int, sent: int, duration: float, request_id: str) -> str:
        return (
            f'{{"time": "{at}", {prepared}, "received": {received}, "bytes": {sent}, '
            f'"duration": {round(duration, 6)}, "id": {_quoted(logs.masked(request_id))}}}\n'
        )


def _quoted(text: str) -> str:
    return quoted(logs.without_surrogates(text))


_FORMS: dict[logs.Format, type[LineForm] | type[JsonForm]] = {"line": LineForm, "json": JsonForm}


class Clock:
    """The times of records. Only the first record of a second formats the date and the time zone."""

    def __init__(self) -> None:
        self._second = -1
        self._date = self._zone = ""

    def format(self, at: float) -> str:
        """Return a time, in seconds since the epoch, as local time in the format of ISO 8601."""
        second = int(at)
        if second != self._second:
            local = datetime.fromtimestamp(second).astimezone().isoformat()
            self._date, self._zone, self._second = local[:19], local[19:], second
        return f"{self._date}.{int(at * 1000) % 1000:03d}{self._zone}"


class RequestLog:
    """Appends records to a file descriptor, and never blocks the event loop for the reader of a pipe.

    Records of one turn of the event loop are one write(2). What a full pipe does not take waits, in bounded
    memory; beyond that, and after errors, records are dropped, and the next record that is written is
    preceded by a warning with their number. Records are appended by the thread of the event loop; any thread
    may flush and close.
    """

    def __init__(self, descriptor: int, form: logs.Format, *, max_unwritten: int = MAX_UNWRITTEN) -> None:
        self.prepare = _FORMS[form].prepare
        self._complete = _FORMS[form].complete
        self._format = form
        self._clock = Clock()
        self._descriptor = descriptor
        self._max_unwritten = max_unwritten
        self._takes_all = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._records: deque[str] = deque()  # of this turn
        self._unwritten = bytearray()
        self._waiting = 0  # records that the unwritten bytes stand for
        self._dropped = 0  # records since the last warning about them
        self._at_line_start = True
        self._scheduled = self._retries = False
        self._lock = threading.Lock()

    def append(self, prepared: str, received: int, sent: int, duration: float, request_id: str) -> None:
        """Append the record of a response that has ended, `duration` seconds after the request began.

        `prepared` is the result of `prepare` for the request. One that is repeated can keep it.
        """
        at = self._clock.format(time.time())
        self._records.append(self._complete(at, prepared, received, sent, duration, request_id))
        if not self._scheduled:
            with suppress(RuntimeError):  # a task that ends after its event loop: `close` writes the record
                asyncio.get_running_loop().call_soon(self._flush_turn)
                self._scheduled = True

    def _flush_turn(self) -> None:
        self._scheduled = False
        self.flush()
        if self._unwritten and not self._retries:
            self._retries = True
            asyncio.get_running_loop().call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retries = False
        self._flush_turn()

    def flush(self) -> None:
        """Write the records, as far as the descriptor takes them without blocking. Thread-safe."""
        with self._lock:
            self._take_records()
            self._write(0)

    def close(self, within_s: float = 1.0) -> None:
        """Write the records before the process ends; wait so long for the reader of a full pipe.

        Thread-safe, also while the thread of the event loop is blocked.
        """
        deadline = time.monotonic() + within_s
        if self._lock.acquire(timeout=within_s):
            try:
                self._take_records()
                while self._unwritten and (left := deadline - time.monotonic()) > 0:
                    self._write(left)
            finally:
                self._lock.release()

    def _take_records(self) -> None:
        """Move the records of this turn to the unwritten bytes, or drop them if too many wait."""
        lines = []
        with suppress(IndexError):  # popleft is atomic, unlike a copy, while another thread appends
            while True:
                lines.append(self._records.popleft())
        if self._unwritten and (self._dropped or len(self._unwritten) > self._max_unwritten):
            self._dropped += len(lines)
            return
        self._warn_of_dropped()
        self._unwritten += "".join(lines).encode(errors="backslashreplace")
        self._waiting += len(lines)

    def _warn_of_dropped(self) -> None:
        if self._dropped:
            message = "Standard output did not take the records of up to %d requests before this line."
            record = logging.LogRecord(
                __name__, logging.WARNING, __file__, 0, message, (self._dropped,), None
            )
            line = f"{logs.formatter(self._format).format(record)}\n"
            self._unwritten += (line if self._at_line_start else f"\n{line}").encode()
            self._waiting += self._dropped
            self._dropped = 0

    def _write(self, wait_s: float) -> None:
        """Write the unwritten bytes; wait so long for room in a pipe."""
        while self._unwritten and (self._takes_all or self._room.poll(wait_s * 1000)):
            piece = self._unwritten if self._takes_all else self._unwritten[:_PIECE]
            try:
                written = os.write(self._descriptor, piece)
            except BlockingIOError:  # another program has made the descriptor non-blocking
                return
            except OSError:  # its reader has gone, or the disk is full: a log has no place to report it
                self._dropped += self._waiting
                self._waiting = 0
                self._unwritten.clear()
                return
            self._at_line_start = piece[written - 1] == _LINE_FEED
            del self._unwritten[:written]
            if not self._unwritten:
                self._waiting = 0
                self._warn_of_dropped()

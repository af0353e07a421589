"""The progress of an upload, as messages to the WebSocket session that the client names."""

import time
from collections.abc import Callable
from typing import Protocol

from app.events.feed import Message, compact
from app.http.errors import BadForm

INTERVAL_S = 0.125
"""Seconds between two messages. With the last one, which is not delayed, a client gets ten in a second."""

ELSEWHERE_INTERVAL_S = 1.0
"""Seconds between two messages, other than the last, that other processes receive as well."""

MAX_SID_LENGTH = 64


class Send(Protocol):
    """Sends a message to a WebSocket session; with `elsewhere`, even if another process has it."""

    def __call__(self, message: Message, *, elsewhere: bool) -> None: ...


class Progress:
    """The progress of one request, for the session `sid` that its URL or form names.

    `total` is the length of the body; None if unknown. Only the last message, sent when the file is stored,
    has `received` equal to `total`. A failed upload sends no last message: its response has the error.
    """

    def __init__(
        self,
        send: Send,
        *,
        library: str,
        sid: str | None,
        filename: str | None,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.filename = filename
        self.received = 0
        self._deliver = send
        self._library = library
        self._sid: str | None = None
        self._total = total
        self._clock = clock
        self._not_before = self._elsewhere_not_before = clock()
        if sid:
            self.follow(sid)

    def follow(self, sid: str) -> None:
        """Send the messages to this session. Raises BadForm if the sid is invalid or another is set."""
        if len(sid) > MAX_SID_LENGTH:
            raise BadForm(f"A sid is at most {MAX_SID_LENGTH} characters long.")
        if self._sid and sid and self._sid != sid:
            raise BadForm("The form and the URL name different sids.")
        self._sid = sid or self._sid

    def advance(self, size: int) -> None:
        """Count bytes that arrived, and send a message if one is due."""
        self.received += size
        now = self._clock()
        if self._sid and size and now >= self._not_before and self.received != self._total:
            self._not_before = now + INTERVAL_S
            elsewhere = now >= self._elsewhere_not_before
            if elsewhere:
                self._elsewhere_not_before = now + ELSEWHERE_INTERVAL_S
            self._send(self._total, elsewhere=elsewhere)

    def finish(self) -> None:
        """Send the last message: the file is stored."""
        if self._sid:
            self._send(self.received, elsewhere=True)

    def _send(self, total: int | None, *, elsewhere: bool) -> None:
        assert self._sid is not None
        progress = {"filename": self.filename, "received": self.received, "total": total}
        message = Message(self._library, self._sid, compact({"progress": progress}))
        self._deliver(message, elsewhere=elsewhere)

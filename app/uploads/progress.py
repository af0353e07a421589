"""What is told of an upload while it comes in, and how often."""

import time
from collections.abc import Callable
from typing import Protocol

from app.events.feed import Message, compact
from app.http.errors import BadForm

INTERVAL_S = 0.125
"""Between two messages. Nine in any second, and the last one, which does not wait: never more than ten."""

ELSEWHERE_INTERVAL_S = 1.0
"""Between two that other processes hear of, too, besides the last."""

MAX_SID_LENGTH = 64


class Send(Protocol):
    """Sends a message to a WebSocket session; with `elsewhere`, even if another process has it."""

    def __call__(self, message: Message, *, elsewhere: bool) -> None: ...


class Progress:
    """How much of one request's body has come, told to the sid that it names, in its URL or in a form.

    `total` is the length of the body, if it is known. That `received` equals it is said only once, last,
    when the file is stored. An upload that fails just ends: its own answer says why.
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
        """Take note of who is to be told. Raises BadForm."""
        if len(sid) > MAX_SID_LENGTH:
            raise BadForm(f"A sid is at most {MAX_SID_LENGTH} characters long.")
        if self._sid and sid and self._sid != sid:
            raise BadForm("The form and the URL name different sids.")
        self._sid = sid or self._sid

    def advance(self, size: int) -> None:
        """So many more bytes have come."""
        self.received += size
        now = self._clock()
        if self._sid and size and now >= self._not_before and self.received != self._total:
            self._not_before = now + INTERVAL_S
            elsewhere = now >= self._elsewhere_not_before
            if elsewhere:
                self._elsewhere_not_before = now + ELSEWHERE_INTERVAL_S
            self._send(self._total, elsewhere=elsewhere)

    def finish(self) -> None:
        """The file is stored."""
        if self._sid:
            self._send(self.received, elsewhere=True)

    def _send(self, total: int | None, *, elsewhere: bool) -> None:
        assert self._sid is not None
        progress = {"filename": self.filename, "received": self.received, "total": total}
        message = Message(self._library, self._sid, compact({"progress": progress}))
        self._deliver(message, elsewhere=elsewhere)

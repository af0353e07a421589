"""The fast path: requests that differ from an answered one only in the range need no application.

A player sends thousands of requests whose heads differ only in the digits of Range. The application permits
the repetition of an answer with the entry REPEAT of its message `http.response.start`; see
`streaming.file_response`. Everything from which it decided is then part of the key (the addresses of both
ends of the connection, and all bytes of the head but those digits and a request id), or is checked again (the
file), or ends the permission (`until`, `validity`).
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from itertools import count
from os import sendfile, write
from time import monotonic
from typing import Any, Protocol

from app.metrics.request_counters import RequestCounters
from app.server.exchange import Exchange, PartialResponse, RequestConnection, new_request_id
from app.server.http1 import REQUEST_ID, RequestHead
from app.server.request_log import Request, RequestLog
from app.server.zerocopy import BLOCK
from app.storage.contract import ReopenableFile

MAX_HEAD = 4096
"""Maximum bytes of the key of an answer, and of its head."""

MAX_KEPT_BYTES = 4 << 20
"""Bound of the kept answers in bytes, OVERHEAD included."""

OVERHEAD = 6 << 10
"""Bytes that an answer takes in memory besides the two heads: mostly the scope of its request."""

FIELD_OVERHEAD = 128
"""Bytes that each field of a request takes besides its text: many short ones fit into a head."""

_RANGE = b"ange: bytes="
_LINE_STARTS = (b"\r\nR", b"\r\nr")
_MAX_RANGE = 40
"""Bytes of a range that is cut out: two numbers of 20 digits."""

# As exchange.request_id accepts it.
_ID = re.compile(rb"\r\n[Xx]-[Rr]equest-[Ii][Dd]: ([A-Za-z0-9._:@/+=-]{1,128})\r\n")
_DATE = re.compile(rb"\r\ndate: ([^\r]*)")

_numbers = count(1)

Divided = tuple[bytes, int, int, bytes]
"""The head of a request: the key of its answer; the first and the last byte of its range, -1 if absent; the
id that the client sent, or nothing."""


@lru_cache(1024)
def ends_of(client: str, server: tuple[str, int | None] | None) -> bytes:
    """Return what identifies the two ends of a connection; no other ends begin with it.

    Without the client's port, from which no check decides: a new connection of a player finds the answers of
    its last one.
    """
    return repr((client, server)).encode() + b"\r\n"


def divide(ends: bytes, head: bytes) -> Divided:
    """Divide the head of a request that arrived on a connection between these ends.

    Only digits are cut out, never their surroundings: otherwise two different heads could leave one key. Of a
    repeated field the first is cut; the answer to such a request never depends on its value.
    """
    client_id = b""
    if b"equest-" in head and (given := _ID.search(head)):
        client_id = given[1]
        head = head[: given.start(1)] + head[given.end(1) :]
    at = head.find(_RANGE)
    if at > 0 and head[at - 3 : at] in _LINE_STARTS:
        start, stop = at + len(_RANGE), head.find(b"\r\n", at)
        first, dash, last = head[start:stop].partition(b"-")
        if dash and 0 < stop - start <= _MAX_RANGE and first.isdigit() and (not last or last.isdigit()):
            return ends + head[:start] + head[stop:], int(first), int(last) if last else -1, client_id
    return ends + head, -1, -1, client_id


class HeadDivider:
    """Divides the heads of one connection as `divide` does.

    A head that differs from the one before only in its range, the usual case, takes two comparisons.
    """

    __slots__ = ("_ends", "_key", "_prefix", "_start", "_stop", "_suffix")

    def __init__(self, ends: bytes) -> None:
        self._ends = ends
        self._prefix = self._suffix = self._key = b""
        self._start = self._stop = 0  # of the numbers; the latter from the end

    def divide(self, head: bytes) -> Divided:
        if self._key and head.startswith(self._prefix) and head.endswith(self._suffix):
            numbers = head[self._start : self._stop]
            first, dash, last = numbers.partition(b"-")
            if dash and first.isdigit() and (not last or last.isdigit()) and len(numbers) <= _MAX_RANGE:
                return self._key, int(first), int(last) if last else -1, b""
        divided = divide(self._ends, head)
        self._key = b""
        if divided[1] >= 0 and not divided[3]:
            start = head.find(_RANGE) + len(_RANGE)
            suffix = head[head.find(b"\r\n", start) :]
            self._key, self._prefix, self._suffix = divided[0], head[:start], suffix
            self._start, self._stop = start, -len(suffix)
        return divided


def template_of(head: bytes, values: Sequence[object], size: int | None) -> bytes | None:
    """Return a response head with a placeholder for each value that differs at the next repetition.

    `values` are those of this head, in order: the date; of a 206 of a file of `size` bytes the length and the
    first and the last byte; the request's id, if it is part of the head. Returns None if the head does not
    contain just these, or has fields that concern only this response or its connection.
    """
    lines = head.replace(b"%", b"%%").split(b"\r\n")
    for number, line in enumerate(lines):
        match line.partition(b": ")[0]:
            case b"date":
                lines[number] = b"date: %b"
            case b"content-length" if size is not None:
                lines[number] = b"content-length: %d"
            case b"content-range" if size is not None:
                lines[number] = b"content-range: bytes %%d-%%d/%d" % size
            case b"x-request-id":
                lines[number] = b"x-request-id: %b"
            case b"connection" | b"set-cookie" | b"transfer-encoding":
                return None
    template = b"\r\n".join(lines)
    try:
        return template if template % tuple(values) == head else None
    except TypeError:  # the head has other fields, or in another order
        return None


def weight_of(key: bytes, request: RequestHead, head: bytes) -> int:
    """Return the bytes that an answer takes in memory; `key` is that of its request, `head` its own head."""
    return len(key) + len(head) + OVERHEAD + FIELD_OVERHEAD * len(request.headers)


class Validity(Protocol):
    """A condition of the application."""

    @property
    def ended(self) -> bool:
        """Whether it has failed, for good."""


class RepeatingConnection(RequestConnection, Protocol):
    """A connection as the fast path uses it; its files are sent by sendfile."""

    fileno: int
    """The descriptor of the socket."""
    requests: int
    """Requests that the client has sent."""
    prepared_record: tuple[int, str]
    """The number of the answer that was last repeated here, and the first part of its log records."""

    def resume_response(self, answer: "Answer", rest: Any, progress: PartialResponse) -> None:
        """Let an ASGI application send the rest of a response."""


class Answer:
    """An answer of the application that may be repeated."""

    __slots__ = (
        "counters",
        "file",
        "has_id",
        "is_direct",
        "is_range",
        "log",
        "number",
        "request",
        "rest",
        "scope",
        "size",
        "status",
        "template",
        "totals",
        "until",
        "validity",
        "weight",
    )

    def __init__(
        self,
        exchange: Exchange,
        permission: Mapping[str, Any],
        template: bytes,
        weight: int,
        *,
        is_direct: bool,
        counters: RequestCounters,
        log: RequestLog | None,
    ) -> None:
        self.number = next(_numbers)
        """Identifies the answer. A connection that referred to it would keep it in memory."""
        self.request = exchange.request
        self.scope = exchange.scope
        self.status = exchange.status
        self.is_range = self.status == 206
        self.is_direct = is_direct
        """The client is the peer of the connection; otherwise a proxy named it in the head."""
        self.file: ReopenableFile = permission["file"]
        self.size: int = permission["size"]
        """Bytes of the body; of a 206, of the file."""
        self.until: float = permission["until"]
        self.validity: Validity | None = permission.get("validity")
        self.rest: Callable[[int, int], Any] = permission["rest"]
        self.template = template
        self.has_id = b"\r\nx-request-id: " in template
        self.weight = weight
        self.log = log
        self.counters = counters
        self.totals = counters.totals_of(self.scope, self.status)

    def head(self, date: bytes, start: int, stop: int, request_id: bytes) -> bytes:
        """Return the head of the response with these bytes of the file."""
        if self.is_range:
            if self.has_id:
                return self.template % (date, stop - start, start, stop - 1, request_id)
            return self.template % (date, stop - start, start, stop - 1)
        return self.template % ((date, request_id) if self.has_id else date)

    def scope_of(self, connection: RepeatingConnection) -> dict[str, Any]:
        """Return the scope of the request with the client of another connection."""
        return {**self.scope, "client": connection.client} if self.is_direct else self.scope


class FastPath:
    """The kept answers of all connections of one process. Used from the event loop only."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Answer] = {}  # the oldest first
        self._bytes = 0
        self._date = b""
        self._date_until = 0.0

    def keep(
        self,
        divided: Divided,
        connection: RepeatingConnection,
        exchange: Exchange,
        permission: Mapping[str, Any],
        head: bytes,
    ) -> None:
        """Keep an answer, if each later one with its key will be the same but for the values of a template.

        `head` is the head of the response, `permission` the one of the application.
        """
        key, first, last, client_id = divided
        weight = weight_of(key, exchange.request, head)
        date = _DATE.search(head)
        if len(key) > MAX_HEAD or len(head) > MAX_HEAD or date is None:
            return
        values: list[object] = [date[1]]
        size = None
        if exchange.status == 206:
            size = permission["size"]
            stop = size if last < 0 else min(last + 1, size)
            if permission["span"] != (first, stop):
                return  # another form of Range
            values += (stop - first, first, stop - 1)
        elif first >= 0:
            return  # a range that was ignored, perhaps because of its digits
        if b"\r\nx-request-id: " in head:
            # The client's id that was cut out, or a generated one. Any other would be part of the key.
            given = [value for name, value in exchange.scope["headers"] if name == REQUEST_ID]
            if given != ([client_id] if client_id else []):
                return
            values.append(client_id or exchange.id.encode())
        template = template_of(head, values, size)
        now = monotonic()
        if template is None or permission["until"] <= now:
            return
        self._forget(key)
        is_direct = exchange.scope["client"] == connection.client
        counters, log, _ = connection.instrumentation
        self._answers[key] = Answer(
            exchange, permission, template, weight, is_direct=is_direct, counters=counters, log=log
        )
        self._bytes += weight
        while self._bytes > MAX_KEPT_BYTES or self._oldest().until <= now:
            self._forget(next(iter(self._answers)))

    def _oldest(self) -> Answer:
        return next(iter(self._answers.values()))

    def _forget(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._bytes -= answer.weight

    def respond(self, connection: RepeatingConnection, divided: Divided) -> bool:
        """Answer the request of an idle connection whose write buffer is empty, if an answer to it is kept.

        Returns False, without any effect, if the application must answer.
        """
        # Thousands of times a second, after a sendfile that empties the processor's caches: few calls.
        key, first, last, client_id = divided
        answer, sender = self._answers.get(key), connection.sender
        if answer is None or sender is None or answer.is_range != (first >= 0):
            return False  # of an empty Range, the key is that of a range
        began = monotonic()
        if began >= answer.until or (answer.validity is not None and answer.validity.ended):
            self._forget(key)
            return False
        start = first if first > 0 else 0
        stop = last + 1 if -1 < last < answer.size else answer.size
        if start >= stop and first >= 0:
            return False  # a 416, or a range that is ignored
        size = stop - start
        end = stop if size <= BLOCK else start + BLOCK
        descriptor = answer.file.descriptor(start, end, began)
        if descriptor < 0:
            return False
        date = self._date if began < self._date_until else self._renew_date(began)
        if answer.has_id and not client_id:
            client_id = new_request_id().encode()
        head = answer.head(date, start, stop, client_id)
        socket, sent = connection.fileno, 0
        try:
            written = write(socket, head)
        except OSError:  # the socket is full, or lost
            return False
        if size and written == len(head):
            try:
                sent = sendfile(socket, descriptor, start, end - start)
                sender.sent += sent
            except OSError:
                sent = 0  # the rest meets the same error, and reports it
        first_byte_s = monotonic() - began
        connection.requests += 1
        answer.counters.repeated += 1
        if sent == size and written == len(head):
            answer.totals.add(first_byte_s, sent)
            if answer.log is not None:
                _log(answer.log, connection, answer, sent, first_byte_s, client_id)
        else:
            rest = answer.rest(start + sent, stop) if size else _respond_with_nothing
            progress = PartialResponse(head[written:], sent, size - sent, began, first_byte_s, client_id)
            connection.resume_response(answer, rest, progress)
        return True

    def _renew_date(self, now: float) -> bytes:
        """Format the date of responses, for the rest of this second. `now` is the monotonic time."""
        seconds = time.time()
        self._date = formatdate(int(seconds), usegmt=True).encode()
        self._date_until = now + 1 - seconds % 1
        return self._date


def _log(
    log: RequestLog,
    connection: RepeatingConnection,
    answer: Answer,
    sent: int,
    first_byte_s: float,
    client_id: bytes,
) -> None:
    """Log a response that was sent at once."""
    number, prepared = connection.prepared_record
    if number != answer.number:
        prepared = log.prepare(Request.of(answer.scope_of(connection), answer.status))
        connection.prepared_record = answer.number, prepared
    log.append(prepared, 0, sent, first_byte_s, client_id.decode() or new_request_id())


async def _respond_with_nothing(scope: Any, receive: Any, send: Any) -> None:
    """Complete a response without a body, whose head has to wait until the client reads."""
    await send({"type": "http.response.body", "body": b""})

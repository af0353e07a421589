"""The syntax of HTTP/1.1 without I/O: received bytes to events, response heads to bytes (RFC 9112).

httptools (llhttp in its strict mode) parses. Added here: limits, targets, upgrades, and errors as events.
"""

import re
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import httptools

from app.http.request_head import (
    Headers,
    InvalidTarget,
    Upgrade,
    head_without_upgrade,
    origin_form,
    percent_encoded,
    upgrade_of,
)

MAX_PIPELINED_REQUESTS = 100
"""Maximum number of pipelined requests that wait for their responses: each takes kilobytes of memory."""


REQUEST_ID = b"x-request-id"


class RequestHead:
    """An event: the head of a request is complete."""

    __slots__ = (
        "expects_continue",
        "has_id",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str, headers: Headers, keep_alive: bool) -> None:
        """`target` is in origin form."""
        if b"#" in target:
            target = target.partition(b"#")[0]
        self.raw_path, _, self.query = target.partition(b"?")
        path = self.raw_path.decode("ascii")
        self.path = unquote(path) if "%" in path else path
        self.method = method
        self.version = version
        self.headers = headers
        """Header lines in order, names in lower case."""
        self.keep_alive = keep_alive
        self.expects_continue = False
        """The client waits for 100 (Continue) before it sends the body."""
        self.has_id = False
        """The request carries an id, so that its sender may expect it in the response."""


class EndOfRequest:
    """An event: the request is complete."""

    __slots__ = ()


class Refusal(NamedTuple):
    """An event: the server must answer in place of the application, and close the connection."""

    status: HTTPStatus
    detail: str
    malformed: str = ""
    """The reason for the log, if the request was not valid HTTP."""


class WebSocketHandshake(NamedTuple):
    """An event: the connection changes its protocol."""

    head: bytes
    """The head of the handshake in origin form."""
    rest: bytes
    """The bytes that followed it."""


Event = RequestHead | bytes | EndOfRequest | Refusal | WebSocketHandshake
"""Bytes are a piece of the request's body."""

END: Final = EndOfRequest()

TOO_MANY_REQUESTS = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS,
    f"At most {MAX_PIPELINED_REQUESTS} pipelined requests may wait. Read the responses first.",
)
_NO_PROXY = Refusal(HTTPStatus.NOT_IMPLEMENTED, "This server is not a proxy: it has no CONNECT.")
_MALFORMED = "The request is not valid HTTP/1.1. Check the client, or a proxy in between."


class _StopParsingError(Exception):
    """Stops the parser after a refusal."""


class RequestParser:
    """The requests of one connection.

    Memory is bounded: by the size of the segment and of a head, and MAX_PIPELINED_REQUESTS events of heads
    for each segment.
    """

    __slots__ = (
        "_body",
        "_events",
        "_head_size",
        "_heads",
        "_in_request_line",
        "_may_be_too_long",
        "_overhead",
        "_parser",
        "_stopped",
        "_target",
        "_upgrades",
        "headers",
        "in_head",
        "receiving",
        "remaining",
    )

    def __init__(self, head_size: int) -> None:
        """`head_size` is the maximum size of a head in bytes."""
        self._head_size = head_size
        self._events: list[Event] = []
        self._body: list[bytes] = []  # pieces since the last event
        self._heads = 0  # events of heads since the beginning of the segment
        self._overhead = 0  # bytes since the end of the last head, body data or request
        self._may_be_too_long = False
        self._in_request_line = False  # the last segment ended within a request line
        self._stopped = False
        self._target = b""
        self._upgrades = False
        self.headers: Headers = []
        """Header lines of the current request so far."""
        self.receiving = False
        """A request has begun and is incomplete."""
        self.in_head = False
        """So is its head."""
        self.remaining = 0
        """Bytes of a body of known length that have not arrived."""
        self._parser: Any = None
        self._renew_parser()

    def close(self) -> None:
        """Release the parser, which refers back to this object. Later bytes are ignored."""
        self._stopped, self._parser = True, None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of a segment; none after a Refusal or a WebSocketHandshake."""
        if self._stopped:
            return []
        self._overhead += len(data)
        if self._in_request_line or not self.receiving:
            data = self._with_ascii_target(data)
        events: list[Event] = []
        self._events = events
        self._heads = 0
        # An encoded target is up to three times as long. Of a head that began in an earlier segment, behind
        # another request, not all bytes are counted.
        self._may_be_too_long = self.in_head or self._overhead > self._head_size // 3
        self._parse(data)
        if self._body:
            self._flush_body()
        # The parser buffers an incomplete head or trailer.
        if self._overhead > self._head_size and not self._stopped:
            self._refuse(self._too_long())
        return events

    def skip_body(self) -> None:
        """Resume after the body, whose `remaining` bytes the caller has received past the parser."""
        self._renew_parser()
        self.receiving, self.remaining, self.headers = False, 0, []

    def _renew_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # httptools before 0.6.3
            # Data after a request that closes the connection is ignored instead of refused.
            self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _with_ascii_target(self, data: bytes) -> bytes:
        """Return the data with its request line in ASCII, as the parser demands.

        Only a request line at the beginning of the segment is encoded, or the rest of one. The parser refuses
        non-ASCII bytes in later lines of the segment: clients that send raw names do not pipeline.
        """
        if not self._in_request_line and data.startswith((b"\r", b"\n")):
            data = data.lstrip(b"\r\n")
        self._in_request_line = b"\n" not in data and data != b""
        if data.isascii():
            return data
        line, end, rest = data.partition(b"\n")
        return percent_encoded(line) + end + rest

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._handle_upgrade(data[stopped.args[0] :])
            except httptools.HttpParserError as error:
                if not self._stopped:
                    self._refuse_malformed(str(error.__context__ or error))
                return
            else:
                return

    def _handle_upgrade(self, rest: bytes) -> bytes:
        """Handle a request at whose head the parser stopped; return the bytes to parse next."""
        method, version = self._parser.get_method(), self._parser.get_http_version()
        match upgrade_of(method, version, self.headers):
            case Upgrade.REFUSED:
                self._refuse(_NO_PROXY)
                return b""
            case Upgrade.WEBSOCKET:
                self._hand_over(rest)
                return b""
            case Upgrade.IGNORED:
                head = head_without_upgrade(method, self._target, version, self.headers)
                self._renew_parser()
                return head + rest

    def _hand_over(self, rest: bytes) -> None:
        try:
            self._use_origin_form("1.1")
        except InvalidTarget as error:
            self._refuse_malformed(str(error))
            return
        lines = [b"GET %b HTTP/1.1\r\n" % self._target]
        lines += [b"%b: %b\r\n" % field for field in self.headers]
        self._events.append(WebSocketHandshake(b"".join([*lines, b"\r\n"]), rest))
        self._stopped = True

    def _use_origin_form(self, version: str) -> None:
        """Convert an absolute-form target. Raises InvalidTarget."""
        if not self._target.startswith((b"/", b"*")):
            self._target, self.headers[:] = origin_form(self._target, version, self.headers)

    def _flush_body(self) -> None:
        self._events.append(self._body[0] if len(self._body) == 1 else b"".join(self._body))
        self._body.clear()

    # Refusing

    def _refuse(self, refusal: Refusal) -> None:
        if self._body:
            self._flush_body()
        self._events.append(refusal)
        self._stopped = True

    def _refuse_malformed(self, reason: str) -> None:
        self._refuse(Refusal(HTTPStatus.BAD_REQUEST, _MALFORMED, reason))

    def _too_long(self) -> Refusal:
        return Refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The head of a request has at most {self._head_size} bytes. Send fewer or shorter headers.",
        )

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        self.receiving = self.in_head = True
        self._target = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # trailers must not be merged into the head (RFC 9110 §6.5.1)
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self.headers
        self.in_head, self._overhead, self.remaining = False, 0, 0
        if self._may_be_too_long and self._size_of_head() > self._head_size:
            self._refuse(self._too_long())
            raise _StopParsingError
        self._upgrades = parser.should_upgrade()
        if self._upgrades:
            return  # the parser stops here: see _handle_upgrade
        self._heads += 1
        if self._heads > MAX_PIPELINED_REQUESTS + 1:  # one more is answered while they wait
            self._refuse(TOO_MANY_REQUESTS)
            raise _StopParsingError
        version = parser.get_http_version()
        self._use_origin_form(version)
        head = RequestHead(
            parser.get_method().decode("ascii"),
            self._target,
            version,
            headers,
            version != "1.0" and parser.should_keep_alive(),
        )
        for name, value in headers:
            if name in _NOTED:
                if name == b"expect":
                    # To HTTP/1.0 it must not be sent (RFC 9110 §10.1.1).
                    head.expects_continue = value.lower() == b"100-continue" and version == "1.1"
                elif name == REQUEST_ID:
                    head.has_id = True
                else:
                    self.remaining = body_length(headers)
        self._events.append(head)

    def _size_of_head(self) -> int:
        return len(self._target) + sum(len(name) + len(value) for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self.remaining -= len(body)
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.receiving, self._overhead = False, 0
        if not self._upgrades:
            self.headers = []
            if self._body:
                self._flush_body()
            self._events.append(END)


_NOTED = frozenset((b"expect", b"content-length", REQUEST_ID))


def body_length(headers: Headers) -> int:
    """Return the Content-Length of a head that the parser has accepted; 0 for chunked and absent bodies."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return 0
        if name == b"content-length" and value.strip().isdigit():
            length = int(value)
    return length


# Responses

_STATUS_LINES = {status.value: f"HTTP/1.1 {status} {status.phrase}".encode() for status in HTTPStatus}

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110 §5.6.2)
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})

MAX_NAMES = 256
"""Maximum number of names of response fields that are checked once instead of each time."""

_prefixes: dict[bytes, bytes] = {}  # beginnings of lines by the names of fields, but for those of framing


def _prefix(name: bytes) -> bytes:
    """Return the beginning of a field's line. Raises RuntimeError if the name is not valid."""
    if not _NAME.fullmatch(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    prefix = b"\r\n" + lower + b": "
    if lower not in (b"content-length", b"transfer-encoding", b"connection") and len(_prefixes) < MAX_NAMES:
        _prefixes[name] = prefix
    return prefix


class ResponseHead(NamedTuple):
    """The head of a response, and how its body and its connection end."""

    data: bytes
    length: int | None
    """Bytes of the body; None if they are not known before its end."""
    chunked: bool
    keep_alive: bool


@lru_cache(1)
def _date_line(seconds: int) -> bytes:
    return b"\r\ndate: %b" % formatdate(seconds, usegmt=True).encode()


def encode_response_head(
    request: RequestHead, status: int, date: int, headers: Headers, *, keep_alive: bool
) -> ResponseHead:
    """Return the head of a response to a request; `date` in seconds since 1970.

    A body of unknown length is sent in chunks, and to clients before HTTP/1.1 until the connection closes
    (RFC 9112 §6.3). Raises RuntimeError if a field is not valid: no control character may leave the server.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, _date_line(date)]
    length: int | None = None
    chunked = announced = False
    for name, value in headers:
        prefix = _prefixes.get(name)
        if prefix is None:
            prefix = _prefix(name)
            if prefix == b"\r\ncontent-length: ":
                length = int(value)
            elif prefix == b"\r\ntransfer-encoding: ":
                chunked = value.lower() == b"chunked"
            elif prefix == b"\r\nconnection: ":
                options = [option.strip() for option in value.lower().split(b",")]
                announced = announced or b"close" in options
        parts.append(prefix)
        parts.append(value)
    keep_alive = keep_alive and not announced
    lines = b"".join(parts)
    # Each field begins with the two control characters of its line end, and has no others.
    if len(lines) - len(lines.translate(None, _CONTROLS)) != len(parts):
        raise RuntimeError("Invalid HTTP header value.")
    last = b"\r\n\r\n"
    if chunked:
        length = None
    elif length is None:
        if request.version != "1.1":
            keep_alive = False
        elif request.method == "HEAD" or status in (204, 304):
            length = 0
        else:
            chunked, last = True, b"\r\ntransfer-encoding: chunked\r\n\r\n"
    if not keep_alive and not announced:
        last = b"\r\nconnection: close" + last
    return ResponseHead(lines + last, length, chunked, keep_alive)


def encode_chunk(data: bytes, more: bool) -> bytes:
    """Return the data as a chunk (RFC 9112 §7.1), followed by the last chunk unless there is more."""
    chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return chunk if more else chunk + b"0\r\n\r\n"

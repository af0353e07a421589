"""Requests as bytes, their parsing in segments, and random ones, for the tests of the parser."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from app.server.http1 import END, Event, Refusal, RequestHead, RequestParser, WebSocketHandshake

HEAD_SIZE = 2000

Fields = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """A request as far as it arrived."""

    method: str
    target: bytes
    version: str
    headers: Fields
    body: bytes = b""
    complete: bool = False


@dataclass
class Parsed:
    """The outcome of parsing: it does not depend on the segments."""

    requests: list[Message] = field(default_factory=list)
    status: int | None = None
    """The status of the refusal, if there was one."""
    malformed: str = ""
    handshake: WebSocketHandshake | None = None


def parse(segments: Iterable[bytes], head_size: int = HEAD_SIZE) -> Parsed:
    """Parse segments, and check what holds for all input."""
    parser, parsed = RequestParser(head_size), Parsed()
    for segment in segments:
        for event in parser.feed(segment):
            assert parsed.status is None, "an event after a refusal"
            assert parsed.handshake is None, "an event after a handshake"
            _add(parsed, event)
        last = parsed.requests[-1] if parsed.requests else None
        if parsed.status is None and parsed.handshake is None:
            assert parser.in_head <= parser.receiving
            assert (last is not None and not last.complete) == (parser.receiving and not parser.in_head)
    return parsed


def _add(parsed: Parsed, event: Event) -> None:
    if isinstance(event, RequestHead):
        assert all(request.complete for request in parsed.requests), "requests do not overlap"
        target = event.raw_path + (b"?" + event.query if event.query else b"")
        parsed.requests.append(Message(event.method, target, event.version, event.headers))
    elif isinstance(event, bytes):
        assert event, "an empty piece is no event"
        parsed.requests[-1].body += event
    elif event is END:
        assert not parsed.requests[-1].complete
        parsed.requests[-1].complete = True
    elif isinstance(event, Refusal):
        parsed.status, parsed.malformed = int(event.status), event.malformed
    else:
        assert isinstance(event, WebSocketHandshake)
        parsed.handshake = event


def cut(data: bytes, *places: int) -> list[bytes]:
    """Return the data in segments that begin at these places."""
    ends = [*sorted(places), len(data)]
    starts = [0, *ends[:-1]]
    return [data[start:end] for start, end in zip(starts, ends, strict=True) if start < end]


def random_cuts(random: Random, data: bytes) -> list[bytes]:
    """Return the data in segments of random sizes."""
    size = random.choice((1, 3, 20, 200))
    places, at = [], 0
    while (at := at + random.randint(1, size)) < len(data):
        places.append(at)
    return cut(data, *places)


METHODS = (b"GET", b"GET", b"HEAD", b"PUT", b"POST", b"OPTIONS", b"CONNECT", b"get", b"PRI", b"G\x00T", b"")
TARGETS = (b"/", b"/a?b=c", b"*", b"/a#f", b"http://h/x", b"http://h?x", b"ftp://h/", b"/a b", b"?x", b"")
VERSIONS = (b"HTTP/1.1",) * 8 + (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1.", b"http/1.1")
FIELDS = (
    b"Host: h",
    b"Connection: close",
    b"Connection: keep-alive, Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Content-Length: 5",
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Expect: 100-continue",
    b"X: y\r\n folded",
    b" X: folded",
    b"X: \xe9",
    b"X: a\x00b",
    b"X: a\rb",
    b"X: a\nb",
    b": nothing",
    b"no colon",
    b"X: " + b"y" * HEAD_SIZE,
)
BODIES = (
    b"",
    b"",
    b"12345",
    b"5\r\n12345\r\n0\r\n\r\n",
    b"5;extension\r\n12345\r\n0\r\nTrailer: x\r\nContent-Length: 9\r\n\r\n",
    b"5\n12345\n0\n\n",
    b"0x5\r\n12345\r\n0\r\n\r\n",
    b"5\r\n1234567\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"1\r\na\r\n" * 20 + b"0\r\n\r\n",
    b"0\r\nX: " + b"y" * 3000 + b"\r\n\r\n",
)


ORDINARY = (
    b"GET /a?b HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\n\r\n",
    b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n12345",
    b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n",
    b"HEAD http://h/ HTTP/1.1\r\n\r\n",
    b"PUT /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n12345",
)


def random_request(random: Random) -> bytes:
    """Return a request, ordinary or hostile, with parts that do not fit each other."""
    if random.random() < 0.6:
        return random.choice(ORDINARY)
    lines = random.sample(FIELDS, random.choice((0, 1, 1, 2, 2, 3, 5)))
    first = b" ".join((random.choice(METHODS), random.choice(TARGETS), random.choice(VERSIONS)))
    end = random.choice((b"\r\n",) * 15 + (b"\n", b"\r"))
    data = bytearray(end.join([first, *lines, b"", b""]) + random.choice(BODIES))
    if random.random() < 0.1:
        data[random.randrange(len(data))] = random.randrange(0x80)
    return bytes(data)


def random_stream(random: Random) -> bytes:
    """Return one or several pipelined requests, without raw bytes in targets.

    Those are encoded in the first request of a segment only.
    """
    return b"".join(random_request(random) for _ in range(random.choice((1, 1, 2, 3, 5))))

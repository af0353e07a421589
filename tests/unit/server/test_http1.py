"""Bytes to events and response heads to bytes, without a connection."""

from random import Random

import pytest

from app.server.http1 import (
    END,
    MAX_PIPELINED_REQUESTS,
    Event,
    RequestHead,
    RequestParser,
    encode_chunk,
    encode_response_head,
)
from tests.unit.server.segments import HEAD_SIZE, Parsed, cut, parse, random_cuts, random_stream

GET = b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def kinds(events: list[Event]) -> str:
    """Return one letter for each event: head, body, end, refusal, WebSocket."""
    names = {"RequestHead": "H", "bytes": "B", "EndOfRequest": "E", "Refusal": "R", "WebSocketHandshake": "W"}
    return "".join(names[type(event).__name__] for event in events)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([GET], ["HE"]),
        ([GET[:9], GET[9:]], ["", "HE"]),
        ([GET + GET], ["HEHE"]),
        ([PUT + b"12345"], ["HBE"]),
        ([PUT, b"123", b"45" + GET], ["H", "B", "BEHE"]),
        ([CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"], ["HBE"]),
        ([CHUNKED + b"1\r\na\r\n", b"0\r\n", b"T: x\r\n\r\n"], ["HB", "", "E"]),
        ([CHUNKED + b"1\r\na\r\nx"], ["HBR"]),
        ([GET + b"nonsense\r\n\r\n" + GET, GET], ["HER", ""]),
        ([b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n" + GET, GET], ["W", ""]),
        ([GET + b"CONNECT h:80 HTTP/1.1\r\n\r\n" + GET], ["HER"]),
        ([b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + GET, GET], ["HE", ""]),
        ([b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_SIZE, GET], ["R", ""]),
        ([GET + b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_SIZE, b"\r\n\r\n"], ["HE", "R"]),
        ([PUT + b"12345GET / HTTP/1.1\r\nX: " + b"y" * HEAD_SIZE, b"\r\n\r\n"], ["HBE", "R"]),
        ([b"\r\n" * HEAD_SIZE], ["R"]),
        ([CHUNKED + b"0\r\n", b"T: " + b"y" * HEAD_SIZE], ["H", "R"]),
        ([CHUNKED + b"0;" + b"y" * HEAD_SIZE], ["H"]),
        ([CHUNKED + b"0;", b"y" * HEAD_SIZE, b"y", GET], ["H", "", "R", ""]),
        # The trailer does not count against the head of the next request.
        (
            [CHUNKED + b"0\r\n", b"T: " + b"y" * 1500 + b"\r\n\r\n" + GET[:-2], b"X" * 600],
            ["H", "E", ""],
        ),
        ([GET] * 2 * MAX_PIPELINED_REQUESTS, ["HE"] * 2 * MAX_PIPELINED_REQUESTS),
        ([b"\r\n", b"\r\nGET /\xe9 HTTP/1.1\r\n\r\n"], ["", "HE"]),
    ],
)
def test_segments_become_events(segments: list[bytes], expected: list[str]) -> None:
    parser = RequestParser(HEAD_SIZE)
    assert [kinds(parser.feed(segment)) for segment in segments] == expected


def test_single_piece_of_body_is_not_copied() -> None:
    parser = RequestParser(HEAD_SIZE)
    parser.feed(PUT)
    assert parser.remaining == 5
    assert parser.feed(b"123") == [b"123"]
    assert parser.remaining == 2


def test_parser_resumes_after_body_that_bypassed_it() -> None:
    parser = RequestParser(HEAD_SIZE)
    parser.feed(PUT + b"12")
    assert (parser.remaining, parser.receiving) == (3, True)
    parser.skip_body()
    assert (parser.remaining, parser.receiving) == (0, False)
    assert kinds(parser.feed(GET)) == "HE"


def test_trailer_is_not_merged_into_head() -> None:
    parsed = parse([CHUNKED + b"0\r\n", b"Range: bytes=0-1\r\n\r\n"])
    assert parsed.requests[0].headers == [(b"transfer-encoding", b"chunked")]
    assert parsed.requests[0].complete


def test_closed_parser_ignores_bytes() -> None:
    parser = RequestParser(HEAD_SIZE)
    parser.close()
    assert parser.feed(GET) == []


@pytest.mark.parametrize("count", [1, MAX_PIPELINED_REQUESTS + 1, MAX_PIPELINED_REQUESTS + 2, 10_000])
def test_events_of_segment_are_bounded(count: int) -> None:
    events = RequestParser(HEAD_SIZE).feed(GET * count)
    heads = sum(isinstance(event, RequestHead) for event in events)
    assert heads == min(count, MAX_PIPELINED_REQUESTS + 1)
    assert (kinds(events)[-1] == "R") == (count > MAX_PIPELINED_REQUESTS + 1)


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query"),
    [
        (b"/", b"/", "/", b""),
        (b"/a?b?c", b"/a", "/a", b"b?c"),
        (b"/a#f", b"/a", "/a", b""),
        (b"/a?b#c?d", b"/a", "/a", b"b"),
        (b"/a#f?b", b"/a", "/a", b""),
        (b"/%C3%A9%2F%", b"/%C3%A9%2F%", "/é/%", b""),
        ("/é?é".encode(), b"/%C3%A9", "/é", b"%C3%A9"),
        (b"//h/a", b"//h/a", "//h/a", b""),
        (b"*", b"*", "*", b""),
        (b"http://h", b"/", "/", b""),
        (b"http://h:81?b", b"/", "/", b"b"),
    ],
)
def test_target_is_divided_into_path_and_query(
    target: bytes, raw_path: bytes, path: str, query: bytes
) -> None:
    head, _ = RequestParser(HEAD_SIZE).feed(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    assert isinstance(head, RequestHead)
    assert (head.raw_path, head.path, head.query) == (raw_path, path, query)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive", "expects_continue"),
    [
        (b"1.1", b"", True, False),
        (b"1.1", b"Connection: close\r\n", False, False),
        (b"1.1", b"Connection: x, close\r\n", False, False),
        (b"1.0", b"Connection: keep-alive\r\n", False, False),
        (b"1.1", b"Expect: 100-Continue\r\n", True, True),
        (b"1.0", b"Expect: 100-continue\r\n", False, False),
        (b"1.1", b"Expect: something\r\n", True, False),
    ],
)
def test_head_shows_whether_connection_persists_and_client_waits(
    version: bytes, fields: bytes, keep_alive: bool, expects_continue: bool
) -> None:
    head, _ = RequestParser(HEAD_SIZE).feed(b"GET / HTTP/%b\r\n%b\r\n" % (version, fields))
    assert isinstance(head, RequestHead)
    assert (head.keep_alive, head.expects_continue) == (keep_alive, expects_continue)


def test_encoded_target_counts_against_size_of_head() -> None:
    target = b"/" + "é".encode() * (HEAD_SIZE // 5)
    assert parse([b"GET %b HTTP/1.1\r\n\r\n" % target]).status == 431
    assert parse([b"GET %b HTTP/1.1\r\n\r\n" % target], 2 * HEAD_SIZE).status is None


# Fuzzing

SEEDS = 400


def check_cuts(random: Random) -> Parsed:
    """Check that segments do not change the outcome; return it."""
    data = random_stream(random)
    whole = parse([data])
    for segments in (random_cuts(random, data), random_cuts(random, data), cut(data, *range(len(data)))):
        parsed = parse(segments)
        if 431 in (whole.status, parsed.status):
            # An incomplete head is refused when more bytes arrive, a complete one before the next request.
            complete = zip(whole.requests, parsed.requests, strict=False)
            assert all(one == other for one, other in complete if one.complete and other.complete), data
        else:
            assert parsed == whole, data
    return whole


def test_segments_never_change_the_outcome() -> None:
    outcomes = [check_cuts(Random(seed)) for seed in range(SEEDS)]
    assert sum(outcome.status is None for outcome in outcomes) > SEEDS / 8
    assert {400, 431, 501} <= {outcome.status for outcome in outcomes}


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_segments_never_change_the_outcome_of_many_streams() -> None:
    for seed in range(SEEDS, 40_000):
        check_cuts(Random(seed))


# Framings that one server reads as one request and another as two (request smuggling).
SMUGGLING = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6",
    "equal lengths": b"Content-Length: 5\r\nContent-Length: 5",
    "list of lengths": b"Content-Length: 5, 5",
    "signed length": b"Content-Length: +5",
    "hexadecimal length": b"Content-Length: 0x5",
    "length with underscore": b"Content-Length: 1_0",
    "empty length": b"Content-Length:",
    "long length": b"Content-Length: 99999999999999999999",
    "space before colon": b"Transfer-Encoding : chunked",
    "tab before colon": b"Content-Length\t: 5",
    "folded value": b"Transfer-Encoding:\r\n chunked",
    "folded line": b"X: y\r\n Content-Length: 5",
    "chunks not last": b"Transfer-Encoding: chunked, gzip",
    "chunks in two fields": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "control in coding": b"Transfer-Encoding: \x0bchunked",
    "unknown coding": b"Transfer-Encoding: xchunked",
    "bare carriage return": b"X: y\rContent-Length: 5",
    "bare line feed": b"X: y\nTransfer-Encoding: chunked",
    "null": b"X: y\x00\r\nContent-Length: 5",
    "no name": b": y\r\nContent-Length: 5",
}


@pytest.mark.parametrize("framing", SMUGGLING)
def test_ambiguous_framing_is_refused_wherever_it_is_cut(framing: str) -> None:
    data = b"POST / HTTP/1.1\r\nHost: h\r\n" + SMUGGLING[framing] + b"\r\n\r\n5\r\n12345\r\n0\r\n\r\n" + GET
    for place in range(len(data)):
        parsed = parse(cut(data, place))
        assert parsed.status == 400, place
        assert not any(request.complete for request in parsed.requests)


BAD_CHUNKS = [
    b"+1\r\na\r\n",
    b"0x1\r\na\r\n",
    b"-1\r\na\r\n",
    b" 1\r\na\r\n",
    b"1 \r\na\r\n",
    b"1\na\n",
    b"1\r\nab\r\n",
    b"1\r\na\r\r\n",
    b"1;\x00\r\na\r\n",
    b"1_0\r\na\r\n",
    b"g\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
]


@pytest.mark.parametrize("chunk", BAD_CHUNKS)
def test_malformed_chunk_is_refused_wherever_it_is_cut(chunk: bytes) -> None:
    data = CHUNKED + chunk + b"0\r\n\r\n" + GET
    for place in range(len(data)):
        parsed = parse(cut(data, place))
        assert parsed.status == 400, place
        assert not parsed.requests[0].complete


# Responses


def encode(
    *fields: tuple[bytes, bytes],
    status: int = 200,
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
) -> tuple[bytes, int | None, bool, bool]:
    request = RequestHead(method, b"/", version, [], keep_alive)
    head = encode_response_head(request, status, 0, list(fields), keep_alive=keep_alive)
    status_line, date, rest = head.data.split(b"\r\n", 2)
    assert status_line.startswith(b"HTTP/1.1 %d " % status)
    assert date == b"date: Thu, 01 Jan 1970 00:00:00 GMT"
    assert rest.endswith(b"\r\n")
    return rest.removesuffix(b"\r\n"), head.length, head.chunked, head.keep_alive


LENGTH = (b"Content-Length", b"5")
LENGTH_LINE, CHUNKED_LINE = b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"
CLOSE_LINE = b"connection: close\r\n"


def test_known_length_frames_body() -> None:
    assert encode(LENGTH) == (LENGTH_LINE, 5, False, True)
    assert encode(LENGTH, version="1.0", keep_alive=False) == (LENGTH_LINE + CLOSE_LINE, 5, False, False)


def test_unknown_length_is_sent_in_chunks_or_until_close() -> None:
    assert encode() == (CHUNKED_LINE, None, True, True)
    assert encode(keep_alive=False) == (CLOSE_LINE + CHUNKED_LINE, None, True, False)
    for version in ("0.9", "1.0", "2.0"):
        assert encode(version=version) == (CLOSE_LINE, None, False, False)
    assert encode((b"Transfer-Encoding", b"chunked")) == (CHUNKED_LINE, None, True, True)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_response_without_body_has_no_framing_of_its_own(method: str, status: int) -> None:
    assert encode(method=method, status=status) == (b"", 0, False, True)
    assert encode(LENGTH, method=method, status=status) == (LENGTH_LINE, 5, False, True)


@pytest.mark.parametrize("value", [b"close", b"Close", b"x, close", b"close , x"])
def test_application_may_close_connection(value: bytes) -> None:
    line = b"connection: " + value + b"\r\n"
    assert encode(LENGTH, (b"Connection", value)) == (LENGTH_LINE + line, 5, False, False)


def test_other_connection_options_do_not_close_it() -> None:
    assert encode(LENGTH, (b"connection", b"x"))[3]


def test_status_without_phrase_is_sent() -> None:
    request = RequestHead("GET", b"/", "1.1", [], keep_alive=True)
    head = encode_response_head(request, 299, 0, [LENGTH], keep_alive=True)
    assert head.data.startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
def test_control_character_never_leaves_the_server(byte: int) -> None:
    """Also not as a part of a line end that the encoder itself could have written."""
    control = bytes([byte])
    for value in (control, b"a" + control + b"b", control + b"\n", b"\r" + control, b"\r\n" + control):
        if value.strip(b"\t") == b"" or value == b"a\tb":
            assert encode(LENGTH, (b"x", value))
            continue
        with pytest.raises(RuntimeError, match="header value"):
            encode((b"x", value), LENGTH)
    for name in (control, b"x" + control, control + b"x"):
        with pytest.raises(RuntimeError, match="header name"):
            encode((name, b"x"))


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\xe9", b'a"', b"a(b)", b"a@", b"[a]", b"a/b"])
def test_name_that_is_no_token_never_leaves_the_server(name: bytes) -> None:
    with pytest.raises(RuntimeError, match="header name"):
        encode((name, b"x"))


def test_many_names_are_encoded() -> None:
    """More than the encoder remembers."""
    fields = [(b"x-%d" % number, b"y") for number in range(1000)]
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    assert encode(*fields, LENGTH)[0] == lines + LENGTH_LINE


def test_value_in_other_encodings_is_kept() -> None:
    assert encode((b"x", "é".encode()), LENGTH)[0] == "x: é\r\n".encode() + LENGTH_LINE


@pytest.mark.parametrize(
    ("data", "more", "expected"),
    [
        (b"aaa", True, b"3\r\naaa\r\n"),
        (b"a" * 20, True, b"14\r\n" + b"a" * 20 + b"\r\n"),
        (b"", True, b""),
        (b"", False, b"0\r\n\r\n"),
        (b"aaa", False, b"3\r\naaa\r\n0\r\n\r\n"),
    ],
)
def test_chunk_has_its_size_in_hexadecimal(data: bytes, more: bool, expected: bytes) -> None:
    assert encode_chunk(data, more) == expected


def test_end_of_request_is_one_object() -> None:
    assert RequestParser(HEAD_SIZE).feed(GET)[1] is END

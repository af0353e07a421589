"""The test cases of other HTTP/1.1 parsers: those of llhttp, and of h11."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.server.segments import Message, Parsed, cut, parse

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("llhttp_requests.json").read_text())[
    "cases"
]
"""See the notice in the file."""

HEAD_SIZE = 65536


def bytes_of(text: str) -> bytes:
    return text.encode("latin-1")


def fields_of(pairs: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(bytes_of(name), bytes_of(value)) for name, value in pairs]


def expected_of(case: dict[str, Any]) -> Parsed:
    """Return the outcome that llhttp expects of a case."""
    requests = [
        Message(
            request["method"],
            bytes_of(request["target"]),
            request["version"],
            fields_of(request["headers"]),
            bytes_of(request["body"]),
            request["complete"],
        )
        for request in case["requests"]
    ]
    return Parsed(requests, 400 if case["error"] else None, case["error"] or "")


class Difference(NamedTuple):
    """A case in which the server differs from llhttp on purpose."""

    reason: str
    requests: Sequence[dict[str, Any]] = ({},)
    """For each request the fields that differ."""
    status: int | None = None


AFTER_CLOSE = Difference("Bytes after a request that closes the connection are ignored, not refused.")
CONNECT = Difference("The server is no proxy.", [], 501)
HANDSHAKE = Difference("A WebSocket handshake leaves the parser.", [])
IGNORED = "An upgrade to another protocol is ignored, and the bytes after the body are the next request."
FRAGMENT = "A fragment is no part of the target."
ORIGIN = "The application gets the origin form."
RAW_TARGET = "uri: Disallow UTF-8 in URI path in strict mode"  # curl sends names unencoded
RAW_TARGET_ENCODED = b"GET /%CE%B4%C2%B6/%CE%B4t/pope?q=1#narf HTTP/1.1\r\nHost: github.com\r\n\r\n"
DIFFERENCES = {
    "connection: `keep-alive` - No restart when keep-alive is off (1.0)": AFTER_CLOSE,
    "connection: `close` - CRLF between requests, explicit `close`": AFTER_CLOSE,
    "connection: `close` - CRLF between requests, explicit `close` followed by tab": AFTER_CLOSE,
    "connection: Parsing multiple tokens - Multiple tokens with folding and LWS": HANDSHAKE,
    "connection: `upgrade` - Upgrade GET request": HANDSHAKE,
    "connection: `upgrade` - Setting a flag and pausing": Difference(
        IGNORED, [{"headers": [(b"connection", b"")]}]
    ),
    "connection: `upgrade` - Emitting part of body and pausing": Difference(
        IGNORED, [{"headers": [(b"connection", b""), (b"content-length", b"4")]}], 400
    ),
    "connection: `upgrade` - Upgrade POST request": Difference(
        IGNORED,
        [{"headers": [(b"host", b"example.com"), (b"connection", b""), (b"content-length", b"15")]}],
        400,
    ),
    "content-length: Content-Length reset when no body is received": Difference(
        "llhttp's test tells the parser to skip the body.",
        [{"body": b"POST /url HTTP/1.1\r\nContent-Length: 456\r\n\r\n", "complete": False}],
    ),
    "method: CONNECT request": CONNECT,
    "method: CONNECT request with CAPS": CONNECT,
    "method: CONNECT with body": CONNECT,
    "uri: Underscore in hostname": CONNECT,
    "sample: No HTTP version": Difference("httptools names the version 0.9.", [{"version": "0.9"}]),
    "transfer-encoding: POST with `chunked` as last transfer-encoding": Difference(
        FRAGMENT, [{"target": b"/post_identity_body_world?q=search"}]
    ),
    "transfer-encoding: POST with `chunked` as last transfer-encoding (multiple headers)": Difference(
        FRAGMENT, [{"target": b"/post_identity_body_world?q=search"}]
    ),
    "transfer-encoding: POST with `chunkedchunked` as transfer-encoding": Difference(
        FRAGMENT, [{"target": b"/post_identity_body_world?q=search"}], 400
    ),
    "uri: Fragment in URI": Difference(FRAGMENT, [{"target": b"/forums/1/topics/2375?page=1"}]),
    "uri: Host terminated by a query string": Difference(ORIGIN, [{"target": b"/?hail=all"}]),
    "uri: `host:port` terminated by a query string": Difference(ORIGIN, [{"target": b"/?hail=all"}]),
    "uri: `host:port` terminated by a space": Difference(ORIGIN, [{"target": b"/"}]),
    "uri: `host:port` and basic auth": Difference("A target names no user (RFC 9110 §4.2.4).", [], 400),
}


def with_difference(expected: Parsed, difference: Difference) -> Parsed:
    kept = expected.requests[: len(difference.requests)]
    requests = [replace(one, **change) for one, change in zip(kept, difference.requests, strict=True)]
    return Parsed(requests, difference.status)


def test_differences_are_of_cases() -> None:
    assert DIFFERENCES.keys() <= {case["name"] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_parser_agrees_with_llhttp(case: dict[str, Any]) -> None:
    """Wherever a segment ends."""
    data, expected = bytes_of(case["data"]), expected_of(case)
    if case["name"] == RAW_TARGET:
        expected = parse([RAW_TARGET_ENCODED])
    difference = DIFFERENCES.get(case["name"])
    if difference is not None:
        expected = with_difference(expected, difference)
    for place in range(len(data)):
        parsed = parse(cut(data, place), HEAD_SIZE)
        assert (parsed.requests, parsed.status) == (expected.requests, expected.status), place
        assert (parsed.handshake is not None) == (difference is HANDSHAKE)


HEAD = b"HEAD /foo HTTP/1.1\r\n"
OLD_HEAD = HEAD.replace(b"1.1", b"1.0")
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


# Derived from h11/tests/test_io.py, test_headers.py and test_connection.py of h11
# (https://github.com/python-hyper/h11 at 62c5068c9715), under the MIT License.
# Copyright (c) 2016 Nathaniel J. Smith <njs@pobox.com> and other contributors.
@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (OLD_HEAD + b"Some: header\r\n\r\n", [(b"some", b"header")]),
        (OLD_HEAD + b"\r\n", []),
        (OLD_HEAD + b"Foo:\r\n\r\n", [(b"foo", b"")]),
        (OLD_HEAD + b"Foo: \t \t \r\n\r\n", [(b"foo", b"")]),
        (HEAD + b"Host: example.com\r\nA: b\r\n\r\n", [(b"host", b"example.com"), (b"a", b"b")]),
    ],
)
def test_head_agrees_with_h11(data: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    for place in range(len(data)):
        parsed = parse(cut(data, place))
        version = "1.0" if b"1.0" in data else "1.1"
        assert parsed.requests == [Message("HEAD", b"/foo", version, headers, complete=True)]


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"  folded: line\r\n\r\n",
        HEAD + b"foo  : line\r\n\r\n",
        HEAD + b"foo\t: line\r\n\r\n",
        HEAD + b": line\r\n\r\n",
        HEAD + b"foo bar: baz\r\n\r\n",
        HEAD + b"foo\x00bar: baz\r\n\r\n",
        HEAD + b"foo\xffbar: baz\r\n\r\n",
        HEAD + b"foo\x01bar: baz\r\n\r\n",
        HEAD + b"foo: bar\rbaz\r\n\r\n",
        HEAD + b"foo: bar\x00baz\r\n\r\n",
        HEAD + b"Content-Length: asdf\r\n\r\n",
        HEAD + b"Content-Length: 1x\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 1 , 1,2\r\n\r\n",
        HEAD + b"Content-Length: 111111111111111111111\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HEAD /foo HTTP/1.1 xxxxxx\r\nHost: a\r\n\r\n",
        HEAD + b"Host: foo\x00bar\r\n\r\n",
        b"HEAD /\x00 HTTP/1.1\r\nHost: foobar\r\n\r\n",
        b"HEAD /\x7f HTTP/1.1\r\nHost: foobar\r\n\r\n",
        b"\x00\r\n\r\n",
        b"gibberish\r\n\r\n",
        # h11 accepts these four; llhttp does not, and RFC 9112 (§5.2, §2.2) and RFC 9110 (§5.5) allow either.
        HEAD + b"Some: multi-line\r\n header\r\n\r\n",
        b"HEAD /foo HTTP/1.1\nSome: header\n\n",
        HEAD + b"Set-Cookie: kUd\x01UpAt\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_head_that_h11_refuses_is_refused(data: bytes) -> None:
    for place in range(len(data)):
        parsed = parse([*cut(data, place), b"GET / HTTP/1.1\r\n\r\n"])
        assert (parsed.status, bool(parsed.malformed)) == (400, True)
        assert not any(request.complete for request in parsed.requests)


def test_second_space_after_target_is_ignored() -> None:
    """h11 refuses it; llhttp does not, and RFC 9112 §3 allows either."""
    parsed = parse([b"HEAD /foo  HTTP/1.1\r\n\r\n"])
    assert parsed.requests == [Message("HEAD", b"/foo", "1.1", [], complete=True)]


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"0\r\nSome: header\r\n\r\n", b""),
        (b"5\r\n01234\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n", b"012340123456789abcdef"),
        (b"5\r\n01234\r\n10\r\n0123456789abcdef\r\n0\r\nS: h\r\n\r\n", b"012340123456789abcdef"),
        (b"aA\r\n" + b"x" * 0xAA + b"\r\n0\r\n\r\n", b"x" * 0xAA),
        (b'5;hello=there\r\nxxxxx\r\n0;random="junk";some=more\r\n\r\n', b"xxxxx"),
    ],
)
def test_chunks_agree_with_h11(chunks: bytes, body: bytes) -> None:
    data = CHUNKED + chunks
    headers = [(b"transfer-encoding", b"chunked")]
    for place in range(len(data)):
        parsed = parse(cut(data, place))
        assert parsed.requests == [Message("POST", b"/", "1.1", headers, body, complete=True)]


@pytest.mark.parametrize(
    "chunks",
    [
        b"9" * 100 + b"\r\nxxx",
        b"10\x00\r\nxxx",
        b"3\r\nxxx__1a\r\n",
        b"3\r\nxxx\r_1a\r\n",
        b"3\r\nxxx_\n1a\r\n",
        # h11 accepts these two; llhttp does not (RFC 9112 §7.1 has no white space after the size).
        b"5   \t \r\n01234\r\n0\r\n\r\n",
        b"5; hello=there\r\nxxxxx\r\n0\r\n\r\n",
    ],
)
def test_chunk_that_h11_refuses_is_refused(chunks: bytes) -> None:
    data = CHUNKED + chunks
    for place in range(len(data)):
        parsed = parse(cut(data, place))
        assert parsed.status == 400
        assert not parsed.requests[0].complete

"""Whole plans: the contract's "Every media 200 or 206 carries" and "Ranges and conditions"."""

import base64
import email
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.errors import VersionMismatch
from app.storage.types import FileInfo, Key
from app.streaming.dates import format_date
from app.streaming.plan import Plan, Span, plan, repr_digest
from app.streaming.ranges import RangeNotSatisfiable

DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()
BASE64 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
TIME = datetime(1994, 11, 6, 8, 49, 37, 900000, tzinfo=UTC)
CREATED = datetime(1980, 1, 1, tzinfo=UTC)
INFO = FileInfo("1", Key("", "a", "film.mp4"), len(DATA), "video/mp4", "xyzzy", SHA256, CREATED, TIME)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BOUNDARY = "SEPARATOR"

ALWAYS = {
    "content-type": "video/mp4",
    "content-length": "1024",
    "accept-ranges": "bytes",
    "etag": '"xyzzy"',
    "last-modified": DATE,
    "content-disposition": 'inline; filename="film.mp4"',
    "cache-control": "private, no-cache",
    "x-content-type-options": "nosniff",
    "repr-digest": f"sha-256=:{BASE64}:",
}
NOT_MODIFIED = {name: ALWAYS[name] for name in ("etag", "last-modified", "cache-control")}


def planned(method: str = "GET", info: FileInfo = INFO, download: bool = False, **fields: str) -> Plan:
    headers = [(name.replace("_", "-").lower().encode(), v.encode("latin-1")) for name, v in fields.items()]
    return plan(
        method, headers, info, cache_control="private, no-cache", boundary=lambda: BOUNDARY, download=download
    )


def said(answer: Plan) -> dict[str, str]:
    named = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
    assert len(named) == len(answer.headers), "no header twice"
    assert all(name == name.lower() for name in named)
    return named


def sent(answer: Plan, data: bytes = DATA) -> bytes:
    return b"".join(
        part if isinstance(part, bytes) else data[part.start : part.stop] for part in answer.parts
    )


def test_whole() -> None:
    # RFC 9110 15.3.1
    answer = planned()
    assert (answer.status, answer.parts) == (200, (Span(0, 1024),))
    assert said(answer) == ALWAYS


@pytest.mark.parametrize(
    ("stored", "is_utf8", "sent"),
    [
        ("text/plain", True, "text/plain; charset=utf-8"),
        ("text/html", True, "text/html; charset=utf-8"),
        ("text/csv; header=present", True, "text/csv; header=present; charset=utf-8"),
        ("text/plain; ", True, "text/plain; charset=utf-8"),
        ("text/plain;", True, "text/plain; charset=utf-8"),
        # what the client has said, or what is not known or not so
        ("text/plain; charset=iso-8859-1", True, "text/plain; charset=iso-8859-1"),
        ('text/plain;Charset="utf-8"', True, 'text/plain;Charset="utf-8"'),
        ("text/plain", False, "text/plain"),
        ("text/plain", None, "text/plain"),
        # no text
        ("application/json", True, "application/json"),
        ("application/x-subrip", True, "application/x-subrip"),
        ("video/mp4", True, "video/mp4"),
    ],
)
def test_a_text_says_its_charset(stored: str, is_utf8: bool | None, sent: str) -> None:
    info = replace(INFO, content_type=stored, is_utf8=is_utf8)
    assert said(planned(info=info))["content-type"] == sent
    assert said(planned(info=info, Range="bytes=0-1"))["content-type"] == sent


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=5000-", "bytes=0-1,5-6", "junk"])
def test_head_ignores_range(asked: str) -> None:
    # RFC 9110 14.2: defined for GET alone
    answer = planned("HEAD", Range=asked)
    assert (answer.status, answer.parts) == (200, ())
    assert answer.headers == planned("GET").headers


def test_head_heeds_preconditions() -> None:
    assert planned("HEAD", If_None_Match='"xyzzy"') == planned("GET", If_None_Match='"xyzzy"')
    with pytest.raises(VersionMismatch):
        planned("HEAD", If_Match='"other"')


def test_an_empty_file() -> None:
    empty = replace(INFO, size=0)
    answer = planned(info=empty)
    assert (answer.status, answer.parts, said(answer)["content-length"]) == (200, (), "0")
    assert planned("HEAD", info=empty) == answer
    for asked in ("bytes=0-", "bytes=-1", "bytes=0-0", "bytes=-0", "junk"):
        assert planned(info=empty, Range=asked) == answer


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1-", 1, 1024),
        ("bytes=-1", 1023, 1024),
        ("bytes=0-", 0, 1024),
        ("bytes=0-9,10-19", 0, 20),
    ],
)
def test_one_part(asked: str, start: int, stop: int) -> None:
    # RFC 9110 15.3.7.1
    answer = planned(Range=asked)
    assert (answer.status, answer.parts) == (206, (Span(start, stop),))
    assert said(answer) == ALWAYS | {
        "content-length": str(stop - start),
        "content-range": f"bytes {start}-{stop - 1}/1024",
    }


def test_many_parts() -> None:
    # RFC 9110 14.6 and 15.3.7.2
    answer = planned(Range="bytes=500-501, 0-1, -2")
    body = (
        b"--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 500-501/1024\r\n\r\n\xf4\xf5"
        b"\r\n--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-1/1024\r\n\r\n\x00\x01"
        b"\r\n--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 1022-1023/1024\r\n\r\n\xfe\xff"
        b"\r\n--SEPARATOR--\r\n"
    )
    assert (answer.status, sent(answer)) == (206, body)
    assert said(answer) == ALWAYS | {
        "content-type": "multipart/byteranges; boundary=SEPARATOR",
        "content-length": str(len(body)),
    }


def test_not_satisfiable() -> None:
    # RFC 9110 15.5.17
    with pytest.raises(RangeNotSatisfiable) as caught:
        planned(Range="bytes=1024-")
    assert caught.value.size == 1024


@pytest.mark.parametrize("asked", ["items=0-1", "bytes=1_0-20", "bytes=9-1", "bytes=" + "0-0," * 65])
def test_ignored_ranges(asked: str) -> None:
    assert planned(Range=asked) == planned()


def test_a_repeated_range_is_ignored() -> None:
    # RFC 9110 5.3: Range is no list field
    for second in (b"bytes=4-5", b"4-5"):
        lines = [(b"range", b"bytes=0-1"), (b"range", second)]
        assert (
            plan("GET", lines, INFO, cache_control="private, no-cache", boundary=lambda: BOUNDARY)
            == planned()
        )


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"xyzzy"', 206), (DATE, 206), ('W/"xyzzy"', 200), ('"other"', 200), ("junk", 200), ("", 200)],
)
def test_if_range(if_range: str, status: int) -> None:
    # RFC 9110 13.1.5; false, it hides a Range that is not satisfiable as well
    assert planned(Range="bytes=0-1", If_Range=if_range).status == status
    if status == 200:
        assert planned(Range="bytes=5000-", If_Range=if_range) == planned()
    assert planned(If_Range=if_range) == planned()


def test_preconditions_go_before_ranges() -> None:
    # RFC 9110 13.2.2
    assert planned(Range="bytes=0-1", If_None_Match='"xyzzy"').status == 304
    assert planned(Range="bytes=5000-", If_None_Match="*").status == 304
    assert planned(Range="bytes=5000-", If_Modified_Since=DATE).status == 304
    assert planned(Range="bytes=0-1", If_Match='"xyzzy"').status == 206
    with pytest.raises(VersionMismatch):
        planned(Range="bytes=5000-", If_Match='"other"')
    with pytest.raises(VersionMismatch, match=r"^[A-Z].*\.$"):
        planned(If_Unmodified_Since="Sun, 06 Nov 1994 08:49:36 GMT")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_not_modified(method: str) -> None:
    # RFC 9110 15.4.5
    answer = planned(method, If_None_Match='W/"xyzzy"', Want_Digest="SHA-256")
    assert (answer.status, answer.parts) == (304, ())
    assert said(answer) == NOT_MODIFIED


SANDBOX = {"content-security-policy": "sandbox; default-src 'none'"}


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,5-6"}], ids=str)
def test_what_could_run_a_script_is_an_attachment(asked: dict[str, str]) -> None:
    # Promise 13
    for content_type in ("text/html", "image/svg+xml", "application/pdf", "video/x+xml"):
        headers = said(planned(info=replace(INFO, content_type=content_type), **asked))
        assert headers["content-disposition"] == 'attachment; filename="film.mp4"'
        assert headers.items() >= SANDBOX.items()
        assert headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in said(planned(**asked))


def test_download() -> None:
    headers = said(planned(download=True))
    assert headers == ALWAYS | {"content-disposition": 'attachment; filename="film.mp4"'}


def test_any_legal_name() -> None:
    hostile = replace(INFO, key=Key("", "ü", '-"%;🎬\u202e.mp4'))
    value = "inline; filename=\"-__;clapper.mp4\"; filename*=UTF-8''-%22%25%3B%F0%9F%8E%AC%E2%80%AE.mp4"
    assert said(planned(info=hostile)) == ALWAYS | {"content-disposition": value}


DIGESTS = [
    # RFC 3230 4.3.1; the last is what aria2 says
    *[
        (wanted, True)
        for wanted in (
            "SHA-256",
            "sha-256",
            "md5, sha-256",
            "SHA-256;q=0.001",
            "sha-256 ; q=1",
            "sha-256;q=1.000",
        )
    ],
    ("SHA-512;q=1, SHA-256;q=1, SHA;q=0.1", True),
    ("SHA-256;q=0, SHA-256;q=0.5", True),
    *[
        (wanted, False)
        for wanted in ("", "md5", "sha", "SHA-512", "sha-2560", "xsha-256", "sha-256;q=0", "sha-256;q=0.0")
    ],
    *[(wanted, False) for wanted in ("SHA-256;q=0.000", "SHA-256; q=0.", "md5;q=1, sha-256;Q=0")],
]


@pytest.mark.parametrize(("wanted", "given"), DIGESTS, ids=str)
@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,5-6"}], ids=str)
def test_legacy_digest(wanted: str, given: bool, asked: dict[str, str]) -> None:
    # Of the whole file, also with a part of it (RFC 3230 4.3.2)
    headers = said(planned(Want_Digest=wanted, **asked))
    assert headers.get("digest") == (f"SHA-256={BASE64}" if given else None)
    assert headers["repr-digest"] == repr_digest(SHA256) == f"sha-256=:{BASE64}:"


def test_no_digest_of_what_was_not_hashed() -> None:
    headers = said(planned(info=replace(INFO, sha256=None), Want_Digest="SHA-256"))
    assert headers == {name: value for name, value in ALWAYS.items() if name != "repr-digest"}


def parts_of(answer: Plan, data: bytes) -> list[tuple[str, bytes]]:
    """The parts of a multipart body, read by the standard library's parser of mail."""
    head = f"Content-Type: {said(answer)['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + sent(answer, data))
    assert message.is_multipart()
    assert not message.defects
    assert not message.preamble
    assert not message.epilogue
    found = []
    for part in message.get_payload():
        assert part.get_content_type() == "application/x-film"
        assert set(part.keys()) == {"Content-Type", "Content-Range"}
        found.append((part["Content-Range"], part.get_payload(decode=True)))
    return found


# Line ends and hyphens are what a parser of multipart could stumble over.
contents = st.one_of(st.binary(max_size=80), st.text("\r\n-T", max_size=80).map(str.encode))
asked_spec = st.one_of(
    st.builds("{}-{}".format, st.integers(0, 60), st.one_of(st.just(""), st.integers(0, 90))),
    st.builds("{}-{}".format, st.integers(0, 10), st.integers(10, 20)),
    st.builds("-{}".format, st.integers(0, 90)),
)
asked_sets = st.lists(asked_spec, min_size=1, max_size=6).map(lambda specs: "bytes=" + ",".join(specs))


@settings(max_examples=600)
@given(data=contents, asked=asked_sets)
def test_the_body_is_what_the_headers_say(data: bytes, asked: str) -> None:
    info = replace(INFO, size=len(data), content_type="application/x-film")
    try:
        answer = planned(info=info, Range=asked)
    except RangeNotSatisfiable:
        return
    headers, body = said(answer), sent(answer, data)
    assert int(headers["content-length"]) == len(body)
    if answer.status == 200:
        assert body == data
        return
    is_multipart = headers["content-type"].startswith("multipart/")
    found = parts_of(answer, data) if is_multipart else [(headers["content-range"], body)]
    assert is_multipart == (len(found) > 1) == ("content-range" not in headers)
    for content_range, payload in found:
        span, _, size = content_range.removeprefix("bytes ").partition("/")
        first, last = (int(position) for position in span.split("-"))
        assert int(size) == len(data)
        assert payload == data[first : last + 1]
        assert payload


names = [
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "want-digest",
]


@settings(max_examples=500)
@given(
    method=st.sampled_from(["GET", "HEAD"]),
    headers=st.lists(
        st.tuples(
            st.sampled_from([name.encode() for name in names]),
            st.one_of(
                st.binary(max_size=30),
                asked_sets.map(str.encode),
                st.sampled_from([b'"xyzzy"', DATE.encode()]),
            ),
        ),
        max_size=6,
    ),
)
def test_any_headers_get_an_answer(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    try:
        answer = plan(method, headers, INFO, cache_control="no-cache", boundary=lambda: BOUNDARY)
    except (VersionMismatch, RangeNotSatisfiable):
        return
    assert answer.status in (200, 206, 304)
    if answer.parts:
        assert int(said(answer)["content-length"]) == len(sent(answer))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "wanted", ["sha-256;q=0," * 5000, "sha-256" + " " * 65000 + "x", "sha-256;q=" + "0" * 65000]
)
def test_a_long_want_digest_costs_no_more_than_its_length(wanted: str) -> None:
    for _ in range(100):
        planned(Want_Digest=wanted)


def test_last_modified_is_never_after_the_answer() -> None:
    """RFC 9110 8.8.2.1. And a client that has that date does not have the version of a moment later."""
    now = INFO.updated_at - timedelta(seconds=1)
    answer = plan("GET", [], INFO, cache_control="no-cache", boundary=lambda: "x", now=now)
    date = dict(answer.headers)[b"last-modified"]
    assert date == format_date(now).encode()
    since = [(b"if-modified-since", date)]
    assert plan("GET", since, INFO, cache_control="no-cache", boundary=lambda: "x", now=now).status == 200

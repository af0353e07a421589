"""Whole plans: "Every media 200 or 206 carries" and "Ranges and conditions" of the API contract."""

import base64
import email
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.dates import format_date
from app.http.ranges import RangeNotSatisfiable
from app.storage.errors import VersionMismatch
from app.storage.types import FileInfo, Key
from app.streaming.plan import Plan, Span, plan, repr_digest

DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()
BASE64 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
TIME = datetime(1994, 11, 6, 8, 49, 37, 900000, tzinfo=UTC)
CREATED = datetime(1980, 1, 1, tzinfo=UTC)
INFO = FileInfo("1", Key("", "a", "film.mp4"), len(DATA), "video/mp4", "xyzzy", SHA256, CREATED, TIME)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BOUNDARY = "SEPARATOR"

HEADERS = {
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
NOT_MODIFIED = {name: HEADERS[name] for name in ("etag", "last-modified", "cache-control")}


def plan_for(method: str = "GET", info: FileInfo = INFO, download: bool = False, **fields: str) -> Plan:
    headers = [(name.replace("_", "-").lower().encode(), v.encode("latin-1")) for name, v in fields.items()]
    return plan(
        method, headers, info, cache_control="private, no-cache", boundary=lambda: BOUNDARY, download=download
    )


def headers_of(planned: Plan) -> dict[str, str]:
    named = {name.decode(): value.decode("latin-1") for name, value in planned.headers}
    assert len(named) == len(planned.headers), "a header is repeated"
    assert all(name == name.lower() for name in named)
    return named


def body_of(planned: Plan, data: bytes = DATA) -> bytes:
    return b"".join(
        part if isinstance(part, bytes) else data[part.start : part.stop] for part in planned.parts
    )


def test_request_without_range_gets_200_and_all_headers() -> None:
    # RFC 9110 §15.3.1
    planned = plan_for()
    assert (planned.status, planned.parts) == (200, (Span(0, 1024),))
    assert headers_of(planned) == HEADERS


@pytest.mark.parametrize(
    ("stored", "is_utf8", "content_type"),
    [
        ("text/plain", True, "text/plain; charset=utf-8"),
        ("text/html", True, "text/html; charset=utf-8"),
        ("text/csv; header=present", True, "text/csv; header=present; charset=utf-8"),
        ("text/plain; ", True, "text/plain; charset=utf-8"),
        ("text/plain;", True, "text/plain; charset=utf-8"),
        # a charset that the client declared, or an encoding that is unknown or not UTF-8
        ("text/plain; charset=iso-8859-1", True, "text/plain; charset=iso-8859-1"),
        ('text/plain;Charset="utf-8"', True, 'text/plain;Charset="utf-8"'),
        ("text/plain", False, "text/plain"),
        ("text/plain", None, "text/plain"),
        # not text
        ("application/json", True, "application/json"),
        ("application/x-subrip", True, "application/x-subrip"),
        ("video/mp4", True, "video/mp4"),
    ],
)
def test_text_in_utf8_gets_charset_parameter(stored: str, is_utf8: bool | None, content_type: str) -> None:
    info = replace(INFO, content_type=stored, is_utf8=is_utf8)
    assert headers_of(plan_for(info=info))["content-type"] == content_type
    assert headers_of(plan_for(info=info, Range="bytes=0-1"))["content-type"] == content_type


@pytest.mark.parametrize("value", ["bytes=0-1", "bytes=5000-", "bytes=0-1,5-6", "junk"])
def test_head_ignores_range(value: str) -> None:
    # RFC 9110 §14.2: defined for GET alone
    planned = plan_for("HEAD", Range=value)
    assert (planned.status, planned.parts) == (200, ())
    assert planned.headers == plan_for("GET").headers


def test_head_evaluates_preconditions() -> None:
    assert plan_for("HEAD", If_None_Match='"xyzzy"') == plan_for("GET", If_None_Match='"xyzzy"')
    with pytest.raises(VersionMismatch):
        plan_for("HEAD", If_Match='"other"')


def test_empty_file_ignores_every_range() -> None:
    empty = replace(INFO, size=0)
    planned = plan_for(info=empty)
    assert (planned.status, planned.parts, headers_of(planned)["content-length"]) == (200, (), "0")
    assert plan_for("HEAD", info=empty) == planned
    for value in ("bytes=0-", "bytes=-1", "bytes=0-0", "bytes=-0", "junk"):
        assert plan_for(info=empty, Range=value) == planned


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1-", 1, 1024),
        ("bytes=-1", 1023, 1024),
        ("bytes=0-", 0, 1024),
        ("bytes=0-9,10-19", 0, 20),
    ],
)
def test_one_range_gets_206_with_content_range(value: str, start: int, stop: int) -> None:
    # RFC 9110 §15.3.7.1
    planned = plan_for(Range=value)
    assert (planned.status, planned.parts) == (206, (Span(start, stop),))
    assert headers_of(planned) == HEADERS | {
        "content-length": str(stop - start),
        "content-range": f"bytes {start}-{stop - 1}/1024",
    }


def test_several_ranges_get_multipart_byteranges() -> None:
    # RFC 9110 §14.6 and §15.3.7.2
    planned = plan_for(Range="bytes=500-501, 0-1, -2")
    body = (
        b"--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 500-501/1024\r\n\r\n\xf4\xf5"
        b"\r\n--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-1/1024\r\n\r\n\x00\x01"
        b"\r\n--SEPARATOR\r\nContent-Type: video/mp4\r\nContent-Range: bytes 1022-1023/1024\r\n\r\n\xfe\xff"
        b"\r\n--SEPARATOR--\r\n"
    )
    assert (planned.status, body_of(planned)) == (206, body)
    assert headers_of(planned) == HEADERS | {
        "content-type": "multipart/byteranges; boundary=SEPARATOR",
        "content-length": str(len(body)),
    }


def test_unsatisfiable_range_raises_with_file_size() -> None:
    # RFC 9110 §15.5.17
    with pytest.raises(RangeNotSatisfiable) as caught:
        plan_for(Range="bytes=1024-")
    assert caught.value.size == 1024


@pytest.mark.parametrize("value", ["items=0-1", "bytes=1_0-20", "bytes=9-1", "bytes=" + "0-0," * 65])
def test_invalid_range_is_ignored(value: str) -> None:
    assert plan_for(Range=value) == plan_for()


def test_repeated_range_is_ignored() -> None:
    # RFC 9110 §5.3: Range is no list field
    for second in (b"bytes=4-5", b"4-5"):
        lines = [(b"range", b"bytes=0-1"), (b"range", second)]
        assert (
            plan("GET", lines, INFO, cache_control="private, no-cache", boundary=lambda: BOUNDARY)
            == plan_for()
        )


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"xyzzy"', 206), (DATE, 206), ('W/"xyzzy"', 200), ('"other"', 200), ("junk", 200), ("", 200)],
)
def test_if_range_decides_whether_range_applies(if_range: str, status: int) -> None:
    # RFC 9110 §13.1.5; when it does not match, an unsatisfiable Range is ignored as well
    assert plan_for(Range="bytes=0-1", If_Range=if_range).status == status
    if status == 200:
        assert plan_for(Range="bytes=5000-", If_Range=if_range) == plan_for()
    assert plan_for(If_Range=if_range) == plan_for()


def test_preconditions_precede_ranges() -> None:
    # RFC 9110 §13.2.2
    assert plan_for(Range="bytes=0-1", If_None_Match='"xyzzy"').status == 304
    assert plan_for(Range="bytes=5000-", If_None_Match="*").status == 304
    assert plan_for(Range="bytes=5000-", If_Modified_Since=DATE).status == 304
    assert plan_for(Range="bytes=0-1", If_Match='"xyzzy"').status == 206
    with pytest.raises(VersionMismatch):
        plan_for(Range="bytes=5000-", If_Match='"other"')
    with pytest.raises(VersionMismatch, match=r"^[A-Z].*\.$"):
        plan_for(If_Unmodified_Since="Sun, 06 Nov 1994 08:49:36 GMT")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_not_modified_has_only_validator_headers(method: str) -> None:
    # RFC 9110 §15.4.5
    planned = plan_for(method, If_None_Match='W/"xyzzy"', Want_Digest="SHA-256")
    assert (planned.status, planned.parts) == (304, ())
    assert headers_of(planned) == NOT_MODIFIED


SANDBOX = {"content-security-policy": "sandbox; default-src 'none'"}


@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,5-6"}], ids=str)
def test_active_content_is_a_sandboxed_attachment(fields: dict[str, str]) -> None:
    # Promise 13
    for content_type in ("text/html", "image/svg+xml", "application/pdf", "video/x+xml"):
        headers = headers_of(plan_for(info=replace(INFO, content_type=content_type), **fields))
        assert headers["content-disposition"] == 'attachment; filename="film.mp4"'
        assert headers.items() >= SANDBOX.items()
        assert headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in headers_of(plan_for(**fields))


def test_download_is_an_attachment() -> None:
    headers = headers_of(plan_for(download=True))
    assert headers == HEADERS | {"content-disposition": 'attachment; filename="film.mp4"'}


def test_filename_with_any_characters_is_encoded() -> None:
    hostile = replace(INFO, key=Key("", "ü", '-"%;🎬\u202e.mp4'))
    value = "inline; filename=\"-__;clapper.mp4\"; filename*=UTF-8''-%22%25%3B%F0%9F%8E%AC%E2%80%AE.mp4"
    assert headers_of(plan_for(info=hostile)) == HEADERS | {"content-disposition": value}


DIGESTS = [
    # RFC 3230 §4.3.1; the last is sent by aria2
    *[
        (field, True)
        for field in (
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
        (field, False)
        for field in ("", "md5", "sha", "SHA-512", "sha-2560", "xsha-256", "sha-256;q=0", "sha-256;q=0.0")
    ],
    *[(field, False) for field in ("SHA-256;q=0.000", "SHA-256; q=0.", "md5;q=1, sha-256;Q=0")],
]


@pytest.mark.parametrize(("field", "given"), DIGESTS, ids=str)
@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,5-6"}], ids=str)
def test_digest_is_sent_when_wanted(field: str, given: bool, fields: dict[str, str]) -> None:
    # The digest of the whole file, even with a partial response (RFC 3230 §4.3.2)
    headers = headers_of(plan_for(Want_Digest=field, **fields))
    assert headers.get("digest") == (f"SHA-256={BASE64}" if given else None)
    assert headers["repr-digest"] == repr_digest(SHA256) == f"sha-256=:{BASE64}:"


def test_file_without_hash_has_no_digest() -> None:
    headers = headers_of(plan_for(info=replace(INFO, sha256=None), Want_Digest="SHA-256"))
    assert headers == {name: value for name, value in HEADERS.items() if name != "repr-digest"}


def parts_of(planned: Plan, data: bytes) -> list[tuple[str, bytes]]:
    """Return Content-Range and payload of each part, by the standard library's mail parser."""
    head = f"Content-Type: {headers_of(planned)['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body_of(planned, data))
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


# Line ends and hyphens could confuse a multipart parser.
contents = st.one_of(st.binary(max_size=80), st.text("\r\n-T", max_size=80).map(str.encode))
range_spec = st.one_of(
    st.builds("{}-{}".format, st.integers(0, 60), st.one_of(st.just(""), st.integers(0, 90))),
    st.builds("{}-{}".format, st.integers(0, 10), st.integers(10, 20)),
    st.builds("-{}".format, st.integers(0, 90)),
)
range_headers = st.lists(range_spec, min_size=1, max_size=6).map(lambda specs: "bytes=" + ",".join(specs))


@settings(max_examples=600)
@given(data=contents, value=range_headers)
def test_body_matches_its_headers_for_any_ranges(data: bytes, value: str) -> None:
    info = replace(INFO, size=len(data), content_type="application/x-film")
    try:
        planned = plan_for(info=info, Range=value)
    except RangeNotSatisfiable:
        return
    headers, body = headers_of(planned), body_of(planned, data)
    assert int(headers["content-length"]) == len(body)
    if planned.status == 200:
        assert body == data
        return
    is_multipart = headers["content-type"].startswith("multipart/")
    found = parts_of(planned, data) if is_multipart else [(headers["content-range"], body)]
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
                range_headers.map(str.encode),
                st.sampled_from([b'"xyzzy"', DATE.encode()]),
            ),
        ),
        max_size=6,
    ),
)
def test_any_headers_get_a_plan(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    try:
        planned = plan(method, headers, INFO, cache_control="no-cache", boundary=lambda: BOUNDARY)
    except (VersionMismatch, RangeNotSatisfiable):
        return
    assert planned.status in (200, 206, 304)
    if planned.parts:
        assert int(headers_of(planned)["content-length"]) == len(body_of(planned))


@pytest.mark.timeout(6)
@pytest.mark.parametrize(
    "field", ["sha-256;q=0," * 5000, "sha-256" + " " * 65000 + "x", "sha-256;q=" + "0" * 65000]
)
def test_hostile_want_digest_is_parsed_in_linear_time(field: str) -> None:
    for _ in range(20):
        plan_for(Want_Digest=field)


def test_last_modified_is_never_after_the_response() -> None:
    """RFC 9110 §8.8.2.1. The date does not validate the version stored a moment later."""
    now = INFO.updated_at - timedelta(seconds=1)
    planned = plan("GET", [], INFO, cache_control="no-cache", boundary=lambda: "x", now=now)
    date = dict(planned.headers)[b"last-modified"]
    assert date == format_date(now).encode()
    since = [(b"if-modified-since", date)]
    assert plan("GET", since, INFO, cache_control="no-cache", boundary=lambda: "x", now=now).status == 200

"""Lint our responses with httplint, the linter of REDbot: no note except those that are wrong here."""

import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

import httpx
import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

SendRequest = Callable[..., httpx.Response]
Fields = list[tuple[bytes, bytes]]

FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100_000)

# RFC 9110 §15.3.7.2: each part has a Content-Range, and the header section must not have one.
IN_EACH_PART = {"PARTIAL_WITHOUT_RANGE"}
# A list has no validator; `no-store` would keep it out of the browser's history.
NOTHING_TO_VALIDATE = {"FRESHNESS_NO_CACHE_NO_VALIDATOR"}
# RFC 9530 obsoletes these fields, but aria2 knows no others.
OBSOLETE_FOR_ARIA2 = {"FIELD_DEPRECATED"}
# It does not detect the media type of our small test film.
UNKNOWN_FILM = {"CONTENT_TYPE_MISMATCH"}
# It takes a 400 for a failure of the server.
BAD_REQUEST = {"STATUS_BAD_REQUEST"}

# Method, target, headers, status, and the notes that httplint may report.
CASES: dict[str, tuple[str, str, tuple[str, ...], int, set[str]]] = {
    "whole": ("GET", "{film}", (), 200, UNKNOWN_FILM),
    "head": ("HEAD", "{film}", (), 200, set()),
    "by id": ("GET", "{stream}", (), 200, UNKNOWN_FILM),
    "by name": ("GET", "/file/stream?folder={folder}&filename=film.mp4", (), 200, UNKNOWN_FILM),
    "download": ("GET", "{film}?download=1", (), 200, UNKNOWN_FILM),
    "any name": ("GET", "/files/{folder}/%D7%A9%20%22%25%3B.txt", (), 200, set()),
    "in a sandbox": ("GET", "/files/{folder}/page.html", (), 200, set()),
    "empty": ("GET", "/files/{folder}/empty.mp4", (), 200, UNKNOWN_FILM),
    "digest": ("GET", "{film}", ("Want-Digest: SHA-256",), 200, OBSOLETE_FOR_ARIA2 | UNKNOWN_FILM),
    "range": ("GET", "{film}", ("Range: bytes=0-99",), 206, set()),
    "rest": ("GET", "{film}", ("Range: bytes=5000-", "If-Range: {etag}"), 206, set()),
    "ranges": ("GET", "{film}", ("Range: bytes=0-99,500-599",), 206, IN_EACH_PART),
    "same etag": ("GET", "{film}", ("If-None-Match: {etag}",), 304, set()),
    "same date": ("GET", "{film}", ("If-Modified-Since: {date}",), 304, set()),
    "head of the same": ("HEAD", "{film}", ("If-None-Match: {etag}",), 304, set()),
    "beyond the end": ("GET", "{film}", ("Range: bytes=999999-",), 416, set()),
    "another version": ("GET", "{film}", ('If-Match: "x"',), 412, set()),
    "missing": ("GET", "/files/{folder}/none.mp4", (), 404, set()),
    "head of what is missing": ("HEAD", "/files/{folder}/none.mp4", (), 404, set()),
    "bad name": ("GET", "/files/{folder}/%00", (), 400, BAD_REQUEST),
    "bad query": ("GET", "/files?limit=0", (), 422, set()),
    "list": ("GET", "/files?folder={folder}", (), 200, NOTHING_TO_VALIDATE),
    "page of a list": ("GET", "/files?folder={folder}&limit=1", (), 200, NOTHING_TO_VALIDATE),
    "head of a list": ("HEAD", "/files?folder={folder}", (), 200, NOTHING_TO_VALIDATE),
    "index": ("GET", "/files/{folder}/", (), 200, NOTHING_TO_VALIDATE),
    "head of an index": ("HEAD", "/files/{folder}/", (), 200, NOTHING_TO_VALIDATE),
    "create": ("PUT", "/files/{folder}/new.mp4", (), 201, set()),
    "replace": ("PUT", "/files/{folder}/old.mp4", (), 204, set()),
    "delete": ("DELETE", "/files/{folder}/unwanted.mp4", (), 204, set()),
    "delete what is missing": ("DELETE", "/files/{folder}/none.mp4", (), 404, set()),
    "no such method": ("POST", "{film}", (), 405, set()),
    "health": ("GET", "/health", (), 200, set()),
    "ready": ("HEAD", "/health/ready", (), 200, set()),
}


def lint(
    method: str, url: httpx.URL, headers: tuple[str, ...], status: int, fields: Fields, content: bytes
) -> set[str]:
    """Return the names of the linter's notes that are warnings or errors."""
    request = HttpRequestLinter(start_time=time.time())
    request.process_request_topline(method.encode(), url.raw_path, b"1.1")
    pairs = (header.partition(": ") for header in headers)
    request.process_headers([(b"Host", url.netloc), *((n.encode(), v.encode()) for n, _, v in pairs)])
    request.finish_content(True)
    response = HttpResponseLinter(start_time=time.time())
    response.request, response.base_uri, response.is_head_response = request, str(url), method == "HEAD"
    response.process_response_topline(b"1.1", str(status).encode(), httpx.codes(status).phrase.encode())
    response.process_headers(fields)
    response.feed_content(content)
    response.finish_content(True)
    notes = [inner for note in response.notes for inner in (note, *note.subnotes)]
    return {type(note).__name__ for note in notes if note.level in (levels.BAD, levels.WARN)}


FILES = {
    "%D7%A9%20%22%25%3B.txt": b"text",
    "page.html": b"<p>",
    "empty.mp4": b"",
    "old.mp4": b"to be replaced",
    "unwanted.mp4": b"to be deleted",
    "film.mp4": FILM,
}


@pytest.fixture(scope="module")
def values(http: httpx.Client) -> Iterator[dict[str, str]]:
    """Store files of several kinds; yield the values that the requests of CASES need."""
    folder = "test_httplint"
    for name, content in FILES.items():
        created = http.put(f"/files/{folder}/{name}", content=content).raise_for_status()
    head = http.head(f"/files/{folder}/film.mp4").headers
    yield {
        "folder": folder,
        "film": f"/files/{folder}/film.mp4",
        "stream": f"/stream/{created.json()['id']}",
        "etag": head["etag"],
        "date": head["last-modified"],
    }
    for name in (*FILES, "new.mp4"):
        http.delete(f"/files/{folder}/{name}")


@pytest.mark.parametrize("case", CASES)
def test_response_passes_httplint(
    http: httpx.Client, send_request: SendRequest, values: dict[str, str], case: str
) -> None:
    method, target, headers, status, accepted = CASES[case]
    target, headers = target.format(**values), tuple(header.format(**values) for header in headers)
    response = send_request(method, target, *headers, body=FILM if method == "PUT" else None)
    assert response.status_code == status
    url = http.base_url.join(target)
    found = lint(method, url, headers, status, list(response.headers.raw), response.content)
    assert found == accepted


def test_last_modified_is_never_later_than_date(http: httpx.Client, folder: str) -> None:
    """RFC 9110 §8.8.2.1, over more than a second: a cached Date would be too early."""
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        http.put(f"/files/{folder}/film.mp4", content=b"x").raise_for_status()
        head = http.head(f"/files/{folder}/film.mp4").headers
        modified, sent = (parsedate_to_datetime(head[name]) for name in ("last-modified", "date"))
        assert modified <= sent


@pytest.mark.parametrize(
    ("field", "value", "note"),
    [
        (b"content-length", b"99", "CL_INCORRECT"),
        (b"last-modified", b"Sat, 21 Nov 2199 00:00:00 GMT", "LM_FUTURE"),
        (b"last-modified", b"2026-11-21", "BAD_DATE_SYNTAX"),
        (b"etag", b"unquoted", "BAD_SYNTAX"),
        (b"content-range", b"bytes 0-99", "CONTENT_RANGE_MISSING_SLASH"),
        (b"content-type", b"video", "BAD_SYNTAX"),
        (b"content-disposition", b'inline; filename="a/b"', "DISPOSITION_FILENAME_PATH_CHAR"),
        (b"cache-control", b"no-store, max-age=60", "CC_CONFLICTING"),
    ],
)
def test_linter_finds_planted_fault(
    http: httpx.Client,
    send_request: SendRequest,
    values: dict[str, str],
    field: bytes,
    value: bytes,
    note: str,
) -> None:
    headers = ("Range: bytes=0-99",)
    response = send_request("GET", values["film"], *headers)
    fields = [(name, value if name.lower() == field else old) for name, old in response.headers.raw]
    assert fields != response.headers.raw
    url = http.base_url.join(values["film"])
    assert note in lint("GET", url, headers, 206, fields, response.content)

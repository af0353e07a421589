"""Responses with a stored file, on every route that serves one: headers, ranges, conditions, names."""

import base64
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import httpx
import pytest

from tests.support import NewLibrary, Server, each_backend, running

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
File = dict[str, Any]

DATA = bytes(range(251)) * 400
SIZE = len(DATA)
SHA256 = hashlib.sha256(DATA).hexdigest()
REPR_DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"

TOO_MANY_RANGES = "bytes=" + ",".join(["0-0"] * 1000)


def put(http: httpx.Client, path: str, data: bytes, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/files/{quote(path)}", content=data, headers=fields)


def put_film(http: httpx.Client, folder: str) -> File:
    response = put(http, f"{folder}/film.mp4", DATA, content_type="video/mp4")
    assert response.status_code == 201
    return response.json()


@pytest.fixture(scope="module")
def film(http: httpx.Client) -> Iterator[File]:
    """A stored film, as its JSON, that no test changes."""
    film = put_film(http, "test_media")
    yield film
    assert http.delete(path_url(film)).status_code == 204


@pytest.fixture
def own_film(http: httpx.Client, folder: str) -> File:
    """A stored film of this test alone."""
    return put_film(http, folder)


def path_url(file: File, **query: str) -> str:
    return f"/files/{quote(file['path'])}" + (f"?{urlencode(query)}" if query else "")


def name_url(file: File, **query: str) -> str:
    return f"/file/stream?{urlencode({'folder': file['folder'], 'filename': file['filename'], **query})}"


def id_url(file: File, **query: str) -> str:
    return f"/stream/{file['id']}" + (f"?{urlencode(query)}" if query else "")


ROUTES = (path_url, name_url, id_url)
each_route = pytest.mark.parametrize("route", ROUTES)


def http_date(moment: str | datetime) -> str:
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return format_datetime(moment.replace(microsecond=0), usegmt=True)


def shift_date(date: str, **by: float) -> str:
    return http_date(parsedate_to_datetime(date) + timedelta(**by))


def check_description(response: httpx.Response, file: File) -> None:
    """Check the headers that a 200 and a 206 share."""
    headers = response.headers
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == f'"{file["etag"]}"'
    assert headers["last-modified"] == http_date(file["updated_at"])
    assert headers["content-disposition"] == 'inline; filename="film.mp4"'
    assert headers["cache-control"] == "no-cache"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["repr-digest"] == REPR_DIGEST
    assert "digest" not in headers
    assert "content-encoding" not in headers
    assert "transfer-encoding" not in headers
    names = [name.lower() for name, _ in headers.raw]
    assert len(names) == len(set(names)), "a header is repeated"


# Whole files, ranges and empty responses


@each_route
@each_backend
def test_get_returns_whole_file(send_request: SendRequest, film: File, route: Callable[..., str]) -> None:
    # rclone sends Accept-Encoding; media is never compressed.
    response = send_request("GET", route(film), "Accept-Encoding: gzip, br, deflate")
    assert response.status_code == 200
    check_description(response, film)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-length"] == str(SIZE)
    assert "content-range" not in response.headers
    assert response.content == DATA


@each_route
@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, SIZE),
        ("bytes=-100", SIZE - 100, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=5-{SIZE + 1000}", 5, SIZE),
        (f"bytes=-{SIZE + 1000}", 0, SIZE),
        ("bytes=0-", 0, SIZE),
        ("BYTES=7-9", 7, 10),
        (f"bytes=10-19,{SIZE}-", 10, 20),  # one of two is satisfiable
        ("bytes=10-19,15-29,30-39", 10, 40),  # overlapping and adjacent ranges are merged
    ],
)
def test_single_range_returns_206(
    send_request: SendRequest, film: File, route: Callable[..., str], value: str, start: int, stop: int
) -> None:
    response = send_request("GET", route(film), f"Range: {value}")
    assert response.status_code == 206
    check_description(response, film)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-length"] == str(stop - start)
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.content == DATA[start:stop]


@each_route
@pytest.mark.parametrize(
    "value",
    ["pages=1-2", "bytes", "bytes=", "bytes=5", "bytes=9-5", "bytes=a-b", "bytes=+1-2", "bytes=1_0-20",
     "bytes=-", "bytes=10-19,30-0x", "bytes=1-2 3-4", "bytes 1-2", "bytes=١-٢", TOO_MANY_RANGES],
)  # fmt: skip
def test_invalid_range_is_ignored(
    send_request: SendRequest, film: File, route: Callable[..., str], value: str
) -> None:
    response = send_request("GET", route(film), f"Range: {value}")
    assert response.status_code == 200
    assert response.content == DATA
    assert "content-range" not in response.headers


@each_route
@pytest.mark.parametrize("headers", [(), ("Range: bytes=0-99",), ("Range: bytes=0-9,20-29",)])
def test_head_matches_get_and_ignores_ranges(
    send_request: SendRequest, film: File, route: Callable[..., str], headers: tuple[str, ...]
) -> None:
    head, get = send_request("HEAD", route(film), *headers), send_request("GET", route(film))
    assert head.status_code == 200
    assert head.content == b""
    check_description(head, film)
    for response in (head, get):
        del response.headers["date"]
    assert head.headers == get.headers


def test_head_response_has_no_body(connect: Callable[..., Any], film: File) -> None:
    connection = connect()
    for target in (path_url(film), f"/files/{film['path']}-missing", "/files", "/nope"):
        connection.request("HEAD", target)
        connection.receive_response("HEAD")
    # A body would precede this response.
    connection.request("GET", path_url(film))
    assert connection.receive_response().content == DATA


@each_route
@each_backend
def test_several_ranges_return_multipart(
    send_request: SendRequest, film: File, route: Callable[..., str]
) -> None:
    response = send_request("GET", route(film), f"Range: bytes=500-599, 0-9,-10 ,,{SIZE}-")
    assert response.status_code == 206
    check_description(response, film)
    assert "content-range" not in response.headers
    content_type, _, boundary = response.headers["content-type"].partition("; boundary=")
    assert content_type == "multipart/byteranges"
    # `send_request` reads as many bytes as Content-Length announces.
    assert int(response.headers["content-length"]) == len(response.content)
    spans = [(500, 600), (0, 10), (SIZE - 10, SIZE)]
    expected = b""
    for start, stop in spans:
        expected += (
            f"\r\n--{boundary}\r\nContent-Type: video/mp4\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{SIZE}\r\n\r\n"
        ).encode() + DATA[start:stop]
    expected += f"\r\n--{boundary}--\r\n".encode()
    assert response.content == expected.removeprefix(b"\r\n")


def test_multipart_boundary_is_never_reused(send_request: SendRequest, film: File) -> None:
    responses = [send_request("GET", path_url(film), "Range: bytes=0-0,5-5") for _ in range(3)]
    assert len({response.headers["content-type"] for response in responses}) == 3


@each_route
@pytest.mark.parametrize(
    "value", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE}-{SIZE + 5},-0", f"bytes={10**30}-"]
)
def test_unsatisfiable_range_returns_416(
    send_request: SendRequest, check_problem: CheckProblem, film: File, route: Callable[..., str], value: str
) -> None:
    response = send_request("GET", route(film), f"Range: {value}")
    check_problem(response, 416)
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert "content-disposition" not in response.headers


@each_route
@each_backend
def test_empty_file_ignores_ranges(
    send_request: SendRequest, http: httpx.Client, folder: str, route: Callable[..., str]
) -> None:
    file = put(http, f"{folder}/empty.mp4", b"").json()
    assert file["size"] == 0
    response = send_request("GET", route(file))
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "0", b"")
    assert response.headers["accept-ranges"] == "bytes"
    for value in ("bytes=0-", "bytes=0-0", "bytes=-5", "bytes=-0"):
        response = send_request("GET", route(file), f"Range: {value}")
        assert (response.status_code, response.headers["content-length"], response.content) == (200, "0", b"")
        assert "content-range" not in response.headers


# Conditions

CONDITIONS: list[tuple[str, Callable[[str, str], tuple[str, ...]], int]] = [
    ("If-None-Match that matches", lambda tag, date: (f"If-None-Match: {tag}",), 304),
    ("If-None-Match weakly", lambda tag, date: (f"If-None-Match: W/{tag}",), 304),
    ("If-None-Match among others", lambda tag, date: (f'If-None-Match: "a", {tag}, "b"',), 304),
    ("If-None-Match on two lines", lambda tag, date: ('If-None-Match: "a"', f"If-None-Match: {tag}"), 304),
    ("If-None-Match star", lambda tag, date: ("If-None-Match: *",), 304),
    ("If-None-Match of another", lambda tag, date: ('If-None-Match: "other"',), 200),
    ("If-None-Match malformed", lambda tag, date: (f"If-None-Match: {tag[1:-1]}",), 200),
    ("If-Modified-Since now", lambda tag, date: (f"If-Modified-Since: {date}",), 304),
    ("If-Modified-Since later", lambda tag, date: (f"If-Modified-Since: {shift_date(date, hours=1)}",), 304),
    (
        "If-Modified-Since earlier",
        lambda tag, date: (f"If-Modified-Since: {shift_date(date, seconds=-1)}",),
        200,
    ),
    ("If-Modified-Since malformed", lambda tag, date: ("If-Modified-Since: yesterday",), 200),
    (
        "If-None-Match comes before If-Modified-Since",
        lambda tag, date: ('If-None-Match: "other"', f"If-Modified-Since: {date}"),
        200,
    ),
    ("a 304 comes before ranges", lambda tag, date: (f"If-None-Match: {tag}", f"Range: bytes={SIZE}-"), 304),
    ("If-Match that matches", lambda tag, date: (f"If-Match: {tag}",), 200),
    ("If-Match star", lambda tag, date: ("If-Match: *",), 200),
    ("If-Match weakly", lambda tag, date: (f"If-Match: W/{tag}",), 412),
    ("If-Match of another", lambda tag, date: ('If-Match: "other"',), 412),
    ("a VLC seek", lambda tag, date: (f"If-Match: {tag}", "Range: bytes=10-"), 206),
    ("a seek in another version", lambda tag, date: ('If-Match: "other"', "Range: bytes=10-"), 412),
    ("a 412 comes before a 416", lambda tag, date: ('If-Match: "other"', f"Range: bytes={SIZE}-"), 412),
    ("a 412 comes before a 304", lambda tag, date: ('If-Match: "other"', f"If-None-Match: {tag}"), 412),
    ("If-Unmodified-Since now", lambda tag, date: (f"If-Unmodified-Since: {date}",), 200),
    (
        "If-Unmodified-Since earlier",
        lambda tag, date: (f"If-Unmodified-Since: {shift_date(date, seconds=-1)}",),
        412,
    ),
    (
        "If-Match comes before If-Unmodified-Since",
        lambda tag, date: (f"If-Match: {tag}", f"If-Unmodified-Since: {shift_date(date, hours=-1)}"),
        200,
    ),
    ("If-Range that matches", lambda tag, date: (f"If-Range: {tag}", "Range: bytes=10-"), 206),
    ("If-Range weakly", lambda tag, date: (f"If-Range: W/{tag}", "Range: bytes=10-"), 200),
    ("If-Range of another", lambda tag, date: ('If-Range: "other"', "Range: bytes=10-"), 200),
    ("If-Range by date", lambda tag, date: (f"If-Range: {date}", "Range: bytes=10-"), 206),
    (
        "If-Range earlier",
        lambda tag, date: (f"If-Range: {shift_date(date, seconds=-1)}", "Range: bytes=10-"),
        200,
    ),
    (
        "If-Range later",
        lambda tag, date: (f"If-Range: {shift_date(date, seconds=1)}", "Range: bytes=10-"),
        200,
    ),
    ("If-Range and no 416", lambda tag, date: ('If-Range: "other"', f"Range: bytes={SIZE}-"), 200),
    ("If-Range without Range", lambda tag, date: ('If-Range: "other"',), 200),
]


@pytest.mark.parametrize(
    ("make_headers", "status"), [case[1:] for case in CONDITIONS], ids=[case[0] for case in CONDITIONS]
)
@each_route
def test_conditions_are_evaluated_in_rfc_order(
    send_request: SendRequest,
    check_problem: CheckProblem,
    film: File,
    route: Callable[..., str],
    make_headers: Any,
    status: int,
) -> None:
    headers = make_headers(f'"{film["etag"]}"', http_date(film["updated_at"]))
    response = send_request("GET", route(film), *headers)
    assert response.status_code == status
    if status == 412:
        check_problem(response, 412)
    elif status == 304:
        assert response.headers["etag"] == f'"{film["etag"]}"'
        assert response.headers["last-modified"] == http_date(film["updated_at"])
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers.get("content-length") in (None, str(SIZE))
        assert "content-range" not in response.headers
    else:
        check_description(response, film)
        assert response.content == (DATA if status == 200 else DATA[10:])
    expected_of_head = 200 if status in (206, 416) else status
    assert send_request("HEAD", route(film), *headers).status_code == expected_of_head


@each_backend
def test_resumed_download_restarts_when_file_was_replaced(http: httpx.Client, own_film: File) -> None:
    first = http.get(path_url(own_film), headers={"range": "bytes=0-999"})
    assert first.status_code == 206
    assert put(http, own_film["path"], b"new" * 1000).status_code == 204
    resumed = {"range": "bytes=1000-", "if-range": first.headers["etag"]}
    for route in ROUTES:
        resumed_response = http.get(route(own_film), headers=resumed)
        assert (resumed_response.status_code, resumed_response.content) == (200, b"new" * 1000)
    assert http.get(path_url(own_film), headers={"if-match": first.headers["etag"]}).status_code == 412
    assert http.get(path_url(own_film), headers={"if-none-match": first.headers["etag"]}).status_code == 200


# One implementation behind all routes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [(), ("Range: bytes=3-7",), ("Range: bytes=0-0,9-9",), ("Range: bytes=999999999-",),
     ("Range: lines=1-2",), ("If-None-Match: *",), ('If-Match: "x"',), ("Want-Digest: sha-256",),
     ("Want-Digest: sha-256", "Range: bytes=1-2")],
)  # fmt: skip
@pytest.mark.parametrize("download", [False, True])
def test_routes_return_the_same_response(
    send_request: SendRequest, film: File, method: str, headers: tuple[str, ...], download: bool
) -> None:
    query = {"download": "1"} if download else {}
    responses = []
    for route in ROUTES:
        response = send_request(method, route(film, **query), *headers)
        _, _, boundary = response.headers.get("content-type", "").partition("; boundary=")
        fields = {
            name: value.replace(boundary, "...") if boundary else value
            for name, value in response.headers.items()
            if name not in ("date", "x-request-id")
        }
        content = response.content.replace(boundary.encode(), b"...") if boundary else response.content
        responses.append((response.status_code, fields, content))
    assert responses[0] == responses[1] == responses[2]


@each_route
@each_backend
def test_missing_file_returns_404(
    send_request: SendRequest, check_problem: CheckProblem, folder: str, route: Callable[..., str]
) -> None:
    missing = {"path": f"{folder}/none.mp4", "folder": folder, "filename": "none.mp4", "id": "0" * 32}
    check_problem(send_request("GET", route(missing)), 404)
    check_problem(send_request("GET", route(missing), "If-Match: *", "Range: bytes=0-"), 404)
    assert send_request("HEAD", route(missing)).status_code == 404


def test_folder_is_not_served_as_file(
    send_request: SendRequest, check_problem: CheckProblem, film: File
) -> None:
    check_problem(send_request("GET", f"/file/stream?filename={film['folder']}"), 404)
    check_problem(send_request("GET", f"/files/{film['path']}/below"), 404)


@pytest.mark.parametrize("unknown", ["x", "%20", "..", "%00", "%0d%0aX-Injected:%20yes", "%27%20OR%201=1"])
@each_backend
def test_unknown_id_returns_404(send_request: SendRequest, check_problem: CheckProblem, unknown: str) -> None:
    response = send_request("GET", f"/stream/{unknown}")
    check_problem(response, 404)
    assert "x-injected" not in response.headers


# Digests


@each_route
@pytest.mark.parametrize(
    ("want_digest", "is_given"),
    [
        ("SHA-256", True),
        ("sha-256", True),
        ("sha-256;q=1, md5;q=0.3", True),
        ("md5, sha-256;q=0.5", True),
        ("sha-256;q=0", False),
        ("sha-256;q=0.0", False),
        ("md5", False),
        ("sha-2560", False),
        ("", False),
    ],
)
def test_want_digest_adds_digest(
    send_request: SendRequest, film: File, route: Callable[..., str], want_digest: str, is_given: bool
) -> None:
    expected = REPR_DIGEST.replace("sha-256=:", "SHA-256=").removesuffix(":") if is_given else None
    for headers in ((), ("Range: bytes=0-9",), ("Range: bytes=0-0,5-5",)):
        response = send_request("GET", route(film), f"Want-Digest: {want_digest}", *headers)
        assert response.status_code == (206 if headers else 200)
        assert response.headers.get("digest") == expected
        assert response.headers["repr-digest"] == REPR_DIGEST
    assert send_request("HEAD", route(film), f"Want-Digest: {want_digest}").headers.get("digest") == expected


# Content types and dispositions


@each_route
@pytest.mark.parametrize(
    ("value", "disposition"), [("1", "attachment"), ("true", "attachment"), ("0", "inline")]
)
def test_download_parameter_selects_disposition(
    send_request: SendRequest, film: File, route: Callable[..., str], value: str, disposition: str
) -> None:
    for headers in ((), ("Range: bytes=0-9",)):
        response = send_request("GET", route(film, download=value), *headers)
        assert response.headers["content-disposition"] == f'{disposition}; filename="film.mp4"'
        assert response.headers["content-type"] == "video/mp4"


def test_flag_without_value_is_true(send_request: SendRequest, film: File) -> None:
    attachment = 'attachment; filename="film.mp4"'
    for path in (path_url(film), id_url(film), name_url(film)):
        for flag in ("download", "download=", "&download&", "download=true"):
            response = send_request("GET", f"{path}{'&' if '?' in path else '?'}{flag}")
            assert response.headers["content-disposition"] == attachment
    for flag in ("recursive", "recursive="):
        found = send_request("GET", f"/files?limit=1000&{flag}").json()["items"]
        assert film["path"] in [item["path"] for item in found]


@pytest.mark.parametrize(
    "query", ["x=%ff", "%ff=%ff", "x=%00", "folder=%ff", "&&=&x", "x=%zz&path=%ff", "link=%ff"]
)
def test_unused_parameter_may_hold_anything(send_request: SendRequest, film: File, query: str) -> None:
    assert send_request("GET", f"/files/{film['path']}?{query}").status_code == 200
    assert send_request("GET", f"/stream/{film['id']}?{query}").status_code == 200
    if "folder" not in query:
        for path in ("/files", "/playlist.m3u", "/", name_url(film)):
            joined = f"{path}{'&' if '?' in path else '?'}{query}"
            assert send_request("GET", joined).status_code == 200, joined


TYPES = [
    ("a.mkv", "video/x-matroska"),
    ("a.MKV", "video/x-matroska"),
    ("a.mp4", "video/mp4"),
    ("a.m4v", "video/mp4"),
    ("a.ts", "video/mp2t"),
    ("a.webm", "video/webm"),
    ("a.flac", "audio/flac"),
    ("a.mp3", "audio/mpeg"),
    ("a.srt", "application/x-subrip"),
    ("a.vtt", "text/vtt"),
    ("a.jpg", "image/jpeg"),
    ("a.svg", "image/svg+xml"),
    ("a.html", "text/html"),
    ("a.pdf", "application/pdf"),
    ("a.unknown", "application/octet-stream"),
    ("mkv", "application/octet-stream"),
]


@pytest.mark.parametrize(("name", "expected"), TYPES)
def test_generic_content_type_is_replaced_by_type_of_extension(
    http: httpx.Client,
    part: Callable[..., bytes],
    send_form: Callable[..., httpx.Response],
    folder: str,
    name: str,
    expected: str,
) -> None:
    for number, declared in enumerate(
        (None, "application/octet-stream", "Application/Octet-Stream; charset=binary")
    ):
        path = f"{folder}/put/{name}" if declared is None else f"{folder}/{number}/{name}"
        by_put = put(http, path, b"x", **({} if declared is None else {"content_type": declared}))
        parts = (
            part("folder", f"{folder}/form/{number}".encode()),
            part("file", b"x", filename=name, content_type=declared),
        )
        for response in (by_put, send_form(*parts)):
            assert response.status_code == 201, declared
            assert response.json()["mimetype"] == expected, declared
            served = http.get(path_url(response.json())).headers["content-type"]
            assert served.partition(";")[0] == expected, declared
    # A replacement determines the type again.
    put(http, f"{folder}/put/{name}", b"y", content_type="video/ogg")
    assert http.get(f"/files/{folder}/put/{name}").headers["content-type"] == "video/ogg"


@pytest.mark.parametrize(
    "declared", ["audio/x-rare", "video/mp4; codecs=avc1", 'text/plain; charset="utf-8"']
)
def test_specific_content_type_is_kept(http: httpx.Client, folder: str, declared: str) -> None:
    file = put(http, f"{folder}/a", b"\xff", content_type=declared).json()
    assert file["mimetype"] == declared
    assert http.get(path_url(file)).headers["content-type"] == declared


def test_text_is_served_with_charset_when_utf_8(
    send_request: SendRequest, http: httpx.Client, folder: str
) -> None:
    served = {
        ("a.txt", "", "Größe"): "text/plain; charset=utf-8",
        ("b.txt", "text/plain", "Größe"): "text/plain; charset=utf-8",
        ("c.html", "text/html", "Größe"): "text/html; charset=utf-8",
        ("d.txt", "text/plain; Charset=Latin-1", "Größe"): "text/plain; Charset=Latin-1",
        ("e.srt", "", "Größe"): "application/x-subrip",
        ("f.ts", "text/plain", "Größe"): "text/plain; charset=utf-8",
    }
    for (name, declared, text), content_type in served.items():
        file = put(
            http, f"{folder}/{name}", text.encode(), **({"content_type": declared} if declared else {})
        ).json()
        assert file["mimetype"] == (declared or content_type.partition(";")[0])
        for headers in ((), ("Range: bytes=0-1",)):
            assert send_request("GET", path_url(file), *headers).headers["content-type"] == content_type
        parts = send_request("GET", path_url(file), "Range: bytes=0-0,6-6").content.decode()
        assert parts.count(f"Content-Type: {content_type}\r\n") == 2
    latin = put(http, f"{folder}/latin.txt", "Größe".encode("latin-1"), content_type="text/plain").json()
    assert http.get(path_url(latin)).headers["content-type"] == "text/plain"


def test_media_extension_overrides_generic_content_type(http: httpx.Client, folder: str) -> None:
    types = {
        "a.ogg": ("application/ogg", "audio/ogg"),
        "b.mkv": ("application/x-matroska", "video/x-matroska"),
        "c.mp4": ("application/force-download", "video/mp4"),
        "d.ts": ("text/vnd.trolltech.linguist", "video/mp2t"),
        "e.mkv": ("video/matroska", "video/x-matroska"),
        "f.ts": ("application/typescript", "application/typescript"),
    }
    for name, (declared, content_type) in types.items():
        file = put(http, f"{folder}/{name}", b"\xff", content_type=declared).json()
        assert (file["mimetype"], http.head(path_url(file)).headers["content-type"]) == (
            content_type,
            content_type,
        )
    playlist = http.get("/playlist.m3u", params={"folder": folder}).text
    assert [line.rpartition("/")[2] for line in playlist.splitlines() if "/files/" in line] == [*types][:5]
    for media_type in ("video/x-matroska", "video/matroska", "Video/Matroska"):
        found = http.get("/files", params={"folder": folder, "type": media_type}).json()["items"]
        assert [file["filename"] for file in found] == ["b.mkv", "e.mkv"]


INLINE_TYPES = ["video/mp4", "video/x-matroska", "audio/flac", "image/jpeg", "image/png", "image/webp",
                "text/plain", "text/vtt", "application/x-subrip"]  # fmt: skip
ATTACHED_TYPES = [
    *("text/html", "TEXT/HTML; charset=utf-8", "image/svg+xml", "application/pdf", "application/xml"),
    *("text/xml", "application/xhtml+xml", "text/javascript", "application/javascript", "text/css"),
    *("application/zip", "video/mp4+xml", "video/mp4, text/html", "x", "text/html\t;"),
    *("application/json", "application/x-shockwave-flash", "text/xsl", "image/svg+xml;x=video/mp4"),
    *("multipart/x-mixed-replace; boundary=x", "message/rfc822"),
]


@pytest.mark.parametrize("content_type", INLINE_TYPES)
def test_media_is_served_inline(http: httpx.Client, folder: str, content_type: str) -> None:
    file = put(http, f"{folder}/a", b"data", content_type=content_type).json()
    for route, headers in itertools.product(ROUTES, ({}, {"range": "bytes=0-1"})):
        response = http.get(route(file), headers=headers)
        assert response.headers["content-disposition"].startswith("inline;"), route
        assert response.headers["x-content-type-options"] == "nosniff", route


@pytest.mark.parametrize("content_type", ATTACHED_TYPES)
def test_active_content_is_served_as_attachment(http: httpx.Client, folder: str, content_type: str) -> None:
    file = put(http, f"{folder}/a.html", b"<script>", content_type=content_type).json()
    ranges = ({}, {"range": "bytes=0-1"}, {"range": "bytes=0-1,4-5"})
    for route, headers, send_request in itertools.product(ROUTES, ranges, (http.get, http.head)):
        response = send_request(route(file), headers=headers)
        assert response.headers["content-disposition"].startswith("attachment;"), route
        assert response.headers["content-security-policy"] == "sandbox; default-src 'none'", route
        assert response.headers["x-content-type-options"] == "nosniff", route


# Names

NAMES = [
    "plain.mkv",
    "two words.mkv",
    " leading and trailing ",
    'say "hi".mkv',
    "it's.mkv",
    "100%.mkv",
    "a%20b.mkv",
    "a%2Fb.mkv",
    "%2e%2e",
    "a%00b",
    "#1.mkv",
    "a#b?c&d=e;f.mkv",
    "?.mkv",
    "a+b.mkv",
    "a=b;c, d.mkv",
    ";filename=x.mkv",
    "🎬👩‍👩‍👧‍👦.mkv",
    "סרט עברי.mkv",
    "فيلم.mkv",
    "\u202emkv.exe",
    "映画.mkv",
    "Ünïcödé.mkv",
    "-rf.mkv",
    "--",
    ".hidden",
    "...",
    "..mkv",
    "trailing.",
    "<img src=x onerror=alert(1)>",
    "$(reboot)`id`|x.mkv",
    "a:b*c|d.mkv",
    "line\u2028separator",
    "no\u00a0break",
    "~",
    "[1]{2}^3.mkv",
    "@",
    "č\u010ač\u010a.mkv",  # CR LF if a character is truncated to its low byte
    "x" * 255,
    "é" * 127,
]


def disposition_name(value: str) -> str:
    """Return the filename that a current client takes from Content-Disposition (RFC 6266 §4.3)."""
    assert value.isascii()
    assert value.isprintable()
    extended = re.search(r"; filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]+)$", value)
    if extended:
        return unquote(extended[1], errors="strict")
    plain = re.search(r'; filename="([^"\\%]*)"$', value)
    assert plain is not None
    return plain[1]


@pytest.mark.parametrize("name", NAMES)
def test_name_survives_upload_list_and_download(
    http: httpx.Client,
    send_request: SendRequest,
    list_files: Callable[..., dict[str, File]],
    folder: str,
    name: str,
) -> None:
    files: dict[str, File] = {}
    for upload_kind in ("form", "put"):
        target_folder = f"{folder}/{upload_kind}/{name}"  # the folder has the same name
        if upload_kind == "put":
            response = put(http, f"{target_folder}/{name}", name.encode())
        else:
            response = http.post(
                "/file/upload", data={"folder": target_folder}, files={"file": (name, name.encode())}
            )
        assert response.status_code == 201, upload_kind
        file = response.json()
        assert (file["filename"], file["folder"], file["path"]) == (
            name,
            target_folder,
            f"{target_folder}/{name}",
        )
        assert response.headers["location"] == file["url"]
        files[file["path"]] = file
    assert list_files(folder) == files
    for file in files.values():
        for url in (file["url"], file["stream_url"]):
            assert url.isascii()
            parts = urlsplit(url)
            assert not parts.query
            assert not parts.fragment
            response = send_request("GET", parts.path)
            assert (response.status_code, response.content) == (200, name.encode())
            assert disposition_name(response.headers["content-disposition"]) == name
        response = send_request("GET", name_url(file))
        assert (response.status_code, response.content) == (200, name.encode())
        assert send_request("DELETE", urlsplit(file["url"]).path).status_code == 204
    assert list_files(folder) == {}


def test_ascii_filename_precedes_encoded_filename(http: httpx.Client, folder: str) -> None:
    file = put(http, f"{folder}/naïve.mkv", b"x").json()
    assert http.get(path_url(file)).headers["content-disposition"] == (
        "inline; filename=\"naive.mkv\"; filename*=UTF-8''na%C3%AFve.mkv"
    )


EQUIVALENT_NAMES = [
    ("Cafe\u0301.mkv", "Caf\u00e9.mkv"),
    ("\u1112\u1161\u11ab.mkv", "\ud55c.mkv"),
    ("\u212bngstrom.mkv", "\u00c5ngstrom.mkv"),
    ("a\u037eb.mkv", "a;b.mkv"),
]


@pytest.mark.parametrize(("decomposed", "composed"), EQUIVALENT_NAMES)
@pytest.mark.parametrize("first", ["decomposed", "composed"])
def test_names_that_differ_in_normalization_are_one_file(
    http: httpx.Client,
    list_files: Callable[..., dict[str, File]],
    folder: str,
    decomposed: str,
    composed: str,
    first: str,
) -> None:
    names = (decomposed, composed) if first == "decomposed" else (composed, decomposed)
    paths = [f"{folder}/{name}/{name}" for name in names]
    response = put(http, paths[0], b"twin")
    assert response.status_code == 201
    file = response.json()
    assert file["path"] == f"{folder}/{composed}/{composed}"
    for path in paths:
        target_folder, _, name = path.rpartition("/")
        assert http.get(f"/files/{quote(path)}").content == b"twin"
        assert http.get("/file/stream", params={"folder": target_folder, "filename": name}).content == b"twin"
        assert http.get("/files", params={"folder": target_folder}).json()["items"] == [file]
        assert put(http, path, b"x", if_none_match="*").status_code == 412
        form = http.post("/file/upload", data={"folder": target_folder}, files={"file": (name, b"x")})
        assert form.status_code == 409
    assert put(http, paths[1], b"one").status_code == 204
    assert list(list_files(folder)) == [file["path"]]
    assert http.delete(f"/files/{quote(paths[1])}").status_code == 204
    assert list_files(folder) == {}


# Identity


@each_backend
def test_id_survives_replacement(http: httpx.Client, own_film: File) -> None:
    assert put(http, own_film["path"], b"another film", content_type="video/webm").status_code == 204
    current = http.get("/files", params={"folder": own_film["folder"]}).json()["items"][0]
    assert current["id"] == own_film["id"]
    assert current["created_at"] == own_film["created_at"]
    assert current["updated_at"] > own_film["updated_at"]
    assert current["etag"] != own_film["etag"]
    response = http.get(f"/stream/{own_film['id']}")
    assert (response.content, response.headers["content-type"]) == (b"another film", "video/webm")
    assert response.headers["etag"] == f'"{current["etag"]}"'


@each_backend
def test_id_of_deleted_file_is_not_reused(
    http: httpx.Client, check_problem: CheckProblem, own_film: File
) -> None:
    assert http.delete(path_url(own_film)).status_code == 204
    check_problem(http.get(id_url(own_film)), 404)
    resumed_response = put(http, own_film["path"], DATA).json()
    assert resumed_response["id"] != own_film["id"]
    check_problem(http.get(id_url(own_film)), 404)


@each_backend
def test_etag_depends_on_content_only(http: httpx.Client, folder: str) -> None:
    first, second, third = (
        put(http, f"{folder}/{name}", data).headers["etag"]
        for name, data in (("a", DATA), ("b", DATA), ("c", b""))
    )
    assert first == second != third


# Connections


def test_connection_stays_open_after_every_status(
    connect: Callable[..., Any], part: Callable[..., bytes], own_film: File, folder: str
) -> None:
    path, tag = path_url(own_film), f'"{own_film["etag"]}"'
    form = part("folder", folder.encode()) + part("file", b"x" * 300_000, filename="film.mp4")
    form += b"--xxBOUNDARYxx--\r\n"
    form_type = "Content-Type: multipart/form-data; boundary=xxBOUNDARYxx"
    body = b"x" * 300_000
    connection = connect()
    exchanges: list[tuple[int, str, str, tuple[str, ...], bytes | None]] = [
        (200, "GET", path, (), None),
        (206, "GET", path, ("Range: bytes=0-9",), None),
        (206, "GET", path, ("Range: bytes=0-9,20-29",), None),
        (200, "HEAD", path, (), None),
        (304, "GET", path, (f"If-None-Match: {tag}",), None),
        (304, "HEAD", path, (f"If-None-Match: {tag}",), None),
        (412, "GET", path, ('If-Match: "x"',), None),
        (412, "HEAD", path, ('If-Match: "x"',), None),
        (416, "GET", path, ("Range: bytes=999999999-",), None),
        (404, "GET", f"{path}.none", (), None),
        (404, "HEAD", f"{path}.none", (), None),
        (400, "GET", "/files/..", (), None),
        (404, "GET", "/nope", (), None),
        (404, "POST", "/nope", (), body),
        (405, "POST", path, (), body),
        (422, "GET", "/file/stream", (), None),
        (200, "GET", "/files", (), None),
        (200, "GET", "/health", (), None),
        (200, "GET", path, (), b"a body that a GET has no use for"),
        (201, "PUT", f"{path}.2", (), body),
        (204, "PUT", f"{path}.2", (), b""),
        (412, "PUT", path, ("If-None-Match: *",), body),
        (400, "PUT", "/files/..", (), body),
        (400, "PUT", path, ("Content-Range: bytes 0-1/2",), body),
        (400, "PUT", path, ("Content-Digest: sha-256=:AAAA:",), body),
        (415, "PUT", path, ("Content-Encoding: gzip",), body),
        (409, "PUT", f"{path}/below", (), body),
        (409, "POST", "/file/upload", (form_type,), form),
        (400, "POST", "/file/upload", (form_type,), b"no form" * 50_000),
        (415, "POST", "/file/upload", ("Content-Type: text/plain",), body),
        (403, "PUT", path, ("Sec-Fetch-Site: cross-site",), body),
        (421, "PUT", path, ("Host: elsewhere.example",), body),
        (204, "DELETE", f"{path}.2", (), None),
        (404, "DELETE", f"{path}.2", (), None),
        (412, "DELETE", path, ('If-Match: "x"',), None),
        (200, "GET", path, (), None),
    ]
    for status, method, target, headers, body in exchanges:
        connection.request(method, target, *headers, body=body)
        response = connection.receive_response(method)
        assert response.status_code == status, (method, target, headers)
        assert response.headers.get("connection") != "close", (method, target, headers)
        if status == 204:
            assert "content-length" not in response.headers  # RFC 9110 §8.6
    assert response.content == DATA


def test_pipelined_requests_get_responses_in_order(connect: Callable[..., Any], film: File) -> None:
    connection = connect()
    request = f"GET {path_url(film)} HTTP/1.1\r\nHost: {connection.host}\r\nRange: bytes={{}}-{{}}\r\n\r\n"
    connection.send("".join(request.format(i, i + 9) for i in range(20)).encode())
    assert [connection.receive_response().content for _ in range(20)] == [DATA[i : i + 10] for i in range(20)]


# Routes


def allowed_methods(response: httpx.Response) -> set[str]:
    methods = [method.strip() for method in response.headers["allow"].split(",")]
    assert len(methods) == len(set(methods))
    return set(methods)


ALLOWED = {
    "/file/upload": {"POST"},
    "/file/stream": {"GET", "HEAD"},
    "/stream/some-id": {"GET", "HEAD"},
    "/files": {"GET", "HEAD"},
    "/files/a/b.mp4": {"GET", "HEAD", "PUT", "PATCH", "DELETE"},
    "/files/none%0A": {"GET", "HEAD", "PUT", "PATCH", "DELETE"},
    "/health": {"GET", "HEAD"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
    "/help/": {"GET", "HEAD"},
    "/help/tutorial": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", ALLOWED)
def test_other_method_returns_405_with_complete_allow(
    send_request: SendRequest, check_problem: CheckProblem, path: str
) -> None:
    refused = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LOCK"} - ALLOWED[path]
    for method in sorted(refused):
        response = send_request(method, path, body=b"" if method in ("POST", "PUT") else None)
        assert allowed_methods(response) - {"OPTIONS"} == ALLOWED[path], method
        if method == "HEAD":
            assert response.status_code == 405
        else:
            check_problem(response, 405)
    for method in sorted(ALLOWED[path] & {"GET", "HEAD"}):
        assert send_request(method, path).status_code != 405


def test_asset_returns_405_with_allow(
    send_request: SendRequest, check_problem: CheckProblem, http: httpx.Client
) -> None:
    found = re.search(r'"(/assets/[^"]+)"', http.get("/docs").text)
    assert found is not None
    for method in ("POST", "PUT", "DELETE"):
        response = send_request(method, found[1], body=b"")
        check_problem(response, 405)
        assert allowed_methods(response) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "target",
    ["/nope", "/file", "/file/", "/file/upload/", "/file/upload/x", "/stream", "/stream/", "/stream/a/b",
     "/filesx", "/Files", "/files.", "/health/", "/health/nope", "/assets", "/assets/", "/assets/nope/x.js",
     "/redoc", "/../etc/passwd", "/%2e%2e/etc/passwd", "//", "/nope%0d%0aX-Injected:%20yes",
     "/.seekable/id", "/staging"],
)  # fmt: skip
def test_unknown_route_returns_404(
    send_request: SendRequest, check_problem: CheckProblem, target: str
) -> None:
    for method, body in (("GET", None), ("POST", b"x"), ("DELETE", None)):
        response = send_request(method, target, body=body)
        check_problem(response, 404)
        assert "x-injected" not in response.headers
    get, head = send_request("GET", target).headers, send_request("HEAD", target).headers
    fields = {"date": "", "x-request-id": ""}
    assert {**head, **fields} == {**get, **fields}


@pytest.mark.parametrize(
    "target",
    ["/file/stream", "/file/stream?folder=a", "/files?limit=x", "/files?limit=0", "/files?limit=",
     "/files?limit=1e3", "/files/a?download=maybe", "/stream/a?download=2", f"/files?limit={'9' * 5000}"],
)  # fmt: skip
def test_invalid_parameter_returns_422(
    send_request: SendRequest, check_problem: CheckProblem, target: str
) -> None:
    detail = check_problem(send_request("GET", target), 422)
    assert re.search("filename|limit|download", detail)


# Settings


def listening_url(server: Server) -> str:
    """Return the address that the server listens on, not its base URL."""
    found = re.search(r"running on (http\S+)", server.log())
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def proxied_http(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """A client of a server behind a proxy."""
    settings = {"base_url": "https://media.example.org/seekable/", "cache_control": "private, max-age=60"}
    with (
        running(tmp_path_factory.mktemp("proxied"), **settings, **new_library()) as server,
        httpx.Client(base_url=listening_url(server), trust_env=False) as client,
    ):
        yield client


def test_base_url_and_cache_control_settings_apply(proxied_http: httpx.Client) -> None:
    http = proxied_http
    base = "https://media.example.org/seekable"
    response = put(http, "a b/ü.mp4", DATA, host="media.example.org")
    file = response.json()
    assert response.headers["location"] == file["url"] == f"{base}/files/a%20b/%C3%BC.mp4"
    assert file["stream_url"] == f"{base}/stream/{file['id']}"
    put(http, "a b/映.mp4", DATA)
    page = http.get("/files", params={"folder": "a b", "limit": 1})
    assert page.links["next"]["url"].startswith(f"{base}/files?")
    assert page.json()["items"] == [file]
    for headers in ({}, {"range": "bytes=0-1"}, {"if-none-match": "*"}):
        response = http.get(path_url(file), headers=headers)
        assert response.headers["cache-control"] == "private, max-age=60"

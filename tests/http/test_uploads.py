"""Storing, replacing and deleting: what is answered, when, and what is stored afterwards."""

import base64
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support import NewLibrary, Server, each_backend, running

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
StorageUnchanged = Callable[..., AbstractContextManager[None]]
ListFiles = Callable[..., dict[str, dict[str, Any]]]
Part = Callable[..., bytes]

DATA = bytes(range(256)) * 1000
MAX_SIZE = 10_000
FORM_TYPE = "Content-Type: multipart/form-data; boundary=xxBOUNDARYxx"

FIELDS = {"id", "path", "folder", "filename", "size", "mimetype", "etag", "sha256", "created_at",
          "updated_at", "url", "stream_url"}  # fmt: skip


def digest(data: bytes, algorithm: str = "sha256") -> str:
    name = {"sha256": "sha-256", "sha512": "sha-512"}[algorithm]
    return f"{name}=:{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}:"


def put(http: httpx.Client, path: str, data: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/files/{quote(path)}", content=data, headers=named)


def check_file(response: httpx.Response, folder: str, name: str, data: bytes, http: httpx.Client) -> None:
    """All that a 201 says, and that it is true."""
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    file = response.json()
    assert set(file) == FIELDS
    assert (file["folder"], file["filename"]) == (folder, name)
    assert file["path"] == (f"{folder}/{name}" if folder else name)
    assert file["size"] == len(data)
    assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert response.headers["etag"] == f'"{file["etag"]}"'
    assert response.headers["repr-digest"] == digest(data)
    assert (
        response.headers["location"]
        == file["url"]
        == str(http.base_url.join(f"/files/{quote(file['path'])}"))
    )
    assert file["stream_url"] == str(http.base_url.join(f"/stream/{file['id']}"))
    for time in (file["created_at"], file["updated_at"]):
        assert time.endswith(("Z", "+00:00"))
        assert abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()) < 60
    assert file["created_at"] == file["updated_at"]
    served = http.get(file["url"])
    assert served.content == data
    assert served.headers["etag"] == response.headers["etag"]


# PUT


@pytest.mark.parametrize("data", [DATA, b"", b"x"], ids=["many bytes", "empty", "one byte"])
@pytest.mark.parametrize("chunked", [False, True])
@each_backend
def test_put_a_new_file(http: httpx.Client, folder: str, data: bytes, chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), 7777):
            yield data[start : start + 7777]

    response = put(http, f"{folder}/sub folder/film.mp4", pieces() if chunked else data)
    assert ("transfer-encoding" in response.request.headers) is chunked
    check_file(response, f"{folder}/sub folder", "film.mp4", data, http)


def test_chunks_of_all_sizes_in_one_go(http: httpx.Client, connect: Any, folder: str) -> None:
    """Several come before the program has taken the first, and some come alone."""
    pieces = [bytes([number % 251]) * size for number, size in enumerate([1, 2, 70_000, 1, 300_000, 3] * 4)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    connection = connect()
    connection.request("PUT", f"/files/{folder}/film.mp4", "Transfer-Encoding: chunked", body=chunks)
    assert connection.receive_response("PUT").status_code == 201
    assert http.get(f"/files/{folder}/film.mp4").content == b"".join(pieces)


def test_put_at_the_top(http: httpx.Client, folder: str) -> None:
    try:
        check_file(put(http, f"{folder}.mp4", DATA), "", f"{folder}.mp4", DATA, http)
    finally:
        http.delete(f"/files/{folder}.mp4")


def test_put_without_any_length_is_an_empty_file(
    send_request: SendRequest, http: httpx.Client, folder: str
) -> None:
    check_file(send_request("PUT", f"/files/{folder}/film.mp4"), folder, "film.mp4", b"", http)


@each_backend
def test_put_over_a_file(http: httpx.Client, folder: str, list_files: ListFiles) -> None:
    created = put(http, f"{folder}/film.mp4", DATA).json()
    response = put(http, f"{folder}/film.mp4", b"other", content_type="video/webm")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["repr-digest"] == digest(b"other")
    (file,) = list_files(folder).values()
    assert response.headers["etag"] == f'"{file["etag"]}"' != f'"{created["etag"]}"'
    assert (file["size"], file["mimetype"]) == (5, "video/webm")
    assert file["sha256"] == hashlib.sha256(b"other").hexdigest()
    assert http.get(file["url"]).content == b"other"


@each_backend
def test_if_none_match_star_creates_and_never_overwrites(
    http: httpx.Client, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    check_file(put(http, f"{folder}/film.mp4", DATA, if_none_match="*"), folder, "film.mp4", DATA, http)
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", b"x", if_none_match="*"), 412)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("If-Match", "{tag}", 204),
        ("If-Match", "*", 204),
        ("If-Match", '"a", {tag}', 204),
        ("If-Match", '"stale"', 412),
        ("If-Match", "W/{tag}", 412),
        ("If-Match", "malformed", 412),
        ("If-Match", "", 412),
        ("If-None-Match", '"other"', 204),
        ("If-None-Match", "{tag}", 412),
        ("If-None-Match", "W/{tag}", 412),
        ("If-Unmodified-Since", "Mon, 01 Jan 2024 00:00:00 GMT", 412),
        ("If-Unmodified-Since", "Mon, 01 Jan 2099 00:00:00 GMT", 204),
        ("If-Unmodified-Since", "nonsense", 204),
        ("If-Modified-Since", "Mon, 01 Jan 2099 00:00:00 GMT", 204),  # of no consequence for a write
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_conditions_on_a_file(
    http: httpx.Client,
    send_request: SendRequest,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    method: str,
    field: str,
    value: str,
    status: int,
) -> None:
    tag = put(http, f"{folder}/film.mp4", DATA).headers["etag"]
    header = f"{field}: {value.format(tag=tag)}"
    body = b"new" if method == "PUT" else None
    if status == 412:
        with storage_unchanged():
            check_problem(send_request(method, f"/files/{folder}/film.mp4", header, body=body), 412)
        assert http.get(f"/files/{folder}/film.mp4").content == DATA
        return
    assert send_request(method, f"/files/{folder}/film.mp4", header, body=body).status_code == 204
    now = http.get(f"/files/{folder}/film.mp4")
    assert (now.status_code, now.content) == (200, b"new") if method == "PUT" else now.status_code == 404


@pytest.mark.parametrize("value", ['"x"', "*", "malformed"])
def test_if_match_on_a_missing_file(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    value: str,
) -> None:
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", DATA, if_match=value), 412)
        # RFC 9110 13.2.1: where the answer without the condition is no 2xx, that one is given.
        check_problem(http.delete(f"/files/{folder}/film.mp4", headers={"if-match": value}), 404)


@pytest.mark.parametrize("value", ["bytes 0-2/3", "bytes */3", "nonsense", ""])
@pytest.mark.parametrize("exists", [False, True])
def test_a_partial_put_is_refused(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    value: str,
    exists: bool,
) -> None:
    if exists:
        put(http, f"{folder}/film.mp4", DATA)
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", b"abc", content_range=value), 400)


@pytest.mark.parametrize("field", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize(
    ("value", "right"),
    [
        (digest(DATA), True),
        (f"{digest(DATA, 'sha512')}, {digest(DATA)}", True),
        ("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", True),  # one that is not computed here is not judged
        (digest(b"other"), False),
        (f"{digest(DATA)}, {digest(b'other')}", False),
        (digest(DATA)[:-3] + ":", False),
        ("sha-256=abc", False),
        (f"sha-256={hashlib.sha256(DATA).hexdigest()}", False),
        ("sha-256=:AAAA:", False),
        ("sha-256", False),
        (",,", False),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_digests(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    field: str,
    value: str,
    right: bool,
    chunked: bool,
) -> None:
    def send(path: str) -> httpx.Response:
        return http.put(path, content=iter([DATA]) if chunked else DATA, headers={field: value})

    if right:
        check_file(send(f"/files/{folder}/film.mp4"), folder, "film.mp4", DATA, http)
        return
    with storage_unchanged():
        check_problem(send(f"/files/{folder}/film.mp4"), 400)
    put(http, f"{folder}/old.mp4", b"old")
    with storage_unchanged():
        check_problem(send(f"/files/{folder}/old.mp4"), 400)
    assert http.get(f"/files/{folder}/old.mp4").content == b"old"


def in_base64(algorithm: str, data: bytes = DATA) -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("Content-MD5", in_base64("md5"), in_base64("md5", b"other")),
        ("Digest", f"SHA-256={in_base64('sha256')}", f"SHA-256={in_base64('sha256', b'other')}"),
        ("Digest", f"md5={in_base64('md5')},sha={in_base64('sha1')}", f"sha={in_base64('sha1', b'other')}"),
        ("Digest", "UNIXsum=1", f"UNIXsum=1, sha-512={in_base64('sha512', b'other')}"),
        ("Content-Digest", digest(DATA, "sha512"), digest(b"other", "sha512")),
        ("Repr-Digest", digest(DATA, "sha512"), f"{digest(DATA)}, {digest(b'other', 'sha512')}"),
        ("Repr-Digest", digest(DATA, "sha512"), "sha-512=:YQ==:"),
    ],
)
def test_other_digests(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    field: str,
    right: str,
    wrong: str,
) -> None:
    path = f"/files/{folder}/film.mp4"
    with storage_unchanged():
        check_problem(http.put(path, content=DATA, headers={field: wrong}), 400)
    check_file(http.put(path, content=DATA, headers={field: right}), folder, "film.mp4", DATA, http)


def test_two_digests_that_disagree(
    http: httpx.Client, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    with storage_unchanged():
        both = {"content_digest": digest(DATA), "repr_digest": digest(b"x")}
        check_problem(put(http, f"{folder}/film.mp4", DATA, **both), 400)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x-unknown"])
def test_an_encoded_body_is_refused(
    http: httpx.Client,
    folder: str,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    coding: str,
) -> None:
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", DATA, content_encoding=coding), 415)
        file = part("file", DATA, filename="film.mp4")
        check_problem(
            send_form(file, query=f"?folder={folder}", headers=(f"Content-Encoding: {coding}",)), 415
        )
    assert put(http, f"{folder}/film.mp4", DATA, content_encoding="identity").status_code == 201


# Forms


@pytest.mark.parametrize(
    "data", [DATA, b"", b"\r\n--xxBOUNDARYx", b"\r\n" * 99], ids=["bytes", "empty", "almost", "lines"]
)
@pytest.mark.parametrize("where", ["before", "after", "query", "both"])
def test_a_form(http: httpx.Client, part: Part, send_form: Any, folder: str, data: bytes, where: str) -> None:
    inside = f"{folder}/a b/ü"
    file, field = part("file", data, filename="film.mp4"), part("folder", inside.encode())
    query = f"?folder={quote(inside)}"
    response = {
        "before": lambda: send_form(field, file),
        "after": lambda: send_form(file, field),
        "query": lambda: send_form(file, query=query),
        "both": lambda: send_form(part("sid", b"7"), file, field, query=f"{query}&sid=7"),
    }[where]()
    check_file(response, inside, "film.mp4", data, http)


def test_a_form_at_the_top(http: httpx.Client, part: Part, send_form: Any, folder: str) -> None:
    name = f"{folder}.mp4"
    file = part("file", DATA, filename=name)
    try:
        check_file(send_form(file), "", name, DATA, http)
        for parts in ((file,), (part("folder", b""), file), (file, part("folder", b""))):
            assert send_form(*parts).status_code == 409
    finally:
        http.delete(f"/files/{name}")


@each_backend
def test_a_form_in_chunks(http: httpx.Client, folder: str) -> None:
    request = http.build_request(
        "POST", "/file/upload", data={"folder": folder}, files={"file": ("a.mp4", DATA)}
    )
    body = request.read()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 999):
            yield body[start : start + 999]

    kind = {"content-type": request.headers["content-type"]}
    response = http.post("/file/upload", content=pieces(), headers=kind)
    assert response.request.headers["transfer-encoding"] == "chunked"
    check_file(response, folder, "a.mp4", DATA, http)


@each_backend
def test_a_form_never_overwrites(
    http: httpx.Client,
    part: Part,
    send_form: Any,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    file, field = part("file", b"first", filename="film.mp4"), part("folder", folder.encode())
    assert send_form(file, field).status_code == 201
    with storage_unchanged():
        for parts in ((file, field), (field, file)):
            check_problem(send_form(*parts), 409)
        check_problem(send_form(file, query=f"?folder={folder}"), 409)
    assert http.get(f"/files/{folder}/film.mp4").content == b"first"


def test_a_folder_said_twice_and_differently(
    part: Part, send_form: Any, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    file = part("file", DATA, filename="film.mp4")
    with storage_unchanged():
        check_problem(send_form(part("folder", b"other"), file, query=f"?folder={folder}"), 400)
        check_problem(send_form(part("folder", folder.encode()), part("folder", b"other"), file), 400)


# Files and folders


@each_backend
def test_a_file_and_a_folder_cannot_share_a_path(
    http: httpx.Client,
    part: Part,
    send_form: Any,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    put(http, f"{folder}/taken", DATA)
    put(http, f"{folder}/inner/film.mp4", DATA)
    with storage_unchanged():
        for below in (f"{folder}/taken/film.mp4", f"{folder}/taken/deep/er/film.mp4"):
            assert "'taken' is no folder" in check_problem(put(http, below, DATA), 409)
            check_problem(put(http, below, DATA, if_none_match='"x"'), 409)
            inside, _, name = below.rpartition("/")
            for order in (1, -1):
                parts = [part("folder", inside.encode()), part("file", DATA, filename=name)]
                check_problem(send_form(*parts[::order]), 409)
        check_problem(put(http, f"{folder}/inner", DATA), 409)
        check_problem(send_form(part("file", DATA, filename="inner"), query=f"?folder={folder}"), 409)
        check_problem(http.delete(f"/files/{folder}/inner"), 404)
    # The folder exists while a file has it, and no longer.
    assert http.delete(f"/files/{folder}/inner/film.mp4").status_code == 204
    assert put(http, f"{folder}/inner", DATA).status_code == 201
    assert http.delete(f"/files/{folder}/taken").status_code == 204
    assert put(http, f"{folder}/taken/film.mp4", DATA).status_code == 201


# Delete


@each_backend
def test_delete(http: httpx.Client, folder: str, check_problem: CheckProblem, list_files: ListFiles) -> None:
    put(http, f"{folder}/a/b/film.mp4", DATA)
    put(http, f"{folder}/other.mp4", DATA)
    response = http.delete(f"/files/{folder}/a/b/film.mp4")
    assert (response.status_code, response.content) == (204, b"")
    for missing in (f"{folder}/a/b/film.mp4", f"{folder}/a/b", f"{folder}/a", f"{folder}/none"):
        check_problem(http.delete(f"/files/{missing}"), 404)
    assert list(list_files(folder)) == [f"{folder}/other.mp4"]
    assert http.get("/files", params={"folder": folder}).json()["folders"] == []
    check_file(put(http, f"{folder}/a/b/film.mp4", b"again"), f"{folder}/a/b", "film.mp4", b"again", http)


# Limits


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[tuple[Server, httpx.Client]]:
    """A server that takes small files only."""
    folder = tmp_path_factory.mktemp("small")
    with running(folder, max_upload_size=MAX_SIZE, **new_library()) as server, server.client() as client:
        yield server, client


@pytest.mark.parametrize("way", ["put", "put chunked", "form", "form chunked"])
def test_too_large(
    small: tuple[Server, httpx.Client],
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    way: str,
) -> None:
    server, http = small

    def send(size: int) -> httpx.Response:
        data = b"x" * size
        if way.startswith("put"):
            return http.put(f"/files/{folder}.mp4", content=iter([data]) if "chunked" in way else data)
        request = http.build_request("POST", "/file/upload", files={"file": (f"{folder}.mp4", data)})
        kind = {"content-type": request.headers["content-type"]}
        body = request.read()
        return http.post("/file/upload", content=iter([body]) if "chunked" in way else body, headers=kind)

    with storage_unchanged(server):
        for size in (MAX_SIZE + 1, MAX_SIZE * 10, 5_000_000):
            check_problem(send(size), 413)
    assert send(MAX_SIZE).status_code == 201


# Refused before the body has come


def start_form(folder: str, part: Part, announced: int, name: str = "film.mp4", field: bool = True) -> bytes:
    """The head of a form, and the first bytes of the file in it."""
    beginning = part("folder", folder.encode()) if field else b""
    beginning += part("file", b"x" * 5000, filename=name)[:-2]
    query = "" if field else f"?folder={folder}"
    lines = f"POST /file/upload{query} HTTP/1.1", "Host: localhost", FORM_TYPE, f"Content-Length: {announced}"
    return "\r\n".join([*lines, "", ""]).encode() + beginning


EARLY = 50_000_000


@pytest.mark.parametrize("field", [True, False], ids=["folder in a field", "folder in the query"])
def test_a_taken_name_is_refused_early(
    http: httpx.Client,
    connect: Any,
    part: Part,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    field: bool,
) -> None:
    put(http, f"{folder}/film.mp4", DATA)
    with storage_unchanged():
        connection = connect()
        connection.send(start_form(folder, part, EARLY, field=field))
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


def test_a_taken_name_is_refused_as_soon_as_it_is_known(
    http: httpx.Client,
    connect: Any,
    part: Part,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    put(http, f"{folder}/film.mp4", DATA)
    form = part("file", DATA, filename="film.mp4") + part("folder", folder.encode())
    with storage_unchanged():
        connection = connect()
        connection.request("POST", "/file/upload", FORM_TYPE, f"Content-Length: {EARLY}", body=form)
        # The field ends where the next boundary begins.
        connection.send(b"--xxBOUNDARYxx\r\n")
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


def test_a_folder_in_the_way_is_refused_early(
    http: httpx.Client,
    connect: Any,
    part: Part,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    put(http, f"{folder}/film.mp4", DATA)
    with storage_unchanged():
        connection = connect()
        connection.send(start_form(f"{folder}/film.mp4", part, EARLY))
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


@pytest.mark.parametrize("name", ["..", "a\\b"])
def test_a_bad_name_is_refused_early(
    connect: Any,
    part: Part,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    name: str,
) -> None:
    with storage_unchanged():
        connection = connect()
        connection.send(start_form(folder, part, EARLY, name=name))
        check_problem(connection.receive_response("POST"), 400)
        connection.close()


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sending at once", "100-continue"])
@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("film.mp4", ("If-None-Match: *",), 412),
        ("film.mp4", ('If-Match: "stale"',), 412),
        ("none.mp4", ("If-Match: *",), 412),
        ("film.mp4/below", (), 409),
        ("film.mp4", ("Content-Range: bytes 0-1/2",), 400),
        ("film.mp4", ("Content-Digest: sha-256=:AAAA:",), 400),
        ("film.mp4", ("Content-Encoding: gzip",), 415),
        ("film.mp4", ("Sec-Fetch-Site: cross-site",), 403),
        ("a%00", (), 400),
        ("..", (), 400),
    ],
)
def test_a_put_is_refused_before_its_body(
    http: httpx.Client,
    connect: Any,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    target: str,
    headers: tuple[str, ...],
    status: int,
    expect: tuple[str, ...],
) -> None:
    put(http, f"{folder}/film.mp4", DATA)
    with storage_unchanged():
        connection = connect()
        sent = b"" if expect else b"x" * 5000
        connection.request(
            "PUT", f"/files/{folder}/{target}", f"Content-Length: {EARLY}", *headers, *expect, body=sent
        )
        response = connection.receive_response("PUT")
        check_problem(response, status)
        assert response.extensions["interim"] == []
        connection.close()


def test_a_put_is_asked_for_its_body(connect: Any, http: httpx.Client, folder: str) -> None:
    connection = connect()
    length = f"Content-Length: {len(DATA)}"
    connection.request("PUT", f"/files/{folder}/film.mp4", "Expect: 100-continue", length)
    assert connection.socket.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100"
    connection.send(DATA)
    response = connection.receive_response("PUT")
    assert response.extensions["interim"] == [100]
    check_file(response, folder, "film.mp4", DATA, http)


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sending at once", "100-continue"])
def test_too_large_is_refused_early(
    small: tuple[Server, httpx.Client],
    connect: Any,
    part: Part,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    expect: tuple[str, ...],
) -> None:
    server, _ = small
    with storage_unchanged(server):
        connection = connect(server)
        connection.request("PUT", "/files/film.mp4", f"Content-Length: {EARLY}", *expect, body=b"")
        check_problem(connection.receive_response("PUT"), 413)
        connection.close()
        connection = connect(server)
        connection.request("POST", "/file/upload", FORM_TYPE, f"Content-Length: {EARLY}", *expect, body=b"")
        check_problem(connection.receive_response("POST"), 413)
        connection.close()


def test_too_large_in_chunks_is_refused_when_it_is(
    small: tuple[Server, httpx.Client],
    connect: Any,
    part: Part,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    server, _ = small
    form = part("file", b"x" * (MAX_SIZE + 1), filename="film.mp4")
    with storage_unchanged(server):
        for method, target, body in (
            ("PUT", "/files/film.mp4", b"x" * (MAX_SIZE + 1)),
            ("POST", "/file/upload", form),
        ):
            connection = connect(server)
            connection.request(
                method, target, FORM_TYPE if method == "POST" else "X: y", "Transfer-Encoding: chunked"
            )
            connection.send(f"{len(body):x}\r\n".encode() + body + b"\r\n")  # and more would follow
            check_problem(connection.receive_response(method), 413)
            connection.close()


# Uploads that end too soon


@pytest.mark.parametrize("exists", [False, True])
@each_backend
def test_an_upload_that_is_broken_off_stores_nothing(
    http: httpx.Client,
    connect: Any,
    part: Part,
    folder: str,
    storage_unchanged: StorageUnchanged,
    exists: bool,
) -> None:
    if exists:
        put(http, f"{folder}/film.mp4", b"old")
    name = "new.mp4" if exists else "film.mp4"
    raw = f"PUT /files/{folder}/film.mp4 HTTP/1.1\r\nHost: localhost\r\n"
    beginnings = [
        f"{raw}Content-Length: {len(DATA) + 1}\r\n\r\n".encode() + DATA,
        f"{raw}Transfer-Encoding: chunked\r\n\r\n{len(DATA):x}\r\n".encode() + DATA + b"\r\n",
        f"{raw}Transfer-Encoding: chunked\r\n\r\n{len(DATA) + 9:x}\r\n".encode() + DATA,
        start_form(folder, part, EARLY, name=name),
    ]
    with storage_unchanged():
        for beginning in beginnings:
            connection = connect()
            connection.send(beginning)
            connection.close()
    assert http.get(f"/files/{folder}/film.mp4").status_code == (200 if exists else 404)


def test_a_broken_chunk_stores_nothing(
    http: httpx.Client, connect: Any, folder: str, storage_unchanged: StorageUnchanged
) -> None:
    with storage_unchanged():
        for chunks in (
            b"5\r\nhello\r\nZZ\r\nx\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX0\r\n\r\n",
        ):
            connection = connect()
            connection.request("PUT", f"/files/{folder}/film.mp4", "Transfer-Encoding: chunked", body=chunks)
            assert connection.receive_response("PUT").status_code == 400
            connection.close()


@pytest.mark.parametrize(
    "body", ["Content-Length: 5\r\n\r\nother", "Transfer-Encoding: chunked\r\n\r\n5\r\nother\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "anything"])
def test_a_body_behind_an_upgrade_is_stored(
    connect: Callable[..., Any], http: httpx.Client, folder: str, upgrade: str, body: str
) -> None:
    target = f"/files/{folder}/film.mp4"
    connection = connect()
    connection.send(
        f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Upgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n{body}"
        f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    assert connection.receive_response("PUT").status_code == 201
    assert connection.receive_response().content == b"other"


def test_a_transfer_encoding_that_is_not_decoded(
    connect: Callable[..., Any], storage_unchanged: StorageUnchanged, folder: str, check_problem: CheckProblem
) -> None:
    with storage_unchanged():
        connection = connect()
        connection.send(
            f"PUT /files/{folder}/a.mp4 HTTP/1.1\r\nHost: localhost\r\n"
            "Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".encode()
        )
        check_problem(connection.receive_response("PUT"), 415)
        connection.close()


def test_an_empty_folder_in_the_url_says_nothing(http: httpx.Client, folder: str) -> None:
    http.put("/files/taken-at-the-top.mp4", content=b"top").raise_for_status()
    response = http.post(
        "/file/upload?folder=",
        files={"file": ("taken-at-the-top.mp4", b"below")},
        data={"folder": folder},
    )
    assert (response.status_code, response.json()["folder"]) == (201, folder)
    http.delete("/files/taken-at-the-top.mp4").raise_for_status()


def test_one_folder_may_be_named_twice(http: httpx.Client, folder: str) -> None:
    response = http.post(
        "/file/upload",
        params={"folder": f"{folder}/e\u0301"},
        files={"file": ("film.mp4", b"film")},
        data={"folder": f"{folder}/\u00e9"},
    )
    assert (response.status_code, response.json()["folder"]) == (201, f"{folder}/\u00e9")

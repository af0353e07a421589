"""Storing, replacing and deleting files: the response, when it is sent, and the stored result."""

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
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/files/{quote(path)}", content=data, headers=fields)


def check_file(response: httpx.Response, folder: str, name: str, data: bytes, http: httpx.Client) -> None:
    """Check every field and header of a 201, and the stored file."""
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
def test_put_creates_file(http: httpx.Client, folder: str, data: bytes, chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(data), 7777):
            yield data[start : start + 7777]

    response = put(http, f"{folder}/sub folder/film.mp4", chunks() if chunked else data)
    assert ("transfer-encoding" in response.request.headers) is chunked
    check_file(response, f"{folder}/sub folder", "film.mp4", data, http)


def test_put_accepts_chunks_of_all_sizes_in_one_write(http: httpx.Client, connect: Any, folder: str) -> None:
    """Some chunks arrive together before the program reads the first; some arrive alone."""
    contents = [bytes([number % 251]) * size for number, size in enumerate([1, 2, 70_000, 1, 300_000, 3] * 4)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in [*contents, b""])
    connection = connect()
    connection.request("PUT", f"/files/{folder}/film.mp4", "Transfer-Encoding: chunked", body=chunks)
    assert connection.receive_response("PUT").status_code == 201
    assert http.get(f"/files/{folder}/film.mp4").content == b"".join(contents)


def test_put_creates_file_at_top_level(http: httpx.Client, folder: str) -> None:
    try:
        check_file(put(http, f"{folder}.mp4", DATA), "", f"{folder}.mp4", DATA, http)
    finally:
        http.delete(f"/files/{folder}.mp4")


def test_put_without_length_creates_empty_file(
    send_request: SendRequest, http: httpx.Client, folder: str
) -> None:
    check_file(send_request("PUT", f"/files/{folder}/film.mp4"), folder, "film.mp4", b"", http)


@each_backend
def test_put_replaces_file(http: httpx.Client, folder: str, list_files: ListFiles) -> None:
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
def test_put_with_if_none_match_star_never_overwrites(
    http: httpx.Client, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    check_file(put(http, f"{folder}/film.mp4", DATA, if_none_match="*"), folder, "film.mp4", DATA, http)
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", b"x", if_none_match="*"), 412)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("If-Match", "{etag}", 204),
        ("If-Match", "*", 204),
        ("If-Match", '"a", {etag}', 204),
        ("If-Match", '"stale"', 412),
        ("If-Match", "W/{etag}", 412),
        ("If-Match", "malformed", 412),
        ("If-Match", "", 412),
        ("If-None-Match", '"other"', 204),
        ("If-None-Match", "{etag}", 412),
        ("If-None-Match", "W/{etag}", 412),
        ("If-Unmodified-Since", "Mon, 01 Jan 2024 00:00:00 GMT", 412),
        ("If-Unmodified-Since", "Mon, 01 Jan 2099 00:00:00 GMT", 204),
        ("If-Unmodified-Since", "nonsense", 204),
        ("If-Modified-Since", "Mon, 01 Jan 2099 00:00:00 GMT", 204),  # has no effect on a write
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_preconditions_guard_put_and_delete(
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
    etag = put(http, f"{folder}/film.mp4", DATA).headers["etag"]
    header = f"{field}: {value.format(etag=etag)}"
    body = b"new" if method == "PUT" else None
    if status == 412:
        with storage_unchanged():
            check_problem(send_request(method, f"/files/{folder}/film.mp4", header, body=body), 412)
        assert http.get(f"/files/{folder}/film.mp4").content == DATA
        return
    assert send_request(method, f"/files/{folder}/film.mp4", header, body=body).status_code == 204
    current = http.get(f"/files/{folder}/film.mp4")
    assert (
        (current.status_code, current.content) == (200, b"new")
        if method == "PUT"
        else current.status_code == 404
    )


@pytest.mark.parametrize("value", ['"x"', "*", "malformed"])
def test_if_match_fails_when_file_is_missing(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    value: str,
) -> None:
    with storage_unchanged():
        check_problem(put(http, f"{folder}/film.mp4", DATA, if_match=value), 412)
        # RFC 9110 §13.2.1: preconditions apply only where the response without them would be 2xx.
        check_problem(http.delete(f"/files/{folder}/film.mp4", headers={"if-match": value}), 404)


@pytest.mark.parametrize("value", ["bytes 0-2/3", "bytes */3", "nonsense", ""])
@pytest.mark.parametrize("exists", [False, True])
def test_partial_put_is_refused(
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
    ("value", "is_valid"),
    [
        (digest(DATA), True),
        (f"{digest(DATA, 'sha512')}, {digest(DATA)}", True),
        ("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", True),  # algorithms that the server does not compute are ignored
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
def test_content_digest_and_repr_digest_are_verified(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    field: str,
    value: str,
    is_valid: bool,
    chunked: bool,
) -> None:
    def send(path: str) -> httpx.Response:
        return http.put(path, content=iter([DATA]) if chunked else DATA, headers={field: value})

    if is_valid:
        check_file(send(f"/files/{folder}/film.mp4"), folder, "film.mp4", DATA, http)
        return
    with storage_unchanged():
        check_problem(send(f"/files/{folder}/film.mp4"), 400)
    put(http, f"{folder}/old.mp4", b"old")
    with storage_unchanged():
        check_problem(send(f"/files/{folder}/old.mp4"), 400)
    assert http.get(f"/files/{folder}/old.mp4").content == b"old"


def base64_digest(algorithm: str, data: bytes = DATA) -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


@pytest.mark.parametrize(
    ("field", "valid", "invalid"),
    [
        ("Content-MD5", base64_digest("md5"), base64_digest("md5", b"other")),
        ("Digest", f"SHA-256={base64_digest('sha256')}", f"SHA-256={base64_digest('sha256', b'other')}"),
        (
            "Digest",
            f"md5={base64_digest('md5')},sha={base64_digest('sha1')}",
            f"sha={base64_digest('sha1', b'other')}",
        ),
        ("Digest", "UNIXsum=1", f"UNIXsum=1, sha-512={base64_digest('sha512', b'other')}"),
        ("Content-Digest", digest(DATA, "sha512"), digest(b"other", "sha512")),
        ("Repr-Digest", digest(DATA, "sha512"), f"{digest(DATA)}, {digest(b'other', 'sha512')}"),
        ("Repr-Digest", digest(DATA, "sha512"), "sha-512=:YQ==:"),
    ],
)
def test_other_digest_fields_are_verified(
    http: httpx.Client,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    field: str,
    valid: str,
    invalid: str,
) -> None:
    path = f"/files/{folder}/film.mp4"
    with storage_unchanged():
        check_problem(http.put(path, content=DATA, headers={field: invalid}), 400)
    check_file(http.put(path, content=DATA, headers={field: valid}), folder, "film.mp4", DATA, http)


def test_put_is_refused_when_one_of_two_digests_is_wrong(
    http: httpx.Client, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    with storage_unchanged():
        digests = {"content_digest": digest(DATA), "repr_digest": digest(b"x")}
        check_problem(put(http, f"{folder}/film.mp4", DATA, **digests), 400)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x-unknown"])
def test_encoded_body_is_refused(
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
@pytest.mark.parametrize("folder_position", ["before", "after", "query", "both"])
def test_form_creates_file(
    http: httpx.Client, part: Part, send_form: Any, folder: str, data: bytes, folder_position: str
) -> None:
    target_folder = f"{folder}/a b/ü"
    file, field = part("file", data, filename="film.mp4"), part("folder", target_folder.encode())
    query = f"?folder={quote(target_folder)}"
    response = {
        "before": lambda: send_form(field, file),
        "after": lambda: send_form(file, field),
        "query": lambda: send_form(file, query=query),
        "both": lambda: send_form(part("sid", b"7"), file, field, query=f"{query}&sid=7"),
    }[folder_position]()
    check_file(response, target_folder, "film.mp4", data, http)


def test_form_creates_file_at_top_level(http: httpx.Client, part: Part, send_form: Any, folder: str) -> None:
    name = f"{folder}.mp4"
    file = part("file", DATA, filename=name)
    try:
        check_file(send_form(file), "", name, DATA, http)
        for parts in ((file,), (part("folder", b""), file), (file, part("folder", b""))):
            assert send_form(*parts).status_code == 409
    finally:
        http.delete(f"/files/{name}")


@each_backend
def test_chunked_form_creates_file(http: httpx.Client, folder: str) -> None:
    request = http.build_request(
        "POST", "/file/upload", data={"folder": folder}, files={"file": ("a.mp4", DATA)}
    )
    body = request.read()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 999):
            yield body[start : start + 999]

    headers = {"content-type": request.headers["content-type"]}
    response = http.post("/file/upload", content=chunks(), headers=headers)
    assert response.request.headers["transfer-encoding"] == "chunked"
    check_file(response, folder, "a.mp4", DATA, http)


@each_backend
def test_form_never_overwrites(
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


def test_form_is_refused_when_its_folders_differ(
    part: Part, send_form: Any, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    file = part("file", DATA, filename="film.mp4")
    with storage_unchanged():
        check_problem(send_form(part("folder", b"other"), file, query=f"?folder={folder}"), 400)
        check_problem(send_form(part("folder", folder.encode()), part("folder", b"other"), file), 400)


# Files and folders


@each_backend
def test_file_and_folder_cannot_share_a_path(
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
        for child_path in (f"{folder}/taken/film.mp4", f"{folder}/taken/deep/er/film.mp4"):
            assert "“taken” is a file, not a folder" in check_problem(put(http, child_path, DATA), 409)
            check_problem(put(http, child_path, DATA, if_none_match='"x"'), 409)
            target_folder, _, name = child_path.rpartition("/")
            for order in (1, -1):
                parts = [part("folder", target_folder.encode()), part("file", DATA, filename=name)]
                check_problem(send_form(*parts[::order]), 409)
        check_problem(put(http, f"{folder}/inner", DATA), 409)
        check_problem(send_form(part("file", DATA, filename="inner"), query=f"?folder={folder}"), 409)
        check_problem(http.delete(f"/files/{folder}/inner"), 404)
    # A folder exists as long as a file is in it.
    assert http.delete(f"/files/{folder}/inner/film.mp4").status_code == 204
    assert put(http, f"{folder}/inner", DATA).status_code == 201
    assert http.delete(f"/files/{folder}/taken").status_code == 204
    assert put(http, f"{folder}/taken/film.mp4", DATA).status_code == 201


@each_backend
def test_conflict_quotes_invisible_characters_as_escapes(
    http: httpx.Client, folder: str, check_problem: CheckProblem
) -> None:
    put(http, f"{folder}/file\u202e", DATA)
    put(http, f"{folder}/folder\u202e/film.mp4", DATA)
    for path, quoted in ((f"{folder}/file\u202e/film.mp4", "file"), (f"{folder}/folder\u202e", "folder")):
        assert f"“{quoted}\\u202e” is a " in check_problem(put(http, path, DATA), 409)


@each_backend
def test_conflict_names_path(
    http: httpx.Client,
    folder: str,
    send_form: Callable[..., httpx.Response],
    part: Part,
    check_problem: CheckProblem,
) -> None:
    name = f"{'a long name ' * 10}.mp4"
    taken, moving = f"{folder}/sub/{name}", f"{folder}/sub/moving.mp4"
    for path in (taken, moving):
        put(http, path, DATA)

    def move(folder: str, filename: str) -> httpx.Response:
        content_type = {"content-type": "application/merge-patch+json"}
        target = {"folder": folder, "filename": filename}
        return http.patch(f"/files/{quote(moving)}", json=target, headers=content_type)

    uploaded = send_form(part("file", DATA, filename=name), query=f"?folder={folder}/sub")
    for response in (uploaded, move(f"{folder}/sub", name)):
        assert check_problem(response, 409) == f"“{taken}” already exists. Choose another name."
    for response in (put(http, f"{taken}/below", DATA), move(taken, "below")):
        assert check_problem(response, 409).startswith(f"“{taken}/below” cannot be stored. ")
    for response in (put(http, f"{folder}/sub", DATA), move(folder, "sub")):
        detail = f"“{folder}/sub” cannot be stored. “sub” is a folder. Choose another name."
        assert check_problem(response, 409) == detail


# Delete


@each_backend
def test_delete_removes_file_and_empty_folders(
    http: httpx.Client, folder: str, check_problem: CheckProblem, list_files: ListFiles
) -> None:
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
def small_limit(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[tuple[Server, httpx.Client]]:
    """A server that accepts files of at most MAX_SIZE bytes."""
    folder = tmp_path_factory.mktemp("small")
    with running(folder, max_upload_size=MAX_SIZE, **new_library()) as server, server.client() as client:
        yield server, client


@pytest.mark.parametrize("upload_kind", ["put", "put chunked", "form", "form chunked"])
def test_upload_over_limit_is_refused(
    small_limit: tuple[Server, httpx.Client],
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    upload_kind: str,
) -> None:
    server, http = small_limit

    def send(size: int) -> httpx.Response:
        data = b"x" * size
        if upload_kind.startswith("put"):
            return http.put(
                f"/files/{folder}.mp4", content=iter([data]) if "chunked" in upload_kind else data
            )
        request = http.build_request("POST", "/file/upload", files={"file": (f"{folder}.mp4", data)})
        headers = {"content-type": request.headers["content-type"]}
        body = request.read()
        return http.post(
            "/file/upload", content=iter([body]) if "chunked" in upload_kind else body, headers=headers
        )

    with storage_unchanged(server):
        for size in (MAX_SIZE + 1, MAX_SIZE * 10, 5_000_000):
            check_problem(send(size), 413)
    assert send(MAX_SIZE).status_code == 201


# Refused before the body has arrived


def start_form(folder: str, part: Part, announced: int, name: str = "film.mp4", field: bool = True) -> bytes:
    """Return the head of a form request, and the first bytes of the file in the form."""
    partial_request = part("folder", folder.encode()) if field else b""
    partial_request += part("file", b"x" * 5000, filename=name)[:-2]
    query = "" if field else f"?folder={folder}"
    lines = f"POST /file/upload{query} HTTP/1.1", "Host: localhost", FORM_TYPE, f"Content-Length: {announced}"
    return "\r\n".join([*lines, "", ""]).encode() + partial_request


ANNOUNCED_SIZE = 50_000_000


@pytest.mark.parametrize("field", [True, False], ids=["folder in a field", "folder in the query"])
def test_form_is_refused_early_when_name_is_taken(
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
        connection.send(start_form(folder, part, ANNOUNCED_SIZE, field=field))
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


def test_form_is_refused_once_folder_field_shows_name_is_taken(
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
        connection.request("POST", "/file/upload", FORM_TYPE, f"Content-Length: {ANNOUNCED_SIZE}", body=form)
        # The field ends where the next boundary begins.
        connection.send(b"--xxBOUNDARYxx\r\n")
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


def test_form_is_refused_early_when_folder_path_is_a_file(
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
        connection.send(start_form(f"{folder}/film.mp4", part, ANNOUNCED_SIZE))
        check_problem(connection.receive_response("POST"), 409)
        connection.close()


@pytest.mark.parametrize("name", ["..", "a\\b"])
def test_form_is_refused_early_when_filename_is_invalid(
    connect: Any,
    part: Part,
    folder: str,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    name: str,
) -> None:
    with storage_unchanged():
        connection = connect()
        connection.send(start_form(folder, part, ANNOUNCED_SIZE, name=name))
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
def test_put_is_refused_before_its_body(
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
            "PUT",
            f"/files/{folder}/{target}",
            f"Content-Length: {ANNOUNCED_SIZE}",
            *headers,
            *expect,
            body=sent,
        )
        response = connection.receive_response("PUT")
        check_problem(response, status)
        assert response.extensions["interim"] == []
        connection.close()


def test_put_receives_100_continue(connect: Any, http: httpx.Client, folder: str) -> None:
    connection = connect()
    length = f"Content-Length: {len(DATA)}"
    connection.request("PUT", f"/files/{folder}/film.mp4", "Expect: 100-continue", length)
    assert connection.socket.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100"
    connection.send(DATA)
    response = connection.receive_response("PUT")
    assert response.extensions["interim"] == [100]
    check_file(response, folder, "film.mp4", DATA, http)


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sending at once", "100-continue"])
def test_upload_is_refused_early_when_announced_length_is_over_limit(
    small_limit: tuple[Server, httpx.Client],
    connect: Any,
    part: Part,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    expect: tuple[str, ...],
) -> None:
    server, _ = small_limit
    with storage_unchanged(server):
        connection = connect(server)
        connection.request("PUT", "/files/film.mp4", f"Content-Length: {ANNOUNCED_SIZE}", *expect, body=b"")
        check_problem(connection.receive_response("PUT"), 413)
        connection.close()
        connection = connect(server)
        connection.request(
            "POST", "/file/upload", FORM_TYPE, f"Content-Length: {ANNOUNCED_SIZE}", *expect, body=b""
        )
        check_problem(connection.receive_response("POST"), 413)
        connection.close()


def test_chunked_upload_is_refused_once_over_limit(
    small_limit: tuple[Server, httpx.Client],
    connect: Any,
    part: Part,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    server, _ = small_limit
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
            connection.send(f"{len(body):x}\r\n".encode() + body + b"\r\n")  # without the final chunk
            check_problem(connection.receive_response(method), 413)
            connection.close()


# Aborted uploads


@pytest.mark.parametrize("exists", [False, True])
@each_backend
def test_aborted_upload_stores_nothing(
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
    head = f"PUT /files/{folder}/film.mp4 HTTP/1.1\r\nHost: localhost\r\n"
    partial_requests = [
        f"{head}Content-Length: {len(DATA) + 1}\r\n\r\n".encode() + DATA,
        f"{head}Transfer-Encoding: chunked\r\n\r\n{len(DATA):x}\r\n".encode() + DATA + b"\r\n",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{len(DATA) + 9:x}\r\n".encode() + DATA,
        start_form(folder, part, ANNOUNCED_SIZE, name=name),
    ]
    with storage_unchanged():
        for partial_request in partial_requests:
            connection = connect()
            connection.send(partial_request)
            connection.close()
    assert http.get(f"/files/{folder}/film.mp4").status_code == (200 if exists else 404)


def test_malformed_chunk_stores_nothing(
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
def test_body_is_stored_when_request_asks_for_upgrade(
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


def test_undecodable_transfer_encoding_is_refused(
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


def test_empty_folder_in_query_yields_to_folder_field(http: httpx.Client, folder: str) -> None:
    http.put("/files/taken-at-the-top.mp4", content=b"top").raise_for_status()
    response = http.post(
        "/file/upload?folder=",
        files={"file": ("taken-at-the-top.mp4", b"below")},
        data={"folder": folder},
    )
    assert (response.status_code, response.json()["folder"]) == (201, folder)
    http.delete("/files/taken-at-the-top.mp4").raise_for_status()


def test_folder_may_be_given_twice_in_nfc_and_nfd(http: httpx.Client, folder: str) -> None:
    response = http.post(
        "/file/upload",
        params={"folder": f"{folder}/e\u0301"},
        files={"file": ("film.mp4", b"film")},
        data={"folder": f"{folder}/\u00e9"},
    )
    assert (response.status_code, response.json()["folder"]) == (201, f"{folder}/\u00e9")

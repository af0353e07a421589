"""PATCH /files/{path}: moves, renames and refusals."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support import Server, each_backend, running
from tests.support.beneath import beneath

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
ListFiles = Callable[..., dict[str, dict[str, Any]]]
File = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
DATA = bytes(range(256)) * 4


@pytest.fixture
def film(http: httpx.Client, folder: str) -> File:
    """A stored film, as its JSON."""
    headers = {"content-type": "video/mp4"}
    return http.put(f"/files/{folder}/film.mp4", content=DATA, headers=headers).raise_for_status().json()


@pytest.fixture(scope="module")
def unchanged_film(http: httpx.Client) -> Iterator[str]:
    """The path of a film that no test changes."""
    path = "test_patch/film.mp4"
    http.put(f"/files/{path}", content=DATA).raise_for_status()
    yield path
    http.delete(f"/files/{path}").raise_for_status()


def patch(http: httpx.Client, path: str, change: object, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.patch(
        f"/files/{quote(path)}", content=json.dumps(change), headers={"content-type": MERGE_PATCH, **fields}
    )


def after_move(http: httpx.Client, file: File, path: str) -> File:
    """Return the JSON that a file would have after a move to `path`."""
    folder, _, filename = path.rpartition("/")
    url = str(http.base_url.join(f"/files/{quote(path)}"))
    mimetype = {"mkv": "video/x-matroska"}.get(filename.rpartition(".")[2], file["mimetype"])
    names = {"path": path, "folder": folder, "filename": filename, "mimetype": mimetype}
    return file | names | {"url": url}


@pytest.mark.parametrize(
    ("content_type", "old", "new", "mimetype"),
    [
        ("application/octet-stream", "upload", "film.mkv", "video/x-matroska"),
        ("application/octet-stream", "film.mp4.part", "film.mp4", "video/mp4"),
        ("video/mp4", "film.mp4", "film", "video/mp4"),
        ("video/x-special", "film.mp4", "film.mkv", "video/x-special"),
        ("text/plain", "notes", "notes.html", "text/plain"),
    ],
)
@each_backend
def test_content_type_guessed_from_name_follows_rename(
    http: httpx.Client, folder: str, content_type: str, old: str, new: str, mimetype: str
) -> None:
    headers = {"content-type": content_type}
    http.put(f"/files/{folder}/{old}", content=DATA, headers=headers).raise_for_status()
    assert patch(http, f"{folder}/{old}", {"filename": new}).json()["mimetype"] == mimetype
    assert http.get(f"/files/{folder}/{new}").headers["content-type"].partition(";")[0] == mimetype


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"filename": "other name.mkv"}, "{0}/other name.mkv"),
        ({"folder": "{0}/new/deep"}, "{0}/new/deep/film.mp4"),
        ({"folder": "{0}/x", "filename": "y"}, "{0}/x/y"),
        ({"folder": None, "filename": "{0}.mp4"}, "{0}.mp4"),
        ({"folder": "", "filename": "{0}.mp4"}, "{0}.mp4"),
        ({"filename": "100% #1 ?&;=+ \"q\" 🎬 שלום.mp4"}, "{0}/100% #1 ?&;=+ \"q\" 🎬 שלום.mp4"),
        ({"filename": "Ame\u0301lie"}, "{0}/Am\u00e9lie"),
        ({"filename": "film.mp4"}, "{0}/film.mp4"),
        ({"folder": "{0}"}, "{0}/film.mp4"),
        ({}, "{0}/film.mp4"),
    ],
)  # fmt: skip
def test_move_changes_only_the_path(
    http: httpx.Client, list_files: ListFiles, folder: str, film: File, change: File, path: str
) -> None:
    change = {key: value and value.format(folder) for key, value in change.items()}
    expected = after_move(http, film, path.format(folder))
    response = patch(http, film["path"], change)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == expected
    assert response.headers["content-location"] == expected["url"]
    assert response.headers["etag"] == f'"{film["etag"]}"'
    try:
        for url in (expected["url"], film["stream_url"]):
            downloaded = http.get(url)
            assert (downloaded.status_code, downloaded.content, downloaded.headers["etag"]) == (
                200,
                DATA,
                response.headers["etag"],
            )
            assert downloaded.headers["content-type"] == expected["mimetype"]
        if expected["path"] != film["path"]:
            assert http.get(film["url"]).status_code == 404
        assert list_files(expected["folder"])[expected["path"]] == expected
        assert set(list_files(folder)) == {expected["path"]} - {f"{folder}.mp4"}
    finally:
        http.delete(expected["url"])


@each_backend
def test_folders_appear_and_disappear_with_their_files(http: httpx.Client, folder: str, film: File) -> None:
    assert patch(http, film["path"], {"folder": f"{folder}/a/b/c"}).status_code == 200
    assert http.get("/files", params={"folder": folder}).json()["folders"] == ["a"]
    back = patch(http, f"{folder}/a/b/c/film.mp4", {"folder": folder})
    assert back.json() == film
    assert http.get("/files", params={"folder": folder}).json()["folders"] == []
    assert patch(http, film["path"], {"folder": f"{folder}/z"}).status_code == 200
    assert http.get("/files", params={"folder": folder}).json()["folders"] == ["z"]


def test_folders_on_disk_appear_and_disappear_with_their_files(tmp_path: Path) -> None:
    with running(tmp_path, storage="filesystem") as server, server.client() as http:
        http.put("/files/films/film.mp4", content=DATA).raise_for_status()
        for source, destination in (("films", "films/a/b/c"), ("films/a/b/c", "films"), ("films", "films/z")):
            assert patch(http, f"{source}/film.mp4", {"folder": destination}).status_code == 200
        names = {path.name for path in (server.files / "films").rglob("*")}
        assert names == {"z", "film.mp4"}
        assert (server.files / "films" / "z" / "film.mp4").read_bytes() == DATA


@each_backend
def test_move_is_refused_when_name_is_taken(
    http: httpx.Client, check_problem: CheckProblem, list_files: ListFiles, folder: str, film: File
) -> None:
    http.put(f"/files/{folder}/other.mp4", content=b"other").raise_for_status()
    earlier = list_files(folder)
    check_problem(patch(http, film["path"], {"filename": "other.mp4"}), 409)
    # Neither into a file, nor onto a folder.
    check_problem(patch(http, film["path"], {"folder": f"{folder}/other.mp4"}), 409)
    check_problem(patch(http, film["path"], {"folder": film["path"]}), 409)
    check_problem(patch(http, film["path"], {"folder": None, "filename": folder}), 409)
    assert list_files(folder) == earlier
    assert http.get(f"/files/{folder}/other.mp4").content == b"other"


def test_patch_is_404_when_file_is_missing(
    http: httpx.Client, check_problem: CheckProblem, folder: str
) -> None:
    check_problem(patch(http, f"{folder}/none", {"filename": "x"}), 404)
    check_problem(patch(http, f"{folder}/none", {}), 404)
    check_problem(patch(http, folder, {"filename": "x"}), 404)


INVALID_BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "more than JSON": b"{} {}",
    "a list": b"[]",
    "a string": b'"film.mp4"',
    "null": b"null",
    "a number": b"1",
    "not a number": b"NaN",
    "many digits": b"9" * 5000,
    "not UTF-8": b'{"filename": "\xff"}',
    "UTF-16": '{"filename": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"filename": "x"}',
    "deep": b"[" * 60_000,
    "deep in a member": b'{"filename": ' + b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000,
    "a member twice": b'{"filename": "x", "filename": "y"}',
    "an unknown member": b'{"filename": "x", "size": 1}',
    "a long unknown member": b'{"%s": 1}' % (b"x" * 60_000),
    "an unknown null": b'{"size": null}',
    "the path": b'{"path": "x"}',
    "another case": b'{"Filename": "x"}',
    "a filename of null": b'{"filename": null}',
    "a filename of 1": b'{"filename": 1}',
    "a filename of lists": b'{"filename": ["x"]}',
    "a filename of objects": b'{"filename": {"x": "y"}}',
    "a folder of false": b'{"folder": false}',
    "a folder of lists": b'{"folder": []}',
    "an empty filename": b'{"filename": ""}',
    "a dot": b'{"filename": "."}',
    "two dots": b'{"filename": ".."}',
    "a slash": b'{"filename": "a/b"}',
    "a backslash": rb'{"filename": "a\\b"}',
    "NUL": rb'{"filename": "a\u0000"}',
    "a line break": rb'{"filename": "a\r\nX: y"}',
    "a lone surrogate": rb'{"filename": "\ud800"}',
    "an unknown lone surrogate": rb'{"\ud800": 1}',
    "a long filename": b'{"filename": "%s"}' % (b"x" * 256),
    "a very long filename": b'{"filename": "%s"}' % (b"x" * 60_000),
    "an absolute folder": b'{"folder": "/a"}',
    "a folder with a slash at its end": b'{"folder": "a/"}',
    "a folder upwards": b'{"folder": "../a"}',
    "an empty segment": b'{"folder": "a//b"}',
    "a deep folder": b'{"folder": "%s"}' % b"/".join([b"a"] * 32),
    "our own folder": b'{"folder": ".seekable"}',
    "our own name": b'{"folder": null, "filename": ".seekable"}',
}


@pytest.mark.parametrize("body", INVALID_BODIES.values(), ids=INVALID_BODIES)
def test_malformed_patch_is_refused(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: Any,
    unchanged_film: str,
    body: bytes,
) -> None:
    with storage_unchanged():
        response = send_request(
            "PATCH", f"/files/{unchanged_film}", f"Content-Type: {MERGE_PATCH}", body=body
        )
        check_problem(response, 400)
        assert len(response.content) < 1000, "the response does not echo the whole body"
        assert "x" not in response.headers


def test_refusal_names_the_immutable_members(
    http: httpx.Client, check_problem: CheckProblem, film: File
) -> None:
    detail = check_problem(patch(http, film["path"], {"size": 1, "filename": "x", "owner": None}), 400)
    assert "size, owner" in detail
    assert "folder and filename" in detail


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Type: application/json",),
        ("Content-Type: application/x-www-form-urlencoded",),
        ("Content-Type: application/merge-patch",),
        ("Content-Type: ",),
        (f"Content-Type: {MERGE_PATCH}", "Content-Encoding: gzip"),
    ],
)
def test_patch_of_other_content_type_is_refused(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: Any,
    folder: str,
    film: File,
    headers: tuple[str, ...],
) -> None:
    with storage_unchanged():
        response = send_request("PATCH", f"/files/{folder}/film.mp4", *headers, body=b'{"filename": "x"}')
        detail = check_problem(response, 415)
        assert response.headers["accept-patch"] == MERGE_PATCH
        assert MERGE_PATCH in detail or "Encoding" in detail


def test_patch_with_unsupported_transfer_encoding_is_refused(
    send_request: SendRequest, check_problem: CheckProblem, folder: str, film: File
) -> None:
    headers = f"Content-Type: {MERGE_PATCH}", "Transfer-Encoding: gzip, chunked"
    body = b'11\r\n{"filename": "x"}\r\n0\r\n\r\n'
    assert "chunked" in check_problem(
        send_request("PATCH", f"/files/{folder}/film.mp4", *headers, body=body), 415
    )


@pytest.mark.parametrize(
    "content_type", [f"{MERGE_PATCH}; charset=utf-8", MERGE_PATCH.upper(), f'{MERGE_PATCH} ;charset="UTF-8"']
)
def test_patch_content_type_may_have_parameters(
    send_request: SendRequest, folder: str, film: File, content_type: str
) -> None:
    response = send_request(
        "PATCH", f"/files/{folder}/film.mp4", f"Content-Type: {content_type}", body=b'{"filename": "x"}'
    )
    assert response.status_code == 200


@pytest.mark.parametrize("has_length", [True, False])
def test_patch_body_has_a_limit(
    send_request: SendRequest,
    connect: Any,
    check_problem: CheckProblem,
    storage_unchanged: Any,
    folder: str,
    film: File,
    has_length: bool,
) -> None:
    content_type, target = f"Content-Type: {MERGE_PATCH}", f"/files/{folder}/film.mp4"
    padded = b'{"filename": "film.mp4"}'.ljust(64 << 10)
    with storage_unchanged():
        assert send_request("PATCH", target, content_type, body=padded).status_code == 200
        if has_length:
            check_problem(
                send_request("PATCH", target, content_type, f"Content-Length: {1 << 40}", body=b""), 413
            )
        else:
            chunk = b"10001\r\n" + padded + b" \r\n"
            connection = connect()
            connection.request("PATCH", target, content_type, "Transfer-Encoding: chunked", body=chunk)
            check_problem(connection.receive_response(), 413)


def test_preconditions_guard_patch(
    http: httpx.Client, check_problem: CheckProblem, film: File, folder: str
) -> None:
    path, etag = film["path"], f'"{film["etag"]}"'
    updated_at = datetime.fromisoformat(film["updated_at"])
    earlier = format_datetime((updated_at - timedelta(seconds=5)).replace(microsecond=0), usegmt=True)
    for precondition in (
        {"if_match": '"stale"'},
        {"if_match": f"W/{etag}"},
        {"if_none_match": "*"},
        {"if_none_match": etag},
        {"if_unmodified_since": earlier},
    ):
        for change in ({"filename": "other.mp4"}, {}):
            check_problem(patch(http, path, change, **precondition), 412)
    check_problem(patch(http, f"{folder}/none", {"filename": "x"}, if_match="*"), 404)
    assert patch(http, path, {"filename": "other.mp4"}, if_match=etag).json()["etag"] == film["etag"]
    assert patch(http, f"{folder}/other.mp4", {"filename": "film.mp4"}, if_match="*").json() == film


@each_backend
def test_running_download_continues_after_move(connect: Any, http: httpx.Client, folder: str) -> None:
    data = bytes(range(256)) * 80_000  # more than the socket buffers hold
    file = http.put(f"/files/{folder}/long.mp4", content=data).json()
    connection = connect()
    connection.request("GET", f"/files/{folder}/long.mp4")
    connection.receive_more()
    assert patch(http, file["path"], {"folder": f"{folder}/elsewhere"}).status_code == 200
    response = connection.receive_response()
    assert response.headers["etag"] == f'"{file["etag"]}"'
    assert response.content == data


@each_backend
def test_one_of_racing_moves_to_one_name_wins(http: httpx.Client, server: Server, folder: str) -> None:
    paths = [f"{folder}/{number}/film.mp4" for number in range(12)]
    for path in paths:
        http.put(f"/files/{path}", content=path.encode()).raise_for_status()

    def move(path: str) -> int:
        with server.client() as client:
            return patch(client, path, {"folder": f"{folder}/one", "filename": "name"}).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(move, paths))
    assert sorted(statuses) == [200] + [409] * 11
    winner = paths[statuses.index(200)]
    assert http.get(f"/files/{folder}/one/name").content == winner.encode()
    assert [http.get(f"/files/{path}").status_code for path in paths].count(404) == 1


@each_backend
def test_move_or_replacement_of_one_version_wins(http: httpx.Client, server: Server, folder: str) -> None:
    """If-Match must still hold when the change is made, however long it waits for the write lock."""
    with ThreadPoolExecutor(10) as pool, server.client() as client:

        def put(path: str, data: bytes, etag: str = "*") -> int:
            return client.put(f"/files/{folder}/{path}", content=data, headers={"if-match": etag}).status_code

        def move(path: str, etag: str) -> int:
            return patch(client, f"{folder}/{path}", {"filename": f"{path}-moved"}, if_match=etag).status_code

        for number in range(6):
            http.put(f"/files/{folder}/other{number}", content=b"x").raise_for_status()
        for attempt in range(5):
            path = f"{attempt}.mp4"
            etag = f'"{http.put(f"/files/{folder}/{path}", content=b"first").json()["etag"]}"'
            uploads = [pool.submit(put, f"other{number}", b"%d" % attempt) for number in range(6)]
            replacing, moving = pool.submit(put, path, b"second", etag), pool.submit(move, path, etag)
            assert (replacing.result(), moving.result()) in ((204, 412), (412, 200))
            assert {upload.result() for upload in uploads} == {204}


@each_backend
def test_move_fails_when_another_process_replaces_the_version(
    http: httpx.Client, server: Server, check_problem: CheckProblem, film: File
) -> None:
    """The preconditions are read while the other process writes; the move waits for its commit."""
    with ThreadPoolExecutor(1) as pool:
        with beneath(server).replaced(film["id"]):
            moving = pool.submit(patch, http, film["path"], {"filename": "x"}, if_match=f'"{film["etag"]}"')
            with pytest.raises(TimeoutError):
                moving.result(timeout=0.5)
        check_problem(moving.result(), 412)
    assert http.get(film["url"]).headers["etag"] == '"newer"'


def test_patch_from_other_site_is_refused(
    send_request: SendRequest, check_problem: CheckProblem, storage_unchanged: Any, folder: str, film: File
) -> None:
    with storage_unchanged():
        headers = f"Content-Type: {MERGE_PATCH}", "Origin: https://evil.example"
        check_problem(
            send_request("PATCH", f"/files/{folder}/film.mp4", *headers, body=b'{"filename": "x"}'), 403
        )


def test_allow_includes_patch(send_request: SendRequest, folder: str) -> None:
    response = send_request("POST", f"/files/{folder}/film.mp4", body=b"")
    assert response.status_code == 405
    assert {"GET", "HEAD", "PUT", "PATCH", "DELETE"} == set(response.headers["allow"].split(", "))

"""PATCH /files/{path}: moving and renaming, and what it refuses."""

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

KIND = "application/merge-patch+json"
DATA = bytes(range(256)) * 4


@pytest.fixture
def film(http: httpx.Client, folder: str) -> File:
    """A stored film, as its JSON."""
    headers = {"content-type": "video/mp4"}
    return http.put(f"/files/{folder}/film.mp4", content=DATA, headers=headers).raise_for_status().json()


@pytest.fixture(scope="module")
def kept(http: httpx.Client) -> Iterator[str]:
    """The path of a film that every test leaves as it is."""
    path = "test_patch/film.mp4"
    http.put(f"/files/{path}", content=DATA).raise_for_status()
    yield path
    http.delete(f"/files/{path}").raise_for_status()


def patch(http: httpx.Client, path: str, change: object, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.patch(
        f"/files/{quote(path)}", content=json.dumps(change), headers={"content-type": KIND, **named}
    )


def moved(http: httpx.Client, file: File, path: str) -> File:
    """The JSON of a file, if it were there."""
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
def test_a_type_that_a_name_suggested_follows_the_name(
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
def test_a_move_changes_the_place_and_nothing_else(
    http: httpx.Client, list_files: ListFiles, folder: str, film: File, change: File, path: str
) -> None:
    change = {key: value and value.format(folder) for key, value in change.items()}
    wanted = moved(http, film, path.format(folder))
    response = patch(http, film["path"], change)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == wanted
    assert response.headers["content-location"] == wanted["url"]
    assert response.headers["etag"] == f'"{film["etag"]}"'
    try:
        for url in (wanted["url"], film["stream_url"]):
            got = http.get(url)
            assert (got.status_code, got.content, got.headers["etag"]) == (
                200,
                DATA,
                response.headers["etag"],
            )
            assert got.headers["content-type"] == wanted["mimetype"]
        if wanted["path"] != film["path"]:
            assert http.get(film["url"]).status_code == 404
        assert list_files(wanted["folder"])[wanted["path"]] == wanted
        assert set(list_files(folder)) == {wanted["path"]} - {f"{folder}.mp4"}
    finally:
        http.delete(wanted["url"])


@each_backend
def test_folders_come_and_go_with_their_files(http: httpx.Client, folder: str, film: File) -> None:
    assert patch(http, film["path"], {"folder": f"{folder}/a/b/c"}).status_code == 200
    assert http.get("/files", params={"folder": folder}).json()["folders"] == ["a"]
    back = patch(http, f"{folder}/a/b/c/film.mp4", {"folder": folder})
    assert back.json() == film
    assert http.get("/files", params={"folder": folder}).json()["folders"] == []
    assert patch(http, film["path"], {"folder": f"{folder}/z"}).status_code == 200
    assert http.get("/files", params={"folder": folder}).json()["folders"] == ["z"]


def test_folders_on_the_disk_come_and_go_with_their_files(tmp_path: Path) -> None:
    with running(tmp_path, storage="filesystem") as server, server.client() as http:
        http.put("/files/films/film.mp4", content=DATA).raise_for_status()
        for there, to in (("films", "films/a/b/c"), ("films/a/b/c", "films"), ("films", "films/z")):
            assert patch(http, f"{there}/film.mp4", {"folder": to}).status_code == 200
        names = {path.name for path in (server.files / "films").rglob("*")}
        assert names == {"z", "film.mp4"}
        assert (server.files / "films" / "z" / "film.mp4").read_bytes() == DATA


@each_backend
def test_a_name_that_is_taken(
    http: httpx.Client, check_problem: CheckProblem, list_files: ListFiles, folder: str, film: File
) -> None:
    http.put(f"/files/{folder}/other.mp4", content=b"other").raise_for_status()
    before = list_files(folder)
    check_problem(patch(http, film["path"], {"filename": "other.mp4"}), 409)
    # Neither below a file, nor in the place of a folder.
    check_problem(patch(http, film["path"], {"folder": f"{folder}/other.mp4"}), 409)
    check_problem(patch(http, film["path"], {"folder": film["path"]}), 409)
    check_problem(patch(http, film["path"], {"folder": None, "filename": folder}), 409)
    assert list_files(folder) == before
    assert http.get(f"/files/{folder}/other.mp4").content == b"other"


def test_a_file_that_is_not_there(http: httpx.Client, check_problem: CheckProblem, folder: str) -> None:
    check_problem(patch(http, f"{folder}/none", {"filename": "x"}), 404)
    check_problem(patch(http, f"{folder}/none", {}), 404)
    check_problem(patch(http, folder, {"filename": "x"}), 404)


BAD = {
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


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_patch_that_is_none(
    send_request: SendRequest, check_problem: CheckProblem, storage_unchanged: Any, kept: str, body: bytes
) -> None:
    with storage_unchanged():
        response = send_request("PATCH", f"/files/{kept}", f"Content-Type: {KIND}", body=body)
        check_problem(response, 400)
        assert len(response.content) < 1000, "it does not repeat all that came"
        assert "x" not in response.headers


def test_a_refusal_names_what_cannot_be_changed(
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
        (f"Content-Type: {KIND}", "Content-Encoding: gzip"),
    ],
)
def test_another_kind_of_patch(
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
        assert response.headers["accept-patch"] == KIND
        assert KIND in detail or "Encoding" in detail


def test_a_patch_that_is_encoded_on_its_way(
    send_request: SendRequest, check_problem: CheckProblem, folder: str, film: File
) -> None:
    headers = f"Content-Type: {KIND}", "Transfer-Encoding: gzip, chunked"
    body = b'11\r\n{"filename": "x"}\r\n0\r\n\r\n'
    assert "chunked" in check_problem(
        send_request("PATCH", f"/files/{folder}/film.mp4", *headers, body=body), 415
    )


@pytest.mark.parametrize("kind", [f"{KIND}; charset=utf-8", KIND.upper(), f'{KIND} ;charset="UTF-8"'])
def test_a_kind_may_have_parameters(send_request: SendRequest, folder: str, film: File, kind: str) -> None:
    response = send_request(
        "PATCH", f"/files/{folder}/film.mp4", f"Content-Type: {kind}", body=b'{"filename": "x"}'
    )
    assert response.status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_patch_has_a_limit(
    send_request: SendRequest,
    connect: Any,
    check_problem: CheckProblem,
    storage_unchanged: Any,
    folder: str,
    film: File,
    announced: bool,
) -> None:
    kind, target = f"Content-Type: {KIND}", f"/files/{folder}/film.mp4"
    padded = b'{"filename": "film.mp4"}'.ljust(64 << 10)
    with storage_unchanged():
        assert send_request("PATCH", target, kind, body=padded).status_code == 200
        if announced:
            check_problem(send_request("PATCH", target, kind, f"Content-Length: {1 << 40}", body=b""), 413)
        else:
            chunk = b"10001\r\n" + padded + b" \r\n"
            connection = connect()
            connection.request("PATCH", target, kind, "Transfer-Encoding: chunked", body=chunk)
            check_problem(connection.receive_response(), 413)


def test_conditions(http: httpx.Client, check_problem: CheckProblem, film: File, folder: str) -> None:
    path, tag = film["path"], f'"{film["etag"]}"'
    stored = datetime.fromisoformat(film["updated_at"])
    before = format_datetime((stored - timedelta(seconds=5)).replace(microsecond=0), usegmt=True)
    for failing in (
        {"if_match": '"stale"'},
        {"if_match": f"W/{tag}"},
        {"if_none_match": "*"},
        {"if_none_match": tag},
        {"if_unmodified_since": before},
    ):
        for change in ({"filename": "other.mp4"}, {}):
            check_problem(patch(http, path, change, **failing), 412)
    check_problem(patch(http, f"{folder}/none", {"filename": "x"}, if_match="*"), 404)
    assert patch(http, path, {"filename": "other.mp4"}, if_match=tag).json()["etag"] == film["etag"]
    assert patch(http, f"{folder}/other.mp4", {"filename": "film.mp4"}, if_match="*").json() == film


@each_backend
def test_a_download_that_runs_goes_on(connect: Any, http: httpx.Client, folder: str) -> None:
    data = bytes(range(256)) * 80_000  # more than what buffers hold
    file = http.put(f"/files/{folder}/long.mp4", content=data).json()
    connection = connect()
    connection.request("GET", f"/files/{folder}/long.mp4")
    connection.receive_more()
    assert patch(http, file["path"], {"folder": f"{folder}/elsewhere"}).status_code == 200
    response = connection.receive_response()
    assert response.headers["etag"] == f'"{file["etag"]}"'
    assert response.content == data


@each_backend
def test_of_racing_moves_to_one_name_one_wins(http: httpx.Client, server: Server, folder: str) -> None:
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
def test_of_moves_and_replacements_with_one_version_one_wins(
    http: httpx.Client, server: Server, folder: str
) -> None:
    """What If-Match was held against has to hold until the change is made, however long it has to wait."""
    with ThreadPoolExecutor(10) as pool, server.client() as client:

        def put(path: str, data: bytes, tag: str = "*") -> int:
            return client.put(f"/files/{folder}/{path}", content=data, headers={"if-match": tag}).status_code

        def move(path: str, tag: str) -> int:
            return patch(client, f"{folder}/{path}", {"filename": f"{path}-moved"}, if_match=tag).status_code

        for number in range(6):
            http.put(f"/files/{folder}/other{number}", content=b"x").raise_for_status()
        for turn in range(5):
            path = f"{turn}.mp4"
            tag = f'"{http.put(f"/files/{folder}/{path}", content=b"first").json()["etag"]}"'
            others = [pool.submit(put, f"other{number}", b"%d" % turn) for number in range(6)]
            replacing, moving = pool.submit(put, path, b"second", tag), pool.submit(move, path, tag)
            assert (replacing.result(), moving.result()) in ((204, 412), (412, 200))
            assert {other.result() for other in others} == {204}


@each_backend
def test_a_version_that_another_process_replaces_meanwhile(
    http: httpx.Client, server: Server, check_problem: CheckProblem, film: File
) -> None:
    """The conditions are read while the other one writes; the move waits for it to end."""
    with ThreadPoolExecutor(1) as pool:
        with beneath(server).replaced(film["id"]):
            moving = pool.submit(patch, http, film["path"], {"filename": "x"}, if_match=f'"{film["etag"]}"')
            with pytest.raises(TimeoutError):
                moving.result(timeout=0.5)
        check_problem(moving.result(), 412)
    assert http.get(film["url"]).headers["etag"] == '"newer"'


def test_a_patch_from_another_site_is_refused(
    send_request: SendRequest, check_problem: CheckProblem, storage_unchanged: Any, folder: str, film: File
) -> None:
    with storage_unchanged():
        headers = f"Content-Type: {KIND}", "Origin: https://evil.example"
        check_problem(
            send_request("PATCH", f"/files/{folder}/film.mp4", *headers, body=b'{"filename": "x"}'), 403
        )


def test_allow_names_it(send_request: SendRequest, folder: str) -> None:
    response = send_request("POST", f"/files/{folder}/film.mp4", body=b"")
    assert response.status_code == 405
    assert {"GET", "HEAD", "PUT", "PATCH", "DELETE"} == set(response.headers["allow"].split(", "))

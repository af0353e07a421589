"""curl and wget commands against a running server."""

import base64
import json
import os
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import NewLibrary, Server, need, on_disk_and_gridfs, run, running
from tests.support.beneath import beneath
from tests.system.live.clients import ODD_NAME, sha256

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def tools() -> None:
    need("curl", "wget")


@pytest.fixture
def url(server: Server, folder: str, film: Path) -> str:
    """The URL of a stored film."""
    url = f"{server.url}/files/{folder}/film.mp4"
    assert curl("-T", film, url)["status"] == 201
    return url


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A sparse file of 100 MiB."""
    sparse = tmp_path / "sparse.mp4"
    with sparse.open("wb") as file:
        file.truncate(100 << 20)
    return sparse


def curl(*arguments: object) -> dict[str, Any]:
    """Run curl. Returns status, headers, body (and its JSON), bytes sent and received, and curl's log."""
    separator = "\n--curl--\n"
    summary = separator + "%{http_code} %{size_upload} %{size_download}" + separator + "%{header_json}"
    result = run("curl", "-sSv", "-w", summary, *arguments)
    body, numbers, headers = result.stdout.split(separator)
    status, sent, received = map(int, numbers.split())
    return {
        "status": status,
        "sent": sent,
        "received": received,
        "headers": {name: values[0] for name, values in json.loads(headers).items()},
        "body": body,
        "json": json.loads(body) if body.startswith("{") else None,
        "log": result.stderr,
    }


def download(url: str, target: Path, *arguments: object) -> Path:
    curl("-f", "-o", target, *arguments, url)
    return target


# Uploads


def test_put_accepts_name_that_curl_sends_unencoded(server: Server, film: Path, folder: str) -> None:
    url = f"{server.url}/files/{folder}/séance 🎬.mp4".replace(" ", "%20")
    assert curl("-T", film, url)["json"]["filename"] == "séance 🎬.mp4"


@pytest.mark.parametrize("folder_first", [True, False])
def test_form_accepts_fields_in_any_order(
    folder_first: bool, server: Server, folder: str, film: Path, tmp_path: Path
) -> None:
    fields = ["-F", f"folder={folder}/films", "-F", f"file=@{film}"]
    response = curl(*(fields if folder_first else fields[2:] + fields[:2]), f"{server.url}/file/upload")
    assert response["status"] == 201
    file, headers = response["json"], response["headers"]
    assert (file["folder"], file["filename"], file["path"]) == (
        f"{folder}/films",
        "film.mp4",
        f"{folder}/films/film.mp4",
    )
    assert (file["size"], file["mimetype"]) == (film.stat().st_size, "video/mp4")
    assert file["sha256"] == sha256(film)
    assert headers["location"] == file["url"] == f"{server.url}/files/{folder}/films/film.mp4"
    assert headers["etag"] == f'"{file["etag"]}"'
    digest = base64.b64encode(bytes.fromhex(sha256(film))).decode()
    assert headers["repr-digest"] == f"sha-256=:{digest}:"
    for number, url in enumerate((file["url"], file["stream_url"])):
        assert sha256(download(url, tmp_path / str(number))) == sha256(film)


def test_upload_is_stored_as_ordinary_file(film: Path, tmp_path: Path) -> None:
    """Promise 11: with the filesystem backend, at files/<folder>/<filename>."""
    with running(tmp_path / "server", storage="filesystem") as server:
        curl("-F", f"file=@{film}", f"{server.url}/file/upload")
        curl("-F", "folder=a/b c", "-F", f"file=@{film}", f"{server.url}/file/upload")
        curl("-T", film, f"{server.url}/files/a/{quote(ODD_NAME)}")
        assert server.staging() == []
    stored = {str(path.relative_to(server.files)) for path in server.files.rglob("*.mp4")}
    assert stored == {"film.mp4", "a/b c/film.mp4", f"a/{ODD_NAME}"}
    assert {sha256(server.files / path) for path in stored} == {sha256(film)}


def test_form_is_refused_when_file_exists(
    server: Server, folder: str, url: str, film: Path, matroska_film: Path, tmp_path: Path
) -> None:
    form = ("-F", f"folder={folder}", "-F", f"file=@{matroska_film};filename=film.mp4")
    response = curl(*form, f"{server.url}/file/upload")
    assert (response["status"], response["headers"]["content-type"]) == (409, "application/problem+json")
    assert sha256(download(url, tmp_path / "back")) == sha256(film)


@on_disk_and_gridfs
def test_put_creates_then_replaces(
    server: Server, folder: str, film: Path, matroska_film: Path, tmp_path: Path
) -> None:
    url = f"{server.url}/files/{folder}/film"
    created = curl("-T", film, url)
    replaced = curl("-T", matroska_film, url)
    assert (created["status"], replaced["status"]) == (201, 204)
    assert created["json"]["sha256"] == sha256(film)
    assert replaced["headers"]["etag"] != created["headers"]["etag"]
    assert sha256(download(url, tmp_path / "back")) == sha256(matroska_film)


def test_put_to_folder_url_stores_under_local_name(server: Server, folder: str, film: Path) -> None:
    """curl adds the name to a URL that ends with a slash."""
    assert curl("-T", film, f"{server.url}/files/{folder}/")["json"]["path"] == f"{folder}/film.mp4"


def test_put_stores_chunked_body_of_pipe(server: Server, folder: str, film: Path, tmp_path: Path) -> None:
    """curl does not know the length of a pipe, and sends no Content-Length."""
    url = f"{server.url}/files/{folder}/film.mp4"
    piped = 'cat "$1" | curl -sSv -T - "$2"'
    result = run("sh", "-c", piped, "sh", film, url)
    assert "> Transfer-Encoding: chunked" in result.stderr
    assert "< HTTP/1.1 201" in result.stderr
    assert sha256(download(url, tmp_path / "back")) == sha256(film)


def test_form_and_put_store_odd_name(server: Server, folder: str, film: Path, tmp_path: Path) -> None:
    local = tmp_path / ODD_NAME
    local.symlink_to(film)
    quoted = str(local).replace("\\", "\\\\").replace('"', '\\"')
    file = curl("-F", f"folder={folder}", "-F", f'file=@"{quoted}"', f"{server.url}/file/upload")["json"]
    assert file["filename"] == ODD_NAME
    assert sha256(download(file["url"], tmp_path / "back")) == sha256(film)
    assert curl("-T", film, f"{server.url}/files/{folder}/{quote(ODD_NAME)}")["status"] == 204


# Refusals before the body is sent


def test_put_with_if_none_match_is_refused_before_body_when_file_exists(
    url: str, sparse: Path, film: Path, tmp_path: Path
) -> None:
    response = curl("-T", sparse, "-H", "If-None-Match: *", url)
    assert response["status"] == 412
    assert "> Expect: 100-continue" in response["log"]
    assert "100 Continue" not in response["log"]
    assert response["sent"] == 0
    assert sha256(download(url, tmp_path / "back")) == sha256(film)


def test_put_is_refused_before_body_when_if_match_is_stale(url: str, sparse: Path) -> None:
    response = curl("-T", sparse, "-H", 'If-Match: "an older one"', url)
    assert (response["status"], response["sent"]) == (412, 0)
    assert "100 Continue" not in response["log"]


def test_put_is_refused_before_body_when_path_is_a_folder(url: str, sparse: Path) -> None:
    response = curl("-T", sparse, url.rpartition("/")[0])
    assert (response["status"], response["sent"]) == (409, 0)
    assert "100 Continue" not in response["log"]


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_put_that_offers_http2_is_stored(url: str, tmp_path: Path, source: str) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(b"other" * 60_000)
    if source == "file":
        response = curl("--http2", "-T", other, url)
        assert "> Upgrade: h2c" in response["log"]
    else:
        response = json.loads(
            run("sh", "-c", f"curl -sS --http2 -T - '{url}' < '{other}' -o /dev/null -w '%{{json}}'").stdout
        )
        response["status"] = response["http_code"]
    assert response["status"] == 204
    assert sha256(download(url, tmp_path / "same.mp4", "--http2")) == sha256(other)


def test_put_is_refused_before_body_when_name_is_too_long(server: Server, folder: str, sparse: Path) -> None:
    response = curl("-T", sparse, f"{server.url}/files/{folder}/{'x' * 256}")
    assert (response["status"], response["sent"]) == (400, 0)
    assert "100 Continue" not in response["log"]


@pytest.mark.parametrize("where", ["field", "query"])
def test_form_is_refused_before_its_end_when_file_exists(
    where: str, server: Server, folder: str, url: str, sparse: Path
) -> None:
    """The server knows the name only once the form has begun, when curl has sent part of the file."""
    file = ("-F", f"file=@{sparse};filename=film.mp4")
    if where == "field":
        response = curl("-F", f"folder={folder}", *file, f"{server.url}/file/upload")
    else:
        response = curl(*file, f"{server.url}/file/upload?folder={folder}")
    assert response["status"] == 409
    assert response["sent"] < sparse.stat().st_size / 2


def test_upload_is_refused_before_body_when_too_large(
    sparse: Path, tmp_path: Path, new_library: NewLibrary
) -> None:
    with running(tmp_path / "server", max_upload_size="1MiB", **new_library()) as server:
        put = curl("-T", sparse, f"{server.url}/files/put.mp4")
        form = curl("-F", f"file=@{sparse}", f"{server.url}/file/upload")
        for response in (put, form):
            assert (response["status"], response["sent"]) == (413, 0)
            assert "100 Continue" not in response["log"]
        piped = 'cat "$1" | curl -sS -o "$3" -w "%{http_code} %{size_upload}" -T - "$2"'
        result = run(
            "sh", "-c", piped, "sh", sparse, f"{server.url}/files/pipe.mp4", tmp_path / "body", check=False
        )
        status, sent = map(int, result.stdout.split())
        assert status == 413, result.stderr
        assert sent < sparse.stat().st_size / 2
        with server.client() as client:
            assert client.get("/files").json()["items"] == []
        assert beneath(server).leftovers() == set()


# Downloads


@on_disk_and_gridfs
def test_curl_resumes_partial_download(url: str, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "back"
    run("sh", "-c", 'curl -sS "$1" | head -c 3000000 >"$2"', "sh", url, target)
    assert target.stat().st_size == 3_000_000
    resumed = curl("-C", "-", "-o", target, url)
    assert resumed["status"] == 206
    assert resumed["received"] == film.stat().st_size - 3_000_000
    assert sha256(target) == sha256(film)
    again = curl("-C", "-", "-o", target, url)  # the file is complete: 416, which curl counts as success
    assert (again["status"], again["headers"]["content-range"]) == (416, f"bytes */{film.stat().st_size}")
    assert sha256(target) == sha256(film)


@on_disk_and_gridfs
def test_wget_resumes_partial_download(url: str, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    target.write_bytes(film.read_bytes()[:1_000_000])
    log = run("wget", "-c", "-P", tmp_path, url).stderr
    assert "206 Partial Content" in log
    assert sha256(target) == sha256(film)
    assert "nothing to do" in run("wget", "-c", "-P", tmp_path, url).stderr
    assert sha256(target) == sha256(film)


@pytest.mark.parametrize(
    ("byte_range", "start", "stop"),
    [("0-9", 0, 10), ("1000-1999", 1000, 2000), ("7000000-", 7_000_000, None), ("-500", -500, None)],
)
def test_range_returns_its_bytes(
    byte_range: str, start: int, stop: int | None, url: str, film: Path, tmp_path: Path
) -> None:
    expected = film.read_bytes()[start:stop]
    response = curl("-r", byte_range, "-o", tmp_path / "part", url)
    assert response["status"] == 206
    assert (tmp_path / "part").read_bytes() == expected
    first = start % film.stat().st_size
    assert (
        response["headers"]["content-range"]
        == f"bytes {first}-{first + len(expected) - 1}/{film.stat().st_size}"
    )
    assert response["headers"]["content-length"] == str(len(expected))


def test_several_ranges_return_multipart_body(url: str, film: Path, tmp_path: Path) -> None:
    response = curl("-r", "0-99,5000-5099,-100", "-o", tmp_path / "parts", url)
    assert response["status"] == 206
    body = (tmp_path / "parts").read_bytes()
    assert response["headers"]["content-length"] == str(len(body))
    head = f"Content-Type: {response['headers']['content-type']}\r\n\r\n"
    message = message_from_bytes(head.encode() + body, policy=HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    data, size = film.read_bytes(), film.stat().st_size
    got = [(part["content-range"], part.get_payload(decode=True)) for part in message.iter_parts()]
    assert got == [
        (f"bytes 0-99/{size}", data[:100]),
        (f"bytes 5000-5099/{size}", data[5000:5100]),
        (f"bytes {size - 100}-{size - 1}/{size}", data[-100:]),
    ]


def test_unchanged_file_is_not_sent_again(url: str, film: Path, matroska_film: Path, tmp_path: Path) -> None:
    copy, etag = tmp_path / "copy", tmp_path / "etag"
    curl("-R", "-o", copy, "--etag-save", etag, url)
    assert curl("-z", copy, "-o", tmp_path / "none", url)["status"] == 304
    unchanged = curl("--etag-compare", etag, "-o", tmp_path / "none", url)
    assert (unchanged["status"], unchanged["received"]) == (304, 0)
    assert curl("-T", matroska_film, url)["status"] == 204
    changed = curl("--etag-compare", etag, "-o", tmp_path / "new", url)
    assert changed["status"] == 200
    assert sha256(tmp_path / "new") == sha256(matroska_film)
    os.utime(copy, (0, 0))
    assert curl("-z", copy, "-o", tmp_path / "newer", url)["status"] == 200


def test_download_is_saved_under_its_name(server: Server, folder: str, film: Path, tmp_path: Path) -> None:
    """The URL does not contain the name. curl reads only `filename`, wget `filename*` too (RFC 6266 §4.3)."""
    names = {"curl": "it's a film; take #1 & more?.mp4", "wget": "é 🎬 שלום — #1 & more.mp4"}
    for client, name in names.items():
        (tmp_path / client).mkdir()
        file = curl("-T", film, f"{server.url}/files/{folder}/{quote(name)}")["json"]
        if client == "curl":
            run(
                "curl",
                "-sSf",
                "--remote-name",
                "--remote-header-name",
                "--output-dir",
                tmp_path / client,
                file["stream_url"],
            )
        else:
            run(
                "env",
                "LC_ALL=C.UTF-8",
                "wget",
                "-nv",
                "--content-disposition",
                "-P",
                tmp_path / client,
                file["stream_url"],
            )
        assert [path.name for path in (tmp_path / client).iterdir()] == [name]
        assert sha256(tmp_path / client / name) == sha256(film)


def test_curl_saves_non_ascii_name_in_safe_ascii(
    server: Server, folder: str, film: Path, tmp_path: Path
) -> None:
    """curl's -J does not support RFC 8187, so it gets an ASCII name without a path or escapes."""
    file = curl("-T", film, f"{server.url}/files/{folder}/{quote(ODD_NAME)}")["json"]
    run("curl", "-sSf", "-OJ", "--output-dir", tmp_path, file["stream_url"])
    (saved,) = tmp_path.glob("*.mp4")
    assert saved.name == "it's; a _film_ - 100_ #1 & more? clapper slvm.mp4"
    assert sha256(saved) == sha256(film)


def test_deleted_file_returns_404(url: str) -> None:
    assert curl("-X", "DELETE", url)["status"] == 204
    gone = curl(url)
    assert (gone["status"], gone["json"]["status"]) == (404, 404)


def test_head_returns_headers_of_get(url: str, film: Path) -> None:
    headers = curl("-I", url)["headers"]
    assert headers["content-length"] == str(film.stat().st_size)
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-type"] == "video/mp4"
    assert not headers["etag"].startswith("W/")

"""Seekable and other MongoDB clients share a GridFS bucket and read each other's files."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import mongoengine
import pytest
from bson import ObjectId
from gridfs import GridFSBucket
from mongoengine.connection import disconnect
from pymongo.database import Database

from app.database.gridfs.bucket import CHUNK_SIZE
from app.database.gridfs.documents import Media
from tests.support import Server, mongo, running
from tests.support.forking import completed
from tests.system.live.clients import sha256, until
from tests.system.live.node import NODE, SCRIPTS, packages_folder

pytestmark = pytest.mark.live

FILES = {
    "top.mp4": os.urandom(3 * CHUNK_SIZE + 1),
    "empty.mp4": b"",
    "films/one chunk.mp4": os.urandom(CHUNK_SIZE),
    "films/סרט 🎬/it's “odd” & 100%.mkv": os.urandom(4_000_000),
}
RANGES = [
    (0, 1),
    (CHUNK_SIZE - 1, CHUNK_SIZE + 1),
    (CHUNK_SIZE, 2 * CHUNK_SIZE),
    (300_001, 300_002),
    (0, 3 * CHUNK_SIZE + 1),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to which FILES were uploaded."""
    with running(tmp_path_factory.mktemp("gridfs"), **mongo.gridfs()) as server:
        with server.client() as http:
            for path, data in FILES.items():
                http.put(f"/files/{quote(path)}", content=data).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def database(server: Server) -> Database[dict[str, Any]]:
    return mongo.database(server.settings["mongodb_url"])


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


def run_node(server: Server, *arguments: object, data: bytes = b"") -> bytes:
    """Run gridfs.mjs with MongoDB's Node.js driver, and return its output. `get` reads each file twice."""
    command = [NODE, SCRIPTS / "gridfs.mjs", packages_folder(), server.settings["mongodb_url"], *arguments]
    done = subprocess.run([str(word) for word in command], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def media_document(database: Database[dict[str, Any]], path: str) -> dict[str, Any]:
    folder, _, filename = path.rpartition("/")
    found = database["media"].find_one({"library": "", "folder": folder, "filename": filename})
    assert found is not None
    return found


# Files that were uploaded to Seekable


@pytest.mark.parametrize("path", FILES)
def test_node_reads_uploaded_file(server: Server, database: Database[dict[str, Any]], path: str) -> None:
    file: ObjectId = media_document(database, path)["file"]
    assert run_node(server, "get", file, path) == FILES[path] * 2


def test_node_reads_ranges_of_uploaded_file(server: Server, database: Database[dict[str, Any]]) -> None:
    limits = [limit for each in RANGES for limit in each]
    expected = b"".join(FILES["top.mp4"][start:stop] for start, stop in RANGES)
    assert (
        run_node(server, "get", media_document(database, "top.mp4")["file"], "top.mp4", *limits)
        == expected * 2
    )


@pytest.mark.parametrize("path", FILES)
def test_pymongo_reads_uploaded_file(database: Database[dict[str, Any]], path: str) -> None:
    bucket, data = GridFSBucket(database), FILES[path]
    with bucket.open_download_stream(media_document(database, path)["file"]) as stream:
        assert stream.read() == data
        assert (stream.length, stream.chunk_size, stream.filename) == (len(data), CHUNK_SIZE, path)
        stream.seek(len(data) // 2)
        assert stream.read() == data[len(data) // 2 :]
    with bucket.open_download_stream_by_name(path) as stream:
        assert stream.read() == data
    assert database.command("validate", "fs.chunks")["valid"]


@pytest.fixture
def objects(server: Server) -> Iterator[Callable[..., Any]]:
    """The media documents, queried with MongoEngine by another program."""
    mongoengine.connect(host=server.settings["mongodb_url"], tz_aware=True, uuidRepresentation="standard")
    try:
        yield Media.objects
    finally:
        disconnect()


@pytest.mark.parametrize("path", FILES)
def test_mongoengine_reads_uploaded_file(objects: Callable[..., Any], http: httpx.Client, path: str) -> None:
    folder, _, filename = path.rpartition("/")
    found = objects(library="", folder=folder, filename=filename).first()
    assert (found.file.read() or b"") == FILES[path]
    assert found.sha256 == sha256(FILES[path])
    shown = http.get("/files", params={"folder": folder}).json()["items"]
    assert [item["id"] for item in shown if item["path"] == path] == [found.id]


def test_other_clients_see_replaced_moved_and_deleted_files(
    server: Server, database: Database[dict[str, Any]], http: httpx.Client
) -> None:
    for data in (b"first", b"second"):
        http.put("/files/changing/a.mp4", content=data).raise_for_status()
    http.patch(
        "/files/changing/a.mp4",
        content=b'{"filename": "b.mp4"}',
        headers={"content-type": "application/merge-patch+json"},
    ).raise_for_status()
    file = media_document(database, "changing/b.mp4")["file"]
    assert run_node(server, "get", file, "changing/b.mp4") == b"second" * 2
    http.delete("/files/changing/b.mp4").raise_for_status()
    assert database["media"].count_documents({"folder": "changing"}) == 0


# Files that other clients stored


def put_by_node(server: Server, path: str, data: bytes) -> None:
    run_node(server, "put", path, data=data)


def put_by_pymongo(server: Server, path: str, data: bytes) -> None:
    """Store a file with another chunk size than ours."""
    bucket = GridFSBucket(mongo.database(server.settings["mongodb_url"]), chunk_size_bytes=100_000)
    bucket.upload_from_stream(path, data, metadata={"contentType": "video/odd"})


def put_by_mongoengine(server: Server, path: str, data: bytes) -> None:
    """Store a file through a FileField of another document class."""

    class Film(mongoengine.Document):  # type: ignore[misc]
        file = mongoengine.FileField()

    mongoengine.connect(host=server.settings["mongodb_url"], uuidRepresentation="standard")
    try:
        film = Film()
        film.file.put(data, filename=path)
        film.save()
    finally:
        disconnect()


CLIENTS = [put_by_node, put_by_pymongo, put_by_mongoengine]


def seekable(server: Server, command: str) -> str:
    """Run a command on the server's library, and return its output."""
    settings = {f"SEEKABLE_{name.upper()}": str(value) for name, value in server.settings.items()}
    done = completed(command, environment={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("put", CLIENTS)
def test_scan_imports_file_of_other_client(
    server: Server, http: httpx.Client, put: Callable[[Server, str, bytes], None]
) -> None:
    folder, data = put.__name__, os.urandom(1_000_000)
    put(server, f"{folder}/sub/film.mp4", data)
    put(server, f"{folder}/empty.mp4", b"")
    assert http.get(f"/files/{folder}/sub/film.mp4").status_code == 404
    assert "2 created" in seekable(server, "scan")

    listed = http.get("/files", params={"folder": folder, "recursive": True}).json()["items"]
    assert {(item["path"], item["size"]) for item in listed} == {
        (f"{folder}/sub/film.mp4", len(data)),
        (f"{folder}/empty.mp4", 0),
    }
    url = f"/files/{folder}/sub/film.mp4"
    whole = http.get(url)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, data, "video/mp4")
    for start, stop in (
        (0, 1),
        (99_999, 100_001),
        (CHUNK_SIZE - 1, CHUNK_SIZE + 1),
        (len(data) - 7, len(data)),
    ):
        part = http.get(url, headers={"range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, data[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    assert http.get(f"/files/{folder}/empty.mp4").content == b""


def test_server_hashes_files_of_other_clients(tmp_path: Path) -> None:
    server = Server(tmp_path / "hashed", **mongo.gridfs())
    datas = {put.__name__: os.urandom(1_000_000) for put in CLIENTS}
    for put in CLIENTS:
        put(server, put.__name__, datas[put.__name__])
    server.start()  # which scans
    try:
        with server.client() as http:

            def hashes() -> dict[str, str | None]:
                return {item["path"]: item["sha256"] for item in http.get("/files").json()["items"]}

            expected = {path: sha256(data) for path, data in datas.items()}
            until(lambda: hashes() == expected, "every file is hashed")
    finally:
        server.stop()
    assert "3 sound" in seekable(server, "verify")

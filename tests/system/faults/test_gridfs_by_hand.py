"""Buckets that other programs or crashes have changed, and the files that a sweep removes or keeps."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from gridfs import GridFSBucket

from app.database.gridfs.bucket import CHUNK_SIZE
from tests.support import Server, mongo, noise
from tests.support.beneath import bucket_file
from tests.system.faults.grid import LONG_AGO, Download, Grid, StartRequest, sha256

FILM = noise(6_000_000)


@pytest.fixture
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), str(mongo.gridfs()["mongodb_url"]))


@pytest.fixture
def server(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server


def delete_chunk(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].delete_one({"files_id": file, "n": 30})


def shorten_chunk(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].update_one({"files_id": file, "n": 30}, {"$set": {"data": b"short"}})


def lengthen_chunk(grid: Grid, file: ObjectId) -> None:
    data = FILM[: CHUNK_SIZE + 1]
    grid.database["fs.chunks"].update_one({"files_id": file, "n": 30}, {"$set": {"data": data}})


def delete_last_chunks(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].delete_many({"files_id": file, "n": {"$gte": 40}})


def delete_file(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.files"].delete_one({"_id": file})
    grid.database["fs.chunks"].delete_many({"files_id": file})


DAMAGES: dict[str, tuple[Callable[[Grid, ObjectId], None], str]] = {
    "lost.mp4": (delete_chunk, "damaged"),
    "short.mp4": (shorten_chunk, "damaged"),
    "long.mp4": (lengthen_chunk, "damaged"),
    "end.mp4": (delete_last_chunks, "damaged"),
    "file.mp4": (delete_file, "missing"),
}


def test_damaged_file_aborts_its_download_and_is_reported_by_verify(
    grid: Grid, server: Server, start_request: StartRequest
) -> None:
    with server.client() as http:
        for name in ("whole.mp4", *DAMAGES):
            http.put(f"/files/{name}", content=FILM).raise_for_status()
        for name, (damage, _) in DAMAGES.items():
            media = grid.database["media"].find_one({"filename": name})
            assert media is not None
            damage(grid, media["file"])
            for header, start in (("X: y", 0), ("Range: bytes=3900000-", 3_900_000)):
                download = Download(start_request, server, f"/files/{name}", header)
                assert not download.read_to_end()
                assert FILM[start:].startswith(download.body)
            if damage is delete_file:
                continue
            before = http.get(f"/files/{name}", headers={"range": "bytes=0-1000000"})
            assert before.content == FILM[:1_000_001], "the undamaged part could not be read"
        assert http.get("/files/whole.mp4").content == FILM
        verified = grid.seekable("verify")
        assert verified.returncode == 1
        reported = dict(reversed(line.strip().split(": ")) for line in verified.stdout.splitlines()[:-1])  # type: ignore[arg-type]
        assert {name: verdict.lower() for name, verdict in reported.items()} == {
            name: verdict for name, (_, verdict) in DAMAGES.items()
        }


def test_sweep_removes_only_own_unreferenced_files(grid: Grid, server: Server) -> None:
    database = grid.database
    bucket = GridFSBucket(database)
    with server.client() as http:
        for name in ("named.mp4", "replaced.mp4", "kept.mp4"):
            http.put(f"/files/{name}", content=FILM).raise_for_status()
        http.put("/files/replaced.mp4", content=b"new").raise_for_status()
        # Files of another program: to adopt, with an illegal name, with a taken name, and unfinished.
        others = {
            name: bucket.upload_from_stream(name, FILM, metadata={"by": "another"})
            for name in ("adopted.mp4", "/no/../name", "kept.mp4")
        }
        unfinished = ObjectId()
        database["fs.chunks"].insert_one({"files_id": unfinished, "n": 0, "data": b"another's"})
        without_chunks = ObjectId()  # a file document without chunks
        database["fs.files"].insert_one(bucket_file(without_chunks, "empty.mp4", 0))
        # A crash after the document was written, before its lease was deleted.
        referenced = {media["file"] for media in database["media"].find({"filename": "named.mp4"})}
        for file in referenced:
            lease = {"_id": file, "expires_at": LONG_AGO}
            database["media.uploads"].replace_one({"_id": file}, lease, upsert=True)
        # Crashes after the lease, after some chunks, and after the file document.
        crashed = [ObjectId() for _ in range(3)]
        for number, file in enumerate(crashed):
            database["media.uploads"].insert_one({"_id": file, "expires_at": LONG_AGO})
            if number >= 1:
                database["fs.chunks"].insert_many(
                    {"files_id": file, "n": n, "data": b"x"} for n in range(600)
                )
            if number == 2:
                ours = bucket_file(file, "crashed.mp4", 600) | {"metadata": {"library": ""}}
                database["fs.files"].insert_one(ours)
        # An upload that may still be running, since its lease has not expired.
        leased_upload = ObjectId()
        later = datetime.now(UTC).replace(year=2100)
        database["media.uploads"].insert_one({"_id": leased_upload, "expires_at": later})
        database["fs.chunks"].insert_one({"files_id": leased_upload, "n": 0, "data": b"x"})
        for _ in range(2):
            scanned = grid.seekable("scan")
            assert scanned.returncode == 0, scanned.stderr
            present = {*database["fs.files"].distinct("_id"), *database["fs.chunks"].distinct("files_id")}
            assert not present & {*crashed}
            assert {*others.values(), unfinished, without_chunks, leased_upload, *referenced} <= present
        assert [entry["_id"] for entry in database["media.uploads"].find({"expires_at": LONG_AGO})] == []
        assert http.get("/files/crashed.mp4").status_code == 404
        for name in ("named.mp4", "kept.mp4", "adopted.mp4"):
            assert http.get(f"/files/{name}").content == FILM
        assert http.delete("/files/adopted.mp4").status_code == 204
        grid.expire_leases()
        assert grid.seekable("scan").returncode == 0
        assert http.get("/files/adopted.mp4").status_code == 404
        for name, file in others.items():
            if name != "adopted.mp4":
                assert bucket.open_download_stream(file).read() == FILM
        assert sha256(http.get("/files/kept.mp4").content) == sha256(FILM)

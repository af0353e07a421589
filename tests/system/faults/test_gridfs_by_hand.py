"""What other programs, and crashes, do to a bucket, and what a sweep takes away and what it leaves."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from gridfs import GridFSBucket

from app.database.gridfs.staging import CHUNK_SIZE
from tests.support import Server, mongo, noise
from tests.support.beneath import bucket_file
from tests.system.faults.grid import LONG_AGO, Begin, Download, Grid, sha256

FILM = noise(6_000_000)


@pytest.fixture
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), str(mongo.gridfs()["mongodb_url"]))


@pytest.fixture
def server(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server


def lose(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].delete_one({"files_id": file, "n": 30})


def cut_short(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].update_one({"files_id": file, "n": 30}, {"$set": {"data": b"short"}})


def lengthen(grid: Grid, file: ObjectId) -> None:
    data = FILM[: CHUNK_SIZE + 1]
    grid.database["fs.chunks"].update_one({"files_id": file, "n": 30}, {"$set": {"data": data}})


def lose_the_end(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.chunks"].delete_many({"files_id": file, "n": {"$gte": 40}})


def lose_the_file(grid: Grid, file: ObjectId) -> None:
    grid.database["fs.files"].delete_one({"_id": file})
    grid.database["fs.chunks"].delete_many({"files_id": file})


HARMS: dict[str, tuple[Callable[[Grid, ObjectId], None], str]] = {
    "lost.mp4": (lose, "damaged"),
    "short.mp4": (cut_short, "damaged"),
    "long.mp4": (lengthen, "damaged"),
    "end.mp4": (lose_the_end, "damaged"),
    "file.mp4": (lose_the_file, "missing"),
}


def test_what_is_not_whole_breaks_the_connection_and_is_named(
    grid: Grid, server: Server, begin: Begin
) -> None:
    with server.client() as http:
        for name in ("whole.mp4", *HARMS):
            http.put(f"/files/{name}", content=FILM).raise_for_status()
        for name, (harm, _) in HARMS.items():
            media = grid.database["media"].find_one({"filename": name})
            assert media is not None
            harm(grid, media["file"])
            for header, start in (("X: y", 0), ("Range: bytes=3900000-", 3_900_000)):
                download = Download(begin, server, f"/files/{name}", header)
                assert not download.rest()
                assert FILM[start:].startswith(download.body)
            if harm is lose_the_file:
                continue
            before = http.get(f"/files/{name}", headers={"range": "bytes=0-1000000"})
            assert before.content == FILM[:1_000_001], "the rest can be read"
        assert http.get("/files/whole.mp4").content == FILM
        verified = grid.seekable("verify")
        assert verified.returncode == 1
        named = dict(reversed(line.strip().split(": ")) for line in verified.stdout.splitlines()[:-1])  # type: ignore[arg-type]
        assert {name: verdict.lower() for name, verdict in named.items()} == {
            name: verdict for name, (_, verdict) in HARMS.items()
        }


def test_a_sweep_takes_only_what_is_ours_and_nobody_names(grid: Grid, server: Server) -> None:
    database = grid.database
    bucket = GridFSBucket(database)
    with server.client() as http:
        for name in ("named.mp4", "replaced.mp4", "kept.mp4"):
            http.put(f"/files/{name}", content=FILM).raise_for_status()
        http.put("/files/replaced.mp4", content=b"new").raise_for_status()
        # Another program's files: adopted, beneath no name that we take, of a name that is taken, unfinished.
        others = {
            name: bucket.upload_from_stream(name, FILM, metadata={"by": "another"})
            for name in ("adopted.mp4", "/no/../name", "kept.mp4")
        }
        unfinished = ObjectId()
        database["fs.chunks"].insert_one({"files_id": unfinished, "n": 0, "data": b"another's"})
        dropped = ObjectId()  # a file without chunks
        database["fs.files"].insert_one(bucket_file(dropped, "empty.mp4", 0))
        # A crash between the document and the end of its lease.
        named = {media["file"] for media in database["media"].find({"filename": "named.mp4"})}
        for file in named:
            lease = {"_id": file, "expires_at": LONG_AGO}
            database["media.uploads"].replace_one({"_id": file}, lease, upsert=True)
        # One between the lease and the first chunk, one after some chunks, one after the file.
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
        # One that is being written, as far as anybody knows.
        alive = ObjectId()
        later = datetime.now(UTC).replace(year=2100)
        database["media.uploads"].insert_one({"_id": alive, "expires_at": later})
        database["fs.chunks"].insert_one({"files_id": alive, "n": 0, "data": b"x"})
        for _ in range(2):
            scanned = grid.seekable("scan")
            assert scanned.returncode == 0, scanned.stderr
            there = {*database["fs.files"].distinct("_id"), *database["fs.chunks"].distinct("files_id")}
            assert not there & {*crashed}
            assert {*others.values(), unfinished, dropped, alive, *named} <= there
        assert [entry["_id"] for entry in database["media.uploads"].find({"expires_at": LONG_AGO})] == []
        assert http.get("/files/crashed.mp4").status_code == 404
        for name in ("named.mp4", "kept.mp4", "adopted.mp4"):
            assert http.get(f"/files/{name}").content == FILM
        assert http.delete("/files/adopted.mp4").status_code == 204
        grid.pass_time()
        assert grid.seekable("scan").returncode == 0
        assert http.get("/files/adopted.mp4").status_code == 404
        for name, file in others.items():
            if name != "adopted.mp4":
                assert bucket.open_download_stream(file).read() == FILM
        assert sha256(http.get("/files/kept.mp4").content) == sha256(FILM)

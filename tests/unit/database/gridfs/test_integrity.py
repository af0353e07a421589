"""Scans of a bucket: files they add, and foreign data they must not touch."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64, ObjectId
from gridfs import GridFSBucket

from app.storage.errors import StorageUnavailable
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Expect, Key, Listing
from tests.support import mongo
from tests.support.beneath import bucket_file
from tests.unit.database.gridfs.conftest import Command, Commands, Grid

FILM = Key(SHARED, "", "film.mp4")
FILM_A = Key(SHARED, "", "a.mp4")


def test_scan_accepts_ids_of_any_type(grid: Grid) -> None:
    bucket = GridFSBucket(grid.database)
    # More ids of one type than one step reads.
    ids = [*range(130), *(f"s{n}" for n in range(130)), *(ObjectId() for _ in range(3)), {"of": "another"}]
    grid.database["fs.files"].insert_many(
        bucket_file(ObjectId(), f"{n}.mp4", 0) | {"_id": file} for n, file in enumerate(ids)
    )
    bucket.upload_from_stream_with_id("named", "named.mp4", b"film")
    assert len(grid.scan()) == len(ids) + 1
    assert len(grid.paths()) == len(ids) + 1
    assert grid.scan() == []
    moved = grid.backend.move(Key(SHARED, "", "named.mp4"), Key(SHARED, "a", "b.mp4"), Expect.ANY)
    assert moved.size == 4
    grid.backend.delete(moved.key, Expect.ANY)
    some = (0, 129, 130, 259, 260, len(ids) - 1)  # of each type
    for n in some:
        grid.backend.delete(Key(SHARED, "", f"{n}.mp4"), Expect.ANY)
    grid.pass_time()
    assert grid.scan() == []
    assert [
        grid.database[name].count_documents({}) for name in ("media.uploads", "fs.files", "fs.chunks")
    ] == [0, len(ids) - len(some), 0]


@pytest.mark.parametrize(
    ("invalid", "outcome"),
    [
        *(({"length": length}, "unreadable") for length in (float("inf"), -1)),
        *(({"chunkSize": chunk_size}, "unreadable") for chunk_size in (float(1 << 70), 0)),
        *(({"uploadDate": date}, "unreadable") for date in ("yesterday", 5)),
        ({"filename": None}, "skipped"),
        *(({"metadata": {"library": library}}, "skipped") for library in ("no/library", 7)),
    ],
)
def test_scan_reports_invalid_file_and_continues(
    grid: Grid, invalid: dict[str, object], outcome: str
) -> None:
    grid.database["fs.files"].insert_many(
        [bucket_file(ObjectId(), "odd.mp4", 0) | invalid, bucket_file(ObjectId(), "sound.mp4", 0)]
    )
    assert sorted(outcome for _, outcome in grid.scan()) == ["created", outcome]
    assert grid.paths() == ["sound.mp4"]


def test_scan_reports_unreadable_documents_and_continues(grid: Grid) -> None:
    for name in ("a.mp4", "gone.mp4", "sound.mp4"):
        grid.upload(Key(SHARED, "films", name))
    media = grid.database["media"]
    media.update_one({"filename": "a.mp4"}, {"$unset": {"chunk_size": True}})
    gone = media.find_one_and_update({"filename": "gone.mp4"}, {"$unset": {"filename": True}})
    assert gone is not None
    grid.database["fs.files"].delete_one({"_id": gone["file"]})
    media.insert_many([{"_id": 7, "file": 7}, {"_id": "no file", "filename": "b.mp4"}])
    assert sorted(grid.scan()) == [(name, "unreadable") for name in ("7", "b.mp4", "films")]
    assert grid.paths() == ["films/a.mp4", "films/sound.mp4"], "lists do not need the chunk size"
    media.update_one({"filename": "a.mp4"}, {"$unset": {"size": True}})
    assert grid.paths() == ["films/sound.mp4"]
    with pytest.raises(StorageUnavailable, match="document of this file is malformed"):
        grid.size(Key(SHARED, "films", "a.mp4"))
    assert sorted(grid.verdicts()) == [
        ("b.mp4", Integrity.UNREADABLE),
        ("films", Integrity.UNREADABLE),
        ("films/a.mp4", Integrity.UNREADABLE),
        ("films/sound.mp4", Integrity.DAMAGED),  # stored with a wrong hash
    ]


def test_scan_continues_when_query_for_one_file_fails(grid: Grid) -> None:
    bucket = GridFSBucket(grid.database)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        bucket.upload_from_stream(name, b"film")
    refused: dict[str, Any] = {"mode": {"times": 1}, "errorCode": 1}
    with mongo.fail_point(grid.database, "insert", "media", **refused):
        found = grid.scan()
    assert sorted(outcome for _, outcome in found) == ["created", "created", "unreadable"]
    assert [outcome for _, outcome in grid.scan()] == ["created"]
    with mongo.fail_point(grid.database, "find", "fs.chunks", **refused):
        assert sum(grid.backend.maintenance.hash_unverified()) == 8
    assert sum(grid.backend.maintenance.hash_unverified()) == 4
    with mongo.fail_point(grid.database, "find", "fs.chunks", **refused):
        verdicts = [verdict for _, verdict in grid.verdicts()]
    assert sorted(verdicts, key=lambda verdict: verdict.value) == [
        Integrity.SOUND,
        Integrity.SOUND,
        Integrity.UNREADABLE,
    ]


@pytest.mark.parametrize("metadata", [None, [], "text", {"by": "another"}])
def test_scan_accepts_any_foreign_metadata(grid: Grid, metadata: object) -> None:
    file = bucket_file(ObjectId(), "a.mp4", 0) | {"metadata": metadata, "length": Int64(0)}
    grid.database["fs.files"].insert_one(file)
    assert grid.scan() == [("a.mp4", "created")]


def test_upload_returns_to_its_library_when_document_is_lost(grid: Grid) -> None:
    grid.upload(Key("alice", "", "mine.mp4"))
    grid.database["media"].delete_many({})
    grid.database["media.uploads"].delete_many({})
    assert grid.scan() == [("mine.mp4", "created")]
    assert (grid.paths("alice"), grid.paths()) == (["mine.mp4"], [])


def test_upload_date_in_future_is_limited_to_now(grid: Grid) -> None:
    ahead = bucket_file(ObjectId(), "a.mp4", 0) | {"uploadDate": datetime(2100, 1, 1, tzinfo=UTC)}
    grid.database["fs.files"].insert_one(ahead)
    assert grid.scan() == [("a.mp4", "created")]
    (info,) = grid.backend.page(Listing(SHARED), cursor=None, limit=1, wait=True).items
    assert info.updated_at <= datetime.now(UTC)
    assert grid.scan() == []


@pytest.mark.parametrize("collection", ["media", "fs.chunks"])
def test_ping_raises_when_index_is_missing(grid: Grid, collection: str) -> None:
    grid.backend.ping()
    grid.database[collection].drop_indexes()
    with pytest.raises(StorageUnavailable, match="lost an index"):
        grid.backend.ping()


def test_older_revision_stays_hidden_when_newest_is_deleted(grid: Grid) -> None:
    bucket = GridFSBucket(grid.database)
    for data in (b"old", b"newer", b"newest"):
        bucket.upload_from_stream("a.mp4", data)
    assert ("a.mp4", "created") in grid.scan()
    grid.backend.delete(Key(SHARED, "", "a.mp4"), Expect.ANY)
    grid.pass_time()
    assert grid.scan() == []
    assert grid.paths() == []
    left = {file["length"] for file in grid.database["fs.files"].find()}
    assert left == {len(b"old"), len(b"newer")}, "files of other programs must stay"
    bucket.upload_from_stream("a.mp4", b"put there after all")
    assert grid.scan() == [("a.mp4", "created")]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *(("/a.mp4", "a.mp4"), ("//a.mp4", "a.mp4"), ("./a.mp4", "a.mp4"), ("/films/a.mp4", "films/a.mp4")),
        *((name, None) for name in ("a/", "/a/", "///a", "/./a", "../a", "/../a", "a//b", "a/./b")),
        *((name, None) for name in ("/", "//", ".", "./", "", "/.seekable/a", "/a\\b")),
    ],
)
def test_bucket_filename_becomes_path_or_is_skipped_with_reason(
    grid: Grid, name: str, path: str | None
) -> None:
    grid.database["fs.files"].insert_one(bucket_file(ObjectId(), name, 0))
    findings = [finding for step in grid.backend.maintenance.scan() for finding in step.findings]
    assert [(finding.path, finding.outcome.value, bool(finding.reason)) for finding in findings] == [
        (path, "created", False) if path else (name, "skipped", True)
    ]
    assert grid.paths() == ([path] if path else [])
    if path:
        assert grid.scan() == []


def test_spellings_of_one_path_are_one_file(grid: Grid) -> None:
    bucket = GridFSBucket(grid.database)
    for name in ("//a.mp4", "./a.mp4", "/a.mp4"):
        bucket.upload_from_stream(name, name.encode())
    assert grid.scan().count(("a.mp4", "created")) == 1
    assert (grid.paths(), grid.size(FILM_A)) == (["a.mp4"], len("/a.mp4"))
    bucket.upload_from_stream("a.mp4", b"newest of them all")
    assert ("a.mp4", "replaced") in grid.scan()
    assert grid.size(FILM_A) == len("newest of them all")
    grid.backend.delete(FILM_A, Expect.ANY)
    grid.pass_time()
    assert grid.scan() == []
    assert grid.paths() == []
    assert grid.database["fs.files"].count_documents({}) == 3, "files of other programs must stay"


def test_upload_is_not_replaced_by_other_spelling_of_path(grid: Grid) -> None:
    grid.upload(FILM)
    GridFSBucket(grid.database).upload_from_stream(f"/{FILM.path}", b"another")
    assert grid.scan() == [(FILM.path, "skipped")]
    assert grid.size(FILM) == 4


def finds_several(command: Command, collection: str, field: str) -> bool:
    """Return whether a scan sends the command to look up a batch of files."""
    return command.get("find") == collection and "$in" in command["filter"].get(field, ())


def test_swept_file_does_not_return_when_scan_has_listed_it(commands: Commands, grid: Grid) -> None:
    grid.upload(FILM_A)

    def delete_and_sweep() -> None:
        """Do what another process may do while a scan runs."""
        grid.backend.delete(FILM_A, Expect.ANY)
        grid.pass_time()
        grid.scan()

    commands.before(lambda command: finds_several(command, "media", "file"), delete_and_sweep)
    assert grid.scan() == []
    assert grid.paths() == []


def test_upload_committed_during_scan_is_not_added_as_foreign(commands: Commands, grid: Grid) -> None:
    is_sealed, may_commit = threading.Event(), threading.Event()
    upload = threading.Thread(target=grid.upload, args=(FILM_A,))

    def finish_upload() -> None:
        may_commit.set()
        upload.join()

    def pause_upload() -> None:
        is_sealed.set()
        assert may_commit.wait(60)

    commands.before(lambda command: command.get("insert") == "media", pause_upload)
    commands.before(lambda command: finds_several(command, "media.uploads", "_id"), finish_upload)
    upload.start()
    assert is_sealed.wait(60)
    assert grid.scan() == []
    assert may_commit.is_set()
    assert grid.paths() == ["a.mp4"]

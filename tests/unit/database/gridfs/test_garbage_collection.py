"""Garbage collection of the bucket: leases of uploads, and what a sweep removes."""

import time
from contextlib import ExitStack

import pytest

from app.database.gridfs.bucket import CHUNK_SIZE, CHUNKS_PER_BATCH
from app.storage.errors import StorageUnavailable
from app.storage.types import SHARED, Expect, Key
from tests.support import mongo
from tests.unit.database.gridfs.conftest import Grid

FILM = Key(SHARED, "", "film.mp4")


def test_sweep_keeps_foreign_documents_in_uploads_collection(grid: Grid) -> None:
    others = [{"_id": n, "invoice": n} for n in range(3)] + [{"_id": "x", "expires_at": "soon"}]
    grid.database["media.uploads"].insert_many(others)
    grid.scan()
    assert [*grid.database["media.uploads"].find({}, sort=[("_id", 1)])] == others


def test_late_chunks_of_expired_upload_are_swept(grid: Grid) -> None:
    writer = grid.backend.stage(None)
    grid.pass_time()
    grid.scan()  # while the writer's process is paused, just before it sends
    writer.write(bytes(3 << 20))
    with pytest.raises(StorageUnavailable, match="given up"):
        grid.backend.commit(
            Key(SHARED, "", "a.mp4"), writer, size=3 << 20, sha256="", content_type="", expect=Expect.ANY
        )
    writer.discard()
    grid.pass_time()
    grid.scan()
    assert [grid.database[name].count_documents({}) for name in ("media.uploads", "fs.chunks")] == [0, 0]


def test_writer_keeps_lease_when_client_is_slow() -> None:
    with ExitStack() as stack:
        grid = Grid(stack, lease_s=1.0)
        writer = grid.backend.stage(None)
        writer.write(bytes(5 << 20))
        for _ in range(3):
            time.sleep(0.7)
            grid.scan()
        grid.backend.commit(
            FILM, writer, size=5 << 20, sha256="0" * 64, content_type="video/mp4", expect=Expect.ANY
        )
        reader = grid.backend.open(FILM, wait=True)
        assert sum(map(len, reader.read(0, 5 << 20))) == 5 << 20
        assert grid.database["media.uploads"].count_documents({}) == 0


def test_lease_stays_when_batch_fails_unnoticed(grid: Grid) -> None:
    """The database may still store the batch."""
    writer = grid.backend.stage(None)
    with mongo.fail_point(grid.database, "insert", "fs.chunks", errorCode=1):
        writer.write(bytes(CHUNKS_PER_BATCH * CHUNK_SIZE))
        writer.discard()  # as when its client disconnects
    assert [upload["_id"] for upload in grid.database["media.uploads"].find()] == [writer.id]


def test_discarded_upload_is_not_restored_by_concurrent_renewal() -> None:
    with ExitStack() as stack:
        grid = Grid(stack, lease_s=0.04)  # renewed after a quarter of it
        writers = grid.backend.stage(None), grid.backend.stage(None)
        delay = {"blockConnection": True, "blockTimeMS": 500}
        with mongo.fail_point(grid.database, "update", "media.uploads", **delay) as entered:
            # One renewal has reached the database; the renewal of the other file comes next.
            wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000}
            grid.database.client.admin.command(wait)
            for writer in writers:
                writer.discard()
    assert list(grid.database["media.uploads"].find()) == []

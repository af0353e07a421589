"""Writing chunks to the bucket."""

import threading
from contextlib import ExitStack

from app.database.gridfs.bucket import CHUNK_SIZE, CHUNKS_PER_BATCH, ChunkSenders
from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from tests.support import mongo


def test_submit_blocks_when_all_threads_are_busy() -> None:
    resume, submitted = threading.Event(), threading.Semaphore(0)

    def submit_three() -> None:
        for _ in range(3):
            senders.submit(resume.wait, 60)
            submitted.release()

    with ChunkSenders(2) as senders:
        writer = threading.Thread(target=submit_three)
        writer.start()
        try:
            assert submitted.acquire(timeout=60)
            assert submitted.acquire(timeout=60)
            assert not submitted.acquire(timeout=0.2)
        finally:
            resume.set()
        assert submitted.acquire(timeout=60)
        writer.join()


def test_lease_stays_when_batch_fails_unnoticed() -> None:
    """The database may still store the batch."""
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database = mongo.database(settings.mongodb_url)
    with ExitStack() as stack:
        writer = open_gridfs(settings, stack).stage(None)
        with mongo.fail_point(database, "insert", "fs.chunks", errorCode=1):
            writer.write(bytes(CHUNKS_PER_BATCH * CHUNK_SIZE))
            writer.discard()  # as when its client disconnects
        assert [upload["_id"] for upload in database["media.uploads"].find()] == [writer.id]


def test_discarded_upload_is_not_restored_by_concurrent_renewal() -> None:
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database = mongo.database(settings.mongodb_url)
    with ExitStack() as stack:
        backend = open_gridfs(settings, stack, lease_s=0.04)  # renewed after a quarter of it
        writers = backend.stage(None), backend.stage(None)
        delay = {"blockConnection": True, "blockTimeMS": 500}
        with mongo.fail_point(database, "update", "media.uploads", **delay) as entered:
            # One renewal has reached the database; the renewal of the other file comes next.
            wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000}
            database.client.admin.command(wait)
            for writer in writers:
                writer.discard()
    assert list(database["media.uploads"].find()) == []

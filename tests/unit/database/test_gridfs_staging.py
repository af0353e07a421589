"""Chunks on their way to the bucket."""

import threading
from contextlib import ExitStack
from datetime import timedelta

import pytest

from app.database.gridfs import upload_leases
from app.database.gridfs.opening import open_gridfs
from app.database.gridfs.staging import BATCH, CHUNK_SIZE, Senders
from app.settings import Settings
from tests.support import mongo


def test_who_has_more_to_send_than_there_are_threads_waits() -> None:
    goes_on, handed_over = threading.Event(), threading.Semaphore(0)

    def hand_over() -> None:
        for _ in range(3):
            senders.submit(goes_on.wait, 60)
            handed_over.release()

    with Senders(2) as senders:
        writer = threading.Thread(target=hand_over)
        writer.start()
        try:
            assert handed_over.acquire(timeout=60)
            assert handed_over.acquire(timeout=60)
            assert not handed_over.acquire(timeout=0.2)
        finally:
            goes_on.set()
        assert handed_over.acquire(timeout=60)
        writer.join()


def test_of_a_batch_that_failed_unseen_the_lease_stays() -> None:
    """Whether the database will yet store it nobody knows."""
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database = mongo.database(settings.mongodb_url)
    with ExitStack() as stack:
        writer = open_gridfs(settings, lambda name: "video/mp4", stack).stage(None)
        with mongo.fail_point(database, "insert", "fs.chunks", errorCode=1):
            writer.write(bytes(BATCH * CHUNK_SIZE))
            writer.discard()  # its client has left
        assert [upload["_id"] for upload in database["media.uploads"].find()] == [writer.id]


def test_discarded_uploads_are_not_entered_again_by_a_renewal_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database = mongo.database(settings.mongodb_url)
    with ExitStack() as stack:
        monkeypatch.setattr(upload_leases, "LEASE", timedelta(milliseconds=40))  # renewed after a quarter
        backend = open_gridfs(settings, lambda name: "video/mp4", stack)
        writers = backend.stage(None), backend.stage(None)
        slow = {"blockConnection": True, "blockTimeMS": 500}
        with mongo.fail_point(database, "update", "media.uploads", **slow) as entered:
            # One renewal is at the database, and the other file is to be renewed next.
            wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000}
            database.client.admin.command(wait)
            for writer in writers:
                writer.discard()
    assert list(database["media.uploads"].find()) == []

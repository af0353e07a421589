"""Chunks on their way to the bucket."""

import threading
from contextlib import ExitStack

from app.database.mongo.opening import open_gridfs
from app.database.mongo.staging import BATCH, CHUNK_SIZE, Senders
from app.settings import Settings
from tests import mongo


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
    failing = {"failCommands": ["insert"], "namespace": f"{database.name}.fs.chunks", "errorCode": 1}
    with ExitStack() as stack:
        writer = open_gridfs(settings, lambda name: "video/mp4", stack).stage(None)
        fail = {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": failing}
        database.client.admin.command(fail)
        try:
            writer.write(bytes(BATCH * CHUNK_SIZE))
            writer.discard()  # its client has left
        finally:
            database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        assert [upload["_id"] for upload in database["media.uploads"].find()] == [writer.id]

"""A move over GridFS is one update of one document, so a crash at any moment leaves exactly one file."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo import monitoring

from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.types import SHARED, Expect, Key
from tests.support import mongo

WRITES = {"insert", "update", "delete", "findAndModify", "bulkWrite"}


class Writes(monitoring.CommandListener):
    """The write commands, as they were sent."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in WRITES:
            self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def writes() -> Iterator[Writes]:
    listener = Writes()
    listeners = monitoring._LISTENERS.command_listeners  # those of every client created from now on
    listeners.append(listener)
    yield listener
    listeners.remove(listener)


def test_move_updates_one_document(writes: Writes) -> None:
    source, target = Key(SHARED, "a", "old.mp4"), Key(SHARED, "b", "new.mp4")
    settings = Settings(_env_file=None, **mongo.gridfs())
    with ExitStack() as stack:
        backend = open_gridfs(settings, stack)
        writer = backend.stage(4)
        writer.write(b"film")
        backend.commit(source, writer, size=4, sha256="00", content_type="video/mp4", expect=Expect.ANY)
        writes.commands.clear()
        backend.move(source, target, Expect.ANY)
    assert [command["update"] for command in writes.commands if "update" in command][:1] == ["media"]
    (first, *rest) = writes.commands
    (update,) = first["updates"]
    assert not update.get("multi")
    assert {update["u"]["$set"][name] for name in ("folder", "filename")} == {"b", "new.mp4"}
    # The filename in the bucket is for other programs; our answers do not depend on it.
    assert [(command.get("update"), len(command["updates"])) for command in rest] == [("fs.files", 1)]

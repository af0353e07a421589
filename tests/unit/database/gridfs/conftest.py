"""A library in GridFS, and actions that run between two of its commands."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import monitoring
from pymongo.database import Database

from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Expect, Key, Listing
from tests.support import mongo

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

Command = Mapping[str, Any]


class Commands(monitoring.CommandListener):
    """The commands that clients send, in order. Actions may run just before one is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._actions: list[tuple[Callable[[Command], bool], Callable[[], object]]] = []

    def before(self, matches: Callable[[Command], bool], action: Callable[[], object]) -> None:
        """Run the action once, in the thread of the next command that matches."""
        self._actions.append((matches, action))

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command = dict(event.command)
        self.sent.append(command)
        for entry in list(self._actions):
            if entry[0](command):
                self._actions.remove(entry)
                entry[1]()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def commands() -> Iterator[Commands]:
    """Listen to the commands of every client that is created from now on."""
    listener = Commands()
    listeners = monitoring._LISTENERS.command_listeners
    listeners.append(listener)
    yield listener
    listeners.remove(listener)


class Queries:
    """The queries of a collection from now on, as the server records them: on whichever connection."""

    def __init__(self, database: Database[dict[str, Any]], collection: str) -> None:
        self._database = database
        self._selected = {"ns": f"{database.name}.{collection}", "op": {"$ne": "insert"}}
        database.command("profile", 2)

    def found(self) -> list[dict[str, Any]]:
        return list(self._database["system.profile"].find(self._selected))

    @property
    def names(self) -> list[str]:
        return [next(iter(query["command"])) for query in self.found()]

    @property
    def documents(self) -> int:
        """Documents in the replies, after which the server kept no cursor."""
        queries = self.found()
        assert all(query["cursorExhausted"] for query in queries)
        return sum(query["nreturned"] for query in queries)


class Grid:
    """A library and its database, a new one without a URL. `options` are those of `open_gridfs`."""

    def __init__(self, stack: ExitStack, url: str | None = None, **options: Any) -> None:
        settings = Settings(
            _env_file=None, storage="gridfs", mongodb_url=url or mongo.gridfs()["mongodb_url"]
        )
        assert settings.mongodb_url is not None
        self.url = settings.mongodb_url
        self.backend = open_gridfs(settings, stack, **options)
        self.database: Database[dict[str, Any]] = mongo.database(settings.mongodb_url)

    def scan(self) -> list[tuple[str, str]]:
        return [
            (finding.path, finding.outcome.value)
            for step in self.backend.maintenance.scan()
            for finding in step.findings
        ]

    def verdicts(self) -> list[tuple[str, Integrity]]:
        return [
            (step.path, step.verdict)
            for step in self.backend.maintenance.verify()
            if step.verdict is not None
        ]

    def paths(self, library: str = SHARED) -> list[str]:
        page = self.backend.page(Listing(library, recursive=True), cursor=None, limit=1000, wait=True)
        return [info.key.path for info in page.items]

    def size(self, key: Key) -> int:
        return self.backend.open(key, wait=True).info.size

    def pass_time(self) -> None:
        """Expire every lease and grace period."""
        ending = {"expires_at": {"$exists": True}}
        self.database["media.uploads"].update_many(ending, {"$set": {"expires_at": LONG_AGO}})

    def upload(self, key: Key) -> None:
        writer = self.backend.stage(None)
        writer.write(b"film")
        self.backend.commit(key, writer, size=4, sha256="0" * 64, content_type="video/mp4", expect=Expect.ANY)


@pytest.fixture
def grid() -> Iterator[Grid]:
    with ExitStack() as stack:
        yield Grid(stack)

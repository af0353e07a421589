"""Two servers on one database: each sends the other's changes to its WebSockets at once."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.database.sql import change_feed
from app.database.sql.change_feed import CHANNEL
from app.storage.types import Change, ChangeKind, FileInfo, Key
from tests.support import Server, mongo, postgres, running
from tests.support.sockets import Socket
from tests.support.together import Outcomes, Together

pytestmark = pytest.mark.live

FLOOD = 5000
RESYNC = {"type": "resync"}

together = Together("outcomes")


@dataclass
class Engine:
    """A database that tests may crash and flood."""

    settings: dict[str, object]
    keeps_changes: bool
    """Whether a server that reconnects receives the changes made meanwhile."""
    restart: Callable[[], None]
    """Kill the database, and start it again."""
    flood: Callable[[], None]
    """Make FLOOD changes in Anna's library, as other processes would."""


@contextmanager
def postgresql(folder: Path) -> Iterator[Engine]:
    with postgres.postgres() as server:
        url = server.new_library()

        def restart() -> None:
            server.crash()
            server.start()

        def flood() -> None:
            with server.connected(url.rpartition("/")[2]) as connection:
                found = connection.execute("SELECT id, library, created_at FROM media LIMIT 1").fetchone()
                assert found is not None
                file, library, at = found
                infos: Any = [
                    FileInfo(file, Key.at(library, f"{n}"), 1, "a/b", "e", "s", at, at) for n in range(FLOOD)
                ]
                payloads = [
                    change_feed.change_payloads("another", [Change(ChangeKind.CREATED, info)])[0]
                    for info in infos
                ]
                connection.execute(
                    "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload", (CHANNEL, payloads)
                )

        yield Engine({"files_dir": folder / "files", "database_url": url}, False, restart, flood)


@contextmanager
def gridfs(folder: Path) -> Iterator[Engine]:
    with mongo.mongod() as node:
        url = node.url("library")

        def restart() -> None:
            node.kill()
            node.restart()

        def flood() -> None:
            media = mongo.database(url)["media"]
            found = media.find_one()
            assert found is not None
            names = map(str, range(FLOOD))
            media.insert_many([{**found, "_id": name, "filename": name, "file": name} for name in names])

        yield Engine({"storage": "gridfs", "mongodb_url": url}, True, restart, flood)


class User:
    """An account whose requests go to server `b`, with a WebSocket on each server."""

    def __init__(self, name: str, a: Server, b: Server, stack: ExitStack) -> None:
        self.http = stack.enter_context(b.client())
        credentials = {"email": f"{name}@example.org", "password": "a good long password"}
        self.http.post("/sign-up", json=credentials).raise_for_status()
        (self._secret,) = self.http.cookies.values()
        self.socket_a, self.socket_b = (
            stack.enter_context(self.socket(server, "/events")) for server in (a, b)
        )
        assert self.socket_a.json() == self.socket_b.json() == RESYNC

    def socket(self, server: Server, target: str) -> Socket:
        return Socket(server, target, f"Cookie: seekable-{server.port}={self._secret}")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, f"/files/{path}", **options).raise_for_status()

    def check_event(self, **expected: str) -> float:
        """Check the next event on both sockets. Returns the seconds until server `a` sent it."""
        began = time.monotonic()
        event = self.socket_a.json()
        took = time.monotonic() - began
        assert event == self.socket_b.json()
        assert {**event, **expected} == event
        return took


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with together.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@together
def test_socket_receives_changes_of_other_server_on_postgresql(folder: Path) -> None:
    check_replicas(folder, postgresql)


@together
def test_socket_receives_changes_of_other_server_on_mongodb(folder: Path) -> None:
    check_replicas(folder, gridfs)


def check_replicas(folder: Path, engine: Callable[[Path], AbstractContextManager[Engine]]) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(engine(folder))
        settings = {"access": "accounts", "sign_up": "open", **database.settings}
        a, b = (stack.enter_context(running(folder / name, **settings)) for name in "ab")
        anna, ben = (User(name, a, b, stack) for name in ("anna", "ben"))

        check_each_change_is_sent_once(anna)
        check_change_is_sent_within_a_second(anna)
        check_progress_is_sent(anna, a)
        assert ben.socket_a.is_silent(0.2)

        database.restart()
        check_changes_are_sent_after_restart(anna, keeps_changes=database.keeps_changes)

        memory = a.rss()
        database.flood()
        check_flood_is_sent_whole_or_ends_with_resync(anna)
        assert a.rss() - memory < 30 << 20
        assert b.stop() == 0
        for server in (a, b):
            assert "Traceback" not in server.log()


def check_each_change_is_sent_once(anna: User) -> None:
    created = anna.request("PUT", "films/a.mp4", content=b"one").json()
    anna.check_event(type="file.created", id=created["id"], path="films/a.mp4", etag=created["etag"])
    replaced = anna.request("PUT", "films/a.mp4", content=b"two").headers["etag"].strip('"')
    anna.check_event(type="file.replaced", id=created["id"], path="films/a.mp4", etag=replaced)
    merge = {"content-type": "application/merge-patch+json"}
    anna.request("PATCH", "films/a.mp4", content=json.dumps({"filename": "é.mp4"}), headers=merge)
    anna.check_event(
        type="file.moved", id=created["id"], path="films/é.mp4", previous_path="films/a.mp4", etag=replaced
    )
    anna.request("DELETE", "films/é.mp4")
    anna.check_event(type="file.deleted", id=created["id"], path="films/é.mp4", etag=replaced)
    assert anna.socket_a.is_silent(0.1)
    assert anna.socket_b.is_silent(0.1)


def check_change_is_sent_within_a_second(anna: User) -> None:
    """Tries up to five times, in case other programs keep the machine busy."""
    took = []
    while not took or (took[-1] >= 1 and len(took) < 5):
        path = f"prompt {len(took)}.mp4"
        anna.request("PUT", path, content=b"prompt")
        took.append(anna.check_event(type="file.created", path=path))
    assert took[-1] < 1, took


def check_progress_is_sent(anna: User, a: Server) -> None:
    """The socket is on server `a`, the upload on `b`: progress comes once a second and at the end."""
    size = 400_000

    def slowly() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(size // 40)
            time.sleep(0.03)

    with anna.socket(a, "/") as session:
        sid = session.json()["sid"]
        began = time.monotonic()
        anna.request("PUT", f"b.mp4?sid={sid}", content=slowly(), headers={"content-length": str(size)})
        took = time.monotonic() - began
        messages = []
        while not messages or messages[-1]["received"] < size:
            messages.append(session.json()["progress"])
    assert messages[-1] == {"filename": "b.mp4", "received": size, "total": size}
    assert 2 <= len(messages) <= took + 2
    anna.check_event(type="file.created", path="b.mp4")


def check_changes_are_sent_after_restart(anna: User, *, keeps_changes: bool) -> None:
    """The sockets have been open since before the restart."""
    if not keeps_changes:
        assert anna.socket_a.json() == anna.socket_b.json() == RESYNC
    deadline = time.monotonic() + 20
    while anna.http.put("/files/c.mp4", content=b"c").status_code != 201:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    anna.check_event(type="file.created", path="c.mp4")
    anna.request("PUT", "d.mp4", content=b"d")
    anna.check_event(type="file.created", path="d.mp4")


def check_flood_is_sent_whole_or_ends_with_resync(anna: User) -> None:
    events = []
    while not anna.socket_a.is_silent(1.5):
        events.append(anna.socket_a.json())
    resyncs = [number for number, event in enumerate(events) if event == RESYNC]
    after = events[resyncs[-1] + 1 :] if resyncs else events
    assert resyncs or len(events) == FLOOD
    assert [event["path"] for event in after] == [str(n) for n in range(FLOOD - len(after), FLOOD)]
    while not anna.socket_b.is_silent(0.1):
        anna.socket_b.json()
    anna.request("PUT", "e.mp4", content=b"e")
    anna.check_event(type="file.created", path="e.mp4")

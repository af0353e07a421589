"""WebSockets of one server hear of what happens through another on the same database, at once."""

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
from app.storage.types import Change, FileInfo, Key, Kind
from tests import mongo, postgres
from tests.sockets import Socket
from tests.support import Server, running
from tests.together import Outcomes, Together

pytestmark = pytest.mark.live

FLOOD = 5000
RESYNC = {"type": "resync"}

together = Together("scenes")


@dataclass
class Engine:
    """A database that may be harmed."""

    settings: dict[str, object]
    keeps: bool
    """Whether what happens is kept for who cannot listen for a while."""
    restart: Callable[[], None]
    """Kill it, and start it again."""
    flood: Callable[[], None]
    """Make many changes of the library that has files, as other processes would."""


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
                told = [change_feed.of_changes("another", [Change(Kind.CREATED, info)])[0] for info in infos]
                connection.execute(
                    "SELECT pg_notify(%s, told) FROM unnest(%s::text[]) AS told", (CHANNEL, told)
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


class Person:
    """Somebody who has an account, and listens at `a`."""

    def __init__(self, name: str, a: Server, b: Server, stack: ExitStack) -> None:
        self.http = stack.enter_context(b.client())
        credentials = {"email": f"{name}@example.org", "password": "long enough for anybody"}
        self.http.post("/sign-up", json=credentials).raise_for_status()
        (self._secret,) = self.http.cookies.values()
        self.at_a, self.at_b = (stack.enter_context(self.socket(server, "/events")) for server in (a, b))
        assert self.at_a.json() == self.at_b.json() == RESYNC

    def socket(self, server: Server, target: str) -> Socket:
        return Socket(server, target, f"Cookie: seekable-{server.port}={self._secret}")

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, f"/files/{path}", **options).raise_for_status()

    def hears(self, **expected: str) -> float:
        """The next that comes, which those hear, too, where it was asked for. How long it took."""
        began = time.monotonic()
        heard = self.at_a.json()
        took = time.monotonic() - began
        assert heard == self.at_b.json()
        assert {**heard, **expected} == heard
        return took


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with together.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@together
def test_a_socket_hears_of_what_happens_through_another_server_on_one_postgresql(folder: Path) -> None:
    check(folder, postgresql)


@together
def test_a_socket_hears_of_what_happens_through_another_server_on_one_mongodb(folder: Path) -> None:
    check(folder, gridfs)


def check(folder: Path, engine: Callable[[Path], AbstractContextManager[Engine]]) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(engine(folder))
        settings = {"access": "accounts", "sign_up": "open", **database.settings}
        a, b = (stack.enter_context(running(folder / name, **settings)) for name in "ab")
        anna, ben = (Person(name, a, b, stack) for name in ("anna", "ben"))

        each_change_is_heard_once(anna)
        it_is_heard_within_a_second(anna)
        progress_is_heard(anna, a)
        assert ben.at_a.is_silent(0.2)

        database.restart()
        after_a_restart_all_goes_on(anna, keeps=database.keeps)

        memory = a.rss()
        database.flood()
        a_flood_ends_with_a_list_or_all_of_it(anna)
        assert a.rss() - memory < 30 << 20
        assert b.stop() == 0
        for server in (a, b):
            assert "Traceback" not in server.log()


def each_change_is_heard_once(anna: Person) -> None:
    created = anna.ask("PUT", "films/a.mp4", content=b"one").json()
    anna.hears(type="file.created", id=created["id"], path="films/a.mp4", etag=created["etag"])
    replaced = anna.ask("PUT", "films/a.mp4", content=b"two").headers["etag"].strip('"')
    anna.hears(type="file.replaced", id=created["id"], path="films/a.mp4", etag=replaced)
    merge = {"content-type": "application/merge-patch+json"}
    anna.ask("PATCH", "films/a.mp4", content=json.dumps({"filename": "é.mp4"}), headers=merge)
    anna.hears(
        type="file.moved", id=created["id"], path="films/é.mp4", previous_path="films/a.mp4", etag=replaced
    )
    anna.ask("DELETE", "films/é.mp4")
    anna.hears(type="file.deleted", id=created["id"], path="films/é.mp4", etag=replaced)
    assert anna.at_a.is_silent(0.1)
    assert anna.at_b.is_silent(0.1)


def it_is_heard_within_a_second(anna: Person) -> None:
    """At the latest when nothing else on this machine is in the way."""
    took = []
    while not took or (took[-1] >= 1 and len(took) < 5):
        path = f"prompt {len(took)}.mp4"
        anna.ask("PUT", path, content=b"prompt")
        took.append(anna.hears(type="file.created", path=path))
    assert took[-1] < 1, took


def progress_is_heard(anna: Person, a: Server) -> None:
    """Where the socket is, and not the upload: its end, and how far it is once a second."""
    size = 400_000

    def slowly() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(size // 40)
            time.sleep(0.03)

    with anna.socket(a, "/") as session:
        sid = session.json()["sid"]
        began = time.monotonic()
        anna.ask("PUT", f"b.mp4?sid={sid}", content=slowly(), headers={"content-length": str(size)})
        took = time.monotonic() - began
        messages = []
        while not messages or messages[-1]["received"] < size:
            messages.append(session.json()["progress"])
    assert messages[-1] == {"filename": "b.mp4", "received": size, "total": size}
    assert 2 <= len(messages) <= took + 2
    anna.hears(type="file.created", path="b.mp4")


def after_a_restart_all_goes_on(anna: Person, *, keeps: bool) -> None:
    """On the sockets that were open before."""
    if not keeps:
        assert anna.at_a.json() == anna.at_b.json() == RESYNC
    deadline = time.monotonic() + 20
    while anna.http.put("/files/c.mp4", content=b"c").status_code != 201:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    anna.hears(type="file.created", path="c.mp4")
    anna.ask("PUT", "d.mp4", content=b"d")
    anna.hears(type="file.created", path="d.mp4")


def a_flood_ends_with_a_list_or_all_of_it(anna: Person) -> None:
    events = []
    while not anna.at_a.is_silent(1.5):
        events.append(anna.at_a.json())
    lists = [number for number, event in enumerate(events) if event == RESYNC]
    after = events[lists[-1] + 1 :] if lists else events
    assert lists or len(events) == FLOOD
    assert [event["path"] for event in after] == [str(n) for n in range(FLOOD - len(after), FLOOD)]
    while not anna.at_b.is_silent(0.1):
        anna.at_b.json()
    anna.ask("PUT", "e.mp4", content=b"e")
    anna.hears(type="file.created", path="e.mp4")

"""What README says of backups: its own commands, while uploads run, and what is there after a restore."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import Timestamp

from tests.forking import completed
from tests.live.clients import sha256, until
from tests.live.history import ABSENT, History
from tests.mongo import Mongod, mongod, temporary_folder, three_nodes
from tests.postgres import shared
from tests.support import Server, need, noise, running
from tests.together import Outcomes, Together

pytestmark = pytest.mark.live

README = (Path(__file__).parents[2] / "README.md").read_text()
OWNER = httpx.BasicAuth("owner@example.org", "a good long password")
ANNA = httpx.BasicAuth("anna@example.org", "a good long password")
LIBRARY = {"access": "accounts", "sign_up": "open"}

together = Together("backups")


def commands(after: str) -> list[str]:
    """The two blocks of commands behind these words: to back up, and to restore."""
    section = README[README.index("## Backup and restore") :]
    return re.findall(r"```sh\n(.*?)```", section[section.index(after) :], re.DOTALL)[:2]


VANISHED = 24
"""What rsync ends with when files were deleted while it ran."""

SLOW_ONCE = """#!/bin/sh
# rsync, slow at its first file if so asked; its exit status is noted.
if rm "$0.slow" 2>/dev/null; then set -- --bwlimit=500k "$@"; fi
PATH=${PATH#*:} rsync "$@"
status=$?
echo $status >>"$0.statuses"
exit $status
"""


@dataclass
class Tools:
    """A folder before all others in PATH, with an rsync of which is known how it went."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.rsync = self.folder / "rsync"
        self.rsync.write_text(SLOW_ONCE)
        self.rsync.chmod(0o755)

    def slow(self) -> None:
        """Let the next rsync take seconds for the first film that it sends."""
        (self.folder / "rsync.slow").touch()

    def statuses(self) -> list[int]:
        """How each has ended, since this was asked last."""
        file = self.folder / "rsync.statuses"
        statuses = [int(line) for line in file.read_text().split()]
        file.unlink()
        return statuses

    def sh(
        self, block: str, here: Path, meanwhile: Callable[[], object] | None = None, **environment: str
    ) -> None:
        """Run commands as a script that ends with the first that fails. `meanwhile` runs once the first film
        is being copied, and all others are listed."""
        environment = {**os.environ, **environment}
        environment["PATH"] = f"{self.folder}{os.pathsep}{environment['PATH']}"
        script = subprocess.Popen(
            ["sh", "-ec", block], cwd=here, env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            if meanwhile is not None:
                until(
                    lambda: any((here / "backup" / "files").glob(f".{SLOW}.*")), "rsync has begun", within=60
                )
                os.killpg(script.pid, signal.SIGSTOP)
                meanwhile()
        finally:
            os.killpg(script.pid, signal.SIGCONT)
            _, errors = script.communicate()
        assert script.returncode == 0, errors.decode()


SLOW = "0 slow.mp4"
"""The film that rsync sends first."""

COMING, STAYING, VANISHING = 20, 30, 12
"""Paths whose films come and go; films that stay, each of which is moved once; and films that vanish when
rsync has just listed them."""

PLACES = "coming/a", "coming/z"
"""Which rsync reads one after the other."""


@dataclass
class Uploads:
    """A client that uploads, replaces, moves and deletes all the time."""

    http: httpx.Client
    history: History = field(default_factory=History)
    stopping: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    sent: int = 0

    def run(self) -> None:
        for number in range(STAYING):
            self._put(f"{PLACES[number % 2]}/stays {number}.mp4")
        while not self.stopping.is_set():
            self._step(self.done)
            self.done += 1

    def put_what_vanishes(self) -> None:
        for number in range(VANISHING):
            self._put(f"{PLACES[number % 2]}/vanishes {number}.mp4")

    def let_vanish(self) -> None:
        for number in range(VANISHING):
            place, away = PLACES[:: 1 if number % 2 == 0 else -1]
            path = f"{place}/vanishes {number}.mp4"
            if number % 3:
                self._move(path, away)
            else:
                self.history.change({path: ABSENT}, partial(self._ask, "DELETE", path))

    def _step(self, number: int) -> None:
        """Each path in turn: a film comes, is replaced, is moved and is deleted."""
        slot, home, away = number % COMING, *PLACES[:: 1 if number % 2 else -1]
        match number // COMING % 4:
            case 0 | 1:
                self._put(f"{home}/{slot}.mp4")
            case 2:
                self._move(f"{home}/{slot}.mp4", away)
            case 3:
                path = f"{away}/{slot}.mp4"
                self.history.change({path: ABSENT}, lambda: self._ask("DELETE", path))
        turn, rest = divmod(number, 5)
        if rest == 0 and turn < STAYING:
            self._move(f"{PLACES[turn % 2]}/stays {turn}.mp4", PLACES[1 - turn % 2])

    def _put(self, path: str) -> None:
        # Of another length each time: rsync gives the file that it opens the time of the one that it listed,
        # and a newer version of the same length is only known as that when it is hashed.
        self.sent += 1
        film = os.urandom(20_000 + self.sent)
        self.history.change({path: sha256(film)}, lambda: self._ask("PUT", path, content=film))

    def _move(self, path: str, folder: str) -> None:
        target = f"{folder}/{path.rpartition('/')[2]}"
        headers = {"content-type": "application/merge-patch+json"}
        self.history.change(
            {path: ABSENT, target: self.history.changes[path][-1].version},
            lambda: self._ask("PATCH", path, content=json.dumps({"folder": folder}), headers=headers),
        )

    def _ask(self, method: str, path: str, **options: Any) -> None:
        """Send a change, again while the answer is 503: a copied node may stay locked for a long time."""
        answer = self.http.request(method, f"/files/{path}", **options)
        until_free = time.monotonic() + 60
        while answer.status_code == 503 and time.monotonic() < until_free:
            time.sleep(0.5)
            answer = self.http.request(method, f"/files/{path}", **options)
            if answer.status_code == 404:  # The change before the 503 was made all the same.
                return
        assert answer.is_success, (method, path, answer.status_code, answer.text)


@contextmanager
def uploading(http: httpx.Client) -> Iterator[Uploads]:
    """Inside, some were stored, and more come all the time."""
    uploads = Uploads(http)
    thread = threading.Thread(target=uploads.run)
    thread.start()
    try:
        until(lambda: uploads.done > COMING, "some are stored", within=60)
        yield uploads
        before = uploads.done
        until(lambda: uploads.done > before, "they still come", within=80)
    finally:
        uploads.stopping.set()
        thread.join()


@dataclass(frozen=True)
class Span:
    """The time that a backup took."""

    uploads: Uploads
    begin: float
    end: float

    @classmethod
    def of(cls, uploads: Uploads, back_up: Callable[[], object]) -> "Span":
        begin = uploads.history.clock()
        back_up()
        return cls(uploads, begin, uploads.history.clock())

    def see(self, http: httpx.Client) -> None:
        """Every film is as it was at a time of the span, and none is lost."""
        history, restored = self.uploads.history, self._restored(http)
        wrong = {
            path: (found, may)
            for path, found in restored.items()
            if found not in (may := history.may_hold(path, self.begin, self.end))
        }
        assert wrong == {}
        must = history.must_hold(self.begin, self.end)
        assert len(must) >= STAYING
        assert must - set(restored.values()) == set()

    def _restored(self, http: httpx.Client) -> dict[str, str]:
        restored = dict.fromkeys(self.uploads.history.changes, ABSENT)
        for folder in PLACES:
            listed = http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]
            for info in listed:
                restored[info["path"]] = sha256(http.get(f"/files/{info['path']}").content)
        return restored


@dataclass(frozen=True)
class Kept:
    """What was there before a backup began."""

    listed: list[dict[str, Any]]

    @classmethod
    def stored(cls, http: httpx.Client) -> "Kept":
        films = {
            "a b.mp4": ("video/mp4", noise(300_000)),
            "deep/er/odd": ("video/x-odd", b"odd"),
            "ö": ("", b""),
        }
        for path, (content_type, film) in films.items():
            headers = {"content-type": content_type} if content_type else {}
            assert http.put(f"/files/kept/{path}", content=film, headers=headers).status_code == 201
        return cls(kept(http))

    def see(self, http: httpx.Client) -> None:
        """It is all there again, to the last word, once the hashes have proved the bytes."""
        until(lambda: kept(http) == self.listed, "what was restored is hashed", within=60)
        for info in self.listed:
            answer = http.get(f"/files/{info['path']}", headers={"If-Match": f'"{info["etag"]}"'})
            assert sha256(answer.content) == info["sha256"]


def kept(http: httpx.Client) -> list[dict[str, Any]]:
    listed = http.get("/files", params={"folder": "kept", "recursive": True}).json()["items"]
    return [{name: value for name, value in info.items() if "url" not in name} for info in listed]


@contextmanager
def served(folder: Path, **settings: object) -> Iterator[tuple[Server, httpx.Client]]:
    with running(folder, **LIBRARY, **settings) as server, server.client(auth=ANNA) as http:
        yield server, http


def sign_up(http: httpx.Client) -> None:
    """The owner, and Anna, whose library is not at the top of the folder."""
    for email in ("owner@example.org", "anna@example.org"):
        somebody = {"email": email, "password": "a good long password"}
        assert http.post("/sign-up", json=somebody, auth=None).status_code == 201


@contextmanager
def filled(here: Path, **settings: object) -> Iterator[tuple[Kept, Uploads]]:
    """A library of two people, into which one of them uploads meanwhile."""
    with served(here, **settings) as (_, http):
        sign_up(http)
        http.put("/files/top.mp4", content=b"top", auth=OWNER).raise_for_status()
        there = Kept.stored(http)
        with uploading(http) as uploads:
            yield there, uploads


def see_restored(there: Path, kept: Kept, span: Span, **settings: object) -> None:
    with served(there, **settings) as (server, http):
        environment = os.environ | {
            f"SEEKABLE_{name.upper()}": str(value) for name, value in server.settings.items()
        }
        kept.see(http)
        # Films that the database does not know are taken in when they have been still for two seconds.
        until(
            lambda: "unfinished" not in completed("scan", folder=there, environment=environment).stdout,
            "all is taken in",
            within=60,
        )
        span.see(http)
        assert http.get("/files/top.mp4", auth=OWNER).content == b"top"
        # Not Anna's: the backup may hold the lease of an upload of hers, which ends 10 s after it was made.
        assert http.put("/files/new.mp4", content=b"new", auth=OWNER).status_code == 201
        verified = completed("verify", folder=there, environment=environment)
        assert verified.returncode == 0, verified.stdout


@pytest.fixture(scope="module")
def backups(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    shared()  # begun by a thread, it would end with that
    with together.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


def brought(here: Path, there: Path) -> None:
    """The backup is all that is left."""
    there.mkdir()
    shutil.move(here / "backup", there / "backup")
    shutil.rmtree(here)


@together
def test_a_folder_with_sqlite(tmp_path: Path) -> None:
    need("sqlite3", "rsync")
    back_up, restore = commands("**A folder with SQLite:**")
    here, there, tools = tmp_path / "here", tmp_path / "there", Tools(tmp_path / "tools")
    with filled(here) as (kept, uploads):
        span = backed_up_twice(here, uploads, tools, back_up)
    brought(here, there)
    tools.sh(restore, there)
    see_restored(there, kept, span)


@together
def test_a_folder_with_postgresql(tmp_path: Path) -> None:
    need("rsync")
    back_up, restore = commands("**A folder with PostgreSQL**")
    here, there, tools = tmp_path / "here", tmp_path / "there", Tools(tmp_path / "tools")
    server = shared()
    old, new = server.new_library(), server.new_database()
    with filled(here, database_url=old) as (kept, uploads):
        span = backed_up_twice(here, uploads, tools, back_up, **naming(old))
    brought(here, there)
    tools.sh(restore, there, **naming(new))
    see_restored(there, kept, span, database_url=new)


def backed_up_twice(here: Path, uploads: Uploads, tools: Tools, back_up: str, **environment: str) -> Span:
    """Back up, and again over the first backup, while films go that rsync has listed."""
    uploads.put_what_vanishes()
    tools.sh(back_up, here, **environment)
    assert (here / "backup").stat().st_mode & 0o077 == 0, "it holds the secrets of the library"
    tools.statuses()
    uploads.http.put(f"/files/{SLOW}", content=noise(2_000_000), auth=OWNER).raise_for_status()
    uploads.put_what_vanishes()  # new versions
    tools.slow()
    span = Span.of(uploads, lambda: tools.sh(back_up, here, uploads.let_vanish, **environment))
    assert tools.statuses()[0] == VANISHED
    return span


def test_version_of_the_same_second_and_length_is_backed_up(tmp_path: Path) -> None:
    need("rsync")
    for after in ("**A folder with SQLite:**", "**A folder with PostgreSQL**"):
        here = tmp_path / after.strip("*:")
        (here / "files").mkdir(parents=True)
        (here / "backup").mkdir()
        tools, (back_up, _) = Tools(here / "tools"), commands(after)
        copying = back_up[back_up.index("copy()") :]
        for version, nanoseconds in ((b"old", 100), (b"new", 200)):
            (here / "files" / "film.mp4").write_bytes(version)
            os.utime(here / "files" / "film.mp4", ns=(10**18 + nanoseconds, 10**18 + nanoseconds))
            tools.sh(copying, here)
        assert (here / "backup" / "files" / "film.mp4").read_bytes() == b"new"


def test_film_is_not_lost_when_it_is_moved_from_a_folder_that_rsync_reads_later(tmp_path: Path) -> None:
    need("rsync")
    tools, files, backup = Tools(tmp_path / "tools"), tmp_path / "files", tmp_path / "backup" / "files"
    for folder in ("a", "m", "z"):
        (files / folder).mkdir(parents=True)
    backup.parent.mkdir()
    (files / SLOW).write_bytes(noise(1_000_000))
    for number in range(2500):  # more than rsync lists ahead
        (files / "m" / f"{number}").touch()
    (files / "z" / "film.mp4").write_bytes(b"film")
    back_up, beside_postgresql = (
        commands(after)[0] for after in ("**A folder with SQLite:**", "**A folder with PostgreSQL**")
    )
    assert back_up.splitlines()[-3:] == beside_postgresql.splitlines()[-3:]
    tools.slow()
    copying = back_up[back_up.index("copy()") :]
    tools.sh(copying, tmp_path, lambda: (files / "z" / "film.mp4").rename(files / "a" / "film.mp4"))
    assert set(tools.statuses()) == {0}
    assert [film.read_bytes() for film in backup.glob("?/film.mp4")] == [b"film"]


def test_failure_of_rsync_is_one_of_the_commands(tmp_path: Path) -> None:
    need("rsync")
    for after in ("**A folder with SQLite:**", "**A folder with PostgreSQL**"):
        back_up, _ = commands(after)
        for script in ("sh", "-c"), ("sh", "-ec"):
            done = subprocess.run(  # where there is no folder of files
                [*script, back_up[back_up.index("copy()") :]], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode != 0
            assert "No such file" in done.stderr


def naming(url: str) -> dict[str, str]:
    """What the commands of PostgreSQL, of the very version that runs, are told of a database."""
    path = f"{shared().tools}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "DATABASE": url.replace("postgresql+psycopg:", "postgresql:")}


def last_write(node: Mongod) -> Timestamp:
    with node.direct() as client:
        return client.admin.command("hello")["lastWrite"]["opTime"]["ts"]


@together
def test_gridfs_by_a_copy_of_the_only_node_while_it_is_locked(tmp_path: Path) -> None:
    with mongod() as node, temporary_folder() as backup:
        with filled(tmp_path / "here", storage="gridfs", mongodb_url=node.url("films")) as (kept, uploads):
            copied_while_locked(node, backup)
            (backup / "journal" / "of an earlier backup").write_bytes(b"it would be replayed")
            span = Span.of(uploads, lambda: copied_while_locked(node, backup))
            assert not (backup / "journal" / "of an earlier backup").exists()
        node.kill()
        see_started_on(backup, tmp_path / "there", kept, span)


@pytest.mark.campaign
def test_gridfs_by_a_copy_of_a_secondary_while_it_is_locked(tmp_path: Path) -> None:
    with three_nodes() as nodes, temporary_folder() as backup:
        with filled(tmp_path / "here", storage="gridfs", mongodb_url=nodes.url("films")) as (kept, uploads):
            primary = nodes.primary()
            secondary = next(node for node in nodes.nodes if node is not primary)
            span = Span.of(uploads, lambda: copied_when_caught_up(primary, secondary, backup))
        nodes.kill()
        see_started_on(backup, tmp_path / "there", kept, span)


def copied_when_caught_up(primary: Mongod, secondary: Mongod, backup: Path) -> None:
    stored = last_write(primary)
    until(lambda: last_write(secondary) >= stored, "it has what was stored")
    copied_while_locked(secondary, backup)


def copied_while_locked(node: Mongod, backup: Path) -> None:
    """By the commands that `db.fsyncLock()` and `db.fsyncUnlock()` send, and the one between them."""
    need("rsync")
    found = re.search(
        r"db\.fsyncLock\(\) .*?: (rsync .*) /var/lib/mongodb/ backup/mongodb/\ndb.fsyncUnlock", README
    )
    assert found
    with node.direct() as client:
        client.admin.command("fsync", lock=True)
        try:
            subprocess.run([*found[1].split(), f"{node.folder}/", f"{backup}/"], check=True)
        finally:
            client.admin.command("fsyncUnlock")


def see_started_on(backup: Path, there: Path, kept: Kept, span: Span) -> None:
    node = Mongod(backup)
    try:
        node.start().lead()
        see_restored(there, kept, span, storage="gridfs", mongodb_url=node.url("films"))
    finally:
        node.kill()

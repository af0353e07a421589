"""Backups and restores by the commands of docs/operations.md, while uploads run."""

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

from tests.support import Server, need, noise, running
from tests.support.forking import completed
from tests.support.mongo import Mongod, mongod, temporary_folder, three_nodes
from tests.support.postgres import shared
from tests.support.together import Outcomes, Together
from tests.system.live.clients import sha256, until
from tests.system.live.history import ABSENT, History

pytestmark = pytest.mark.live

OPERATIONS = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
OWNER = httpx.BasicAuth("owner@example.org", "a good long password")
ANNA = httpx.BasicAuth("anna@example.org", "a good long password")
LIBRARY = {"access": "accounts", "sign_up": "open"}

together = Together("backups")


def commands(after: str) -> list[str]:
    """Return the two shell blocks that follow these words in docs/operations.md: back up, and restore."""
    section = OPERATIONS[OPERATIONS.index("## Backup and restore") :]
    return re.findall(r"```sh\n(.*?)```", section[section.index(after) :], re.DOTALL)[:2]


VANISHED = 24
"""Exit status of rsync when files were deleted while it ran."""

SLOW_ONCE = """#!/bin/sh
# Runs rsync, slowly if the file $0.slow exists, and records its exit status.
if rm "$0.slow" 2>/dev/null; then set -- --bwlimit=500k "$@"; fi
PATH=${PATH#*:} rsync "$@"
status=$?
echo $status >>"$0.statuses"
exit $status
"""


@dataclass
class Tools:
    """A folder at the front of PATH, with an rsync that records its exit statuses."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.rsync = self.folder / "rsync"
        self.rsync.write_text(SLOW_ONCE)
        self.rsync.chmod(0o755)

    def slow_down_next_rsync(self) -> None:
        """Let the next rsync take seconds for the first film that it sends."""
        (self.folder / "rsync.slow").touch()

    def statuses(self) -> list[int]:
        """Return the exit statuses of rsync since the last call, oldest first."""
        file = self.folder / "rsync.statuses"
        statuses = [int(line) for line in file.read_text().split()]
        file.unlink()
        return statuses

    def sh(
        self, block: str, workdir: Path, meanwhile: Callable[[], object] | None = None, **environment: str
    ) -> None:
        """Run commands as a shell script that stops at the first failure.

        If `meanwhile` is given, the script is paused while rsync copies its first film and has listed the
        others, and `meanwhile` runs.
        """
        environment = {**os.environ, **environment}
        environment["PATH"] = f"{self.folder}{os.pathsep}{environment['PATH']}"
        script = subprocess.Popen(
            ["sh", "-ec", block], cwd=workdir, env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            if meanwhile is not None:
                until(
                    lambda: any((workdir / "backup" / "files").glob(f".{SLOW}.*")),
                    "rsync has begun",
                    within=60,
                )
                os.killpg(script.pid, signal.SIGSTOP)
                meanwhile()
        finally:
            os.killpg(script.pid, signal.SIGCONT)
            _, errors = script.communicate()
        assert script.returncode == 0, errors.decode()


SLOW = "0 slow.mp4"
"""The film that rsync sends first."""

CHANGING, PERMANENT, VANISHING = 20, 30, 12
"""Numbers of: paths whose films are created, replaced, moved and deleted in turn; films that stay, each moved
once; films that vanish right after rsync has listed them."""

FOLDERS = "changing/a", "changing/z"
"""Two folders that rsync reads one after the other."""


@dataclass
class Uploads:
    """A client that uploads, replaces, moves and deletes films until it is stopped."""

    http: httpx.Client
    history: History = field(default_factory=History)
    stopping: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    sent: int = 0

    def run(self) -> None:
        for number in range(PERMANENT):
            self._put(f"{FOLDERS[number % 2]}/permanent {number}.mp4")
        while not self.stopping.is_set():
            self._step(self.done)
            self.done += 1

    def put_vanishing_films(self) -> None:
        for number in range(VANISHING):
            self._put(f"{FOLDERS[number % 2]}/vanishes {number}.mp4")

    def move_or_delete_vanishing_films(self) -> None:
        for number in range(VANISHING):
            folder, other_folder = FOLDERS[:: 1 if number % 2 == 0 else -1]
            path = f"{folder}/vanishes {number}.mp4"
            if number % 3:
                self._move(path, other_folder)
            else:
                self.history.change({path: ABSENT}, partial(self._request, "DELETE", path))

    def _step(self, number: int) -> None:
        """Make the next change: each path's film is created, replaced, moved and deleted in turn."""
        slot, folder, other_folder = number % CHANGING, *FOLDERS[:: 1 if number % 2 else -1]
        match number // CHANGING % 4:
            case 0 | 1:
                self._put(f"{folder}/{slot}.mp4")
            case 2:
                self._move(f"{folder}/{slot}.mp4", other_folder)
            case 3:
                path = f"{other_folder}/{slot}.mp4"
                self.history.change({path: ABSENT}, lambda: self._request("DELETE", path))
        turn, rest = divmod(number, 5)
        if rest == 0 and turn < PERMANENT:
            self._move(f"{FOLDERS[turn % 2]}/permanent {turn}.mp4", FOLDERS[1 - turn % 2])

    def _put(self, path: str) -> None:
        # Each version has another length: rsync gives the file that it opens the time of the one that it
        # listed, so that only hashing would reveal a newer version of the same length.
        self.sent += 1
        film = os.urandom(20_000 + self.sent)
        self.history.change({path: sha256(film)}, lambda: self._request("PUT", path, content=film))

    def _move(self, path: str, folder: str) -> None:
        target = f"{folder}/{path.rpartition('/')[2]}"
        headers = {"content-type": "application/merge-patch+json"}
        self.history.change(
            {path: ABSENT, target: self.history.changes[path][-1].version},
            lambda: self._request("PATCH", path, content=json.dumps({"folder": folder}), headers=headers),
        )

    def _request(self, method: str, path: str, **options: Any) -> None:
        """Send a change, and retry it after a 503: a node that is being copied may stay locked for long."""
        response = self.http.request(method, f"/files/{path}", **options)
        deadline = time.monotonic() + 60
        while response.status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.5)
            response = self.http.request(method, f"/files/{path}", **options)
            if response.status_code == 404:  # The request that got the 503 has made the change.
                return
        assert response.is_success, (method, path, response.status_code, response.text)


@contextmanager
def uploading(http: httpx.Client) -> Iterator[Uploads]:
    """Upload in a thread. Yields once some films are stored; uploads continue until exit."""
    uploads = Uploads(http)
    thread = threading.Thread(target=uploads.run)
    thread.start()
    try:
        until(lambda: uploads.done > CHANGING, "some films are stored", within=60)
        yield uploads
        before = uploads.done
        until(lambda: uploads.done > before, "the uploads continue", within=80)
    finally:
        uploads.stopping.set()
        thread.join()


@dataclass(frozen=True)
class BackupSpan:
    """The time from the begin to the end of a backup, and the uploads meanwhile."""

    uploads: Uploads
    begin: float
    end: float

    @classmethod
    def measure(cls, uploads: Uploads, back_up: Callable[[], object]) -> "BackupSpan":
        begin = uploads.history.clock()
        back_up()
        return cls(uploads, begin, uploads.history.clock())

    def check_restored(self, http: httpx.Client) -> None:
        """Check that each restored film is a version of this span, and that none is lost."""
        history, restored = self.uploads.history, self._restored(http)
        wrong = {
            path: (version, allowed)
            for path, version in restored.items()
            if version not in (allowed := history.may_hold(path, self.begin, self.end))
        }
        assert wrong == {}
        required = history.must_hold(self.begin, self.end)
        assert len(required) >= PERMANENT
        assert required - set(restored.values()) == set()

    def _restored(self, http: httpx.Client) -> dict[str, str]:
        restored = dict.fromkeys(self.uploads.history.changes, ABSENT)
        for folder in FOLDERS:
            listed = http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]
            for info in listed:
                restored[info["path"]] = sha256(http.get(f"/files/{info['path']}").content)
        return restored


@dataclass(frozen=True)
class UnchangedFilms:
    """Films that are stored before the backup begins, and stay as they are."""

    listed: list[dict[str, Any]]

    @classmethod
    def store(cls, http: httpx.Client) -> "UnchangedFilms":
        films = {
            "a b.mp4": ("video/mp4", noise(300_000)),
            "deep/er/odd": ("video/x-odd", b"odd"),
            "ö": ("", b""),
        }
        for path, (content_type, film) in films.items():
            headers = {"content-type": content_type} if content_type else {}
            assert http.put(f"/files/kept/{path}", content=film, headers=headers).status_code == 201
        return cls(list_unchanged(http))

    def check_restored(self, http: httpx.Client) -> None:
        """Check every film's attributes and bytes. Waits until the restored files are hashed."""
        until(lambda: list_unchanged(http) == self.listed, "the restored films are hashed", within=60)
        for info in self.listed:
            response = http.get(f"/files/{info['path']}", headers={"If-Match": f'"{info["etag"]}"'})
            assert sha256(response.content) == info["sha256"]


def list_unchanged(http: httpx.Client) -> list[dict[str, Any]]:
    listed = http.get("/files", params={"folder": "kept", "recursive": True}).json()["items"]
    return [{name: value for name, value in info.items() if "url" not in name} for info in listed]


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[tuple[Server, httpx.Client]]:
    with running(folder, **LIBRARY, **settings) as server, server.client(auth=ANNA) as http:
        yield server, http


def sign_up(http: httpx.Client) -> None:
    """Create the accounts of the owner, and of Anna, whose library is in a subfolder."""
    for email in ("owner@example.org", "anna@example.org"):
        credentials = {"email": email, "password": "a good long password"}
        assert http.post("/sign-up", json=credentials, auth=None).status_code == 201


@contextmanager
def busy_library(folder: Path, **settings: object) -> Iterator[tuple[UnchangedFilms, Uploads]]:
    """Serve a library of two accounts, into which Anna uploads all the time."""
    with serving(folder, **settings) as (_, http):
        sign_up(http)
        http.put("/files/top.mp4", content=b"top", auth=OWNER).raise_for_status()
        unchanged = UnchangedFilms.store(http)
        with uploading(http) as uploads:
            yield unchanged, uploads


def check_restored(target: Path, unchanged: UnchangedFilms, span: BackupSpan, **settings: object) -> None:
    with serving(target, **settings) as (server, http):
        environment = os.environ | {
            f"SEEKABLE_{name.upper()}": str(value) for name, value in server.settings.items()
        }
        unchanged.check_restored(http)
        # A scan imports a film that the database does not know once it is unchanged for two seconds.
        until(
            lambda: "unfinished" not in completed("scan", folder=target, environment=environment).stdout,
            "the scan has imported every film",
            within=60,
        )
        span.check_restored(http)
        assert http.get("/files/top.mp4", auth=OWNER).content == b"top"
        # As the owner: the backup may contain the lease of one of Anna's uploads, which expires after 10 s.
        assert http.put("/files/new.mp4", content=b"new", auth=OWNER).status_code == 201
        verified = completed("verify", folder=target, environment=environment)
        assert verified.returncode == 0, verified.stdout


@pytest.fixture(scope="module")
def backups(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    shared()  # or a test's thread would start the database, which would end with that thread
    with together.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


def move_backup(source: Path, target: Path) -> None:
    """Move the backup to another folder, and delete the library that it came from."""
    target.mkdir()
    shutil.move(source / "backup", target / "backup")
    shutil.rmtree(source)


@together
def test_backup_of_folder_with_sqlite_restores_every_film(tmp_path: Path) -> None:
    need("sqlite3", "rsync")
    back_up, restore = commands("### A folder with SQLite")
    source, target, tools = tmp_path / "source", tmp_path / "target", Tools(tmp_path / "tools")
    with busy_library(source) as (unchanged, uploads):
        span = back_up_twice(source, uploads, tools, back_up)
    move_backup(source, target)
    tools.sh(restore, target)
    check_restored(target, unchanged, span)


@together
def test_backup_of_folder_with_postgresql_restores_every_film(tmp_path: Path) -> None:
    need("rsync")
    back_up, restore = commands("### A folder with PostgreSQL")
    source, target, tools = tmp_path / "source", tmp_path / "target", Tools(tmp_path / "tools")
    server = shared()
    old, new = server.new_library(), server.new_database()
    with busy_library(source, database_url=old) as (unchanged, uploads):
        span = back_up_twice(source, uploads, tools, back_up, **postgresql_environment(old))
    move_backup(source, target)
    tools.sh(restore, target, **postgresql_environment(new))
    check_restored(target, unchanged, span, database_url=new)


def back_up_twice(
    source: Path, uploads: Uploads, tools: Tools, back_up: str, **environment: str
) -> BackupSpan:
    """Back up, and again over the first backup, while films vanish that rsync has listed."""
    uploads.put_vanishing_films()
    tools.sh(back_up, source, **environment)
    assert (source / "backup").stat().st_mode & 0o077 == 0, "it holds the secrets of the library"
    tools.statuses()
    uploads.http.put(f"/files/{SLOW}", content=noise(2_000_000), auth=OWNER).raise_for_status()
    uploads.put_vanishing_films()  # new versions
    tools.slow_down_next_rsync()
    vanish = uploads.move_or_delete_vanishing_films
    span = BackupSpan.measure(uploads, lambda: tools.sh(back_up, source, vanish, **environment))
    assert tools.statuses()[0] == VANISHED
    return span


def test_backup_copies_new_version_when_second_and_length_are_equal(tmp_path: Path) -> None:
    need("rsync")
    for after in ("### A folder with SQLite", "### A folder with PostgreSQL"):
        workdir = tmp_path / after.strip("*:")
        (workdir / "files").mkdir(parents=True)
        (workdir / "backup").mkdir()
        tools, (back_up, _) = Tools(workdir / "tools"), commands(after)
        copying = back_up[back_up.index("copy()") :]
        for version, nanoseconds in ((b"old", 100), (b"new", 200)):
            (workdir / "files" / "film.mp4").write_bytes(version)
            os.utime(workdir / "files" / "film.mp4", ns=(10**18 + nanoseconds, 10**18 + nanoseconds))
            tools.sh(copying, workdir)
        assert (workdir / "backup" / "files" / "film.mp4").read_bytes() == b"new"


def test_backup_contains_film_when_it_moves_out_of_folder_that_rsync_reads_later(tmp_path: Path) -> None:
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
        commands(after)[0] for after in ("### A folder with SQLite", "### A folder with PostgreSQL")
    )
    assert back_up.splitlines()[-3:] == beside_postgresql.splitlines()[-3:]
    tools.slow_down_next_rsync()
    copying = back_up[back_up.index("copy()") :]
    tools.sh(copying, tmp_path, lambda: (files / "z" / "film.mp4").rename(files / "a" / "film.mp4"))
    assert set(tools.statuses()) == {0}
    assert [film.read_bytes() for film in backup.glob("?/film.mp4")] == [b"film"]


def test_backup_commands_fail_when_rsync_fails(tmp_path: Path) -> None:
    need("rsync")
    for after in ("### A folder with SQLite", "### A folder with PostgreSQL"):
        back_up, _ = commands(after)
        for script in ("sh", "-c"), ("sh", "-ec"):
            done = subprocess.run(  # in a folder without files/
                [*script, back_up[back_up.index("copy()") :]], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode != 0
            assert "No such file" in done.stderr


def postgresql_environment(url: str) -> dict[str, str]:
    """Return the variables for the commands of the docs: the database, and the running version's tools."""
    path = f"{shared().tools}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "DATABASE": url.replace("postgresql+psycopg:", "postgresql:")}


def last_write(node: Mongod) -> Timestamp:
    with node.direct() as client:
        return client.admin.command("hello")["lastWrite"]["opTime"]["ts"]


@together
def test_copy_of_locked_only_node_restores_every_film(tmp_path: Path) -> None:
    with mongod() as node, temporary_folder() as backup:
        settings = {"storage": "gridfs", "mongodb_url": node.url("films")}
        with busy_library(tmp_path / "source", **settings) as (unchanged, uploads):
            copy_while_locked(node, backup)
            (backup / "journal" / "of an earlier backup").write_bytes(b"it would be replayed")
            span = BackupSpan.measure(uploads, lambda: copy_while_locked(node, backup))
            assert not (backup / "journal" / "of an earlier backup").exists()
        node.kill()
        check_node_started_on(backup, tmp_path / "target", unchanged, span)


@pytest.mark.campaign
def test_copy_of_locked_secondary_restores_every_film(tmp_path: Path) -> None:
    with three_nodes() as nodes, temporary_folder() as backup:
        settings = {"storage": "gridfs", "mongodb_url": nodes.url("films")}
        with busy_library(tmp_path / "source", **settings) as (unchanged, uploads):
            primary = nodes.primary()
            secondary = next(node for node in nodes.nodes if node is not primary)
            span = BackupSpan.measure(uploads, lambda: copy_when_caught_up(primary, secondary, backup))
        nodes.kill()
        check_node_started_on(backup, tmp_path / "target", unchanged, span)


def copy_when_caught_up(primary: Mongod, secondary: Mongod, backup: Path) -> None:
    stored = last_write(primary)
    until(lambda: last_write(secondary) >= stored, "the secondary has caught up")
    copy_while_locked(secondary, backup)


def copy_while_locked(node: Mongod, backup: Path) -> None:
    """Run the rsync of the docs between the commands that `db.fsyncLock()` and `db.fsyncUnlock()` send."""
    need("rsync")
    found = re.search(
        r"db\.fsyncLock\(\) .*?: (rsync .*) /var/lib/mongodb/ backup/mongodb/\ndb.fsyncUnlock", OPERATIONS
    )
    assert found
    with node.direct() as client:
        client.admin.command("fsync", lock=True)
        try:
            subprocess.run([*found[1].split(), f"{node.folder}/", f"{backup}/"], check=True)
        finally:
            client.admin.command("fsyncUnlock")


def check_node_started_on(backup: Path, target: Path, unchanged: UnchangedFilms, span: BackupSpan) -> None:
    node = Mongod(backup)
    try:
        node.start().lead()
        check_restored(target, unchanged, span, storage="gridfs", mongodb_url=node.url("films"))
    finally:
        node.kill()

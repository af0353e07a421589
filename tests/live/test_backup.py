"""What README says of backups: its own commands, while uploads run, and what is there after a restore."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import Timestamp

from tests.forking import completed
from tests.live.clients import sha256, until
from tests.mongo import Mongod, mongod, place, three_nodes
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


def sh(block: str, here: Path, **environment: str) -> None:
    for line in block.splitlines():
        done = subprocess.run(
            ["sh", "-c", line], cwd=here, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode in ((0, VANISHED) if line.startswith("rsync") else (0,)), done.stderr


@dataclass
class Uploads:
    """Somebody who uploads, replaces and deletes all the time."""

    http: httpx.Client
    stopping: threading.Event = field(default_factory=threading.Event)
    sent: dict[str, set[str]] = field(default_factory=dict)
    """Of each path, the SHA-256 of all that was ever sent to it."""
    done: int = 0

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            film, path = noise(200_000)[number:], f"/files/coming/{number % 50}.mp4"
            self.sent.setdefault(path, set()).add(sha256(film))
            self.http.put(path, content=film).raise_for_status()
            if number % 7 == 0:
                self.http.delete(path).raise_for_status()
            self.done += 1


@contextmanager
def uploading(http: httpx.Client) -> Iterator[Uploads]:
    """Inside, some were stored, and more come all the time."""
    uploads = Uploads(http)
    thread = threading.Thread(target=uploads.run)
    thread.start()
    try:
        until(lambda: uploads.done > 20, "some are stored")
        yield uploads
        before = uploads.done
        until(lambda: uploads.done > before, "they still come")
    finally:
        uploads.stopping.set()
        thread.join()


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

    def see(self, http: httpx.Client, uploads: Uploads) -> None:
        """It is all there again, to the last word; and nothing else but whole films that were sent."""
        assert kept(http) == self.listed
        for info in self.listed:
            answer = http.get(f"/files/{info['path']}", headers={"If-Match": f'"{info["etag"]}"'})
            assert sha256(answer.content) == info["sha256"]
        coming = http.get("/files", params={"folder": "coming", "limit": 1000}).json()["items"]
        assert len(coming) >= 15
        for info in coming:
            path = f"/files/{info['path']}"
            assert sha256(http.get(path).content) in uploads.sent[path]


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


def see_restored(there: Path, kept: Kept, uploads: Uploads, **settings: object) -> None:
    with served(there, **settings) as (server, http):
        kept.see(http, uploads)
        assert http.get("/files/top.mp4", auth=OWNER).content == b"top"
        # Not Anna's: the backup may hold the lease of an upload of hers, which ends 10 s after it was made.
        assert http.put("/files/new.mp4", content=b"new", auth=OWNER).status_code == 201
        environment = {f"SEEKABLE_{name.upper()}": str(value) for name, value in server.settings.items()}
        verified = completed("verify", folder=there, environment=os.environ | environment)
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
    here, there = tmp_path / "here", tmp_path / "there"
    with filled(here) as (kept, uploads):
        sh(back_up, here)
        sh(back_up, here)  # over the last one
    brought(here, there)
    sh(restore, there)
    see_restored(there, kept, uploads)


@together
def test_a_folder_with_postgresql(tmp_path: Path) -> None:
    need("rsync")
    back_up, restore = commands("**A folder with PostgreSQL**")
    here, there = tmp_path / "here", tmp_path / "there"
    server = shared()
    old, new = server.new_library(), server.new_database()
    with filled(here, database_url=old) as (kept, uploads):
        sh(back_up, here, **tools(old))
    brought(here, there)
    sh(restore, there, **tools(new))
    see_restored(there, kept, uploads, database_url=new)


def tools(url: str) -> dict[str, str]:
    """What the commands of PostgreSQL, of the very version that runs, are told of a database."""
    path = f"{shared().tools}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "DATABASE": url.replace("postgresql+psycopg:", "postgresql:")}


def last_write(node: Mongod) -> Timestamp:
    with node.direct() as client:
        return client.admin.command("hello")["lastWrite"]["opTime"]["ts"]


@together
def test_gridfs_by_a_copy_of_the_only_node_while_it_is_locked(tmp_path: Path) -> None:
    with mongod() as node, place() as backup:
        with filled(tmp_path / "here", storage="gridfs", mongodb_url=node.url("films")) as (kept, uploads):
            copied_while_locked(node, backup)
        node.kill()
        see_started_on(backup, tmp_path / "there", kept, uploads)


@pytest.mark.campaign
def test_gridfs_by_a_copy_of_a_secondary_while_it_is_locked(tmp_path: Path) -> None:
    with three_nodes() as nodes, place() as backup:
        with filled(tmp_path / "here", storage="gridfs", mongodb_url=nodes.url("films")) as (kept, uploads):
            primary = nodes.primary()
            secondary = next(node for node in nodes.nodes if node is not primary)
            stored = last_write(primary)
            until(lambda: last_write(secondary) >= stored, "it has what was stored")
            copied_while_locked(secondary, backup)
        nodes.kill()
        see_started_on(backup, tmp_path / "there", kept, uploads)


def copied_while_locked(node: Mongod, backup: Path) -> None:
    """By the commands that `db.fsyncLock()` and `db.fsyncUnlock()` send."""
    need("rsync")
    assert README.index("db.fsyncLock()") < README.index("db.fsyncUnlock()")
    with node.direct() as client:
        client.admin.command("fsync", lock=True)
        try:
            sh(f"rsync -a {node.folder}/ {backup}/", backup)
        finally:
            client.admin.command("fsyncUnlock")


def see_started_on(backup: Path, there: Path, kept: Kept, uploads: Uploads) -> None:
    node = Mongod(backup)
    try:
        node.start().lead()
        see_restored(there, kept, uploads, storage="gridfs", mongodb_url=node.url("films"))
    finally:
        node.kill()

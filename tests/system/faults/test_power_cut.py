"""A power cut: only the bytes on the disk survive. Over the filesystem backend.

The files are on an ext4 file system in an image, which is copied while it is mounted. The copy holds the
writes that the file system has sent to its disk, and lacks data in memory: dirty pages, and names that are
not in the journal yet. It equals a disk after a power cut, unless that disk loses its own write cache.
Mounting the copy replays the journal, as the next boot does.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.support import Server, mounted, need, run
from tests.system.faults.uploaders import check_uploads, uploading
from tests.system.faults.victim import NEW, OLD, Library, sha256
from tests.system.faults.victims import (
    CHANGES,
    KINDS,
    InjectFaults,
    States,
    Victims,
    possible_states,
)

ROUNDS = 3


class Machine:
    """Files on a disk whose power a test can cut. The database is on that disk, or on one that is not cut."""

    def __init__(self, folder: Path, stack: ExitStack, *, database_elsewhere: bool) -> None:
        need("mkfs.ext4")
        self._folder = folder
        self._image = folder / "image"
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        # A long commit interval, so that no data reaches the disk by timeout.
        where = folder / "disk"
        stack.enter_context(mounted(where, "-o", "loop,commit=300", self._image))
        self.root = where / "files"
        self.database = folder / "other" / "seekable.db" if database_elsewhere else None
        if self.database is not None:
            self.database.parent.mkdir()
        self._cuts = 0

    def cut(self) -> Path:
        """Copy the disk as it is now. No change may be running. Return the folder of the copy."""
        self._cuts += 1
        cut = self._folder / f"cut-{self._cuts}"
        cut.mkdir()
        run("cp", "--sparse=always", self._image, cut / "image")
        if self.database is not None:
            shutil.copytree(self.database.parent, cut / "other")
        return cut

    def check(self, cut: Path, stored: dict[str, str], unsure: dict[str, States]) -> None:
        """Assert that after the next boot all `stored` files exist, and no others but those in `unsure`."""
        unsure_paths = {name for path in unsure for name in (path, f"moved/{path}")}
        with mounted(cut / "disk", "-o", "loop", cut / "image") as disk, ExitStack() as stack:
            other = cut / "other" / "seekable.db"
            root = disk / "files"
            library = Library(root, stack, f"sqlite:///{other}" if other.exists() else None)
            assert library.staging() == []
            for folder in {path.rpartition("/")[0] for path in stored}:
                names = {path for path in stored if path.rpartition("/")[0] == folder}
                assert set(library.listed(folder)) - unsure_paths == names, (
                    "the list is wrong before any file is opened"
                )
            for path, data in stored.items():
                assert library.get(path, require_hash=True) == data, path
            for path, expected in unsure.items():
                assert (library.get(path), library.get(f"moved/{path}")) in expected, path
            for path, expected in unsure.items():
                if all(len([state for state in pair if state]) == 1 for pair in expected):  # a move
                    assert (root / path).exists() != (root / "moved" / path).exists(), path
            on_disk = {str(path.relative_to(root)) for path in root.glob("[!.]*/**/*.mp4")}
            assert on_disk - unsure_paths == stored.keys()
        shutil.rmtree(cut)


@pytest.fixture(params=[False, True], ids=["database beside", "database elsewhere"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, stack, database_elsewhere=request.param)


@pytest.fixture
def victims(machine: Machine, inject_faults: InjectFaults) -> Iterator[Victims]:
    database = None if machine.database is None else f"sqlite:///{machine.database}"
    with closing(Victims(machine.root, inject_faults, database)) as victims:
        yield victims


def apply(stored: dict[str, str], kind: str, path: str) -> None:
    """Add the outcome of the change to `stored`."""
    if kind in ("create", "replace", "store together"):
        stored[path] = sha256(NEW)
    if kind == "store together":
        stored[f"moved/{path}"] = sha256(NEW)
    if kind == "move":
        stored[f"moved/{path}"] = sha256(OLD)


def test_power_cut_keeps_acknowledged_changes(machine: Machine, victims: Victims) -> None:
    stored: dict[str, str] = {}
    for number in range(ROUNDS):
        for kind in (*KINDS, "store together"):
            # Every second round uses folders that the change itself creates or removes.
            path = f"{kind if number % 2 else 'all'}/{kind}-{number}.mp4"
            with victims.change(kind, path) as (done, _):
                assert done
                cut = machine.cut()
            apply(stored, kind, path)
            machine.check(cut, stored, {})


@pytest.mark.campaign
def test_power_cut_during_a_change_leaves_old_or_new_state(machine: Machine, victims: Victims) -> None:
    """Just before each fsync, when most data is in memory only."""
    stored: dict[str, str] = {}
    unsure: dict[str, States] = {}
    cuts = []
    for variant, (kind, faults, _) in CHANGES.items():
        for call in ("fsync", "fdatasync"):
            done, number = False, 0
            while not done:
                number += 1
                path = f"{variant}-{call}-{number}/film.mp4"
                with victims.change(kind, path, *faults, f"{call}:signal=SIGKILL:when={number}") as (done, _):
                    if done:
                        apply(stored, kind, path)
                    else:
                        unsure[path] = possible_states(kind, acknowledged=False)
                    cuts.append((machine.cut(), dict(stored), dict(unsure)))
    assert len(unsure) > 4 * 3
    for cut, stored_then, unsure_then in cuts:
        machine.check(cut, stored_then, unsure_then)


def test_server_serves_acknowledged_changes_after_a_power_cut(tmp_path: Path) -> None:
    with ExitStack() as stack:
        machine = Machine(tmp_path, stack, database_elsewhere=False)
        server = Server(tmp_path / "server", files_dir=machine.root)
        stack.callback(server.stop)
        server.start()
        with server.client() as http:
            old = http.put("/files/films/old.mp4", content=OLD).raise_for_status().json()
            http.put("/files/films/gone.mp4", content=OLD).raise_for_status()
            form = http.post("/file/upload?folder=films", files={"file": ("form.mp4", NEW)}).json()
            assert http.put("/files/films/old.mp4", content=NEW).status_code == 204
            assert http.delete("/files/films/gone.mp4").status_code == 204
            cut = machine.cut()
        disk = stack.enter_context(mounted(cut / "disk", "-o", "loop", cut / "image"))
        after = Server(tmp_path / "after", files_dir=disk / "files")
        stack.callback(after.stop)
        after.start()
        with after.client() as http:
            items = http.get("/files?folder=films").json()["items"]
            assert {item["path"]: item["id"] for item in items} == {
                "films/old.mp4": old["id"],
                "films/form.mp4": form["id"],
            }
            for item in items:
                check_whole(http, item)


def check_whole(http: httpx.Client, item: dict[str, str]) -> None:
    assert item["sha256"] == sha256(NEW)
    assert http.get(f"/files/{item['path']}").content == NEW


@pytest.mark.parametrize(
    "answers", [30, *(pytest.param(number, marks=pytest.mark.campaign) for number in range(31, 47))]
)
def test_power_cut_during_groups_keeps_every_answered_upload(
    tmp_path: Path, inject_faults: InjectFaults, answers: int
) -> None:
    with ExitStack() as stack:
        machine = Machine(tmp_path, stack, database_elsewhere=False)
        server = Server(tmp_path / "server", files_dir=machine.root)
        stack.callback(server.stop)
        server.start()
        # While one COMMIT takes its time, the next group gathers, and most cuts hit a COMMIT.
        with (
            inject_faults(server.process.pid, "fdatasync:delay_enter=30000") as trace,
            uploading(server, answers=answers) as uploaders,
        ):
            server.kill()
        assert trace.read_text().count("fdatasync(") < answers, "no two uploads were committed together"
        cut = machine.cut()
        disk = stack.enter_context(mounted(cut / "disk", "-o", "loop", cut / "image"))
        after = Server(tmp_path / "after", files_dir=disk / "files", stable_after=0)
        stack.callback(after.stop)
        check_uploads(after.start(), uploaders)
        assert os.listdir(disk / "files" / ".seekable" / "staging") == []

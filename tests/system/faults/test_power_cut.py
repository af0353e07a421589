"""A power cut: what a disk holds at that moment is all that there is. Over the filesystem backend.

The files are on an ext4 file system in an image, and the image is copied while it is mounted. The copy holds
what the file system has sent to its disk, and nothing of what is in memory only: dirty pages, names that are
not in the journal yet. It is the disk after a cut, if that disk keeps what it was given; one that loses what
is in its own cache is not shown. Mounting the copy replays the journal, as the next boot does.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.support import Server, mounted, need, run
from tests.system.faults.victim import NEW, OLD, Library, sha256
from tests.system.faults.victims import KINDS, WAYS, Injected, States, Victims, states

ROUNDS = 3


class Machine:
    """Files on a disk whose power can be cut. The database is beside them, or on another that is not cut."""

    def __init__(self, folder: Path, stack: ExitStack, *, database_elsewhere: bool) -> None:
        need("mkfs.ext4")
        self._folder = folder
        self._image = folder / "image"
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        # Nothing may reach the disk only because some seconds went by.
        where = folder / "disk"
        stack.enter_context(mounted(where, "-o", "loop,commit=300", self._image))
        self.root = where / "files"
        self.database = folder / "other" / "seekable.db" if database_elsewhere else None
        if self.database is not None:
            self.database.parent.mkdir()
        self._cuts = 0

    def cut(self) -> Path:
        """The disk as it is at this moment. Nothing may be under way."""
        self._cuts += 1
        cut = self._folder / f"cut-{self._cuts}"
        cut.mkdir()
        run("cp", "--sparse=always", self._image, cut / "image")
        if self.database is not None:
            shutil.copytree(self.database.parent, cut / "other")
        return cut

    def check(self, cut: Path, stored: dict[str, str], unsure: dict[str, States]) -> None:
        """After the next boot all is there that was `stored`, and nothing else but what is `unsure`."""
        strange = {name for path in unsure for name in (path, f"moved/{path}")}
        with mounted(cut / "disk", "-o", "loop", cut / "image") as disk, ExitStack() as stack:
            other = cut / "other" / "seekable.db"
            root = disk / "files"
            library = Library(root, stack, f"sqlite:///{other}" if other.exists() else None)
            assert library.staging() == []
            for folder in {path.rpartition("/")[0] for path in stored}:
                wanted = {path for path in stored if path.rpartition("/")[0] == folder}
                assert set(library.listed(folder)) - strange == wanted, "before anybody looked at a file"
            for path, data in stored.items():
                assert library.get(path, known=True) == data, path
            for path, expected in unsure.items():
                assert (library.get(path), library.get(f"moved/{path}")) in expected, path
            for path, expected in unsure.items():
                if all(len([state for state in pair if state]) == 1 for pair in expected):  # of a move
                    assert (root / path).exists() != (root / "moved" / path).exists(), path
            on_disk = {str(path.relative_to(root)) for path in root.glob("[!.]*/**/*.mp4")}
            assert on_disk - strange == stored.keys()
        shutil.rmtree(cut)


@pytest.fixture(params=[False, True], ids=["database beside", "database elsewhere"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, stack, database_elsewhere=request.param)


@pytest.fixture
def victims(machine: Machine, injected: Injected) -> Iterator[Victims]:
    database = None if machine.database is None else f"sqlite:///{machine.database}"
    with closing(Victims(machine.root, injected, database)) as victims:
        yield victims


def apply(stored: dict[str, str], kind: str, path: str) -> None:
    """What is stored after the change."""
    if kind in ("create", "replace"):
        stored[path] = sha256(NEW)
    if kind == "move":
        stored[f"moved/{path}"] = sha256(OLD)


def test_what_was_acknowledged_is_there_after_a_power_cut(machine: Machine, victims: Victims) -> None:
    stored: dict[str, str] = {}
    for number in range(ROUNDS):
        for kind in KINDS:
            # Some in folders of their own, which come and go with them.
            path = f"{kind if number % 2 else 'all'}/{kind}-{number}.mp4"
            with victims.change(kind, path) as (done, _):
                assert done
                cut = machine.cut()
            apply(stored, kind, path)
            machine.check(cut, stored, {})


@pytest.mark.campaign
def test_a_power_cut_in_the_middle_of_a_change(machine: Machine, victims: Victims) -> None:
    """Just before each of its fsyncs, which is when most is in memory only."""
    stored: dict[str, str] = {}
    unsure: dict[str, States] = {}
    cuts = []
    for way, (kind, faults, _) in WAYS.items():
        for call in ("fsync", "fdatasync"):
            done, number = False, 0
            while not done:
                number += 1
                path = f"{way}-{call}-{number}/film.mp4"
                with victims.change(kind, path, *faults, f"{call}:signal=SIGKILL:when={number}") as (done, _):
                    if done:
                        apply(stored, kind, path)
                    else:
                        unsure[path] = states(kind, acknowledged=False)
                    cuts.append((machine.cut(), dict(stored), dict(unsure)))
    assert len(unsure) > 4 * 3
    time.sleep(2.1)  # a file without a row is taken for finished then
    for cut, before, strange in cuts:
        machine.check(cut, before, strange)


def test_a_server_after_a_power_cut(tmp_path: Path) -> None:
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

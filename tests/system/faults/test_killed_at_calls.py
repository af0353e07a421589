"""kill -9 at every system call that changes the disk, of every change. Over the filesystem backend.

A call at which strace kills is not made: killing at each of them shows every state that the disk passes
through.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support import Server, postgres
from tests.system.faults.victim import NEW, OLD, Library, sha256
from tests.system.faults.victims import WAYS, Injected, States, Victims, states

Listed = Callable[[httpx.Client, str], dict[str, str]]

FILE_STEPS = ("fsync", "mkdirat", "linkat", "renameat", "renameat2", "unlinkat")
CALLS = ("openat", "write", "pwrite64", "fdatasync", *FILE_STEPS)

_OLD, _NEW = sha256(OLD), sha256(NEW)


def sqlite_url() -> None:
    """The default of a library."""


DATABASES: dict[str, Callable[[], str | None]] = {
    "sqlite": sqlite_url,
    "postgresql": lambda: postgres.shared().new_library(),
}


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    return DATABASES[getattr(request, "param", "sqlite")]()


@pytest.fixture
def victims(tmp_path: Path, injected: Injected, database: str | None) -> Iterator[Victims]:
    victims = Victims(tmp_path / "files", injected, database)
    yield victims
    victims.close()


@pytest.mark.campaign
@pytest.mark.parametrize("database", DATABASES, indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_each_call(victims: Victims, database: str | None, way: str) -> None:
    kills = kill_at_each(victims, database, way, CALLS)
    assert {"openat", "fsync", "unlinkat"} <= kills, "each was met"


@pytest.mark.parametrize(
    ("database", "way", "calls"),
    [
        ("sqlite", "move", ("renameat2", "fsync")),
        ("sqlite", "move by link", ("linkat", "fsync", "unlinkat")),
        ("postgresql", "move by link", ("linkat", "unlinkat")),
    ],
    indirect=["database"],
)
def test_move_leaves_one_file_when_killed_at_each_file_step(
    victims: Victims, database: str | None, way: str, calls: tuple[str, ...]
) -> None:
    kill_at_each(victims, database, way, calls)


def kill_at_each(victims: Victims, database: str | None, way: str, calls: tuple[str, ...]) -> set[str]:
    """Make the change again and again, with a kill at each call in turn. Return the calls that killed."""
    kind, faults, needed = WAYS[way]
    allowed: dict[str, States] = {}
    kills: Counter[str] = Counter()
    before: tuple[str, ...] = ()
    with ExitStack() as stack:
        survivor: Library | None = None
        for call in calls:
            done = call in " ".join(faults)
            while not done:
                number = kills[call] + 1
                path = f"{kind}-{call}-{number}/film"
                fault = f"{call}:signal=SIGKILL:when={number}"
                with victims.change(kind, path, *faults, fault, look=before) as (done, _):
                    kills[call] += not done
                if before:
                    check_found(victims, kind, *before, allowed[before[0]])
                before = (path, f"moved/{path}")
                allowed[path] = states(kind, acknowledged=done)
                # Half of the time the first to look is a process that was there all the time.
                survivor = survivor or Library(victims.root, stack, database)
                if kind == "move" and number % 2:
                    check_survivor(survivor, path, allowed[path])
    assert needed in (+kills)
    if kind == "create":
        time.sleep(2.1)  # a file without a row is taken for finished then
    check_settled(victims.root, database, allowed)
    return set(+kills)


def check_found(victims: Victims, kind: str, path: str, target: str, allowed: States) -> None:
    """At the next start."""
    assert (victims.found[path], victims.found[target]) in allowed, path
    if kind == "move":
        check_one(victims.root, path)


def check_survivor(library: Library, path: str, allowed: States) -> None:
    target = f"moved/{path}"
    listed = [name for name in (target, path) if name in library.listed(name.rpartition("/")[0])]
    assert (library.get(path), library.get(target)) in allowed, path
    assert listed == [name for name in (target, path) if library.get(name) is not None]
    check_one(library.root, path)


def check_one(root: Path, path: str) -> None:
    assert [(root / name).exists() for name in (path, f"moved/{path}")] in ([True, False], [False, True])


def check_settled(root: Path, database: str | None, allowed: dict[str, States]) -> None:
    """Nobody has repaired anything: all is whole, what is listed is what is read, every name can be used."""
    with ExitStack() as stack:
        library = Library(root, stack, database)
        for path, expected in allowed.items():
            assert (library.get(path), library.get(f"moved/{path}")) in expected, path
            for name in (path, f"moved/{path}"):
                found, folder = library.get(name), name.rpartition("/")[0]
                assert (root / name).exists() == (found is not None)
                assert library.listed(folder) == ([name] if found is not None else [])
                library.put(name, b"other")
                library.change("delete", name)
        assert library.staging() == []
        assert os.listdir(root) == [".seekable"], "no folder is left"
        assert "moving" not in os.listdir(root / ".seekable")


# What is changed, the call at which the server is killed, and where that call is made.
KILLS = [
    ("create", "linkat", None),
    ("form", "fsync", ""),
    ("replace", "renameat", None),
    ("replace", "fdatasync", ".seekable/seekable.db-wal"),
    ("delete", "unlinkat", None),
    ("delete", "fsync", ""),
    ("move", "fsync", ""),
]

PATCH = {"content-type": "application/merge-patch+json"}


def test_a_server_that_is_killed_at_a_call(doomed: Server, injected: Injected, listed: Listed) -> None:
    for number, (kind, call, where) in enumerate(KILLS):
        with doomed.client() as http:
            http.put(f"/files/{number}/old.mp4", content=OLD).raise_for_status()
            paths = () if where is None else (doomed.files / (where or str(number)),)
            with (
                injected(doomed.process.pid, f"{call}:signal=SIGKILL", paths=paths),
                pytest.raises(httpx.TransportError),
            ):
                change(http, kind, str(number))
        doomed.process.wait()
        doomed.start()
        assert doomed.staging() == []
    time.sleep(2.1)
    with doomed.client() as http:
        for number, (kind, _, _) in enumerate(KILLS):
            check_names(http, listed, kind, str(number))
    assert os.listdir(doomed.files) == [".seekable"]


def change(http: httpx.Client, kind: str, folder: str) -> httpx.Response:
    if kind == "delete":
        return http.delete(f"/files/{folder}/old.mp4")
    if kind == "form":
        return http.post(f"/file/upload?folder={folder}", files={"file": ("new.mp4", NEW)})
    if kind == "move":
        return http.patch(f"/files/{folder}/old.mp4", json={"filename": "new.mp4"}, headers=PATCH)
    return http.put(f"/files/{folder}/{'new' if kind == 'create' else 'old'}.mp4", content=NEW)


def check_names(http: httpx.Client, listed: Listed, kind: str, folder: str) -> None:
    """Both names hold what they may after a change that was not acknowledged, and can be used."""
    found = {
        name: sha256(answer.content) if (answer := http.get(f"/files/{folder}/{name}")).is_success else None
        for name in ("old.mp4", "new.mp4")
    }
    if kind == "move":
        assert set(found.values()) == {_OLD, None}, "under exactly one of its names"
    else:
        assert found["old.mp4"] in {"replace": (_OLD, _NEW), "delete": (_OLD, None)}.get(kind, (_OLD,))
        assert found["new.mp4"] in ((_NEW, None) if kind in ("create", "form") else (None,))
    assert listed(http, folder) == {name: data for name, data in found.items() if data is not None}
    for name in found:
        assert http.put(f"/files/{folder}/{name}", content=OLD).is_success
        assert http.delete(f"/files/{folder}/{name}").status_code == 204

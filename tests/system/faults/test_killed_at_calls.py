"""kill -9 at every system call that writes to the disk, in each kind of change. Over the filesystem backend.

strace kills the process before the call is made, so that the kills cover all states of the disk.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support import Server, postgres
from tests.system.faults.victim import NEW, OLD, Library, sha256
from tests.system.faults.victims import CHANGES, InjectFaults, States, Victims, possible_states

HashesIn = Callable[[httpx.Client, str], dict[str, str]]

FILE_STEPS = ("fsync", "mkdirat", "linkat", "renameat", "renameat2", "unlinkat")
CALLS = ("openat", "write", "pwrite64", "fdatasync", *FILE_STEPS)

_OLD, _NEW = sha256(OLD), sha256(NEW)


def sqlite_url() -> None:
    """Return None: the default database of a library."""


DATABASES: dict[str, Callable[[], str | None]] = {
    "sqlite": sqlite_url,
    "postgresql": lambda: postgres.shared().new_library(),
}


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    return DATABASES[getattr(request, "param", "sqlite")]()


@pytest.fixture
def victims(tmp_path: Path, inject_faults: InjectFaults, database: str | None) -> Iterator[Victims]:
    victims = Victims(tmp_path / "files", inject_faults, database)
    yield victims
    victims.close()


@pytest.mark.campaign
@pytest.mark.parametrize("database", DATABASES, indirect=True)
@pytest.mark.parametrize("variant", CHANGES)
def test_kill_at_each_call_leaves_old_or_new_state(
    victims: Victims, database: str | None, variant: str
) -> None:
    kills = kill_at_each(victims, database, variant, CALLS)
    assert {"openat", "fsync", "unlinkat"} <= kills, "a call was never reached"


@pytest.mark.parametrize(
    ("database", "variant", "calls"),
    [
        ("sqlite", "move", ("renameat2", "fsync")),
        ("sqlite", "move by link", ("linkat", "fsync", "unlinkat")),
    ],
    indirect=["database"],
)
def test_kill_at_each_step_of_a_move_leaves_one_file(
    victims: Victims, database: str | None, variant: str, calls: tuple[str, ...]
) -> None:
    kill_at_each(victims, database, variant, calls)


def kill_at_each(victims: Victims, database: str | None, variant: str, calls: tuple[str, ...]) -> set[str]:
    """Repeat the change, with a kill at each call in turn. Return the calls that were reached."""
    kind, faults, needed = CHANGES[variant]
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
                with victims.change(kind, path, *faults, fault, read=before) as (done, _):
                    kills[call] += not done
                if before:
                    check_states_after_start(victims, kind, *before, allowed[before[0]])
                before = (path, f"moved/{path}")
                allowed[path] = possible_states(kind, acknowledged=done)
                # Every second time, a process that has run since before the kill reads the files first.
                survivor = survivor or Library(victims.root, stack, database)
                if kind == "move" and number % 2:
                    check_survivor(survivor, path, allowed[path])
    assert needed in (+kills)
    check_recovered(victims.root, database, allowed)
    return set(+kills)


def check_states_after_start(victims: Victims, kind: str, path: str, target: str, allowed: States) -> None:
    """Assert that the process that started next found an allowed state."""
    assert (victims.found[path], victims.found[target]) in allowed, path
    if kind == "move":
        check_exactly_one_exists(victims.root, path)


def check_survivor(library: Library, path: str, allowed: States) -> None:
    target = f"moved/{path}"
    listed = [name for name in (target, path) if name in library.listed(name.rpartition("/")[0])]
    assert (library.get(path), library.get(target)) in allowed, path
    assert listed == [name for name in (target, path) if library.get(name) is not None]
    check_exactly_one_exists(library.root, path)


def check_exactly_one_exists(root: Path, path: str) -> None:
    assert [(root / name).exists() for name in (path, f"moved/{path}")] in ([True, False], [False, True])


def check_recovered(root: Path, database: str | None, allowed: dict[str, States]) -> None:
    """Assert, without any repair, that files are whole, lists are true and all names can be used."""
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
        assert os.listdir(root) == [".seekable"], "empty folders are left"
        assert "moving" not in os.listdir(root / ".seekable")


# The change, the call at which the server is killed, and the path on which the call is made (None: any).
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


def test_server_killed_at_a_call_recovers_at_its_next_start(
    filesystem_server: Server, inject_faults: InjectFaults, hashes_in: HashesIn
) -> None:
    for number, (kind, call, where) in enumerate(KILLS):
        with filesystem_server.client() as http:
            http.put(f"/files/{number}/old.mp4", content=OLD).raise_for_status()
            paths = () if where is None else (filesystem_server.files / (where or str(number)),)
            with (
                inject_faults(filesystem_server.process.pid, f"{call}:signal=SIGKILL", paths=paths),
                pytest.raises(httpx.TransportError),
            ):
                change(http, kind, str(number))
        filesystem_server.process.wait()
        filesystem_server.start()
        assert filesystem_server.staging() == []
    with filesystem_server.client() as http:
        for number, (kind, _, _) in enumerate(KILLS):
            check_names(http, hashes_in, kind, str(number))
    assert os.listdir(filesystem_server.files) == [".seekable"]


def change(http: httpx.Client, kind: str, folder: str) -> httpx.Response:
    if kind == "delete":
        return http.delete(f"/files/{folder}/old.mp4")
    if kind == "form":
        return http.post(f"/file/upload?folder={folder}", files={"file": ("new.mp4", NEW)})
    if kind == "move":
        return http.patch(f"/files/{folder}/old.mp4", json={"filename": "new.mp4"}, headers=PATCH)
    return http.put(f"/files/{folder}/{'new' if kind == 'create' else 'old'}.mp4", content=NEW)


def check_names(http: httpx.Client, hashes_in: HashesIn, kind: str, folder: str) -> None:
    """Assert that both names have a possible state after an unacknowledged change, and can be used."""
    found = {
        name: sha256(response.content)
        if (response := http.get(f"/files/{folder}/{name}")).is_success
        else None
        for name in ("old.mp4", "new.mp4")
    }
    if kind == "move":
        assert set(found.values()) == {_OLD, None}, "the file must have exactly one of its names"
    else:
        assert found["old.mp4"] in {"replace": (_OLD, _NEW), "delete": (_OLD, None)}.get(kind, (_OLD,))
        assert found["new.mp4"] in ((_NEW, None) if kind in ("create", "form") else (None,))
    assert hashes_in(http, folder) == {
        name: version for name, version in found.items() if version is not None
    }
    for name in found:
        assert http.put(f"/files/{folder}/{name}", content=OLD).is_success
        assert http.delete(f"/files/{folder}/{name}").status_code == 204

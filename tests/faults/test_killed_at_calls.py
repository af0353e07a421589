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

from tests.faults.victim import NEW, OLD, Library, sha256
from tests.faults.victims import KINDS, Injected, States, Victims, states
from tests.support import Server

Listed = Callable[[httpx.Client, str], dict[str, str]]

CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "mkdirat", "linkat", "renameat", "unlinkat")


@pytest.fixture
def victims(tmp_path: Path, injected: Injected) -> Iterator[Victims]:
    victims = Victims(tmp_path / "files", injected)
    yield victims
    victims.close()


_OLD, _NEW = sha256(OLD), sha256(NEW)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_each_call(victims: Victims, kind: str) -> None:
    allowed: dict[str, States] = {}
    kills: Counter[str] = Counter()
    before: tuple[str, ...] = ()
    for call in CALLS:
        done = False
        while not done:
            number = kills[call] + 1
            path = f"{kind}-{call}-{number}/film"
            fault = f"{call}:signal=SIGKILL:when={number}"
            with victims.change(kind, path, fault, look=before) as (done, _):
                kills[call] += not done
            if before:
                check_found(victims, kind, *before, allowed[before[0]])
            before = (path, f"moved/{path}")
            allowed[path] = states(kind, acknowledged=done)
    assert {"write", "pwrite64", "fsync", "fdatasync", "unlinkat"} <= (+kills).keys(), "each was met"
    assert ("renameat" if kind == "replace" else "linkat") in (+kills)
    time.sleep(2.1)
    check_settled(victims.root, allowed)


def check_found(victims: Victims, kind: str, path: str, target: str, allowed: States) -> None:
    """At the next start."""
    found = (victims.found[path], victims.found[target])
    if kind == "move" and len(allowed) > 1 and found == (None, None):
        # A file that was linked and has no row yet is not served until it has been still for 2 s.
        assert sha256((victims.root / target).read_bytes()) == _OLD
    else:
        assert found in allowed, path


def check_settled(root: Path, allowed: dict[str, States]) -> None:
    """Nobody has repaired anything: all is whole, what is listed is what is read, every name can be used."""
    with ExitStack() as stack:
        library = Library(root, stack)
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


# What is changed, the call at which the server is killed, and where that call is made.
KILLS = [
    ("create", "linkat", None),
    ("form", "fsync", ""),
    ("replace", "renameat", None),
    ("replace", "fdatasync", ".seekable/seekable.db-wal"),
    ("delete", "unlinkat", None),
    ("delete", "fsync", ""),
]


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
    return http.put(f"/files/{folder}/{'new' if kind == 'create' else 'old'}.mp4", content=NEW)


def check_names(http: httpx.Client, listed: Listed, kind: str, folder: str) -> None:
    """Both names hold what they may after a change that was not acknowledged, and can be used."""
    found = {
        name: sha256(answer.content) if (answer := http.get(f"/files/{folder}/{name}")).is_success else None
        for name in ("old.mp4", "new.mp4")
    }
    assert found["old.mp4"] in {"replace": (_OLD, _NEW), "delete": (_OLD, None)}.get(kind, (_OLD,))
    assert found["new.mp4"] in ((_NEW, None) if kind in ("create", "form") else (None,))
    assert listed(http, folder) == {name: data for name, data in found.items() if data is not None}
    for name in found:
        assert http.put(f"/files/{folder}/{name}", content=OLD).is_success
        assert http.delete(f"/files/{folder}/{name}").status_code == 204

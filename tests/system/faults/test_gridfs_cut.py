"""The network to mongod cut at the very command that makes a change, whose outcome nobody knows then."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, mongo
from tests.support.together import Outcomes, Together
from tests.system.faults.grid import Grid, check_refused, recovered
from tests.system.faults.wire import Wire, command, wire

OLD, NEW = b"old" * 100_000, b"new" * 200_000
KIND = {"content-type": "application/merge-patch+json"}
NUMBERS = itertools.count(1)

# What makes each change.
CHANGES = {
    "create": command("insert", "media"),
    "replace": command("update", "media"),
    "delete": command("delete", "media"),
    "move": command("update", "media"),
}

# What is at the name and at that to which it is moved.
BEFORE = {"create": [None, None], "replace": [OLD, None], "delete": [OLD, None], "move": [OLD, None]}
AFTER = {"create": [NEW, None], "replace": [NEW, None], "delete": [None, None], "move": [None, OLD]}


@pytest.fixture(scope="module")
def cable() -> Iterator[Wire]:
    with wire(mongo.shared().port) as cable:
        yield cable


@pytest.fixture(scope="module")
def grid(cable: Wire, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return through(cable, tmp_path_factory.mktemp("grid"))


def through(cable: Wire, folder: Path) -> Grid:
    """What a server sees through the cable, and the test does not."""
    grid = Grid(folder, mongo.gridfs()["mongodb_url"])  # type: ignore[arg-type]
    name = grid.url.rpartition("/")[2].partition("?")[0]
    grid.settings["mongodb_url"] = f"mongodb://{cable.host}/{name}?directConnection=true"
    return grid


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    with untroubled(grid) as server:
        yield server


@contextmanager
def untroubled(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


waiting = Together("waiting")
"""Tests in which a server waits for its database, for seconds. Each has a library and a cable of its own."""


@pytest.fixture(scope="module", name="waiting")
def begun_waiting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def given(name: str) -> tuple[Wire, Grid]:
            cable = stack.enter_context(wire(mongo.shared().port))
            return cable, through(cable, tmp_path_factory.mktemp(name))

        with waiting.begun(request, given) as outcomes:
            yield outcomes


@waiting
def test_a_creation_that_is_brought_but_whose_outcome_is_not_known(cable: Wire, grid: Grid) -> None:
    with untroubled(grid) as server:
        check_outcome(cable, grid, server, "create", True)


@waiting
def test_a_creation_that_is_not_brought_and_whose_outcome_is_not_known(cable: Wire, grid: Grid) -> None:
    with untroubled(grid) as server:
        check_outcome(cable, grid, server, "create", False)


OTHERS = [(kind, True) for kind in CHANGES if kind != "create"]


@pytest.mark.campaign
@pytest.mark.parametrize(("kind", "brought"), [*OTHERS, ("delete", False)])
def test_another_change_whose_outcome_is_not_known(
    cable: Wire, grid: Grid, server: Server, kind: str, brought: bool
) -> None:
    check_outcome(cable, grid, server, kind, brought)


def check_outcome(cable: Wire, grid: Grid, server: Server, kind: str, brought: bool) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http:
        if kind != "create":
            http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
        cable.cut_at(CHANGES[kind], bring=brought)
        answer = change(http, kind, folder)
        assert cable.is_cut.is_set()
        check_refused(answer)
        assert answer.elapsed.total_seconds() < 5
        cable.mend()
        recovered(server)
        for _ in range(2):
            assert there(http, folder) == (AFTER if brought else BEFORE)[kind]
            grid.check_nothing_left()  # the bytes of what is there stay, and no others


def change(http: httpx.Client, kind: str, folder: str) -> httpx.Response:
    film = f"/files/{folder}/film.mp4"
    match kind:
        case "delete":
            return http.delete(film)
        case "move":
            return http.patch(film, json={"filename": "moved.mp4"}, headers=KIND)
        case _:
            return http.put(film, content=NEW)


def there(http: httpx.Client, folder: str) -> list[bytes | None]:
    """What is at both names."""
    answers = [http.get(f"/files/{folder}/{name}.mp4") for name in ("film", "moved")]
    return [answer.content if answer.is_success else None for answer in answers]


@waiting
def test_a_change_of_which_only_the_answer_is_lost(cable: Wire, grid: Grid) -> None:
    """It is looked up whether it was made, where the driver does not try again by itself, as without a
    replica set."""
    url = f"{grid.settings['mongodb_url']}&retryWrites=false"
    with grid.server("unretrying", mongodb_url=url) as server, server.client() as http:
        for kind, made in CHANGES.items():
            folder = f"folder-{next(NUMBERS)}"
            if kind != "create":
                http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
            cable.break_at(made)
            assert change(http, kind, folder).is_success
            assert there(http, folder) == AFTER[kind]
    grid.check_nothing_left()


@waiting
def test_bytes_that_a_document_may_name_are_kept(cable: Wire, grid: Grid) -> None:
    """Although all else can be asked of the database, and so they could be removed."""
    with untroubled(grid) as server:
        check_kept(cable, grid, server, "create")


@pytest.mark.campaign
def test_bytes_that_a_document_may_name_are_kept_when_it_is_replaced(
    cable: Wire, grid: Grid, server: Server
) -> None:
    check_kept(cable, grid, server, "replace")


def check_kept(cable: Wire, grid: Grid, server: Server, kind: str) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http:
        if kind == "replace":
            http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
        cable.lose_answers_to(CHANGES[kind], command("find", "media"))
        check_refused(change(http, kind, folder))
        assert there(http, folder) == AFTER[kind]
        grid.check_nothing_left()
        assert there(http, folder) == AFTER[kind]


@pytest.mark.parametrize("kind", ["create", "replace"])
def test_a_commit_that_comes_after_the_sweep_is_not_acknowledged(
    cable: Wire, grid: Grid, server: Server, kind: str
) -> None:
    """As of a process that was stopped for longer than its lease."""
    target = f"/files/folder-{next(NUMBERS)}/film.mp4"
    with server.client() as http, ThreadPoolExecutor(1) as pool:
        if kind == "replace":
            http.put(target, content=OLD).raise_for_status()
        cable.hold_at(CHANGES[kind])
        answer = pool.submit(http.put, target, content=NEW)
        assert cable.is_holding.wait(10)
        grid.pass_time(of=lambda file: file not in grid.named())
        assert grid.sweep()
        cable.let_go()
        check_refused(answer.result())
        found = http.get(target)
        assert (found.content if found.is_success else None) == (OLD if kind == "replace" else None)
        grid.check_nothing_left()
        assert http.put(target, content=NEW).is_success
        assert http.get(target).content == NEW


def test_a_file_that_stands_in_the_way_of_another_but_is_moved_is_kept(
    cable: Wire, grid: Grid, server: Server
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http, grid.server("other", mongodb_url=grid.url) as other:
        with other.client() as elsewhere, ThreadPoolExecutor(1) as pool:
            cable.hold_at(CHANGES["create"])
            answer = pool.submit(http.put, f"/files/{folder}/x", content=NEW)
            assert cable.is_holding.wait(10)
            # It is put where a folder comes to be meanwhile, and moved before that is noticed.
            assert elsewhere.put(f"/files/{folder}/x/film.mp4", content=OLD).status_code == 201
            cable.hold_again_at(CHANGES["delete"])
            assert cable.is_holding.wait(10)
            moved = elsewhere.patch(f"/files/{folder}/x", json={"filename": "y"}, headers=KIND)
            assert moved.status_code == 200
            cable.let_go()
            assert answer.result().status_code == 201
        assert http.get(f"/files/{folder}/y").content == NEW
        grid.check_nothing_left()
        assert http.get(f"/files/{folder}/y").content == NEW

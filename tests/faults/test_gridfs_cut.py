"""The network to mongod cut at the very command that makes a change, whose outcome nobody knows then."""

import itertools
from collections.abc import Iterator

import pytest

from tests import mongo
from tests.faults.grid import Grid, check_refused, recovered
from tests.faults.wire import Wire, command, wire
from tests.mongo import Mongod
from tests.support import Server

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


@pytest.fixture(scope="module")
def cable() -> Iterator[Wire]:
    with wire(mongo.shared().port) as cable:
        yield cable


@pytest.fixture(scope="module")
def grid(cable: Wire, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """What a server sees through the cable, and the test does not."""
    grid = Grid(tmp_path_factory.mktemp("grid"), mongo.gridfs()["mongodb_url"])  # type: ignore[arg-type]
    name = grid.url.rpartition("/")[2].partition("?")[0]
    grid.settings["mongodb_url"] = f"mongodb://{cable.host}/{name}?directConnection=true"
    return grid


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("brought", [True, False], ids=["the answer is lost", "the command is lost"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_whose_outcome_is_not_known(
    cable: Wire, grid: Grid, server: Server, kind: str, brought: bool
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    film, moved = f"/files/{folder}/film.mp4", f"/files/{folder}/moved.mp4"
    with server.client() as http:
        if kind != "create":
            http.put(film, content=OLD).raise_for_status()
        cable.cut_at(CHANGES[kind], bring=brought)
        if kind == "delete":
            answer = http.delete(film)
        elif kind == "move":
            answer = http.patch(film, json={"filename": "moved.mp4"}, headers=KIND)
        else:
            answer = http.put(film, content=NEW)
        assert cable.is_cut.is_set()
        check_refused(answer)
        assert answer.elapsed.total_seconds() < 5
        before = {film: None if kind == "create" else OLD, moved: None}
        after = {
            film: None if kind in ("delete", "move") else NEW,
            moved: OLD if kind == "move" else None,
        }
        for _ in range(2):
            cable.mend()
            recovered(server)
            answers = {target: http.get(target) for target in (film, moved)}
            found = {path: each.content if each.is_success else None for path, each in answers.items()}
            assert found == (after if brought else before)
            grid.check_nothing_left()  # the bytes of what is there stay, and no others

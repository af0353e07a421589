"""Groups of small uploads: their commands, and what concurrent changes between two commands lead to."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from app.database.gridfs.backend import GridBackend
from app.database.gridfs.bucket import CHUNK_SIZE
from app.database.gridfs.upload_groups import MAX_GROUP, MAX_GROUP_BYTES, choose_group
from app.database.gridfs.upload_steps import GroupedUpload
from app.database.gridfs.writes import OccupiedPaths, path_conflicts
from app.storage.errors import (
    AlreadyExists,
    PathConflict,
    StorageUnavailable,
    VersionMismatch,
)
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Committed, Expect, Expectation, Key
from tests.support import mongo
from tests.unit.database.gridfs.conftest import Command, Commands, Grid

STEPS = [
    ("find", "media"),
    ("update", "media.uploads"),
    ("insert", "fs.chunks"),
    ("insert", "fs.files"),
    ("insert", "media"),
    ("find", "media"),
    ("delete", "media.uploads"),
]
"""The commands of a group of new files."""

DURABLE = {"w": "majority", "j": True}


@pytest.fixture
def other(grid: Grid) -> Iterator[Grid]:
    """Open the library a second time, as another server."""
    with ExitStack() as stack:
        yield Grid(stack, url=grid.url)


def key(path: str, library: str = SHARED) -> Key:
    folder, _, filename = path.rpartition("/")
    return Key(library, folder, filename)


def upload_of(path: str, size: int = 1, library: str = SHARED) -> GroupedUpload:
    return GroupedUpload(key(path, library), bytes(size), "", "a/b", Expect.ANY, None)


def store(
    backend: GridBackend, path: str, data: bytes = b"film", expect: Expectation = Expect.ANY
) -> Committed:
    digest = hashlib.sha256(data).hexdigest()
    return backend.store(key(path), data, sha256=digest, content_type="video/mp4", expect=expect)


def steps_of(commands: Sequence[Command]) -> list[tuple[str, str]]:
    return [
        (name, command[name])
        for command in commands
        for name in ("find", "insert", "update", "delete")
        if isinstance(command.get(name), str)
    ]


def step(name: str, collection: str) -> Callable[[Command], bool]:
    return lambda command: command.get(name) == collection


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def group(
    grid: Grid,
    commands: Commands,
    *calls: Callable[[], Any],
    before: Callable[[Command], bool] | None = None,
    action: Callable[[], object] = lambda: None,
) -> list[Any]:
    """Run calls as one group, and the action before a command of it. Return their results or errors."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures: list[Future[Any]] = []

        def start() -> None:
            futures.extend(pool.submit(call) for call in calls)
            until(lambda: len(grid.backend._groups._waiting) == len(calls))
            commands.sent.clear()
            if before is not None:
                commands.before(before, action)

        commands.before(step("delete", "media.uploads"), start)
        store(grid.backend, "first.mp4")
        return [future.exception(30) or future.result() for future in futures]


def check_sound(grid: Grid) -> None:
    """Assert that all files are sound, and that no bytes and no entries remain but those of old versions."""
    grid.pass_time()
    grid.scan()
    assert {verdict for _, verdict in grid.verdicts()} <= {Integrity.SOUND, Integrity.UNKNOWN}
    files = {*grid.database["media"].distinct("file")}
    assert {*grid.database["fs.files"].distinct("_id")} == files
    assert {*grid.database["fs.chunks"].distinct("files_id")} <= files
    assert grid.database["media.uploads"].count_documents({}) == 0


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ("a", "a/b", True),
        ("a/b/c", "a", True),
        ("a/b", "a/b/c/d", True),
        ("a", "a", False),
        ("a", "b", False),
        ("a", "ab/c", False),
        ("a", "a-/c", False),
        ("b/a", "a/b", False),
    ],
)
def test_file_and_folder_of_one_path_conflict(one: str, other: str, conflict: bool) -> None:
    assert OccupiedPaths([key(one)]).conflicts_with(key(other)) is conflict
    assert OccupiedPaths([key(other)]).conflicts_with(key(one)) is conflict
    assert not OccupiedPaths([key(one)]).conflicts_with(key(other, "library"))


def test_filters_find_path_conflicts_of_all_keys(grid: Grid) -> None:
    paths = ["a", "b/c", "b-/c", "b0", "d/e/f/g", "x y/(z).*"]
    for number, path in enumerate(paths):
        document = {"_id": str(number), "library": SHARED, "file": number}
        grid.database["media"].insert_one(
            {**document, "folder": key(path).folder, "filename": key(path).filename}
        )
    candidates = ["a/1", "b", "b/c/2", "b0/3/4", "d/e", "d", "e", "x y", "x y/(z).*/5", "x y/(z).+", "b-"]
    for candidate in candidates:
        found = grid.database["media"].find({"$or": path_conflicts([key(candidate)])})
        expected = {path for path in paths if OccupiedPaths([key(path)]).conflicts_with(key(candidate))}
        assert {f"{each['folder']}/{each['filename']}".lstrip("/") for each in found} == expected, candidate
    assert grid.database["media"].count_documents({"$or": path_conflicts(map(key, candidates))}) == len(paths)


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["a"], ["a"]),
        (["a", "b", "c/a"], ["a", "b", "c/a"]),
        (["a", "a", "b", "a"], ["a", "b"]),
        (["a", "a/b", "b/c", "b"], ["a", "b/c"]),
    ],
)
def test_group_has_no_equal_or_conflicting_paths(paths: list[str], chosen: list[str]) -> None:
    assert [upload.key.path for upload in choose_group([upload_of(path) for path in paths])] == chosen


def test_group_is_bounded_in_bytes() -> None:
    half = MAX_GROUP_BYTES // 2
    uploads = [upload_of(str(number), half) for number in range(3)]
    assert choose_group(uploads) == uploads[:2]
    assert len(choose_group([upload_of("x", 2 * MAX_GROUP_BYTES), *uploads])) == 1


def test_group_is_bounded_in_uploads() -> None:
    uploads = [upload_of(str(number)) for number in range(2 * MAX_GROUP)]
    assert choose_group(uploads) == uploads[:MAX_GROUP]


def test_group_takes_as_many_commands_as_one_upload(commands: Commands, grid: Grid) -> None:
    commands.sent.clear()
    store(grid.backend, "one.mp4")
    assert steps_of(commands.sent) == STEPS
    results = group(grid, commands, *[lambda n=n: store(grid.backend, f"{n}.mp4") for n in range(8)])
    assert steps_of(commands.sent) == STEPS
    assert [len(each["documents"]) for each in commands.sent if "insert" in each] == [8, 8, 8]
    assert [each.info.key.path for each in results] == [f"{n}.mp4" for n in range(8)]
    assert all(each.created for each in results)
    check_sound(grid)


def test_upload_returns_only_when_a_majority_has_it_on_disk(commands: Commands, grid: Grid) -> None:
    """The oplog is in order, so the write concern of the document counts for the writes before it too."""
    store(grid.backend, "a.mp4")
    concerns = {(*steps_of([each])[0],): each["writeConcern"] for each in commands.sent if "insert" in each}
    assert concerns["insert", "media"] == DURABLE
    with mongo.mongod(replica_set="") as alone, ExitStack() as stack:
        grid = Grid(stack, url=alone.url("alone"))
        commands.sent.clear()
        store(grid.backend, "a.mp4")
        assert steps_of(commands.sent) == STEPS
        inserts = [each["writeConcern"] for each in commands.sent if "insert" in each]
        assert inserts == [DURABLE] * 3, "without a replica set there is no order to rely on"
        check_sound(grid)


def test_small_upload_stores_same_documents_as_large_one(grid: Grid) -> None:
    data = bytes(range(256)) * 700
    writer = grid.backend.stage(None)
    writer.write(data)
    digest = hashlib.sha256(data).hexdigest()
    grid.backend.commit(
        key("a/x y.mp4"), writer, size=len(data), sha256=digest, content_type="video/mp4", expect=Expect.ANY
    )
    store(grid.backend, "b/x y.mp4", data)
    own = {"_id", "file", "files_id", "folder", "created_at", "updated_at", "uploadDate", "filename"}
    for name in ("media", "fs.files", "fs.chunks"):
        one, other = (
            [
                {field: (type(value), value) for field, value in each.items() if field not in own}
                for each in half
            ]
            for half in halves([*grid.database[name].find(sort=[("_id", 1), ("n", 1)])], name)
        )
        assert one == other, name
    assert len(data) > CHUNK_SIZE


def halves(documents: list[dict[str, Any]], name: str) -> tuple[list[Any], list[Any]]:
    if name == "media":
        documents = sorted(documents, key=lambda each: str(each["folder"]))
    assert {*documents[0]} == {*documents[-1]}
    return documents[: len(documents) // 2], documents[len(documents) // 2 :]


def test_empty_file_is_stored_in_group(grid: Grid) -> None:
    store(grid.backend, "empty.mp4", b"")
    assert grid.size(key("empty.mp4")) == 0
    check_sound(grid)


def test_duplicate_key_fails_one_upload_and_no_neighbour(commands: Commands, grid: Grid, other: Grid) -> None:
    results = group(
        grid,
        commands,
        lambda: store(grid.backend, "a.mp4", expect=Expect.ABSENT),
        lambda: store(grid.backend, "b.mp4", expect=Expect.ABSENT),
        lambda: store(grid.backend, "c.mp4"),
        before=step("insert", "media"),
        action=lambda: (store(other.backend, "b.mp4", b"winner"), store(other.backend, "c.mp4", b"first")),
    )
    assert isinstance(results[1], AlreadyExists)
    assert (results[0].created, results[2].created) == (True, False)
    assert [grid.size(key(f"{name}.mp4")) for name in "abc"] == [4, 6, 4]
    graced = {*grid.database["media.uploads"].distinct("_id", {"lease": {"$exists": False}})}
    stored = {*grid.database["fs.files"].distinct("_id")} | {*grid.database["fs.chunks"].distinct("files_id")}
    assert stored - graced == {*grid.database["media"].distinct("file")}, "the loser left its bytes"
    check_sound(grid)


def test_group_replaces_versions_and_keeps_their_bytes(commands: Commands, grid: Grid) -> None:
    before = [store(grid.backend, f"{n}.mp4", b"old").info for n in range(3)]
    readers = [grid.backend.open(key(f"{n}.mp4"), wait=True) for n in range(3)]
    results = group(
        grid,
        commands,
        lambda: store(grid.backend, "0.mp4", b"new", before[0].etag),
        lambda: store(grid.backend, "1.mp4", b"new", "another"),
        lambda: store(grid.backend, "2.mp4", b"new"),
        lambda: store(grid.backend, "3.mp4", b"new"),
    )
    assert isinstance(results.pop(1), VersionMismatch)
    assert [each.created for each in results] == [False, False, True]
    assert [each.info.id for each in results[:2]] == [before[0].id, before[2].id]
    assert [each.info.created_at for each in results[:2]] == [before[0].created_at, before[2].created_at]
    assert results[0].info.updated_at.replace(microsecond=0) > before[0].updated_at.replace(microsecond=0)
    for reader in readers:
        assert b"".join(reader.read(0, 3)) == b"old"
    kept = {*grid.database["media.uploads"].distinct("_id", {"lease": {"$exists": False}})}
    assert len(kept) == 2
    assert not kept & {*grid.database["media"].distinct("file")}
    check_sound(grid)


def test_version_that_changes_in_between_is_not_overwritten(
    commands: Commands, grid: Grid, other: Grid
) -> None:
    etags = [store(grid.backend, f"{n}.mp4", b"old").info.etag for n in range(3)]
    results = group(
        grid,
        commands,
        *[lambda n=n: store(grid.backend, f"{n}.mp4", b"group", etags[n]) for n in range(3)],
        before=step("update", "media"),
        action=lambda: store(other.backend, "1.mp4", b"faster"),
    )
    assert isinstance(results[1], VersionMismatch)
    assert [grid.size(key(f"{n}.mp4")) for n in range(3)] == [5, 6, 5]
    check_sound(grid)


def test_path_conflicts_fail_alone(commands: Commands, grid: Grid) -> None:
    store(grid.backend, "file")
    store(grid.backend, "folder/x")
    results = group(
        grid,
        commands,
        lambda: store(grid.backend, "file/a"),
        lambda: store(grid.backend, "folder"),
        lambda: store(grid.backend, "fine"),
    )
    assert [type(each) for each in results] == [PathConflict, PathConflict, Committed]
    assert grid.paths() == ["file", "fine", "first.mp4", "folder/x"]
    check_sound(grid)


def test_path_conflict_that_appears_in_between_withdraws_one_upload(
    commands: Commands, grid: Grid, other: Grid
) -> None:
    results = group(
        grid,
        commands,
        lambda: store(grid.backend, "a"),
        lambda: store(grid.backend, "b"),
        before=step("insert", "media"),
        action=lambda: store(other.backend, "a/x", b"faster"),
    )
    assert [type(each) for each in results] == [PathConflict, Committed]
    assert grid.paths() == ["b", "first.mp4", "a/x"]
    check_sound(grid)


def test_foreign_file_is_replaced_as_by_a_large_upload(commands: Commands, grid: Grid) -> None:
    bucket = {"chunkSize": 4, "length": 0}
    for _ in range(2):
        grid.database["fs.files"].insert_one({**bucket, "filename": "a.mp4", "uploadDate": datetime.now(UTC)})
        time.sleep(0.002)
    grid.scan()
    assert grid.size(key("a.mp4")) == 0
    results = group(
        grid, commands, lambda: store(grid.backend, "a.mp4"), lambda: store(grid.backend, "b.mp4")
    )
    assert [each.created for each in results] == [False, True]
    grid.pass_time()
    grid.scan()
    assert grid.size(key("a.mp4")) == 4
    grid.backend.delete(key("a.mp4"), Expect.ANY)
    grid.scan()
    assert grid.paths() == ["b.mp4", "first.mp4"], "the older foreign file came back"


@pytest.mark.parametrize("has_ended", [True, False])
def test_upload_whose_lease_was_swept_is_given_up(commands: Commands, grid: Grid, has_ended: bool) -> None:
    """Such as after the process was stopped, or the database's clock was set."""
    store(grid.backend, "old.mp4", b"old")

    def sweep() -> None:
        grid.pass_time()
        if has_ended:
            grid.scan()
        else:
            grid.database["media.uploads"].update_many({"lease": True}, {"$set": {"sweeping": True}})

    results = group(
        grid,
        commands,
        lambda: store(grid.backend, "new.mp4"),
        lambda: store(grid.backend, "old.mp4", b"newer"),
        before=lambda command: command.get("insert") == "media",
        action=sweep,
    )
    assert [type(each) for each in results] == [StorageUnavailable] * 2
    assert grid.paths() == ["first.mp4", "old.mp4"]
    assert b"".join(grid.backend.open(key("old.mp4"), wait=True).read(0, 3)) == b"old"
    check_sound(grid)


@pytest.mark.parametrize("place", range(1, len(STEPS)))
def test_change_of_primary_in_a_group_loses_nothing(
    commands: Commands, node: mongo.Mongod, place: int
) -> None:
    """The primary steps down before a command of the group, and is elected again."""
    with ExitStack() as stack:
        grid = Grid(stack, url=node.url(f"library-{place}"))
        seen = Counter[tuple[str, str]]()

        def is_next(command: Command) -> bool:
            seen.update(steps_of([command]))
            return seen.total() == place + 1

        results = group(
            grid,
            commands,
            *[lambda n=n: store(grid.backend, f"{n}.mp4", str(n).encode()) for n in range(4)],
            before=is_next,
            action=lambda: step_down(node),
        )
        assert seen.total() > place
        paths = grid.paths()
        for number, result in enumerate(results):
            assert isinstance(result, Committed | StorageUnavailable)
            if isinstance(result, Committed):
                assert f"{number}.mp4" in paths
        check_sound(grid)
        for n in range(4):
            store(grid.backend, f"{n}.mp4", str(n).encode())
        check_sound(grid)


@pytest.mark.parametrize("lost", ["fs.files", "fs.chunks"])
def test_files_lost_with_the_primary_are_not_acknowledged(
    commands: Commands, node: mongo.Mongod, lost: str
) -> None:
    """The next primary of several nodes may lack the writes that only the last one had in memory."""
    with ExitStack() as stack:
        grid = Grid(stack, url=node.url(f"lost-{lost[3:]}"))
        store(grid.backend, "1.mp4", b"old")

        def fail_over() -> None:
            step_down(node)
            last = grid.database[lost].find_one({}, sort=[("_id", -1)])
            assert last is not None
            grid.database[lost].delete_one({"_id": last["_id"]})

        results = group(
            grid,
            commands,
            lambda: store(grid.backend, "0.mp4"),
            lambda: store(grid.backend, "1.mp4", b"newer"),
            before=lambda command: command.get("insert") == "media",
            action=fail_over,
        )
        assert [type(each) for each in results] == [Committed, StorageUnavailable]
        assert grid.paths() == ["0.mp4", "1.mp4", "first.mp4"]
        assert b"".join(grid.backend.open(key("1.mp4"), wait=True).read(0, 3)) == b"old"
        check_sound(grid)


@pytest.fixture(scope="module")
def node() -> Iterator[mongo.Mongod]:
    with mongo.mongod() as node:
        yield node


def step_down(node: mongo.Mongod) -> None:
    with node.direct() as client:
        term = client.admin.command("replSetGetStatus")["term"]
        client.admin.command({"replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": True})

        def leads() -> bool:
            try:
                if not client.admin.command("hello")["isWritablePrimary"]:
                    client.admin.command("replSetFreeze", 0)
                    client.admin.command("replSetStepUp")
            except PyMongoError:
                return False
            return int(client.admin.command("replSetGetStatus")["term"]) > int(term)

        until(leads)

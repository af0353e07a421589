"""Changes of stored files: which documents each writes, and which fields and files it leaves as they are."""

import pytest

from app.storage.errors import PathConflict, StorageUnavailable
from app.storage.types import SHARED, Expect, Key, Listing
from tests.unit.database.gridfs.conftest import Commands, Grid

FILM = Key(SHARED, "", "film.mp4")
WRITES = {"insert", "update", "delete", "findAndModify", "bulkWrite"}


def test_move_updates_one_document(commands: Commands, grid: Grid) -> None:
    """So a crash at any moment leaves exactly one file."""
    source, target = Key(SHARED, "a", "old.mp4"), Key(SHARED, "b", "new.mp4")
    grid.upload(source)
    commands.sent.clear()
    grid.backend.move(source, target, Expect.ANY)
    first, *rest = [command for command in commands.sent if not WRITES.isdisjoint(command)]
    assert first["update"] == "media"
    (update,) = first["updates"]
    assert not update.get("multi")
    assert {update["u"]["$set"][name] for name in ("folder", "filename")} == {"b", "new.mp4"}
    # The filename in the bucket is for other programs; our responses do not depend on it.
    assert [(command.get("update"), len(command["updates"])) for command in rest] == [("fs.files", 1)]


def test_move_is_undone_when_path_conflict_appears(commands: Commands, grid: Grid) -> None:
    grid.upload(FILM)
    before = grid.backend.page(Listing(SHARED), cursor=None, limit=10, wait=True).items
    # Between the first check and the move, another client adds a file beneath the new name.
    beneath = Key(SHARED, "part", "film.mp4")
    commands.before(lambda command: command.get("update") == "media", lambda: grid.upload(beneath))
    with pytest.raises(PathConflict):
        grid.backend.move(FILM, Key(SHARED, "", "part"), Expect.ANY)
    assert grid.paths() == [FILM.path, beneath.path]
    assert grid.backend.page(Listing(SHARED), cursor=None, limit=10, wait=True).items == before


def test_write_is_given_up_when_foreign_index_refuses_it(grid: Grid) -> None:
    """No lookup finds a file that explains the refusal, so the write would be tried for ever."""
    grid.upload(Key(SHARED, "a", "film.mp4"))
    grid.upload(Key(SHARED, "a", "old.mp4"))
    grid.database["media"].create_index("filename", unique=True)
    before = grid.paths()
    with pytest.raises(StorageUnavailable):
        grid.backend.move(Key(SHARED, "a", "old.mp4"), FILM, Expect.ANY)
    with pytest.raises(StorageUnavailable):
        grid.upload(FILM)
    assert grid.paths() == before


def test_foreign_fields_of_document_are_kept(grid: Grid) -> None:
    old, new = Key(SHARED, "", "a.mp4"), Key(SHARED, "", "b.mp4")
    grid.upload(old)
    grid.database["media"].update_one({}, {"$set": {"tags": ["seen"]}})
    grid.backend.move(old, new, Expect.ANY)
    grid.upload(new)
    assert grid.paths() == ["b.mp4"]
    media = grid.database["media"].find_one({})
    assert media is not None
    assert media["tags"] == ["seen"]

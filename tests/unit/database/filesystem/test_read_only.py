"""A library that is opened read-only: neither the storage nor the disk layer changes a file."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.database import open_stores
from app.database.filesystem.disk import Disk
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.errors import ReadOnly
from app.storage.types import SHARED, Expect, Key

FILM = Key(SHARED, "", "film.mp4")


async def staged(storage: Storage) -> None:
    async with storage.stage():
        pass


CHANGES: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "check": lambda storage: storage.check(FILM, Expect.ANY),
    "stage": staged,
    "delete": lambda storage: storage.delete(FILM),
    "move": lambda storage: storage.move(FILM, Key(SHARED, "", "other.mp4")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_storage_raises_read_only_for_each_change(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files = tmp_path / "files"
    files.mkdir()
    (files / "film.mp4").write_bytes(b"film")

    async def scenario() -> None:
        settings = Settings(_env_file=None, files_dir=files, read_only=True)
        async with open_stores(settings) as stores:
            assert stores.storage.read_only
            with pytest.raises(ReadOnly):
                await CHANGES[change](stores.storage)

    asyncio.run(scenario())
    assert os.listdir(files) == ["film.mp4"]


def test_disk_raises_read_only_for_each_step(tmp_path: Path) -> None:
    """The disk layer refuses on its own, in case a caller above it forgets to."""
    (tmp_path / "film.mp4").write_bytes(b"film")
    disk = Disk(tmp_path, marked=False)
    steps: list[Callable[[], object]] = [
        disk.stage,
        lambda: disk.mark("id"),
        lambda: disk.open_reserved_folder("leases"),
        lambda: disk.removed(("film.mp4",)),
        lambda: disk.moved(("film.mp4",), ("other.mp4",)),
    ]
    for step in steps:
        with pytest.raises(ReadOnly):
            step()
    disk.sweep()
    disk.undo_interrupted_move()
    with disk.locked(1), disk.release_reserve():
        pass
    disk.close()
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_library_has_no_id_when_opened_read_only_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files = tmp_path / "files"
    files.mkdir()

    def inode_id(name: str | None, *, read_only: bool) -> str | None:
        url = None if name is None else f"sqlite:///{tmp_path / name}"
        settings = Settings(_env_file=None, files_dir=files, read_only=read_only, database_url=url)

        async def opened() -> str | None:
            async with open_stores(settings) as stores:
                return stores.library_id

        return asyncio.run(opened())

    assert inode_id(None, read_only=True) is None
    assert inode_id("before.db", read_only=True) is None
    own_id = inode_id("own.db", read_only=False)
    assert own_id == (files / ".seekable" / "id").read_text().strip()
    assert inode_id("own.db", read_only=True) == own_id
    assert inode_id("before.db", read_only=True) is None, "the database belongs to another id"

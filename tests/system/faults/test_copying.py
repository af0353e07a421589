"""Copying a library while files change, decay and vanish, and disks fill. Over the filesystem backend."""

import asyncio
import hashlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from app.database.filesystem.shared_state import SqliteCopies
from app.library.copying import CopyOutcome, copy, find_gone, remove_gone
from app.storage.contract import CopyRecord
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.types import SHARED, Key
from tests.support import mounted
from tests.support.copying import CountingStorage, Pair, get, opened, put, stored
from tests.unit.database.foreign_changes import wait_for_tick

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "films", "film.mp4")
OTHER, LAST = Key(SHARED, "films", "other.mp4"), Key(SHARED, "films", "z.mp4")
BYTES = os.urandom(300_000)


@pytest.fixture
async def pair(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Pair]:
    async with opened(tmp_path, {"stable_after": 0}, {"stable_after": 0}) as pair:
        yield pair


def staged(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "target" / ".seekable" / "staging")


def corrupt(folder: Path, key: Key) -> None:
    """Change the recorded hash, as if the bytes of a file had decayed on the disk."""
    with closing(sqlite3.connect(folder / ".seekable" / "seekable.db")) as database, database:
        where = "WHERE folder = ? AND filename = ?"
        changed = database.execute(
            f"UPDATE media SET sha256 = ? {where}", ["0" * 64, key.folder, key.filename]
        )
        assert changed.rowcount == 1


async def test_copy_skips_damaged_file(pair: Pair, tmp_path: Path) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, LAST, b"last")
    corrupt(tmp_path / "source", FILM)
    found = await pair.copy()
    assert found[":films/film.mp4"].outcome is CopyOutcome.DAMAGED
    assert "hash" in found[":films/film.mp4"].reason
    assert set(await stored(pair.target)) == {LAST}
    assert not staged(tmp_path)


async def test_copy_skips_file_truncated_while_it_is_read(pair: Pair, tmp_path: Path) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, LAST, b"last")
    path = tmp_path / "source" / FILM.path

    async def truncate() -> None:
        os.truncate(path, 1000)

    found = await replace(pair, source=CountingStorage(pair.source, truncate)).copy()
    assert found[":films/film.mp4"].outcome is CopyOutcome.FAILED
    assert found[":films/film.mp4"].reason
    assert set(await stored(pair.target)) == {LAST}
    wait_for_tick()
    assert await pair.run() == {"films/film.mp4": CopyOutcome.COPIED, "films/z.mp4": CopyOutcome.PRESENT}


async def test_copy_hashes_unhashed_files_and_recognizes_copies_later(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "films"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(BYTES)
    (folder / "other.mp4").write_bytes(b"other")
    (folder / "z.mp4").write_bytes(b"last")
    await put(pair.target, OTHER, b"other")
    await put(pair.target, LAST, b"LAST")
    wait_for_tick()
    expected = {
        "films/film.mp4": CopyOutcome.COPIED,
        "films/other.mp4": CopyOutcome.PRESENT,
        "films/z.mp4": CopyOutcome.CONFLICT,
    }
    assert await pair.run() == expected
    infos, copies = await stored(pair.source), await stored(pair.target)
    assert infos[FILM].sha256 is None
    assert copies[FILM].sha256 == copies[FILM].etag == hashlib.sha256(BYTES).hexdigest()
    assert copies[FILM].id == infos[FILM].id
    # A copy is recognized by its time; once the source is hashed, by its hash.
    for expected_reads in (2, 0):
        source = CountingStorage(pair.source)
        expected[FILM.path] = CopyOutcome.PRESENT
        assert await replace(pair, source=source).run() == expected
        assert source.opened == expected_reads
        async for _ in pair.source.hash_unverified():
            pass


@pytest.mark.parametrize(
    ("change", "outcome", "left"),
    [
        ("replace", CopyOutcome.COPIED, {FILM: b"new"}),
        ("move", CopyOutcome.COPIED, {OTHER: BYTES}),
        ("delete", CopyOutcome.GONE, {}),
        ("delete and create", CopyOutcome.COPIED, {FILM: b"new"}),
        ("by hand", CopyOutcome.FAILED, {}),
        ("again and again", CopyOutcome.FAILED, {}),
    ],
)
async def test_copy_handles_file_that_changes_after_it_was_listed(
    pair: Pair, tmp_path: Path, change: str, outcome: CopyOutcome, left: dict[Key, bytes]
) -> None:
    await put(pair.source, FILM, BYTES)
    turns, writing = count(), ExitStack()

    async def before() -> None:
        turn = next(turns)
        if change == "again and again":
            await put(pair.source, FILM, b"%d" % turn)
        if turn:
            return
        if change == "replace":
            await put(pair.source, FILM, b"new")
        elif change == "move":
            await pair.source.move(FILM, OTHER)
        elif change.startswith("delete"):
            await pair.source.delete(FILM)
        if change == "delete and create":
            await put(pair.source, FILM, b"new")
        if change == "by hand":
            file = writing.enter_context((tmp_path / "source" / FILM.path).open("wb", buffering=0))
            file.write(b"a writer has not finished")

    with writing:
        found = await replace(pair, source=CountingStorage(pair.source, before)).copy()
    (file,) = found.values()
    assert file.outcome is outcome
    assert bool(file.reason) is (outcome is CopyOutcome.FAILED)
    assert {key: await get(pair.target, key) for key in await stored(pair.target)} == left
    assert not staged(tmp_path)


@pytest.mark.parametrize("existing", [b"", BYTES], ids=["to copy it", "to compare it"])
async def test_copy_fails_for_adopted_file_edited_while_it_is_read(
    pair: Pair, tmp_path: Path, existing: bytes
) -> None:
    """An adopted file has no hash to check the content against; its modification time reveals the edit."""
    if existing:
        await put(pair.target, Key(SHARED, "", "film.mp4"), existing)
    path = tmp_path / "source" / "film.mp4"
    path.write_bytes(BYTES)
    wait_for_tick()
    await stored(pair.source)
    await pair.source.stat(Key(SHARED, "", "film.mp4"))

    def edit(size: int) -> None:
        with path.open("r+b") as file:
            file.write(os.urandom(9))

    outcomes = [file.outcome async for file in copy(pair.source, pair.to, edit)]
    assert outcomes == [CopyOutcome.FAILED]
    assert len(await stored(pair.target)) == bool(existing)


async def test_copy_does_not_overwrite_file_created_meanwhile(pair: Pair) -> None:
    await put(pair.source, FILM, BYTES)

    async def upload() -> None:
        await put(pair.target, FILM, b"uploaded")

    (file,) = (await replace(pair, source=CountingStorage(pair.source, upload)).copy()).values()
    assert (file.outcome, file.reason) == (CopyOutcome.CONFLICT, "Another file has this name.")
    assert await get(pair.target, FILM) == b"uploaded"


async def test_copy_raises_storage_unavailable_when_target_is_gone(pair: Pair, tmp_path: Path) -> None:
    for key in (FILM, OTHER, LAST):
        await put(pair.source, key, BYTES)
    outcomes = []
    with pytest.raises(StorageUnavailable, match="The library to copy to is unavailable: "):
        async for file in copy(pair.source, pair.to, lambda size: None):
            outcomes.append(file.outcome)
            shutil.rmtree(tmp_path / "target")
    assert outcomes == [CopyOutcome.COPIED]


async def test_full_disk_ends_copy_and_keeps_files_copied_before(tmp_path: Path) -> None:
    with mounted(tmp_path / "target", "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        async with opened(tmp_path, {"stable_after": 0}, {"stable_after": 0}) as pair:
            await put(pair.source, FILM, BYTES)
            await put(pair.source, OTHER, os.urandom(9_000_000))
            await put(pair.source, LAST, b"last")
            with pytest.raises(OutOfSpace, match=r"There is no room for films/other\.mp4: "):
                await pair.copy()
            assert set(await stored(pair.target)) == {FILM}
            assert not staged(tmp_path)
            await pair.source.delete(OTHER)
            assert await pair.run() == {
                "films/film.mp4": CopyOutcome.PRESENT,
                "films/z.mp4": CopyOutcome.COPIED,
            }


async def test_copy_may_be_cancelled_at_any_time(pair: Pair, tmp_path: Path) -> None:
    keys = [Key(SHARED, "films", f"{number}.mp4") for number in range(12)]
    for key in keys:
        await put(pair.source, key, BYTES)
    for turn in range(8):
        task = asyncio.create_task(pair.copy())
        await asyncio.sleep(turn / 100)
        task.cancel()
        await asyncio.wait([task])
        assert not staged(tmp_path)
        for key in await stored(pair.target):
            assert await get(pair.target, key) == BYTES
    assert set((await pair.run()).values()) <= {CopyOutcome.COPIED, CopyOutcome.PRESENT}
    assert set(await stored(pair.target)) == set(keys)
    with pytest.raises(NotFound):
        await pair.target.stat(FILM)


async def test_copy_does_not_overwrite_file_changed_at_the_target(pair: Pair) -> None:
    await put(pair.source, FILM, BYTES)
    await pair.run()
    await put(pair.target, FILM, b"changed at the target")
    await put(pair.source, FILM, b"changed later")
    assert await pair.run() == {FILM.path: CopyOutcome.CONFLICT}
    assert await get(pair.target, FILM) == b"changed at the target"


@pytest.mark.parametrize("other", ["another library", None])
async def test_copies_of_another_library_are_neither_removed_nor_replaced(
    pair: Pair, other: str | None
) -> None:
    """A library without an ID may be another one: records of earlier runs do not apply to it."""
    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await pair.source.delete(FILM)
    await pair.source.delete(OTHER)
    await put(pair.source, FILM, b"new again")
    another = replace(pair, source_id=other)
    assert await another.remove() == []
    assert await another.run() == {FILM.path: CopyOutcome.CONFLICT}
    assert await pair.remove() == [OTHER.path]
    assert await pair.run() == {FILM.path: CopyOutcome.REPLACED}


async def test_unrecorded_copies_are_recorded_by_the_next_run(pair: Pair, tmp_path: Path) -> None:
    """Earlier versions made copies without records."""
    infos = [await put(pair.source, key, BYTES) for key in (FILM, OTHER)]
    await pair.run()
    for info in infos:
        pair.copies.remove(info.id)
    assert await pair.remove() == []
    assert set((await pair.run()).values()) == {CopyOutcome.PRESENT}
    await pair.source.delete(FILM)
    assert await pair.remove() == [FILM.path]
    records = tmp_path / "target" / ".seekable" / "copies.db"
    assert records.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kept", [0, 100, 5000])
async def test_damaged_records_of_copies_are_rebuilt(pair: Pair, tmp_path: Path, kept: int) -> None:
    await put(pair.source, FILM, BYTES)
    await pair.run()
    records = tmp_path / "target" / ".seekable" / "copies.db"
    records.write_bytes(records.read_bytes()[:kept] + b"damaged" * 1000)
    with closing(SqliteCopies(records)) as copies:
        again = replace(pair, copies=copies)
        assert await again.run() == {FILM.path: CopyOutcome.PRESENT}
        await pair.source.delete(FILM)
        assert await again.remove() == [FILM.path]


async def test_interrupted_replacement_leaves_copy_that_may_be_replaced(pair: Pair) -> None:
    class FailingCopies:
        def __getattr__(self, name: str) -> Any:
            return getattr(pair.copies, name)

        def save(self, copied: CopyRecord) -> None:
            raise StorageUnavailable("killed")

    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await put(pair.source, FILM, b"second")
    await pair.source.delete(OTHER)
    await put(pair.source, OTHER, b"new again")
    await replace(pair, copies=FailingCopies()).run()
    assert await get(pair.target, FILM) == b"second"
    assert await get(pair.target, OTHER) == b"new again"
    await put(pair.source, FILM, b"third")
    assert await pair.run() == {FILM.path: CopyOutcome.REPLACED, OTHER.path: CopyOutcome.PRESENT}
    await pair.source.delete(OTHER)
    assert await pair.remove() == [OTHER.path]


async def test_copy_is_not_removed_when_its_source_returns_or_is_unreadable(
    pair: Pair, tmp_path: Path
) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await pair.source.delete(FILM)
    with (tmp_path / "source" / OTHER.path).open("ab") as writing:
        writing.write(b"more")
        writing.flush()
        (removable,) = [info async for info in find_gone(pair.source, pair.to)]
        assert removable.key == FILM
    await put(pair.source, FILM, b"back again")
    assert not await remove_gone(pair.source, pair.to, removable)
    assert await get(pair.target, FILM) == BYTES


@pytest.mark.parametrize("edited", [True, False])
async def test_copy_edited_with_its_time_restored_is_kept(pair: Pair, tmp_path: Path, edited: bool) -> None:
    """A copy whose mode alone changed is still a copy."""
    for key in (FILM, OTHER):
        await put(pair.source, key, BYTES)
    await pair.run()
    for key in (FILM, OTHER):
        copied = tmp_path / "target" / key.path
        before = copied.stat()
        if edited:
            with copied.open("r+b") as file:
                file.write(b"EDITED")
            os.utime(copied, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            copied.chmod(0o600)
    await pair.source.delete(FILM)
    await pair.source.delete(OTHER)
    await put(pair.source, FILM, b"new again")
    assert await pair.remove() == ([] if edited else [OTHER.path])
    assert await pair.run() == {FILM.path: CopyOutcome.CONFLICT if edited else CopyOutcome.REPLACED}
    assert (tmp_path / "target" / OTHER.path).exists() is edited

"""Copying a library while files change, rot and vanish, and disks fill. Over two folders of files."""

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

from app.database.filesystem.copy_records import SqliteCopies
from app.library.copying import Outcome, copy, gone, remove_gone
from app.storage.copy_notes import Copy
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.types import SHARED, Key
from tests.support import mounted
from tests.support.copying import CountingStorage, Pair, get, opened, put, stored
from tests.unit.database import foreign_changes
from tests.unit.database.foreign_changes import age_files

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "films", "film.mp4")
OTHER, LAST = Key(SHARED, "films", "other.mp4"), Key(SHARED, "films", "z.mp4")
BYTES = os.urandom(300_000)


@pytest.fixture(autouse=True)
def shorten_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds are long when they come in every test."""
    foreign_changes.shorten_waits(monkeypatch)


@pytest.fixture
async def pair(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Pair]:
    async with opened(tmp_path, {}, {}) as pair:
        yield pair


def staged(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "target" / ".seekable" / "staging")


def rot(folder: Path, key: Key) -> None:
    """Let a file have other bytes than were stored, although nothing has written to it."""
    with closing(sqlite3.connect(folder / ".seekable" / "seekable.db")) as database, database:
        where = "WHERE folder = ? AND filename = ?"
        changed = database.execute(
            f"UPDATE media SET sha256 = ? {where}", ["0" * 64, key.folder, key.filename]
        )
        assert changed.rowcount == 1


async def test_a_damaged_file_is_not_brought(pair: Pair, tmp_path: Path) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, LAST, b"last")
    rot(tmp_path / "source", FILM)
    found = await pair.copy()
    assert found[":films/film.mp4"].outcome is Outcome.DAMAGED
    assert "hash" in found[":films/film.mp4"].reason
    assert set(await stored(pair.target)) == {LAST}
    assert not staged(tmp_path)


async def test_a_file_that_lost_its_end_is_not_brought(pair: Pair, tmp_path: Path) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, LAST, b"last")
    path = tmp_path / "source" / FILM.path

    async def cut() -> None:
        os.truncate(path, 1000)

    found = await replace(pair, source=CountingStorage(pair.source, cut)).copy()
    assert found[":films/film.mp4"].outcome is Outcome.FAILED
    assert found[":films/film.mp4"].reason
    assert set(await stored(pair.target)) == {LAST}
    age_files()
    assert await pair.run() == {"films/film.mp4": Outcome.COPIED, "films/z.mp4": Outcome.PRESENT}


async def test_what_was_not_hashed_yet_is_hashed_on_the_way(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "films"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(BYTES)
    (folder / "other.mp4").write_bytes(b"other")
    (folder / "z.mp4").write_bytes(b"last")
    await put(pair.target, OTHER, b"other")
    await put(pair.target, LAST, b"LAST")
    age_files()
    expected = {
        "films/film.mp4": Outcome.COPIED,
        "films/other.mp4": Outcome.PRESENT,
        "films/z.mp4": Outcome.CONFLICT,
    }
    assert await pair.run() == expected
    infos, copies = await stored(pair.source), await stored(pair.target)
    assert infos[FILM].sha256 is None
    assert copies[FILM].sha256 == copies[FILM].etag == hashlib.sha256(BYTES).hexdigest()
    assert copies[FILM].id == infos[FILM].id
    # A copy is known again by its age, and then by its hash.
    for to_read in (2, 0):
        source = CountingStorage(pair.source)
        expected[FILM.path] = Outcome.PRESENT
        assert await replace(pair, source=source).run() == expected
        assert source.opened == to_read
        async for _ in pair.source.hash_unverified():
            pass


@pytest.mark.parametrize(
    ("change", "outcome", "left"),
    [
        ("replace", Outcome.COPIED, {FILM: b"new"}),
        ("move", Outcome.COPIED, {OTHER: BYTES}),
        ("delete", Outcome.GONE, {}),
        ("delete and create", Outcome.COPIED, {FILM: b"new"}),
        ("by hand", Outcome.FAILED, {}),
        ("again and again", Outcome.FAILED, {}),
    ],
)
async def test_a_file_that_changes_after_it_was_listed(
    pair: Pair, tmp_path: Path, change: str, outcome: Outcome, left: dict[Key, bytes]
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
            file.write(b"someone is still writing")

    with writing:
        found = await replace(pair, source=CountingStorage(pair.source, before)).copy()
    (file,) = found.values()
    assert file.outcome is outcome
    assert bool(file.reason) is (outcome is Outcome.FAILED)
    assert {key: await get(pair.target, key) for key in await stored(pair.target)} == left
    assert not staged(tmp_path)


@pytest.mark.parametrize("there", [b"", BYTES], ids=["to copy it", "to compare it"])
async def test_a_file_that_is_edited_while_it_is_read(pair: Pair, tmp_path: Path, there: bytes) -> None:
    """An adopted file has no hash to hold what was read against; but its time tells."""
    if there:
        await put(pair.target, Key(SHARED, "", "film.mp4"), there)
    path = tmp_path / "source" / "film.mp4"
    path.write_bytes(BYTES)
    age_files()
    await stored(pair.source)
    await pair.source.stat(Key(SHARED, "", "film.mp4"))

    def edit(size: int) -> None:
        with path.open("r+b") as file:
            file.write(os.urandom(9))

    outcomes = [file.outcome async for file in copy(pair.source, pair.to, edit)]
    assert outcomes == [Outcome.FAILED]
    assert len(await stored(pair.target)) == bool(there)


async def test_a_target_that_changes_meanwhile_is_not_written_over(pair: Pair) -> None:
    await put(pair.source, FILM, BYTES)

    async def upload() -> None:
        await put(pair.target, FILM, b"uploaded")

    (file,) = (await replace(pair, source=CountingStorage(pair.source, upload)).copy()).values()
    assert (file.outcome, file.reason) == (Outcome.CONFLICT, "Another file has this name.")
    assert await get(pair.target, FILM) == b"uploaded"


async def test_a_target_that_is_gone_ends_it_with_a_sentence(pair: Pair, tmp_path: Path) -> None:
    for key in (FILM, OTHER, LAST):
        await put(pair.source, key, BYTES)
    seen = []
    with pytest.raises(StorageUnavailable, match="The library to copy to does not answer: "):
        async for file in copy(pair.source, pair.to, lambda size: None):
            seen.append(file.outcome)
            shutil.rmtree(tmp_path / "target")
    assert seen == [Outcome.COPIED]


async def test_a_full_disk_ends_it_and_what_was_copied_stays(tmp_path: Path) -> None:
    with mounted(tmp_path / "target", "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        async with opened(tmp_path, {}, {}) as pair:
            await put(pair.source, FILM, BYTES)
            await put(pair.source, OTHER, os.urandom(9_000_000))
            await put(pair.source, LAST, b"last")
            with pytest.raises(OutOfSpace, match=r"There is no room for films/other\.mp4: "):
                await pair.copy()
            assert set(await stored(pair.target)) == {FILM}
            assert not staged(tmp_path)
            await pair.source.delete(OTHER)
            assert await pair.run() == {"films/film.mp4": Outcome.PRESENT, "films/z.mp4": Outcome.COPIED}


async def test_it_may_be_cancelled_at_any_time(pair: Pair, tmp_path: Path) -> None:
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
    assert set((await pair.run()).values()) <= {Outcome.COPIED, Outcome.PRESENT}
    assert set(await stored(pair.target)) == set(keys)
    with pytest.raises(NotFound):
        await pair.target.stat(FILM)


async def test_film_that_was_changed_at_the_target_is_not_written_over_by_a_newer_one(pair: Pair) -> None:
    await put(pair.source, FILM, BYTES)
    await pair.run()
    await put(pair.target, FILM, b"changed there")
    await put(pair.source, FILM, b"changed here, and later")
    assert await pair.run() == {FILM.path: Outcome.CONFLICT}
    assert await get(pair.target, FILM) == b"changed there"


@pytest.mark.parametrize("other", ["another library", None])
async def test_copies_of_another_library_are_left_alone(pair: Pair, other: str | None) -> None:
    """With no id, the library may be another one: the notes of its own runs count no more."""
    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await pair.source.delete(FILM)
    await pair.source.delete(OTHER)
    await put(pair.source, FILM, b"anew")
    another = replace(pair, source_id=other)
    assert await another.remove() == []
    assert await another.run() == {FILM.path: Outcome.CONFLICT}
    assert await pair.remove() == [OTHER.path]
    assert await pair.run() == {FILM.path: Outcome.REPLACED}


async def test_copies_that_nobody_noted_are_known_after_a_run(pair: Pair, tmp_path: Path) -> None:
    """Such as those that an earlier version made."""
    infos = [await put(pair.source, key, BYTES) for key in (FILM, OTHER)]
    await pair.run()
    for info in infos:
        pair.copies.forget(info.id)
    assert await pair.remove() == []
    assert set((await pair.run()).values()) == {Outcome.PRESENT}
    await pair.source.delete(FILM)
    assert await pair.remove() == [FILM.path]
    notes = tmp_path / "target" / ".seekable" / "copies.db"
    assert notes.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kept", [0, 100, 5000])
async def test_damaged_notes_of_copies_begin_anew(pair: Pair, tmp_path: Path, kept: int) -> None:
    await put(pair.source, FILM, BYTES)
    await pair.run()
    notes = tmp_path / "target" / ".seekable" / "copies.db"
    notes.write_bytes(notes.read_bytes()[:kept] + b"damaged" * 1000)
    with closing(SqliteCopies(notes)) as copies:
        again = replace(pair, copies=copies)
        assert await again.run() == {FILM.path: Outcome.PRESENT}
        await pair.source.delete(FILM)
        assert await again.remove() == [FILM.path]


async def test_change_that_is_cut_short_leaves_a_copy_that_may_be_replaced(pair: Pair) -> None:
    class Dies:
        def __getattr__(self, name: str) -> Any:
            return getattr(pair.copies, name)

        def note(self, copied: Copy) -> None:
            raise StorageUnavailable("killed")

    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await put(pair.source, FILM, b"second")
    await pair.source.delete(OTHER)
    await put(pair.source, OTHER, b"anew")
    await replace(pair, copies=Dies()).run()
    assert await get(pair.target, FILM) == b"second"
    assert await get(pair.target, OTHER) == b"anew"
    await put(pair.source, FILM, b"third")
    assert await pair.run() == {FILM.path: Outcome.REPLACED, OTHER.path: Outcome.PRESENT}
    await pair.source.delete(OTHER)
    assert await pair.remove() == [OTHER.path]


async def test_film_that_comes_back_or_cannot_be_read_is_not_removed(pair: Pair, tmp_path: Path) -> None:
    await put(pair.source, FILM, BYTES)
    await put(pair.source, OTHER, BYTES)
    await pair.run()
    await pair.source.delete(FILM)
    with (tmp_path / "source" / OTHER.path).open("ab") as writing:
        writing.write(b"more")
        writing.flush()
        (over,) = [info async for info in gone(pair.source, pair.to)]
        assert over.key == FILM
    await put(pair.source, FILM, b"back again")
    assert not await remove_gone(pair.source, pair.to, over)
    assert await get(pair.target, FILM) == BYTES


@pytest.mark.parametrize("edited", [True, False])
async def test_copy_that_was_edited_with_its_time_put_back_stays(
    pair: Pair, tmp_path: Path, edited: bool
) -> None:
    """One of which only the rights were changed is a copy still."""
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
    await put(pair.source, FILM, b"anew")
    assert await pair.remove() == ([] if edited else [OTHER.path])
    assert await pair.run() == {FILM.path: Outcome.CONFLICT if edited else Outcome.REPLACED}
    assert (tmp_path / "target" / OTHER.path).exists() is edited

"""The contract of `seekable copy`, between all backends, on real engines."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.library.copying import CopyOutcome
from app.storage.contract import Storage
from app.storage.errors import NotFound
from app.storage.types import SHARED, FileId, FileInfo, Key
from tests.conftest import BACKENDS
from tests.support.copying import CountingStorage, Pair, get, opened, put, stored

pytestmark = pytest.mark.anyio

FILES = {
    Key(SHARED, "", "a"): b"",
    Key(SHARED, "", "🎬 100% ü.mp4"): b"top",
    Key(SHARED, "films", "a.mp4"): os.urandom(4096),
    Key(SHARED, "films", "b.mkv"): os.urandom(3_000_000),
    Key(SHARED, "films/deep/er", "c.mp4"): b"deep",
    Key("alice", "films", "a.mp4"): b"of alice",
    Key("bob", "", "a"): b"of bob",
}
A, DEEP = Key(SHARED, "films", "a.mp4"), Key(SHARED, "films/deep/er", "c.mp4")


PAIRS = [
    ("filesystem", "gridfs"),
    ("gridfs", "postgresql"),
    ("postgresql", "filesystem"),
    ("gridfs", "gridfs"),  # which stores times in milliseconds
]
"""Pairs that use each backend as source and as target."""
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-to-".join, indirect=True)
some_pairs = pytest.mark.parametrize("pair", PAIRS[:2], ids="-to-".join, indirect=True)
"""Two pairs with all backends, for rules that are decided above them."""


@pytest.fixture
async def pair(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Pair]:
    source, target = request.param
    async with opened(tmp_path, BACKENDS[source](), BACKENDS[target]()) as pair:
        yield pair


async def fill(storage: Storage) -> dict[Key, FileInfo]:
    return {
        key: await put(storage, key, data, content_type=f"video/x-{number}")
        for number, (key, data) in enumerate(FILES.items())
    }


def assert_copies(infos: Iterable[FileInfo], of: dict[Key, FileInfo]) -> None:
    """Check that all attributes are those of the source, with the version that an upload would get."""
    for info in infos:
        original = of[info.key]
        assert (info.id, info.size, info.content_type) == (original.id, original.size, original.content_type)
        assert info.etag == info.sha256
        assert original.sha256 in (info.sha256, None)
        for one, other in ((info.created_at, original.created_at), (info.updated_at, original.updated_at)):
            assert abs(one - other) < timedelta(milliseconds=1)


@every_pair
async def test_copy_transfers_each_file_once(pair: Pair) -> None:
    assert await pair.run() == {}
    infos = await fill(pair.source)
    found = await pair.copy()
    assert {file.key: file.size for file in found.values()} == {key: len(FILES[key]) for key in FILES}
    assert {file.outcome for file in found.values()} == {CopyOutcome.COPIED}
    copies = await stored(pair.target)
    assert copies.keys() == infos.keys()
    assert_copies(copies.values(), infos)
    for key, data in FILES.items():
        assert await get(pair.target, FileId(key.library, infos[key].id)) == data
    source, target = CountingStorage(pair.source), CountingStorage(pair.target)
    assert set((await replace(pair, source=source, target=target).run()).values()) == {CopyOutcome.PRESENT}
    assert (source.opened, target.opened) == (0, 0)
    assert await stored(pair.target) == copies
    # Two settings that name the same library in different words do no harm.
    assert set((await replace(pair, source=pair.target).run()).values()) == {CopyOutcome.PRESENT}
    assert await stored(pair.target) == copies


@some_pairs
async def test_second_copy_transfers_changes(pair: Pair) -> None:
    for key, data in FILES.items():
        await put(pair.source, key, data)
    await pair.run()
    new = Key(SHARED, "films", "0 new.mp4")
    moved, moved_and_replaced = Key(SHARED, "moved", "a.mkv"), Key("alice", "films", "b.mp4")
    await put(pair.source, Key(SHARED, "films", "b.mkv"), b"shorter")
    await put(pair.source, DEEP, b"DEEP")
    await put(pair.source, new, b"new")
    await pair.source.move(A, moved)
    await pair.source.move(Key("alice", "films", "a.mp4"), moved_and_replaced)
    await put(pair.source, moved_and_replaced, b"of alice still")
    await pair.source.delete(Key(SHARED, "", "a"))
    assert await pair.run() == {
        "🎬 100% ü.mp4": CopyOutcome.PRESENT,
        "films/0 new.mp4": CopyOutcome.COPIED,
        "films/b.mkv": CopyOutcome.REPLACED,
        "films/deep/er/c.mp4": CopyOutcome.REPLACED,
        "moved/a.mkv": CopyOutcome.MOVED,
        "alice:films/b.mp4": CopyOutcome.REPLACED,
        "bob:a": CopyOutcome.PRESENT,
    }
    infos, copies = await stored(pair.source), await stored(pair.target)
    assert copies.keys() - infos.keys() == {Key(SHARED, "", "a")}, "copying must not delete"
    assert_copies((copies[key] for key in infos), infos)
    assert await get(pair.target, DEEP) == b"DEEP"
    assert await get(pair.target, moved) == FILES[A]
    assert set((await pair.run()).values()) == {CopyOutcome.PRESENT}


@some_pairs
async def test_copy_handles_files_that_took_each_others_names(pair: Pair) -> None:
    one, two, three = (Key(SHARED, "", name) for name in ("1.mp4", "2.mp4", "3.mp4"))
    for key in (one, two):
        await put(pair.source, key, key.filename.encode())
    await pair.run()
    await pair.source.move(two, three)
    await pair.source.move(one, two)
    await put(pair.source, one, b"new")
    found = await pair.run()
    assert CopyOutcome.CONFLICT not in found.values()
    infos = await stored(pair.source)
    copies = await stored(pair.target)
    assert copies.keys() == infos.keys() == {one, two, three}
    assert_copies(copies.values(), infos)
    # When two files swapped names, nothing is lost.
    await pair.source.move(one, Key(SHARED, "", "4.mp4"))
    await pair.source.move(two, one)
    await pair.source.move(Key(SHARED, "", "4.mp4"), two)
    assert CopyOutcome.CONFLICT in (await pair.run()).values()
    assert (await stored(pair.target)).keys() == copies.keys()


@some_pairs
async def test_copy_keeps_files_of_target(pair: Pair) -> None:
    infos = await fill(pair.source)
    target = pair.target
    same_bytes = await put(target, A, FILES[A])
    other_bytes = await put(target, DEEP, b"peed")
    file_at_folder_path = await put(target, Key("alice", "", "films"), b"a file, where a folder is needed")
    same_id = await put(target, Key("else", "", "b"), b"-", origin=infos[Key("bob", "", "a")])
    found = await pair.copy()
    kept = {path: file for path, file in found.items() if file.outcome is CopyOutcome.CONFLICT}
    assert {path: bool(file.reason) for path, file in kept.items()} == {
        ":films/deep/er/c.mp4": True,
        "alice:films/a.mp4": True,
    }
    assert Counter(file.outcome for file in found.values()) == {
        CopyOutcome.CONFLICT: 2,
        CopyOutcome.PRESENT: 1,
        CopyOutcome.COPIED: len(FILES) - 3,
    }
    copies = await stored(target)
    for mine in (same_bytes, other_bytes, file_at_folder_path, same_id):
        assert copies[mine.key] == mine
    assert await get(target, DEEP) == b"peed"
    assert copies[Key("bob", "", "a")].id not in (infos[Key("bob", "", "a")].id, None)
    # A file that changed in the target after the copy belongs to the target, too.
    top = Key(SHARED, "", "🎬 100% ü.mp4")
    changed = await put(target, top, b"pot")
    assert (await pair.run())[top.path] is CopyOutcome.CONFLICT
    await target.move(top, Key(SHARED, "elsewhere", "top.mp4"))
    assert (await pair.run())[top.path] is CopyOutcome.CONFLICT
    with pytest.raises(NotFound):
        await target.stat(top)
    assert (await stored(target))[Key(SHARED, "elsewhere", "top.mp4")].etag == changed.etag


@some_pairs
async def test_mirror_removes_copies_of_deleted_files(pair: Pair) -> None:
    film, over, moved, changed, elsewhere = (
        Key(SHARED, "films", f"{name}.mp4") for name in ("film", "over", "moved", "changed", "elsewhere")
    )
    alices = Key("alice", "", "film.mp4")
    for key in (film, over, moved, changed, elsewhere, alices):
        await put(pair.source, key, key.path.encode())
    await pair.run()
    own = await put(pair.target, Key(SHARED, "films", "own.mp4"), b"of the target")
    await put(pair.target, changed, b"changed there")
    await pair.target.move(elsewhere, Key(SHARED, "there", "elsewhere.mp4"))
    # An upload under the name of a deleted file is another file, with another id.
    for key in (film, over, changed, elsewhere, alices):
        await pair.source.delete(key)
    await put(pair.source, film, b"uploaded anew")
    await pair.source.move(moved, Key(SHARED, "a folder now", "moved.mp4"))
    in_its_place = Key(SHARED, over.path, "inside.mp4")
    await put(pair.source, in_its_place, b"where a file was")
    assert sorted(await pair.remove()) == ["film.mp4", over.path]  # the first is Alice's
    assert await pair.run() == {
        "a folder now/moved.mp4": CopyOutcome.MOVED,
        film.path: CopyOutcome.REPLACED,
        in_its_place.path: CopyOutcome.COPIED,
    }
    infos, copies = await stored(pair.source), await stored(pair.target)
    assert_copies((copies[key] for key in infos), infos)
    assert await get(pair.target, film) == b"uploaded anew"
    kept = {key.path for key in copies.keys() - infos.keys()}
    assert kept == {own.key.path, changed.path, "there/elsewhere.mp4"}, (
        "files that changed or moved in the target belong to it"
    )
    assert await pair.remove() == []
    assert set((await pair.run()).values()) == {CopyOutcome.PRESENT}


@some_pairs
async def test_copy_includes_ignored_files(pair: Pair) -> None:
    hidden = [Key(SHARED, "films", "a.mkv.part"), Key("alice", "@eaDir", "a.jpg")]
    infos = [await put(pair.source, key, b"in no list") for key in hidden]
    assert await pair.run() == {
        "films/a.mkv.part": CopyOutcome.COPIED,
        "alice:@eaDir/a.jpg": CopyOutcome.COPIED,
    }
    for info in infos:
        assert (await pair.target.stat(info.key)).id == info.id
        assert await get(pair.target, info.key) == b"in no list"

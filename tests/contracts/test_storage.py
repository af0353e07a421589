"""The contract of storages (app/storage/contract.py), on every backend."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from app.storage.contract import OpenFile, Storage
from app.storage.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidName,
    NotFound,
    OutOfSpace,
    PathConflict,
    VersionMismatch,
)
from app.storage.types import SHARED, Committed, Expect, Expectation, FileId, FileInfo, Key, Listing

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "films", "film.mp4")
BYTES = bytes(range(256)) * 80 + b"the end"  # slightly more than five reads

ODD_NAMES = [
    "two words.mp4",
    "100% #1 ?&;=+.mp4",
    "quo\"te'd.mp4",
    "-rf.mp4",
    ".hidden",
    "...",
    "~",
    "ünïcödé.mp4",
    "🎬.mkv",
    "שלום עולם.mp4",
    "\u202egnp.exe",  # right-to-left override
    "a\u2028b.mp4",
    "x" * 251 + ".mp4",
    "é" * 125 + ".mp4",
    "con",
    "a:b*c|d<e>.mp4",
]


async def put(
    storage: Storage,
    key: Key = FILM,
    data: bytes = BYTES,
    expect: Expectation = Expect.ANY,
    content_type: str = "video/mp4",
    origin: FileInfo | None = None,
) -> Committed:
    async with storage.stage() as staged:
        await staged.write(data)
        return await storage.commit(key, staged, content_type=content_type, expect=expect, origin=origin)


async def read(file: OpenFile, start: int = 0, stop: int | None = None) -> bytes:
    async with aclosing(file.read(start, file.info.size if stop is None else stop)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def get(storage: Storage, address: Key | FileId = FILM) -> bytes:
    async with storage.open(address) as file:
        return await read(file)


async def names(storage: Storage, folder: str = "films", library: str = SHARED) -> list[str]:
    page = await storage.page(Listing(library, folder), cursor=None, limit=1000)
    return [info.key.filename for info in page.items]


# Storing and reading


async def test_committed_file_is_read_back(storage: Storage) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    committed = await put(storage, content_type="video/x-test; a=b")
    info = committed.info
    assert committed.created
    assert info.key == FILM
    assert info.size == len(BYTES)
    assert info.content_type == "video/x-test; a=b"
    assert info.sha256 == hashlib.sha256(BYTES).hexdigest()
    assert info.created_at == info.updated_at
    assert before < info.created_at < datetime.now(UTC) + timedelta(seconds=1)
    assert info.created_at.tzinfo is UTC
    assert await get(storage) == BYTES
    assert await storage.stat(FILM) == info


async def test_file_is_found_by_id(storage: Storage) -> None:
    info = (await put(storage)).info
    assert await storage.stat(FileId(SHARED, info.id)) == info
    assert await get(storage, FileId(SHARED, info.id)) == BYTES


async def test_missing_file_is_not_found(storage: Storage) -> None:
    for address in (FILM, FileId(SHARED, "0" * 32), FileId(SHARED, "é/../x\0")):
        with pytest.raises(NotFound):
            await storage.stat(address)
        with pytest.raises(NotFound):
            async with storage.open(address):
                pass
    with pytest.raises(NotFound):
        await storage.delete(FILM)
    with pytest.raises(NotFound):
        await storage.move(FILM, Key(SHARED, "", "other"))


async def test_empty_file_is_stored(storage: Storage, leftovers: Callable[[], set[str]]) -> None:
    async with storage.stage() as staged:
        info = (await storage.commit(FILM, staged, content_type="video/mp4")).info
    assert info.size == 0
    assert info.sha256 == hashlib.sha256(b"").hexdigest()
    assert await get(storage) == b""
    assert await names(storage) == ["film.mp4"]
    assert not leftovers()


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_name_is_stored_unchanged(storage: Storage, name: str) -> None:
    key = Key(SHARED, name, name)
    await put(storage, key)
    assert await get(storage, key) == BYTES
    assert (await storage.page(Listing(SHARED, ""), cursor=None, limit=10)).folders == (name,)
    assert await names(storage, name) == [name]
    assert (await storage.move(key, Key(SHARED, "", f"{name}"[:-1] + "_"))).key.filename == name[:-1] + "_"


async def test_names_differ_by_case_and_spaces(storage: Storage) -> None:
    for name in ("film", "Film", "film ", " film", "film.", "ﬁlm"):
        await put(storage, Key(SHARED, "", name), name.encode())
    for name in ("film", "Film", "film ", " film", "film.", "ﬁlm"):
        assert await get(storage, Key(SHARED, "", name)) == name.encode()


async def test_libraries_are_separate(storage: Storage) -> None:
    mine, yours = Key("mine", "films", "film.mp4"), Key("yours", "films", "film.mp4")
    info = (await put(storage, mine, b"mine")).info
    assert (await put(storage, yours, b"yours")).created
    assert (await put(storage, FILM, b"shared")).created
    assert [await get(storage, key) for key in (mine, yours, FILM)] == [b"mine", b"yours", b"shared"]
    with pytest.raises(NotFound):
        await storage.stat(FileId("yours", info.id))
    await storage.delete(mine)
    assert await names(storage, library="mine") == []
    assert await names(storage, library="yours") == ["film.mp4"]
    assert (await storage.page(Listing(SHARED, ""), cursor=None, limit=10)).folders == ("films",)


async def test_write_accepts_pieces_of_any_size(storage: Storage) -> None:
    data = os.urandom(3_500_000)  # more than three batches
    async with storage.stage(size=len(data)) as staged:
        position = 0
        for size in (0, 1, 2, 1_000_000, 7, 2_000_000, 500_000):
            await staged.write(data[position : position + size])
            position += size
        await staged.flush()
        assert staged.size == len(data[:position])
        assert staged.sha256 == hashlib.sha256(data[:position]).hexdigest()
        info = (await storage.commit(FILM, staged, content_type="video/mp4")).info
    assert info.sha256 == hashlib.sha256(data[:position]).hexdigest()
    assert await get(storage) == data[:position]


# Ranges


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (0, 4096),
        (4095, 4097),
        (4096, 8192),
        (1, 20_000),
        (20_486, 20_487),
        (0, 20_487),
        (5, 5),
        (9, 2),
    ],
)
async def test_read_returns_exactly_the_range(storage: Storage, start: int, stop: int) -> None:
    await put(storage)
    async with storage.open(FILM) as file:
        assert await read(file, start, stop) == BYTES[start:stop]


async def test_open_file_reads_several_ranges(storage: Storage) -> None:
    await put(storage)
    async with storage.open(FILM) as file:
        for start, stop in ((10_000, 20_000), (0, 9), (19_000, 20_487)):
            assert await read(file, start, stop) == BYTES[start:stop]


async def test_read_may_be_closed_early(storage: Storage) -> None:
    data = BYTES * 200  # more than any storage reads at once
    await put(storage, data=data)
    async with storage.open(FILM) as file:
        async with aclosing(file.read(0, len(data))) as chunks:
            first = await anext(chunks)
            assert first == data[: len(first)] != data
        assert await read(file, 3, 9) == data[3:9]


async def test_file_may_exceed_32_bit_size(storage: Storage, big_file: Callable[[int, bytes], Key]) -> None:
    size = (5 << 30) + 3
    key = await asyncio.to_thread(big_file, size, b"the end")
    async for _ in storage.scan():
        pass
    async with storage.open(key) as file:
        assert file.info.size == size
        assert await read(file, size - 9, size) == b"\0\0the end"
        assert await read(file, (1 << 32) - 2, (1 << 32) + 2) == bytes(4)
    page = await storage.page(Listing(SHARED, ""), cursor=None, limit=10)
    assert [info.size for info in page.items] == [size]


# Expectations


async def test_commit_raises_already_exists_when_file_must_be_absent(storage: Storage) -> None:
    await put(storage, expect=Expect.ABSENT)
    with pytest.raises(AlreadyExists):
        await put(storage, data=b"other", expect=Expect.ABSENT)
    assert await get(storage) == BYTES


async def test_replacement_keeps_id_and_changes_version(storage: Storage) -> None:
    first = (await put(storage)).info
    replaced = await put(storage, data=b"other", content_type="video/x-other", expect=first.etag)
    second = replaced.info
    assert not replaced.created
    assert (second.id, second.created_at) == (first.id, first.created_at)
    assert second.etag != first.etag
    assert second.updated_at > first.updated_at
    assert second.content_type == "video/x-other"
    assert await get(storage) == b"other"
    assert await storage.stat(FILM) == second


async def test_versions_get_different_seconds_when_written_within_one(storage: Storage) -> None:
    """HTTP-dates have whole seconds: otherwise If-Modified-Since could not distinguish the versions."""
    first, second, third = [(await put(storage, data=data)).info.updated_at for data in (b"1", b"2", b"3")]
    assert first.replace(microsecond=0) < second.replace(microsecond=0)
    assert second < third < datetime.now(UTC) + timedelta(seconds=1.1)


async def test_change_raises_version_mismatch_when_version_is_not_current(storage: Storage) -> None:
    with pytest.raises(VersionMismatch):
        await put(storage, expect="0" * 64)
    assert await names(storage) == []
    old = (await put(storage)).info
    await put(storage, data=b"newer")
    with pytest.raises(VersionMismatch):
        await put(storage, data=b"stale", expect=old.etag)
    with pytest.raises(VersionMismatch):
        await storage.delete(FILM, expect=old.etag)
    with pytest.raises(VersionMismatch):
        await storage.move(FILM, Key(SHARED, "", "elsewhere"), expect=old.etag)
    assert await get(storage) == b"newer"


async def test_etags_differ_when_bytes_differ(storage: Storage) -> None:
    etags = {(await put(storage, data=data)).info.etag for data in (b"a", b"b", b"", b"ab")}
    assert len(etags) == 4
    assert (await put(storage, data=b"a")).info.etag in etags


async def test_check_raises_what_commit_would_raise(storage: Storage) -> None:
    await storage.check(FILM, Expect.ABSENT)
    await storage.check(FILM, Expect.ANY)
    with pytest.raises(VersionMismatch):
        await storage.check(FILM, "0" * 64)
    info = (await put(storage)).info
    await storage.check(FILM, Expect.ANY)
    await storage.check(FILM, info.etag)
    with pytest.raises(AlreadyExists):
        await storage.check(FILM, Expect.ABSENT)
    for conflict in (Key(SHARED, "", "films"), Key(SHARED, "films/film.mp4", "inside")):
        for expect in (Expect.ANY, Expect.ABSENT):
            with pytest.raises(PathConflict):
                await storage.check(conflict, expect)


async def test_file_and_folder_cannot_share_a_path(
    storage: Storage, leftovers: Callable[[], set[str]]
) -> None:
    await put(storage)
    other = (await put(storage, Key(SHARED, "", "other"))).info
    for conflict in (
        Key(SHARED, "", "films"),
        Key(SHARED, "films/film.mp4", "inside"),
        Key(SHARED, "films/film.mp4/deep", "inside"),
    ):
        for expect in (Expect.ANY, Expect.ABSENT):
            with pytest.raises(PathConflict):
                await put(storage, conflict, expect=expect)
        with pytest.raises(PathConflict):
            await storage.move(other.key, conflict)
    assert await get(storage) == BYTES
    assert await get(storage, other.key) == BYTES
    assert not leftovers()


async def test_folder_disappears_with_its_last_file(storage: Storage) -> None:
    deep = Key(SHARED, "a/b/c", "film.mp4")
    await put(storage, deep)
    assert (await storage.page(Listing(SHARED, "a"), cursor=None, limit=9)).folders == ("b",)
    await storage.delete(deep)
    assert (await storage.page(Listing(SHARED, ""), cursor=None, limit=9)).folders == ()
    await put(storage, Key(SHARED, "", "a"))  # a file may take the name now
    with pytest.raises(PathConflict):
        await storage.move(Key(SHARED, "", "a"), deep)  # a target below the moved file
    await storage.delete(Key(SHARED, "", "a"))
    await put(storage, deep)


@pytest.mark.parametrize("expect", [Expect.ABSENT, Expect.ANY])
async def test_one_of_racing_creators_wins(storage: Storage, expect: Expectation) -> None:
    results = await asyncio.gather(
        *(put(storage, data=b"%d" % number, expect=expect) for number in range(50)), return_exceptions=True
    )
    created = [r for r in results if isinstance(r, Committed) and r.created]
    assert len(created) == 1
    others = [r for r in results if r is not created[0]]
    if expect is Expect.ABSENT:
        assert all(isinstance(r, AlreadyExists) for r in others), others
        assert await get(storage) == b"%d" % results.index(created[0])
    else:
        assert all(isinstance(r, Committed) for r in others), others
    info = await storage.stat(FILM)
    assert hashlib.sha256(await get(storage)).hexdigest() == info.sha256 == info.etag


async def test_one_of_racing_replacers_of_same_version_wins(storage: Storage) -> None:
    first = (await put(storage)).info
    results = await asyncio.gather(
        *(put(storage, data=b"%d" % number, expect=first.etag) for number in range(20)),
        return_exceptions=True,
    )
    won = [r for r in results if isinstance(r, Committed)]
    assert len(won) == 1
    assert all(isinstance(r, VersionMismatch) for r in results if r not in won)
    assert await get(storage) == b"%d" % results.index(won[0])


# The encoding of text files


async def test_commit_records_whether_bytes_are_utf8(storage: Storage) -> None:
    text = (await put(storage, data="Größe".encode())).info
    assert text.is_utf8 is True
    moved = await storage.move(FILM, Key(SHARED, "", "notes.txt"))
    assert moved.is_utf8 is True
    assert await storage.stat(moved.key) == moved
    replaced = await put(storage, moved.key, "Größe".encode("latin-1"))
    assert replaced.info.is_utf8 is False
    (listed,) = (await storage.page(Listing(SHARED), cursor=None, limit=9)).items
    assert listed == replaced.info


# Copies of files from another storage


ORIGIN = FileInfo(
    id="0123456789abcdef" * 2,
    key=Key("elsewhere", "some/where", "else.mkv"),
    size=1,
    content_type="video/x-matroska",
    etag="1f-2e-3d",
    sha256=None,
    created_at=datetime(2019, 2, 3, 4, 5, 6, 789_012, UTC),
    updated_at=datetime(2020, 12, 31, 23, 59, 59, 999_999, UTC),
)


def same_time(one: datetime, other: datetime) -> bool:
    """Return whether two times are equal within the precision of every storage."""
    return abs(one - other) < timedelta(milliseconds=1)


async def test_copy_has_id_and_times_of_origin(storage: Storage) -> None:
    committed = await put(storage, origin=ORIGIN)
    info = committed.info
    assert committed.created
    assert info.id == ORIGIN.id
    assert same_time(info.created_at, ORIGIN.created_at)
    assert same_time(info.updated_at, ORIGIN.updated_at)
    sha256 = hashlib.sha256(BYTES).hexdigest()
    assert (info.key, info.content_type, info.etag, info.sha256) == (FILM, "video/mp4", sha256, sha256)
    assert await storage.stat(FILM) == info
    assert await get(storage, FileId(SHARED, ORIGIN.id)) == BYTES
    (listed,) = (await storage.page(Listing(SHARED, "films"), cursor=None, limit=9)).items
    assert listed == info


@pytest.mark.parametrize("library", [SHARED, "another"])
async def test_copy_gets_new_id_when_id_is_taken(storage: Storage, library: str) -> None:
    other = (await put(storage, Key(library, "", "other"), b"other", origin=ORIGIN)).info
    info = (await put(storage, origin=ORIGIN)).info
    assert info.id != ORIGIN.id
    assert same_time(info.created_at, ORIGIN.created_at)
    assert await storage.stat(FileId(library, ORIGIN.id)) == other
    assert await get(storage, FileId(SHARED, info.id)) == BYTES


async def test_copy_over_file_keeps_its_id_and_takes_time_of_origin(storage: Storage) -> None:
    first = (await put(storage)).info
    replaced = await put(storage, data=b"other", expect=first.etag, origin=ORIGIN)
    assert not replaced.created
    assert (replaced.info.id, replaced.info.created_at) == (first.id, first.created_at)
    assert same_time(replaced.info.updated_at, ORIGIN.updated_at)
    assert await storage.stat(FILM) == replaced.info
    assert await get(storage) == b"other"


async def test_id_is_free_after_copy_is_deleted(storage: Storage) -> None:
    await put(storage, origin=ORIGIN)
    await storage.delete(FILM)
    assert (await put(storage, Key(SHARED, "", "again"), origin=ORIGIN)).info.id == ORIGIN.id


@pytest.mark.parametrize("expect", [Expect.ANY, Expect.ABSENT])
async def test_one_of_racing_copies_gets_the_id(storage: Storage, expect: Expectation) -> None:
    keys = [Key(SHARED, f"{number}", "film.mp4") for number in range(10)]
    committed = await asyncio.gather(*(put(storage, key, expect=expect, origin=ORIGIN) for key in keys))
    assert len({one.info.id for one in committed}) == len(keys)
    (one,) = [one.info for one in committed if one.info.id == ORIGIN.id]
    assert await storage.stat(FileId(SHARED, ORIGIN.id)) == one


async def test_libraries_lists_those_with_files(storage: Storage) -> None:
    assert await storage.libraries() == ()
    for library in ("b", "a", "é", "B", "\U0001f3ac", "\uffee", "a b"):
        for name in ("one", "two"):
            await put(storage, Key(library, name, name), b"")
    named = ("B", "a", "a b", "b", "é", "\uffee", "\U0001f3ac")
    assert await storage.libraries() == named
    await put(storage, FILM)
    assert await storage.libraries() == (SHARED, *named)
    await storage.delete(Key("a b", "one", "one"))
    await storage.delete(FILM)
    assert await storage.libraries() == named
    await storage.delete(Key("a b", "two", "two"))
    assert await storage.libraries() == ("B", "a", "b", "é", "\uffee", "\U0001f3ac")


# All or nothing


async def test_staged_bytes_are_invisible(storage: Storage) -> None:
    async with storage.stage() as staged:
        await staged.write(BYTES)
        await staged.flush()
        assert await names(storage) == []
        assert (await storage.page(Listing(SHARED, ""), cursor=None, limit=9)).folders == ()


async def test_staged_bytes_are_discarded_without_commit(
    storage: Storage, leftovers: Callable[[], set[str]]
) -> None:
    async with storage.stage() as staged:
        await staged.write(BYTES)
    assert not leftovers()
    with pytest.raises(ZeroDivisionError):
        async with storage.stage() as staged:
            await staged.write(bytes(2_000_000))
            raise ZeroDivisionError
    assert not leftovers()
    await put(storage)
    with pytest.raises(AlreadyExists):
        await put(storage, expect=Expect.ABSENT)
    assert not leftovers()


@pytest.mark.parametrize("rounds", [0, 1, 2, 5, 20])
async def test_cancelled_upload_leaves_nothing_or_all(
    storage: Storage, leftovers: Callable[[], set[str]], rounds: int
) -> None:
    async def upload() -> None:
        async with storage.stage() as staged:
            for _ in range(10):
                await staged.write(bytes(700_000))
            await storage.commit(FILM, staged, content_type="video/mp4")

    task = asyncio.create_task(upload())
    for _ in range(rounds):
        await asyncio.sleep(0.001)
    task.cancel()
    task.cancel()
    await asyncio.wait([task])
    assert not leftovers()
    if await names(storage):
        assert await get(storage) == bytes(7_000_000)
    else:
        with pytest.raises(NotFound):
            await storage.stat(FILM)


async def test_cancelled_commit_is_all_or_nothing(
    storage: Storage, leftovers: Callable[[], set[str]]
) -> None:
    await put(storage, data=b"old")
    seen = set()
    for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032):
        task = asyncio.create_task(put(storage, data=b"new %f" % delay))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
        assert not leftovers()
        data, info = await get(storage), await storage.stat(FILM)
        assert info.sha256 == hashlib.sha256(data).hexdigest()
        seen.add(data)
    assert seen <= {b"old"} | {b"new %f" % delay for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)}


async def test_cancelled_read_leaks_no_descriptor(storage: Storage) -> None:
    await put(storage)
    before = len(os.listdir("/proc/self/fd"))
    for delay in (0, 0.0005, 0.001, 0.002):
        for _ in range(10):
            task = asyncio.create_task(get(storage))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
    # Connection pools may have grown; forty leaked descriptors would show.
    assert len(os.listdir("/proc/self/fd")) < before + 40


async def test_stage_raises_out_of_space_when_size_cannot_fit(
    storage: Storage, leftovers: Callable[[], set[str]]
) -> None:
    with pytest.raises(OutOfSpace):
        async with storage.stage(size=1 << 60):
            pass
    assert not leftovers()


# Snapshots


async def test_open_file_is_a_snapshot(storage: Storage) -> None:
    old = (await put(storage)).info
    async with storage.open(FILM) as file:
        async with aclosing(file.read(0, len(BYTES))) as chunks:
            first = await anext(chunks)
            await put(storage, data=b"other")
            assert first + b"".join([chunk async for chunk in chunks]) == BYTES
        assert file.info == old
        await storage.move(FILM, Key(SHARED, "", "moved"))
        assert await read(file) == BYTES
    async with storage.open(Key(SHARED, "", "moved")) as file:
        await storage.delete(Key(SHARED, "", "moved"))
        assert await read(file) == b"other"
    assert await names(storage) == []


async def test_readers_never_see_mixed_versions(storage: Storage) -> None:
    await put(storage, data=bytes(30_000))

    async def write() -> None:
        for number in range(1, 30):
            await put(storage, data=bytes([number]) * 30_000)

    async def watch() -> int:
        seen = 0
        while not writing.done():
            async with storage.open(FILM) as file:
                data = await read(file)
                assert len(data) == 30_000
                assert len(set(data)) == 1
                assert file.info.sha256 == hashlib.sha256(data).hexdigest()
                seen += 1
            await asyncio.sleep(0)  # cached files are opened and read without yielding to the writer
        return seen

    writing = asyncio.create_task(write())
    counts = await asyncio.gather(*(watch() for _ in range(4)))
    await writing
    assert min(counts) > 1


async def test_readers_never_mix_versions_of_same_size(storage: Storage) -> None:
    """All writes happen within one tick of the kernel's clock."""
    await put(storage, data=bytes(64))

    async def write(number: int) -> None:
        for turn in range(8):
            await put(storage, data=bytes([number, turn]) * 32)

    async def watch() -> None:
        while not writing.done():
            async with storage.open(FILM) as file:
                assert file.info.sha256 == hashlib.sha256(await read(file)).hexdigest()
            await asyncio.sleep(0)

    writing = asyncio.ensure_future(asyncio.gather(*(write(number) for number in range(8))))
    await asyncio.gather(*(watch() for _ in range(4)))
    await writing


async def test_file_is_found_by_id_while_it_moves(storage: Storage) -> None:
    info = (await put(storage)).info
    places = [Key(SHARED, "films", "film.mp4"), Key(SHARED, "other", "place")]

    async def move() -> None:
        for turn in range(30):
            await storage.move(places[turn % 2], places[(turn + 1) % 2])

    async def watch() -> None:
        while not moving.done():
            assert await get(storage, FileId(SHARED, info.id)) == BYTES
            await asyncio.sleep(0)

    moving = asyncio.create_task(move())
    await asyncio.gather(*(watch() for _ in range(4)))
    await moving


# Deleting and moving


async def test_deleted_file_is_gone(storage: Storage, leftovers: Callable[[], set[str]]) -> None:
    info = (await put(storage)).info
    await storage.delete(FILM, expect=info.etag)
    for address in (FILM, FileId(SHARED, info.id)):
        with pytest.raises(NotFound):
            await storage.stat(address)
    assert await names(storage) == []
    assert not leftovers()
    again = await put(storage)
    assert again.created
    assert again.info.id != info.id


async def test_moved_file_keeps_id_and_version(storage: Storage, leftovers: Callable[[], set[str]]) -> None:
    info = (await put(storage)).info
    target = Key(SHARED, "new/place", "other name.mkv")
    moved = await storage.move(FILM, target, expect=info.etag)
    assert moved.key == target
    assert (moved.id, moved.etag, moved.sha256, moved.size) == (info.id, info.etag, info.sha256, info.size)
    assert (moved.created_at, moved.updated_at) == (info.created_at, info.updated_at)
    assert await get(storage, target) == BYTES
    assert await get(storage, FileId(SHARED, info.id)) == BYTES
    with pytest.raises(NotFound):
        await storage.stat(FILM)
    assert await names(storage) == []
    assert not leftovers()


async def test_move_onto_itself_changes_nothing(storage: Storage) -> None:
    info = (await put(storage)).info
    assert await storage.move(FILM, FILM) == info
    assert await get(storage) == BYTES


async def test_move_raises_already_exists_when_target_exists(storage: Storage) -> None:
    await put(storage)
    other = (await put(storage, Key(SHARED, "films", "other.mp4"), b"other")).info
    with pytest.raises(AlreadyExists):
        await storage.move(FILM, other.key)
    assert await get(storage) == BYTES
    assert await get(storage, other.key) == b"other"


async def test_one_of_racing_moves_to_same_name_wins(storage: Storage) -> None:
    keys = [Key(SHARED, "from", f"{number}") for number in range(10)]
    for key in keys:
        await put(storage, key, key.filename.encode())
    target = Key(SHARED, "to", "target")
    results = await asyncio.gather(*(storage.move(key, target) for key in keys), return_exceptions=True)
    won = [index for index, r in enumerate(results) if isinstance(r, FileInfo)]
    assert len(won) == 1
    assert all(isinstance(r, AlreadyExists) for index, r in enumerate(results) if index not in won)
    assert await get(storage, target) == keys[won[0]].filename.encode()
    assert len(await names(storage, "from")) == 9


# Pages


async def test_pages_are_complete_and_in_byte_order(storage: Storage) -> None:
    wanted = ["B", "a", "a-b", "a.b", "ab", "é", "ﬁ", "🎬", "Z", "_"]
    for name in wanted:
        await put(storage, Key(SHARED, "f", name), name.encode())
    await put(storage, Key(SHARED, "f/inside", "not directly"))
    seen: list[str] = []
    cursor = None
    while True:
        page = await storage.page(Listing(SHARED, "f"), cursor=cursor, limit=3)
        assert len(page.items) <= 3
        assert page.folders == (("inside",) if cursor is None else ())
        seen += [info.key.filename for info in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(wanted, key=str.encode)


async def test_page_lists_direct_subfolders(storage: Storage) -> None:
    for folder in ("a", "a/b", "a/b/c", "a-2", "a-2/x", "a0", "b/c", "é/x", "🎬"):
        await put(storage, Key(SHARED, folder, "file"))
    top = await storage.page(Listing(SHARED, ""), cursor=None, limit=10)
    assert top.folders == ("a", "a-2", "a0", "b", "é", "🎬")
    assert top.items == ()
    assert (await storage.page(Listing(SHARED, "a"), cursor=None, limit=10)).folders == ("b",)
    assert (await storage.page(Listing(SHARED, "b"), cursor=None, limit=10)).folders == ("c",)
    assert (await storage.page(Listing(SHARED, "nowhere"), cursor=None, limit=10)).folders == ()


async def test_pages_stay_consistent_when_files_come_and_go(storage: Storage) -> None:
    for number in range(20):
        await put(storage, Key(SHARED, "f", f"{number:02}"))
    first = await storage.page(Listing(SHARED, "f"), cursor=None, limit=10)
    await storage.delete(Key(SHARED, "f", "05"))
    await storage.delete(Key(SHARED, "f", "09"))  # the file that the cursor refers to
    await put(storage, Key(SHARED, "f", "03a"))
    await put(storage, Key(SHARED, "f", "15a"))
    second = await storage.page(Listing(SHARED, "f"), cursor=first.next_cursor, limit=100)
    expected = sorted([f"{number:02}" for number in range(10, 20)] + ["15a"])
    assert [info.key.filename for info in second.items] == expected
    assert second.next_cursor is None


async def test_full_last_page_has_no_next_cursor(storage: Storage) -> None:
    for name in "abcd":
        await put(storage, Key(SHARED, "f", name))
    first = await storage.page(Listing(SHARED, "f"), cursor=None, limit=2)
    assert first.next_cursor is not None
    assert (await storage.page(Listing(SHARED, "f"), cursor=first.next_cursor, limit=2)).next_cursor is None


@pytest.mark.parametrize("cursor", ["", "%%%", "é", "a", "_w", "=", " "])
async def test_page_raises_invalid_cursor_when_cursor_is_unknown(storage: Storage, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await storage.page(Listing(SHARED, "f"), cursor=cursor, limit=2)


async def test_ping_succeeds(storage: Storage) -> None:
    await storage.ping()


# Validation of keys, the same for every backend


@pytest.mark.parametrize(
    ("folder", "filename"),
    [
        ("", ""),
        ("", "."),
        ("", ".."),
        ("", "a/b"),
        ("/a", "b"),
        ("a/", "b"),
        ("a//b", "c"),
        ("a/../b", "c"),
        ("a/./b", "c"),
        ("", "a\0b"),
        ("", "a\nb"),
        ("", "a\x7fb"),
        ("", "a\x85b"),
        ("", "a\\b"),
        ("", "x" * 256),
        ("", "é" * 128),
        ("", "\ud800"),
        ("/".join("a" * 32), "b"),
        ("/".join(["x" * 200] * 5), "y" * 20),
        (".seekable", "id"),
        ("", ".seekable"),
        ("", "e\u0301"),  # not NFC
    ],
)
def test_key_refuses_invalid_name(folder: str, filename: str) -> None:
    with pytest.raises(InvalidName):
        Key(SHARED, folder, filename)


@pytest.mark.parametrize(
    ("folder", "filename"),
    [
        ("", "x" * 255),
        ("/".join("a" * 31), "b"),
        ("/".join(["x" * 200] * 4), "y" * 220),
        ("a/.seekable", "id"),
        (".seekable2", "..."),
        ("..a", " "),
    ],
)
def test_key_accepts_name_at_limits(folder: str, filename: str) -> None:
    assert Key(SHARED, folder, filename).path == f"{folder}/{filename}".removeprefix("/")


@pytest.mark.parametrize("library", ["a/b", "../..", "..", ".", "/", "a\0", "\ud800", ".seekable", "x" * 256])
def test_key_refuses_invalid_library(library: str) -> None:
    with pytest.raises(InvalidName):
        Key(library, "", "film.mp4")


def test_key_of_normalizes_names() -> None:
    assert Key.at(SHARED, "Ame\u0301lie/e\u0301") == Key(SHARED, "Amélie", "é")
    assert Key.of(SHARED, "a/b", "c") == Key.at(SHARED, "a/b/c")
    assert Key.of(SHARED, "", "\u212a") == Key(SHARED, "", "K")  # the Kelvin sign
    for path in ("", "/", "/a", "a/", "a//b"):
        with pytest.raises(InvalidName):
            Key.at(SHARED, path)
    with pytest.raises(InvalidName):
        Key.of(SHARED, "", "\u0344" * 100_000)

"""A file opened after another process changed it is up to date, even with entries in the open cache."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from app.database import open_stores
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.errors import AlreadyExists, NotFound
from app.storage.maintenance import Usage
from app.storage.types import SHARED, Committed, Expect, FileId, FileInfo, Key, Listing

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "films", "film.mp4")
OTHER = Key(SHARED, "other", "place.mp4")


@pytest.fixture
async def other(
    settings: Settings, storage: Storage, backend_options: dict[str, object]
) -> AsyncIterator[Storage]:
    """Open the same library again, like another process."""
    async with open_stores(settings, backend_options=backend_options) as stores:
        yield stores.storage


async def put(storage: Storage, data: bytes, key: Key = FILM) -> Committed:
    async with storage.stage() as staged:
        await staged.write(data)
        return await storage.commit(key, staged, content_type="video/mp4")


async def get(storage: Storage, address: Key | FileId = FILM) -> tuple[bytes, FileInfo]:
    async with storage.open(address) as file, aclosing(file.read(0, file.info.size)) as chunks:
        return b"".join([chunk async for chunk in chunks]), file.info


async def warm_cache(storage: Storage, info: FileInfo) -> None:
    """Put the file into the open cache: open it twice, after a pause."""
    await asyncio.sleep(0.03)
    for _ in range(2):
        assert await get(storage, FileId(SHARED, info.id)) == await get(storage, info.key)


async def test_open_sees_replacement_by_other_process(storage: Storage, other: Storage) -> None:
    info = (await put(storage, b"one")).info
    for data in (b"two", b"six"):
        await warm_cache(storage, info)
        new = (await put(other, data)).info
        assert await get(storage) == await get(storage, FileId(SHARED, info.id)) == (data, new)


async def test_open_sees_deletion_by_other_process(storage: Storage, other: Storage) -> None:
    info = (await put(storage, b"one")).info
    await warm_cache(storage, info)
    await other.delete(FILM)
    for address in (FILM, FileId(SHARED, info.id)):
        with pytest.raises(NotFound):
            await get(storage, address)
    new = (await put(other, b"one")).info
    assert await get(storage) == (b"one", new)
    with pytest.raises(NotFound):
        await get(storage, FileId(SHARED, info.id))


async def test_open_sees_move_by_other_process(storage: Storage, other: Storage) -> None:
    info = (await put(storage, b"one")).info
    await warm_cache(storage, info)
    moved = await other.move(FILM, OTHER)
    with pytest.raises(NotFound):
        await get(storage)
    assert await get(storage, OTHER) == await get(storage, FileId(SHARED, info.id)) == (b"one", moved)
    new = (await put(other, b"two")).info
    assert await get(storage) == (b"two", new)
    assert await get(storage, FileId(SHARED, info.id)) == (b"one", moved)


async def test_open_sees_swap_by_other_process(storage: Storage, other: Storage) -> None:
    one, two = (await put(storage, b"one")).info, (await put(storage, b"two", OTHER)).info
    await warm_cache(storage, one)
    await warm_cache(storage, two)
    between = Key(SHARED, "", "between.mp4")
    for source, target in ((FILM, between), (OTHER, FILM), (between, OTHER)):
        await other.move(source, target)
    assert [(await get(storage, key))[0] for key in (FILM, OTHER)] == [b"two", b"one"]
    assert [(await get(storage, FileId(SHARED, info.id)))[0] for info in (one, two)] == [b"one", b"two"]


async def test_bytes_match_metadata_while_other_process_writes(storage: Storage, other: Storage) -> None:
    """While another process replaces the file at varying speed, readers see every acknowledged version."""
    latest = (await put(storage, bytes(64))).info

    async def write() -> None:
        nonlocal latest
        for number in range(1, 25):
            latest = (await put(other, bytes([number]) * 64)).info
            await asyncio.sleep(0.03 * (number % 4))

    async def watch() -> int:
        count = 0
        while not writing.done():
            before = latest
            data, info = await get(storage)
            assert info.sha256 == hashlib.sha256(data).hexdigest()
            assert info.updated_at >= before.updated_at
            count += 1
            await asyncio.sleep(0)
        return count

    writing = asyncio.create_task(write())
    counts = await asyncio.gather(*(watch() for _ in range(4)))
    await writing
    assert min(counts) > 1
    assert (await get(storage))[1] == latest


async def test_expectation_is_checked_against_change_of_other_process(
    storage: Storage, other: Storage
) -> None:
    info = (await put(storage, b"one")).info
    await warm_cache(storage, info)
    new = (await put(other, b"two")).info
    assert await storage.stat(FILM) == new
    await storage.check(FILM, new.etag)
    await storage.delete(FILM, expect=new.etag)
    await other.check(FILM, Expect.ABSENT)


async def test_every_query_shows_change_of_other_process_at_once(storage: Storage, other: Storage) -> None:
    """Each process has cached the state before: of the file, and of the folders."""
    moved = Key(SHARED, "films/deep", "film.mkv")

    async def query_state(by: Storage) -> tuple[object, ...]:
        page = await by.page(Listing(SHARED, recursive=True), cursor=None, limit=10)
        top = await by.page(Listing(SHARED), cursor=None, limit=10)
        return page.items, top.folders, await by.folders(SHARED, "", limit=100), await by.usage(SHARED)

    for turn in range(2):
        writer, reader = (storage, other) if turn % 2 else (other, storage)
        info = (await put(writer, b"one")).info
        assert (
            await query_state(reader)
            == await query_state(writer)
            == ((info,), ("films",), ("films",), Usage(1, 3))
        )
        await warm_cache(reader, info)
        new = (await put(writer, b"another")).info
        assert await reader.stat(FILM) == (await get(reader))[1] == new
        assert await query_state(reader) == ((new,), ("films",), ("films",), Usage(1, 7))
        renamed = await writer.move(FILM, moved)
        assert renamed.content_type == "video/x-matroska"
        assert await reader.stat(FileId(SHARED, info.id)) == (await get(reader, moved))[1] == renamed
        assert await query_state(reader) == ((renamed,), ("films",), ("films",), Usage(1, 7))
        with pytest.raises(AlreadyExists):
            await reader.check(moved, Expect.ABSENT)
        await writer.delete(moved)
        assert await query_state(reader) == ((), (), (), Usage(0, 0))
        await reader.check(moved, Expect.ABSENT)

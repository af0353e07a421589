"""The contract of scans, hashing, verification and usage, as far as the program itself can cause the changes:
changes by other programs are tested per backend."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from dataclasses import replace

import pytest

from app.settings import Settings
from app.storage.contract import Storage
from app.storage.maintenance import Integrity, ScanFinding, Usage, VerifyStep
from app.storage.types import SHARED, Expect, FileInfo, Key, Listing
from tests.support.beneath import beneath
from tests.unit.database import foreign_changes

pytestmark = pytest.mark.anyio

BIG = os.urandom(1_200_000)  # more than one step reads
FILES = {
    Key(SHARED, "", "top.mp4"): b"top",
    Key(SHARED, "films", "big.mkv"): BIG,
    Key(SHARED, "films", "empty"): b"",
    Key(SHARED, "films/deep/er", "Amélie.mkv"): b"deep",
    Key("another", "films", "film.mp4"): b"another library's",
}
SIZE = sum(map(len, FILES.values()))

Steps = Callable[[Storage], AsyncGenerator[object, None]]
ALL_STEPS: list[Steps] = [
    lambda storage: storage.scan(),
    lambda storage: storage.verify(),
    lambda storage: storage.hash_unverified(),
]
of_all_steps = pytest.mark.parametrize("steps", ALL_STEPS, ids=["scan", "verify", "hash"])


async def put(storage: Storage, key: Key, data: bytes, expect: Expect = Expect.ANY) -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(data)
        return (await storage.commit(key, staged, content_type="video/mp4", expect=expect)).info


async def fill(storage: Storage) -> list[FileInfo]:
    return [await put(storage, key, data) for key, data in FILES.items()]


async def stored(storage: Storage, library: str = SHARED) -> dict[str, FileInfo]:
    listing = Listing(library, recursive=True)
    page = await storage.page(listing, cursor=None, limit=1000)
    return {info.key.path: info for info in page.items}


async def read(storage: Storage, key: Key) -> bytes:
    async with storage.open(key) as file, aclosing(file.read(0, file.info.size)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def findings(storage: Storage) -> list[ScanFinding]:
    return [finding async for step in storage.scan() for finding in step.findings]


async def test_estimate_matches_number_of_scanned_files(storage: Storage) -> None:
    assert await storage.estimate_file_count() == 0
    await fill(storage)
    assert await storage.estimate_file_count() == len(FILES)
    assert sum([step.files async for step in storage.scan()]) == len(FILES)


async def verdicts(storage: Storage) -> Counter[Integrity]:
    return Counter([step.verdict async for step in storage.verify() if step.verdict is not None])


async def test_scan_finds_nothing_when_library_is_unchanged(storage: Storage) -> None:
    infos = await fill(storage)
    for _ in range(2):
        steps = [step async for step in storage.scan()]
        assert [step.findings for step in steps if step.findings] == []
        assert sum(step.files for step in steps) == len(FILES)
    assert [await storage.stat(key) for key in FILES] == infos
    assert len(await stored(storage)) == len(FILES) - 1


async def test_scan_finds_nothing_when_library_is_empty(storage: Storage) -> None:
    assert await findings(storage) == []
    assert await verdicts(storage) == {}
    assert [size async for size in storage.hash_unverified()] == []


async def test_verify_reads_every_file_once(storage: Storage) -> None:
    infos = await fill(storage)
    steps: list[VerifyStep] = [step async for step in storage.verify()]
    assert sum(step.size for step in steps) == SIZE
    assert Counter(step.verdict for step in steps if step.verdict) == {Integrity.SOUND: len(FILES)}
    for key, data in FILES.items():
        mine = [step for step in steps if step.path == key.path]
        assert mine[-1].verdict is Integrity.SOUND
        assert all(step.verdict is None for step in mine[:-1])
        assert sum(step.size for step in mine) == len(data)
    assert len(steps) > len(FILES) + 1, "a long file must take several steps"
    assert [await storage.stat(key) for key in FILES] == infos


async def test_uploaded_files_need_no_second_hash(storage: Storage) -> None:
    await fill(storage)
    assert [size async for size in storage.hash_unverified()] == []


async def test_hashing_detects_encoding_of_texts_from_older_version(
    storage: Storage, settings: Settings
) -> None:
    texts = {"a.txt": b"caf\xc3\xa9", "b.txt": b"caf\xe9", "c.txt": b"", "d.mp4": b"film"}
    for name, data in texts.items():
        async with storage.stage() as staged:
            await staged.write(data)
            kind = "video/mp4" if name.endswith("4") else "text/plain; x=y"
            await storage.commit(Key(SHARED, "", name), staged, content_type=kind)
    known = await stored(storage)
    with closing(beneath(settings)) as library:
        library.clear_encodings()
    assert {info.is_utf8 for info in (await stored(storage)).values()} == {None}
    assert sum([size async for size in storage.hash_unverified()]) == len(b"caf\xc3\xa9" + b"caf\xe9")
    # Everything else stays: a changed version would break running downloads.
    assert await stored(storage) == known | {"d.mp4": replace(known["d.mp4"], is_utf8=None)}
    assert [known[name].is_utf8 for name in texts] == [True, False, True, True]
    assert [size async for size in storage.hash_unverified()] == []


async def test_hashing_detects_encoding_of_files_from_other_programs(
    storage: Storage, settings: Settings
) -> None:
    with closing(beneath(settings)) as library:
        for name, data in {"text": "Größe".encode(), "other": b"\xff"}.items():
            library.add_file(name, len(data), data)
    foreign_changes.wait_for_tick()
    await findings(storage)
    assert {info.is_utf8 for info in (await stored(storage)).values()} == {None}
    async for _ in storage.hash_unverified():
        pass
    found = await stored(storage)
    assert {name: info.is_utf8 for name, info in found.items()} == {"text": True, "other": False}


async def test_usage_counts_all_libraries(storage: Storage) -> None:
    assert await storage.usage() == Usage(0, 0)
    await fill(storage)
    assert await storage.usage() == Usage(len(FILES), SIZE)
    libraries = [await storage.usage(library) for library in {key.library for key in FILES}]
    assert sum(usage.files for usage in libraries) == len(FILES)
    assert sum(usage.size for usage in libraries) == SIZE
    assert len(libraries) > 1
    assert await storage.usage("of nobody") == Usage(0, 0)
    assert isinstance((await storage.usage()).size, int)
    top, big = Key(SHARED, "", "top.mp4"), Key(SHARED, "films", "big.mkv")
    await put(storage, top, b"longer than before")
    await storage.move(top, Key(SHARED, "elsewhere", "top.mp4"))
    await storage.delete(big)
    assert await storage.usage() == Usage(len(FILES) - 1, SIZE - len(BIG) - len(b"top") + 18)


# Interrupted steps


@of_all_steps
async def test_steps_may_be_abandoned_at_any_step(storage: Storage, steps: Steps) -> None:
    """Closing the storage afterwards works, too."""
    await fill(storage)
    for count in (0, 1, 2) * 3:
        async with aclosing(steps(storage)) as running:
            for _ in range(count):
                await anext(running, None)
    assert await findings(storage) == []
    assert await verdicts(storage) == {Integrity.SOUND: len(FILES)}
    await storage.delete(Key(SHARED, "films", "big.mkv"))


@of_all_steps
async def test_steps_may_be_cancelled_during_a_step(storage: Storage, steps: Steps) -> None:
    await fill(storage)

    async def repeat() -> None:
        while True:
            async for _ in steps(storage):
                pass

    for turn in range(10):
        task = asyncio.create_task(repeat())
        await asyncio.sleep(turn / 500)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await verdicts(storage) == {Integrity.SOUND: len(FILES)}
    assert await storage.usage() == Usage(len(FILES), SIZE)


# Concurrent changes


@of_all_steps
async def test_steps_tolerate_changes_between_steps(storage: Storage, steps: Steps) -> None:
    await fill(storage)
    number = 0
    async with aclosing(steps(storage)) as running:
        while await anext(running, None) is not None:
            number += 1
            await put(storage, Key(SHARED, "films", "big.mkv"), BIG[number:])
            await put(storage, Key(SHARED, "new", f"{number}.mp4"), b"new")
            places = [Key(SHARED, "", "top.mp4"), Key(SHARED, "other", "top.mp4")]
            await storage.move(*places[:: 1 if number % 2 else -1])
            if number == 1:
                await storage.delete(Key(SHARED, "films", "empty"))
            if number > 7:
                break
    assert await read(storage, Key(SHARED, "films", "big.mkv")) == BIG[number:]
    top = "other/top.mp4" if number % 2 else "top.mp4"
    expected = {"films/big.mkv", "films/deep/er/Amélie.mkv", top}
    expected |= {f"new/{one}.mp4" for one in range(1, number + 1)}
    expected |= set() if number else {"films/empty"}
    assert set(await stored(storage)) == expected
    assert set(await stored(storage, "another")) == {"films/film.mp4"}
    assert await findings(storage) == []
    assert await verdicts(storage) == {Integrity.SOUND: len(expected) + 1}


async def test_scan_and_verify_find_nothing_during_concurrent_changes(storage: Storage) -> None:
    await fill(storage)
    keys = [Key(SHARED, folder, "film.mp4") for folder in ("a", "b/c")]
    found: list[ScanFinding] = []
    verified: Counter[Integrity] = Counter()

    async def change(name: str) -> None:
        here, there = (Key(key.library, key.folder, name) for key in keys)
        for turn in range(6):
            await put(storage, here, name.encode() * turn)
            await put(storage, here, BIG[:turn])
            await storage.move(here, there)
            await (storage.delete(there) if turn % 2 else storage.move(there, here))

    async def scan() -> None:
        while not changing.done():
            found.extend(await findings(storage))

    async def verify() -> None:
        while not changing.done():
            verified.update(await verdicts(storage))

    changing = asyncio.gather(*(change(name) for name in ("one", "two", "three")))
    await asyncio.gather(changing, scan(), verify())
    assert found == []
    assert set(verified) == {Integrity.SOUND}
    assert await storage.usage() == Usage(len(FILES), SIZE)

"""Bytes on their way to a writer: whole, in order and hashed, however they come, and few at a time."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.filesystem.staging import StagedFile
from app.storage.async_storage import AHEAD, MAX_PIECES, WRITE_BATCH, ThreadedStaged
from app.storage.workers import Pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2, "test")
    yield pool
    pool.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StagedFile]:
    folder = os.open(tmp_path, os.O_RDONLY)
    writer = StagedFile(folder)
    yield writer
    writer.discard()
    os.close(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0, 0],
        [1],
        [WRITE_BATCH - 1],
        [WRITE_BATCH],
        [WRITE_BATCH + 1],
        [WRITE_BATCH - 1, 1],
        [WRITE_BATCH - 1, 0, 2],
        [WRITE_BATCH, WRITE_BATCH],
        [1, WRITE_BATCH, WRITE_BATCH - 1, 1, 5],
        [3 * WRITE_BATCH + 7, 1],
        [256_000] * 9,
        [1] * (2 * MAX_PIECES + 1),
        [2] * MAX_PIECES,
        [*[1] * (MAX_PIECES - 1), WRITE_BATCH, 0, 1],
    ],
    ids=lambda sizes: "+".join(map(str, sizes[:5])) or "nothing",
)
async def test_pieces_of_any_size_are_written_in_order_and_hashed(
    sizes: list[int], pool: Pool, writer: StagedFile, tmp_path: Path
) -> None:
    data = os.urandom(sum(sizes))
    staged = ThreadedStaged(writer, pool)
    position = 0
    for size in sizes:
        await staged.write(data[position : position + size])
        position += size
    await staged.flush()
    assert (staged.size, staged.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / writer.name).read_bytes() == data


class SlowDisk:
    """A writer that writes nothing before it is let."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.goes_on.wait(60)
        self.written += data

    def discard(self) -> None: ...


@pytest.mark.parametrize("size", [1, 1448, 65_536, 256_000, WRITE_BATCH])
async def test_no_more_is_taken_than_one_batch_beside_those_that_are_under_way(size: int, pool: Pool) -> None:
    disk = SlowDisk()
    staged = ThreadedStaged(disk, pool)
    data = os.urandom(size)
    taken = 0

    async def send() -> None:
        nonlocal taken
        while taken < (AHEAD + 3) * WRITE_BATCH:
            await staged.write(data)
            taken += size

    sending = asyncio.create_task(send())
    await asyncio.wait([sending], timeout=0.2)
    assert not sending.done()
    assert taken < (AHEAD + 1) * min(WRITE_BATCH + size, MAX_PIECES * size)
    before = taken
    disk.goes_on.set()
    while taken == before:
        await asyncio.sleep(0.01)
    if size > 1:  # or it would take a while
        await sending
    sending.cancel()
    await asyncio.wait([sending])
    await staged.flush()
    assert bytes(disk.written) == data * (len(disk.written) // size)


async def test_who_is_cancelled_still_waits_for_all_that_is_under_way(pool: Pool) -> None:
    """Else the file would be removed under a thread that writes it."""
    disk = SlowDisk()
    staged = ThreadedStaged(disk, pool)
    for _ in range(AHEAD):
        await staged.write(bytes(WRITE_BATCH))
    settling = asyncio.create_task(staged.settle())
    await asyncio.sleep(0.01)
    settling.cancel()
    await asyncio.wait([settling], timeout=0.1)
    assert not settling.done()
    disk.goes_on.set()
    await asyncio.wait([settling])
    assert len(disk.written) == AHEAD * WRITE_BATCH

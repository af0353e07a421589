"""Staged bytes: written in order, complete and hashed for any sizes of pieces, with bounded memory."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from app.database.filesystem.staging import SYNC_STEP, StagedFile
from app.storage.async_storage import MAX_BATCHES, MAX_PIECES, WRITE_BATCH, ThreadedStaged
from app.storage.contract import SMALL_UPLOAD
from app.storage.errors import StorageUnavailable
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
async def test_write_keeps_order_and_hash_for_pieces_of_any_size(
    sizes: list[int], pool: Pool, writer: StagedFile, tmp_path: Path
) -> None:
    data = os.urandom(sum(sizes))
    staged = ThreadedStaged(lambda: writer, pool)
    position = 0
    for size in sizes:
        await staged.write(data[position : position + size])
        position += size
    await staged.flush()
    assert (staged.size, staged.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / writer.name).read_bytes() + staged.held == data
    assert (staged.writer is None) == (len(data) <= SMALL_UPLOAD and len(sizes) < MAX_PIECES)


async def test_pieces_flushed_before_the_upload_is_large_are_written_first(
    pool: Pool, writer: StagedFile, tmp_path: Path
) -> None:
    data = os.urandom(2 * SMALL_UPLOAD + 1)
    staged = ThreadedStaged(lambda: writer, pool)
    for start, stop in ((0, 5), (5, SMALL_UPLOAD), (SMALL_UPLOAD, len(data))):
        assert staged.writer is None
        await staged.write(data[start:stop])
        await staged.flush()
        assert (staged.size, staged.sha256) == (stop, hashlib.sha256(data[:stop]).hexdigest())
    assert (tmp_path / writer.name).read_bytes() == data


class SlowDisk:
    """A writer that blocks until `goes_on` is set."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.goes_on.wait(60)
        self.written += data

    def discard(self) -> None: ...


@pytest.mark.parametrize("size", [1, 1448, 65_536, 256_000, WRITE_BATCH])
async def test_write_blocks_when_one_batch_waits_behind_those_in_progress(size: int, pool: Pool) -> None:
    disk = SlowDisk()
    staged = ThreadedStaged(lambda: disk, pool)
    data = os.urandom(size)
    accepted = 0

    async def send() -> None:
        nonlocal accepted
        while accepted < (MAX_BATCHES + 3) * WRITE_BATCH:
            await staged.write(data)
            accepted += size

    sending = asyncio.create_task(send())
    await asyncio.wait([sending], timeout=0.2)
    assert not sending.done()
    assert accepted < (MAX_BATCHES + 1) * min(WRITE_BATCH + size, MAX_PIECES * size)
    before = accepted
    disk.goes_on.set()
    while accepted == before:
        await asyncio.sleep(0.01)
    if size > 1:  # one byte at a time would take too long
        await sending
    sending.cancel()
    await asyncio.wait([sending])
    await staged.flush()
    assert bytes(disk.written) == data * (len(disk.written) // size)


async def test_wait_for_writes_blocks_until_writes_end_when_cancelled(pool: Pool) -> None:
    """Otherwise the file would be removed while a thread writes to it."""
    disk = SlowDisk()
    staged = ThreadedStaged(lambda: disk, pool)
    for _ in range(MAX_BATCHES):
        await staged.write(bytes(WRITE_BATCH))
    waiting = asyncio.create_task(staged.wait_for_writes())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    disk.goes_on.set()
    await asyncio.wait([waiting])
    assert len(disk.written) == MAX_BATCHES * WRITE_BATCH


async def test_error_of_an_early_sync_fails_the_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports it once, so the last fsync would succeed without the lost bytes."""
    errors = [OSError(errno.EIO, os.strerror(errno.EIO))]
    synced = threading.Event()

    def fsync(_descriptor: int) -> None:
        synced.set()
        if errors:
            raise errors.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    folder = os.open(tmp_path, os.O_RDONLY)
    with ThreadPoolExecutor(1) as syncs:
        staged = StagedFile(folder, syncs=syncs)
        staged.write(bytes(SYNC_STEP))
        assert synced.wait(10)
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                staged.seal()
        staged.discard()
    assert os.listdir(folder) == []
    os.close(folder)


async def test_discard_waits_for_an_early_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the sync could meet another file that got the same descriptor."""
    began, finish = threading.Event(), threading.Event()
    names = []

    def fsync(descriptor: int) -> None:
        began.set()
        assert finish.wait(10)
        names.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    folder = os.open(tmp_path, os.O_RDONLY)
    with ThreadPoolExecutor(2) as pool:
        staged = StagedFile(folder, syncs=pool)
        staged.write(bytes(SYNC_STEP))
        assert began.wait(10)
        discarded = pool.submit(staged.discard)
        with suppress(TimeoutError):
            discarded.result(0.05)
        finish.set()
        discarded.result()
    assert staged.name in names[0]
    os.close(folder)

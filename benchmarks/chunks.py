"""Compare chunk sizes in GridFS, and the number of bytes that one query reads.

    .venv/bin/python -m benchmarks.chunks [rounds]

Starts a mongod of its own. Each round measures every pair, in alternating order, through the storage as the
server uses it. The table shows medians as ratios to the pair in use.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path

from app.database import open_database
from app.database.gridfs import reader, staging
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key
from deploy.run_gridfs import Mongod

KIB, MIB = 1 << 10, 1 << 20
SIZE = 128 * MIB
CHUNKS = [64 * KIB, 128 * KIB, 192 * KIB, 255 * KIB, 512 * KIB]
AT_ONCE = [units * reader.UNIT for units in (4, 8, 16)]
BATCH = staging.BATCH * staging.CHUNK_SIZE
USED = (staging.CHUNK_SIZE, reader.AT_ONCE)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        mongod = Mongod(Path(folder), 27999)
        mongod.start()
        try:
            mongod.lead()
            results = asyncio.run(measure(mongod.url("benchmark"), rounds))
        finally:
            mongod.stop()
    show(results)


Results = dict[tuple[int, int], dict[str, list[float]]]


async def measure(url: str, rounds: int) -> Results:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=url)
    results: Results = defaultdict(lambda: defaultdict(list))
    pairs = [(chunk, at_once) for chunk in CHUNKS for at_once in AT_ONCE if chunk <= at_once]
    async with open_database(settings) as stores:
        for chunk in CHUNKS:
            await upload(stores.storage, chunk)
        for turn in range(rounds):
            for pair in pairs if turn % 2 else reversed(pairs):
                staging.CHUNK_SIZE, reader.AT_ONCE = pair
                staging.BATCH = max(1, BATCH // pair[0])
                found = results[pair]
                found["upload"].append(await upload(stores.storage, pair[0]))
                found["whole"].append(SIZE / await read(stores.storage, pair[0], [0], SIZE))
                for name, length in (("1 MiB ranges", MIB), ("64 KiB ranges", 64 * KIB)):
                    starts = [random.randrange(SIZE - length) for _ in range(64)]
                    found[name].append(len(starts) / await read(stores.storage, pair[0], starts, length))
    return results


async def upload(storage: Storage, chunk: int) -> float:
    """Return the rate of an upload, in bytes per second."""
    data = random.randbytes(MIB)
    staging.CHUNK_SIZE = chunk
    begun = time.perf_counter()
    async with storage.stage() as staged:
        for _ in range(SIZE // MIB):
            await staged.write(data)
        await storage.commit(Key(SHARED, "", str(chunk)), staged, content_type="video/mp4")
    return SIZE / (time.perf_counter() - begun)


async def read(storage: Storage, chunk: int, starts: list[int], length: int) -> float:
    """Return the seconds that reading these ranges takes."""
    begun = time.perf_counter()
    async with storage.open(Key(SHARED, "", str(chunk))) as file:
        for start in starts:
            async with aclosing(file.read(start, start + length)) as pieces:
                async for _ in pieces:
                    pass
    return time.perf_counter() - begun


def show(results: Results) -> None:
    names = ["upload", "whole", "1 MiB ranges", "64 KiB ranges"]
    print(f"{'chunk KiB':>10} {'at once':>8}", *(f"{name:>14}" for name in names))
    used = {name: statistics.median(results[USED][name]) for name in names}
    for (chunk, at_once), found in results.items():
        ratios = (statistics.median(found[name]) / used[name] for name in names)
        print(f"{chunk // KIB:>10} {at_once // KIB:>8}", *(f"{ratio:>14.2f}" for ratio in ratios))
    rates = f"{used['upload'] / 1e6:.0f} MB/s up, {used['whole'] / 1e6:.0f} MB/s down"
    print(f"1.00 is {rates}, {used['1 MiB ranges']:.0f} and {used['64 KiB ranges']:.0f} ranges/s")


if __name__ == "__main__":
    main()

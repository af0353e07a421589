"""Compare chunk sizes in GridFS, and the number of bytes that one query reads.

    .venv/bin/python -m benchmarks.chunks [rounds]

Starts a mongod of its own. Each round measures every pair, in alternating order, through the storage as the
server uses it. The table shows medians as ratios to the pair in use.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path

from app.database import open_stores
from app.database.gridfs.bucket import (
    CHUNK_SIZE,
    CHUNKS_PER_BATCH,
    MAX_QUERY_SIZE,
    MIN_QUERY_SIZE,
    TransferSizes,
)
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key
from deploy.run_gridfs import Mongod

KIB, MIB = 1 << 10, 1 << 20
SIZE = 128 * MIB
CHUNKS = [64 * KIB, 128 * KIB, 192 * KIB, 255 * KIB, 512 * KIB]
QUERY_SIZES = [units * MIN_QUERY_SIZE for units in (4, 8, 16)]
BATCH_SIZE = CHUNKS_PER_BATCH * CHUNK_SIZE
USED = (CHUNK_SIZE, MAX_QUERY_SIZE)


def main() -> None:
    description = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunks", description=description)
    parser.add_argument("rounds", nargs="?", type=int, default=7, help="how often to measure each pair (7)")
    rounds = parser.parse_args().rounds
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
    pairs = [(chunk, query) for chunk in CHUNKS for query in QUERY_SIZES if chunk <= query]
    for turn in range(rounds):
        for pair in pairs if turn % 2 else reversed(pairs):
            chunk, query = pair
            sizes = TransferSizes(
                chunk_size=chunk, chunks_per_batch=max(1, BATCH_SIZE // chunk), max_query_size=query
            )
            async with open_stores(settings, backend_options={"sizes": sizes}) as stores:
                if turn == 0:
                    await upload(stores.storage, chunk)
                found = results[pair]
                found["upload"].append(await upload(stores.storage, chunk))
                found["whole"].append(SIZE / await read(stores.storage, chunk, [0], SIZE))
                for name, length in (("1 MiB ranges", MIB), ("64 KiB ranges", 64 * KIB)):
                    starts = [random.randrange(SIZE - length) for _ in range(64)]
                    found[name].append(len(starts) / await read(stores.storage, chunk, starts, length))
    return results


async def upload(storage: Storage, chunk: int) -> float:
    """Return the rate of an upload, in bytes per second."""
    data = random.randbytes(MIB)
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
    print(f"{'chunk KiB':>10} {'query':>8}", *(f"{name:>14}" for name in names))
    used = {name: statistics.median(results[USED][name]) for name in names}
    for (chunk, query), found in results.items():
        ratios = (statistics.median(found[name]) / used[name] for name in names)
        print(f"{chunk // KIB:>10} {query // KIB:>8}", *(f"{ratio:>14.2f}" for ratio in ratios))
    rates = f"{used['upload'] / 1e6:.0f} MB/s up, {used['whole'] / 1e6:.0f} MB/s down"
    print(f"1.00 is {rates}, {used['1 MiB ranges']:.0f} and {used['64 KiB ranges']:.0f} ranges/s")


if __name__ == "__main__":
    main()

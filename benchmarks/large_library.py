"""Compare a library of 1,000,000 files with one of 1,000: lists, searches, changes, maintenance.

    .venv/bin/python -m benchmarks.large_library [--files 1000000] [--engines sqlite,postgresql,mongodb]
        [--keep FOLDER] [--rounds 9] [--only WORD] [--json FILE]

Starts a PostgreSQL and a mongod of its own and fills the libraries, which takes minutes and 10 GB of disk;
the next run reuses libraries that --keep kept. The table shows medians in milliseconds, through the storage
as the server uses it; the two sizes take turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, contextmanager
from pathlib import Path
from urllib.request import urlopen

from app.database import open_stores
from app.settings import Settings
from app.storage import cursors
from app.storage.contract import Storage
from app.storage.cursors import Position
from app.storage.types import SHARED, FileId, Key, Listing, Sort
from benchmarks.sample_library import File, files, fill, is_filled
from deploy.run_gridfs import Mongod
from tests.support.postgres import Postgres

SMALL = 1000
ENGINES = ("sqlite", "postgresql", "mongodb")
Step = Callable[[], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="measure only operations whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures of the larger library into this file")
    given = parser.parse_args()
    figures: dict[str, dict[str, object]] = {}
    sizes = (SMALL, given.files)
    with ExitStack() as stack:
        folder = given.keep or _temporary_folder(stack)
        for engine in given.engines.split(","):
            with libraries(engine, folder, sizes) as settings:
                found = asyncio.run(measure(settings, given.rounds, given.only))
                show(engine, sizes, found)
                figures[engine] = {name: statistics.median(times[1]) for name, times in found.items()}
                for n, one in zip(sizes, settings, strict=True):
                    if not given.only or given.only in "whole":
                        for name, value in measure_whole_library(one).items():
                            figures[engine][name] = value  # the last is the larger library
                            print(f"{n:>9,} files: {name:<32} {value}", flush=True)

    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures))


def _temporary_folder(stack: ExitStack) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.chmod(0o711)  # under root, PostgreSQL runs as another user
    return folder


# Libraries


@contextmanager
def libraries(engine: str, folder: Path, sizes: tuple[int, ...]) -> Iterator[list[Settings]]:
    """Yield the settings of a library of each size, filled if it is empty. SQL databases share the files."""
    with ExitStack() as stack:
        urls = _server(engine, folder / engine, sizes, stack)
        made = []
        for n in sizes:
            files_dir = folder / f"files-{n}"
            options: dict[str, object] = {"files_dir": files_dir, "scan_interval": 86_400.0}
            if engine == "mongodb":
                options = {"storage": "gridfs", "mongodb_url": urls[n]}
            elif engine == "postgresql":
                options["database_url"] = urls[n]
            settings = Settings(_env_file=None, **options)  # type: ignore[arg-type]
            if not is_filled(settings):
                began = time.monotonic()
                fill(settings, n)
                print(f"{engine}: {n:,} files in {time.monotonic() - began:.0f} s", file=sys.stderr)
            made.append(settings)
        yield made


def _server(engine: str, folder: Path, sizes: tuple[int, ...], stack: ExitStack) -> dict[int, str]:
    """Start the database server, and return the URL of a database for each size."""
    if engine == "sqlite":
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    if engine == "mongodb":
        mongod = Mongod(folder, 27_997)
        mongod.start()
        stack.callback(mongod.stop)
        mongod.lead()
        return {n: mongod.url(f"library-{n}") for n in sizes}
    # A new cluster each time: its random password is not kept.
    server = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder))))
    stack.callback(server.stop)
    server.start()
    return {n: server.new_database() for n in sizes}


# Operations of a storage


async def measure(settings: list[Settings], rounds: int, only: str = "") -> dict[str, list[list[float]]]:
    """Return, for each operation and each library, the milliseconds of each round."""
    found: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in settings])
    async with AsyncExitStack() as stack:
        asked = []
        for one in settings:
            stores = await stack.enter_async_context(open_stores(one))
            asked.append(await operations(stores.storage))
        for turn in range(rounds + 1):
            for name in asked[0]:
                for place in (0, 1) if turn % 2 else (1, 0):
                    if only in name:
                        began = time.perf_counter()
                        await asked[place][name]()
                        if turn:  # the first turn warms the caches
                            found[name][place].append(1000 * (time.perf_counter() - began))
    return found


async def operations(storage: Storage) -> dict[str, Step]:
    everything = Listing(SHARED, recursive=True)
    n = await _size(storage)
    middle = _middle(n)
    inside = Listing(SHARED, "inbox")

    def page(listing: Listing, cursor: str | None = None) -> Step:
        return lambda: storage.page(listing, cursor=cursor, limit=100)

    def search(words: str, sort: Sort = Sort.NAME) -> Step:
        return page(Listing(SHARED, "", recursive=True, query=words, sort=sort))

    asked: dict[str, Step] = {
        "page: folder with a tenth of all": page(inside),
        "page: middle of that folder": page(inside, _cursor(inside, middle["inbox"])),
        "page: top, folders": page(Listing(SHARED)),
        "page: everything": page(everything),
        "page: middle of everything": page(everything, _cursor(everything, middle[""])),
    }
    for sort in Sort:
        for descending in (False, True):
            listing = Listing(SHARED, "", True, sort=sort, descending=descending)
            sign = "-" * descending
            asked[f"page: everything, {sign}{sort.value}"] = page(listing)
            cursor = _cursor(listing, middle[""])
            asked[f"page: middle of everything, {sign}{sort.value}"] = page(listing, cursor)
    asked |= {
        "page: beneath a shelf": page(Listing(SHARED, "shelf 00", True)),
        "page: beneath a shelf, -size": page(Listing(SHARED, "shelf 00", True, "", "", Sort.SIZE, True)),
        "page: type audio": page(Listing(SHARED, "", True, content_type="audio")),
        "search: common word": search("the"),
        "search: common word, by size": search("the", Sort.SIZE),
        "search: one letter": search("b"),
        "search: one in 200": search("heat"),
        "search: one in 200, by size": search("heat", Sort.SIZE),
        "search: rare word": search("rosebud"),
        "search: common and rare word": search("the rosebud"),
        "search: two common words": search("the night"),
        "search: common, rarely together": search("night day"),
        "search: late in the order": search("zulu"),
        "search: no hit": search("nonesuch"),
        "search: no hit among two": search("the nonesuch"),
        "open: by path": lambda: storage.stat(middle[""].key),
        "open: by id": lambda: storage.stat(FileId(SHARED, middle[""].id)),
        "folders": lambda: storage.folders(SHARED, "shelf 00", limit=1000),
    }
    return asked | _changes(storage)


async def _size(storage: Storage) -> int:
    found = (await storage.usage()).files
    return round(found, -3)


def _middle(n: int) -> dict[str, File]:
    """Return the file in the middle of the library (key "") and of the folder inbox, in order of path."""
    everything = list(files(n)) if n <= 10_000 else _some(n)
    inbox = sorted((one for one in everything if one.key.folder == "inbox"), key=lambda one: one.key.filename)
    rest = sorted(everything, key=lambda one: (one.key.folder, one.key.filename))
    return {"inbox": inbox[len(inbox) // 2], "": rest[len(rest) // 2]}


def _some(n: int) -> list[File]:
    return [one for number, one in enumerate(files(n)) if number % 100 == 0]


def _cursor(listing: Listing, file: File) -> str:
    value = None if listing.sort is Sort.NAME else getattr(file, listing.sort.value)
    return cursors.encode(listing, Position(value, file.key.folder, file.key.filename))


def _changes(storage: Storage) -> dict[str, Step]:
    key, other = Key(SHARED, "inbox", "of the benchmark.mp4"), Key(SHARED, "shelf 00", "of the benchmark.mp4")

    async def upload() -> None:
        async with storage.stage() as staged:
            await staged.write(b"film")
            await storage.commit(key, staged, content_type="video/mp4")

    return {
        "change: upload to the big folder": upload,
        "page: big folder after an upload": lambda: storage.page(
            Listing(SHARED, "inbox"), cursor=None, limit=100
        ),
        "change: move": lambda: storage.move(key, other),
        "change: delete": lambda: storage.delete(other),
    }


def show(engine: str, sizes: tuple[int, ...], found: dict[str, list[list[float]]]) -> None:
    print(f"\n{engine:<40}", *(f"{n:>11,}" for n in sizes), f"{'ratio':>7} {'worst':>8}")
    for name, times in found.items():
        small, big = (statistics.median(one) for one in times)
        print(f"{name:<40} {small:>11.2f} {big:>11.2f} {big / small:>7.1f} {max(times[1]):>8.1f}", flush=True)


# Operations on the whole library


def measure_whole_library(settings: Settings) -> dict[str, str]:
    """Measure the start of a server, its first lists and a scan, with their memory."""
    environment = {
        **os.environ,
        "SEEKABLE_STORAGE": settings.storage,
        "SEEKABLE_FILES_DIR": str(settings.files_dir),
    }
    if settings.database_url:
        environment["SEEKABLE_DATABASE_URL"] = settings.database_url
    if settings.mongodb_url:
        environment["SEEKABLE_MONGODB_URL"] = settings.mongodb_url
    found: dict[str, str] = {}
    began = time.monotonic()
    serve = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0"]
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        docs = next(line for line in server.stdout if line.strip().startswith("docs")).split()[1]
        url = docs.removesuffix("/docs")
        urlopen(f"{url}/health/ready").read()
        found["server ready"] = f"{time.monotonic() - began:.2f} s"
        for name, path in (("first list", "/files"), ("first list of a big folder", "/files?folder=inbox")):
            began = time.monotonic()
            urlopen(url + path).read()
            found[f"server: {name}"] = f"{1000 * (time.monotonic() - began):.0f} ms"
        time.sleep(20)
        found["server: memory while it scans"] = _memory(server.pid)
        server.terminate()
    began = time.monotonic()
    steps, longest = asyncio.run(scan(settings))
    found["scan"] = f"{time.monotonic() - began:.1f} s in {steps} steps, the longest {1000 * longest:.0f} ms"
    return found


async def scan(settings: Settings) -> tuple[int, float]:
    """Return the number of steps of a scan, and the seconds of the longest."""
    steps, longest = 0, 0.0
    async with open_stores(settings) as stores, aclosing(stores.storage.scan()) as found:
        began = time.monotonic()
        async for step in found:
            assert not step.findings, step.findings[:3]
            longest = max(longest, time.monotonic() - began)
            steps += 1
            began = time.monotonic()
    return steps, longest


def _memory(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = dict(line.split()[:2] for line in status.splitlines() if line.startswith(("VmHWM", "VmRSS")))
    return f"{int(kib['VmRSS:']) >> 10} MiB, at most {int(kib['VmHWM:']) >> 10}"


if __name__ == "__main__":
    main()

"""Two libraries in this process, one copied to the other."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.database import Stores, open_stores
from app.library.copying import CopyOutcome, CopyResult, Target, copy, find_gone, remove_gone
from app.settings import Settings
from app.storage.contract import CopyRecords, OpenFile, Storage
from app.storage.types import Address, FileInfo, Key, Listing


class CountingStorage:
    """A storage that counts the files opened for reading, and awaits `before` ahead of each open."""

    def __init__(self, storage: Storage, before: Callable[[], Awaitable[object]] | None = None) -> None:
        self._storage = storage
        self._before = before
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator[OpenFile]:
        self.opened += 1
        if self._before is not None:
            await self._before()
        async with self._storage.open(address) as file:
            yield file


@dataclass
class Pair:
    """Two libraries."""

    source: Any
    target: Any
    copies: CopyRecords
    """The target's record of its copies."""
    source_id: str | None = "source"

    @property
    def to(self) -> Target:
        return Target(self.target, self.copies, self.source_id)

    async def remove(self) -> list[str]:
        """Remove the files that a mirror removes and return their paths."""
        over = [info async for info in find_gone(self.source, self.to)]
        return [info.key.path for info in over if await remove_gone(self.source, self.to, info)]

    async def copy(self) -> dict[str, CopyResult]:
        """Copy once, check that the progress adds up, and return the outcome of each file by its path."""
        async for _ in self.source.scan():
            pass
        size = (await self.source.usage()).size
        advanced: list[int] = []
        async with aclosing(copy(self.source, self.to, advanced.append)) as files:
            found = {f"{file.key.library}:{file.key.path}": file async for file in files}
        assert sum(advanced) == size
        assert min(advanced, default=0) >= 0
        return found

    async def run(self) -> dict[str, CopyOutcome]:
        return {path.removeprefix(":"): file.outcome for path, file in (await self.copy()).items()}


@asynccontextmanager
async def opened(folder: Path, source: dict[str, object], target: dict[str, object]) -> AsyncIterator[Pair]:
    """Open both libraries with these settings."""
    async with AsyncExitStack() as stack:
        pair: list[Stores] = []
        for name, settings in (("source", source), ("target", target)):
            database = open_stores(
                Settings(_env_file=None, files_dir=folder / name, **settings),  # type: ignore[arg-type]
            )
            pair.append(await stack.enter_async_context(database))
        yield Pair(pair[0].storage, pair[1].storage, pair[1].copies, pair[0].library_id)


async def put(
    storage: Storage, key: Key, data: bytes, origin: FileInfo | None = None, content_type: str = "video/mp4"
) -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(data)
        return (await storage.commit(key, staged, content_type=content_type, origin=origin)).info


async def get(storage: Storage, address: Address) -> bytes:
    async with storage.open(address) as file, aclosing(file.read(0, file.info.size)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def stored(storage: Storage) -> dict[Key, FileInfo]:
    found: dict[Key, FileInfo] = {}
    for library in await storage.libraries():
        page = await storage.page(Listing(library, recursive=True), cursor=None, limit=1000)
        found |= {info.key: info for info in page.items}
    return found

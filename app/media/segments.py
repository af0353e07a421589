"""Leaves the segments of HLS and DASH presentations out of playlists: only their manifests are entries."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from app.media.manifests import EXTENSIONS, Presentation, is_manifest, merged, parse_manifest, shape
from app.media.playlist_formats import is_playable
from app.storage.contract import Storage, all_pages
from app.storage.errors import StorageError
from app.storage.types import FileInfo, Key, Listing


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """Limits of one playlist. Segments beyond them are entries like other files."""

    manifests: int = 10_000
    """Manifests to search for."""
    manifest_bytes: int = 2 << 20
    """Bytes to read of one manifest."""
    total_bytes: int = 128 << 20
    """Bytes to read of all manifests."""
    segments: int = 500_000
    """Paths and patterns to keep in memory."""
    slice_s: float = 0.01
    """Seconds after which checking many files yields to the event loop."""


FILTER_LIMITS = FilterLimits()

MAX_PATTERNS = 2_000
"""Patterns of all manifests of one folder."""

COMPARED = 100
"""Segments of an HLS playlist that are looked up in the MPDs beside it."""

MAX_COMPARED = 10_000
"""Such segments of all HLS playlists of one folder."""

_PAGE = 1000


class _Manifest(NamedTuple):
    path: str
    presentation: Presentation


@dataclass(frozen=True)
class _Folder:
    """The presentations whose manifests are directly in one folder."""

    manifests: frozenset[str]
    duplicates: frozenset[str]
    """Manifests whose film another manifest describes as well."""
    segments: Presentation


def _folder(manifests: list[_Manifest]) -> _Folder:
    return _Folder(
        frozenset(one.path for one in manifests),
        frozenset(_duplicates(manifests)),
        merged(one.presentation for one in manifests),
    )


class SegmentFilter:
    """Decides which files of a listing are entries of its playlist. Used for one request, by one task."""

    def __init__(self, storage: Storage, listing: Listing, limits: FilterLimits = FILTER_LIMITS) -> None:
        self._storage = storage
        self._listing = listing
        self._limits = limits
        self._manifests: dict[str, list[Key]] | None = None
        self._known: OrderedDict[str, _Folder] = OrderedDict()
        self._bytes_left = limits.total_bytes

    async def entries(self, infos: tuple[FileInfo, ...]) -> list[FileInfo]:
        found = []
        until = time.monotonic() + self._limits.slice_s
        for info in infos:
            if await self._is_entry(info):
                found.append(info)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + self._limits.slice_s
        return found

    async def further(self) -> AsyncIterator[list[FileInfo]]:
        """Yield the manifests that a listing of videos omits, because their type is not a video type."""
        if self._listing.content_type == "video" and await self._index():
            for extension in EXTENSIONS:
                query = f"{self._listing.query} {extension}"
                listing = replace(self._listing, query=query, content_type="")
                async for page in all_pages(self._storage, listing, limit=_PAGE):
                    found = (one for one in page.items if one.key.filename.lower().endswith(f".{extension}"))
                    not_listed = (one for one in found if not is_playable(one.content_type))
                    yield await self.entries(tuple(not_listed))

    async def _is_entry(self, info: FileInfo) -> bool:
        playable = is_playable(info.content_type)
        if not playable and not is_manifest(info.key.filename):
            return False
        manifests = await self._index()
        is_main_manifest = False
        for folder in _ancestors(info.key.folder):
            if folder in manifests:
                found = await self._presentations(folder)
                if found.segments.includes(info.key.path):
                    return False
                if info.key.path in found.manifests:
                    is_main_manifest = info.key.path not in found.duplicates
        return is_main_manifest or playable

    async def _index(self) -> dict[str, list[Key]]:
        """Return the manifests in the listing, by folder."""
        if self._manifests is None:
            self._manifests = {}
            found = 0
            where = self._listing
            for extension in EXTENSIONS:  # which the search finds as words of the names
                listing = Listing(where.library, where.folder, where.recursive, query=extension)
                async with aclosing(all_pages(self._storage, listing, limit=_PAGE)) as pages:
                    async for page in pages:
                        for info in page.items:
                            if is_manifest(info.key.filename):
                                self._manifests.setdefault(info.key.folder, []).append(info.key)
                        found += len(page.items)
                        if found >= self._limits.manifests:
                            return self._manifests
        return self._manifests

    async def _presentations(self, folder: str) -> _Folder:
        if folder in self._known:
            self._known.move_to_end(folder)
            return self._known[folder]
        assert self._manifests is not None
        read: list[_Manifest] = []
        segments = patterns = 0
        for key in self._manifests[folder]:
            one = await self._read(key)
            if one is not None:
                segments += len(one.presentation)
                patterns += one.presentation.count_patterns()
                if segments > self._limits.segments or patterns > MAX_PATTERNS:
                    break
                read.append(one)
        found = self._known[folder] = await asyncio.to_thread(_folder, read)
        while len(self._known) > 1 and self._count_segments() > self._limits.segments:
            self._known.popitem(last=False)
        return found

    def _count_segments(self) -> int:
        return sum(len(folder.segments) for folder in self._known.values())

    async def _read(self, key: Key) -> _Manifest | None:
        if self._bytes_left <= 0:
            return None
        try:
            async with self._storage.open(key) as file:
                size = min(file.info.size, self._limits.manifest_bytes)
                self._bytes_left -= size
                async with aclosing(file.read(0, size)) as chunks:
                    data = b"".join([chunk async for chunk in chunks])
        except StorageError:  # deleted, or being written: its segments are listed then
            return None
        found = await asyncio.to_thread(parse_manifest, key.path, data)
        return None if found is None else _Manifest(key.path, found)


def _duplicates(found: list[_Manifest]) -> Iterator[str]:
    """Yield the MPDs that share a segment with an HLS playlist: they describe the same film."""
    hls = (one.presentation.paths for one in found if not _is_dash(one))
    names = (name for paths in hls for name in islice(paths, COMPARED))
    compared: dict[str, set[str]] = {}
    for name in islice(names, MAX_COMPARED):
        compared.setdefault(shape(name), set()).add(name)
    return (one.path for one in found if _is_dash(one) and _includes_any(one.presentation, compared))


def _includes_any(dash: Presentation, compared: Mapping[str, Collection[str]]) -> bool:
    """Return whether one of the paths, which are grouped by shape, is a segment of the MPD."""
    paths = {path for one in dash.patterns for path in islice(compared.get(one, ()), COMPARED)}
    return any(map(dash.includes, paths)) or any(path in compared.get(shape(path), ()) for path in dash.paths)


def _is_dash(found: _Manifest) -> bool:
    return found.path.lower().endswith(".mpd")


def _ancestors(folder: str) -> list[str]:
    """Return the folder and its ancestors, the deepest first."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]

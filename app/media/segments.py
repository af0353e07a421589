"""Keeps the pieces of HLS and DASH presentations out of playlists: the presentation is the entry."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from app.media.manifests import EXTENSIONS, Presentation, is_manifest, merged, presentation, shape
from app.media.playlist_formats import is_playable
from app.storage.contract import Storage
from app.storage.errors import StorageError
from app.storage.types import FileInfo, Key, Listing, Page

MAX_MANIFESTS = 10_000
"""Manifests that one playlist looks for. Pieces of further ones are entries like other films."""

MAX_BYTES = 2 << 20
"""Bytes of one manifest that are read."""

MAX_BYTES_IN_ALL = 128 << 20
"""Bytes of all manifests that are read for one playlist."""

MAX_PIECES = 500_000
"""Paths and patterns that are kept at once. Pieces of further manifests of one folder are entries."""

MAX_PATTERNS = 2_000
"""Patterns of all manifests of one folder."""

COMPARED = 100
"""Pieces of an HLS playlist that are looked for in an MPD beside it."""

MAX_COMPARED = 10_000
"""Pieces of all HLS playlists of one folder that are."""

SLICE_S = 0.01
"""Seconds after which a look at many files lets the event loop run, for other requests."""

_PAGE = 1000


class _Found(NamedTuple):
    """A manifest that describes a presentation."""

    path: str
    presentation: Presentation


@dataclass(frozen=True)
class _Folder:
    """The presentations whose manifests are directly in one folder."""

    manifests: frozenset[str]
    twins: frozenset[str]
    """Those of the manifests whose film is an entry by another one."""
    pieces: Presentation


def _folder(found: list[_Found]) -> _Folder:
    return _Folder(
        frozenset(one.path for one in found),
        frozenset(_twins(found)),
        merged(one.presentation for one in found),
    )


class Segments:
    """Decides which files of a listing are entries of its playlist. For one request, by one task."""

    def __init__(self, storage: Storage, listing: Listing) -> None:
        self._storage = storage
        self._listing = listing
        self._manifests: dict[str, list[Key]] | None = None
        self._known: OrderedDict[str, _Folder] = OrderedDict()
        self._left = MAX_BYTES_IN_ALL

    async def entries(self, infos: tuple[FileInfo, ...]) -> list[FileInfo]:
        """Return those of the files that are entries."""
        found = []
        until = time.monotonic() + SLICE_S
        for info in infos:
            if await self._is_entry(info):
                found.append(info)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE_S
        return found

    async def further(self) -> AsyncIterator[list[FileInfo]]:
        """Yield presentations of a listing of videos, in which no manifest is, whose type is another. At most
        MAX_MANIFESTS and a page."""
        if self._listing.content_type == "video" and await self._index():
            for extension in EXTENSIONS:
                query = f"{self._listing.query} {extension}"
                async for page in self._pages(replace(self._listing, query=query, content_type="")):
                    found = (one for one in page.items if one.key.filename.lower().endswith(f".{extension}"))
                    of_other_types = (one for one in found if not is_playable(one.content_type))
                    yield await self.entries(tuple(of_other_types))

    async def _pages(self, listing: Listing) -> AsyncGenerator[Page, None]:
        cursor: str | None = None
        while True:
            page = await self._storage.page(listing, cursor=cursor, limit=_PAGE)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _is_entry(self, info: FileInfo) -> bool:
        playable = is_playable(info.content_type)
        if not playable and not is_manifest(info.key.filename):
            return False
        manifests = await self._index()
        own = False
        for folder in _above(info.key.folder):
            if folder in manifests:
                found = await self._presentations(folder)
                if found.pieces.names(info.key.path):
                    return False
                if info.key.path in found.manifests:
                    own = info.key.path not in found.twins
        return own or playable

    async def _index(self) -> dict[str, list[Key]]:
        """The manifests beneath the listing, by their folders."""
        if self._manifests is None:
            self._manifests = {}
            found = 0
            where = self._listing
            for extension in EXTENSIONS:  # which are words of the names
                listing = Listing(where.library, where.folder, where.recursive, query=extension)
                async with aclosing(self._pages(listing)) as pages:
                    async for page in pages:
                        for info in page.items:
                            if is_manifest(info.key.filename):
                                self._manifests.setdefault(info.key.folder, []).append(info.key)
                        found += len(page.items)
                        if found >= MAX_MANIFESTS:
                            return self._manifests
        return self._manifests

    async def _presentations(self, folder: str) -> _Folder:
        """Those whose manifests are directly in the folder."""
        if folder in self._known:
            self._known.move_to_end(folder)
            return self._known[folder]
        assert self._manifests is not None
        read: list[_Found] = []
        pieces = patterns = 0
        for key in self._manifests[folder]:
            one = await self._read(key)
            if one is not None:
                pieces += len(one.presentation)
                patterns += one.presentation.count_patterns()
                if pieces > MAX_PIECES or patterns > MAX_PATTERNS:
                    break
                read.append(one)
        found = self._known[folder] = await asyncio.to_thread(_folder, read)
        while len(self._known) > 1 and sum(len(one.pieces) for one in self._known.values()) > MAX_PIECES:
            self._known.popitem(last=False)
        return found

    async def _read(self, key: Key) -> _Found | None:
        if self._left <= 0:
            return None
        try:
            async with self._storage.open(key) as file:
                size = min(file.info.size, MAX_BYTES)
                self._left -= size
                async with aclosing(file.read(0, size)) as chunks:
                    data = b"".join([chunk async for chunk in chunks])
        except StorageError:  # it is gone, or somebody writes it: what it names is listed then
            return None
        found = await asyncio.to_thread(presentation, key.path, data)
        return None if found is None else _Found(key.path, found)


def _twins(found: list[_Found]) -> Iterator[str]:
    """Yield the MPDs that name a piece which an HLS playlist names, too: the same film in its other form."""
    hls = (one.presentation.paths for one in found if not _is_dash(one))
    names = (name for paths in hls for name in islice(paths, COMPARED))
    compared: dict[str, set[str]] = {}
    for name in islice(names, MAX_COMPARED):
        compared.setdefault(shape(name), set()).add(name)
    return (one.path for one in found if _is_dash(one) and _names_any(one.presentation, compared))


def _names_any(dash: Presentation, compared: Mapping[str, Collection[str]]) -> bool:
    """Return whether the MPD names one of the paths, which are given by their shapes."""
    paths = {path for one in dash.patterns for path in islice(compared.get(one, ()), COMPARED)}
    return any(map(dash.names, paths)) or any(path in compared.get(shape(path), ()) for path in dash.paths)


def _is_dash(found: _Found) -> bool:
    return found.path.lower().endswith(".mpd")


def _above(folder: str) -> list[str]:
    """The folder, and those that it is in."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]

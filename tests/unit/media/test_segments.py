"""Bounds on reading manifests to find the segments in a folder."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.database import open_stores
from app.media.segments import FILTER_LIMITS, FilterLimits, SegmentFilter
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key, Listing

pytestmark = pytest.mark.anyio

HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\nseg.ts\n"
FOLDERS = ("a", "b", "c")


async def put(storage: Storage, path: str, data: bytes) -> None:
    async with storage.stage() as staged:
        await staged.write(data)
        await storage.commit(Key.at(SHARED, path), staged, content_type="video/mp2t")


async def entries_of_pages(
    tmp_path: Path, pages: Sequence[str] = ("",), limits: FilterLimits = FILTER_LIMITS
) -> list[list[str]]:
    """Return the entries for each page of three presentations: the files whose path contains a text."""
    settings = Settings(_env_file=None, files_dir=tmp_path)
    async with open_stores(settings) as stores:
        storage = stores.storage
        for folder in FOLDERS:
            await put(storage, f"{folder}/film.m3u8", HLS)
            await put(storage, f"{folder}/seg.ts", b"-")
        listing = Listing(SHARED, recursive=True)
        page = await storage.page(listing, cursor=None, limit=100)
        infos = {info.key.path: info for info in page.items}
        found = []
        for text in pages:
            chosen = [info for path, info in infos.items() if text in path]
            found.append(
                [
                    info.key.path
                    for info in await SegmentFilter(storage, listing, limits).entries(tuple(chosen))
                ]
            )
        return found


async def test_segments_are_left_out_whichever_page_lists_them(tmp_path: Path) -> None:
    assert await entries_of_pages(tmp_path, ("seg", "m3u8")) == [
        [],
        [f"{folder}/film.m3u8" for folder in FOLDERS],
    ]


@pytest.mark.parametrize(
    ("limits", "entries"),
    [
        (FilterLimits(manifests=1), []),  # all files of one page are checked
        (FilterLimits(manifest_bytes=5), ["a/seg.ts", "b/seg.ts", "c/seg.ts"]),
        (FilterLimits(total_bytes=1), ["b/seg.ts", "c/seg.ts"]),
        (FilterLimits(segments=1), []),  # limits the cache, not the check
    ],
)
async def test_segments_beyond_a_limit_are_entries(
    tmp_path: Path, limits: FilterLimits, entries: list[str]
) -> None:
    assert await entries_of_pages(tmp_path, ("seg",), limits) == [entries]


async def test_many_hostile_manifests_in_one_folder_cost_little_time(tmp_path: Path) -> None:
    """The cost grows neither with pairs of manifests nor with files times manifests."""
    settings = Settings(_env_file=None, files_dir=tmp_path)
    hls = HLS + b"".join(b"%d.ts\n" % n for n in range(1_000))
    templates = b"".join(b'<x><SegmentTemplate media="$Number$a%d"/></x>' % n for n in range(200))
    dash = b"<MPD>%s</MPD>" % templates.replace(b"x>", b"Representation>")
    async with open_stores(settings) as stores:
        storage = stores.storage
        for n in range(50):
            await put(storage, f"{n}.m3u8", hls)
            await put(storage, f"{n}.mpd", dash)
        listing = Listing(SHARED)
        page = await storage.page(listing, cursor=None, limit=200)
        began = time.process_time()
        found = await SegmentFilter(storage, listing).entries(page.items * 10)
        assert time.process_time() - began < 3
    assert len(found) == 1_000


async def test_manifest_with_both_extensions_is_one_entry(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, files_dir=tmp_path)
    dash = b"<MPD><Representation><BaseURL>a.mp4</BaseURL></Representation></MPD>"
    async with (
        open_stores(settings) as stores,
        stores.storage.stage() as staged,
    ):
        await staged.write(dash)
        await stores.storage.commit(
            Key.at(SHARED, "film.m3u8.mpd"), staged, content_type="application/dash+xml"
        )
        further = SegmentFilter(stores.storage, Listing(SHARED, content_type="video")).further()
        assert [info.key.path for infos in [found async for found in further] for info in infos] == [
            "film.m3u8.mpd"
        ]


async def test_checking_many_files_lets_other_requests_run(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, files_dir=tmp_path)
    async with open_stores(settings) as stores:
        await put(stores.storage, "film.m3u8", HLS)
        listing = Listing(SHARED)
        page = await stores.storage.page(listing, cursor=None, limit=1)
        checker = SegmentFilter(stores.storage, listing, FilterLimits(slice_s=-1))
        await checker.entries(page.items)  # fills the cache: the next call does not await the storage
        ended = asyncio.Event()
        turns = asyncio.create_task(count_turns(ended))
        await checker.entries(page.items * 100)
        ended.set()
        assert await turns >= 99


async def count_turns(ended: asyncio.Event) -> int:
    """Return how often the event loop ran this task before the event was set."""
    turns = 0
    while not ended.is_set():
        turns += 1
        await asyncio.sleep(0)
    return turns

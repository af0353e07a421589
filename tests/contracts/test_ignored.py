"""The contract of storages for files with ignored names: stored and served, but in no list."""

from contextlib import closing
from itertools import product

import pytest

from app.database import open_stores, prepare_database
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.errors import AlreadyExists, NotFound
from app.storage.maintenance import ScanFinding, ScanOutcome
from app.storage.types import SHARED, Expect, FileId, FileInfo, Key, Listing, Sort
from tests.contracts.test_lists import pages, put
from tests.contracts.test_maintenance import findings
from tests.support.beneath import beneath
from tests.unit.database import foreign_changes

pytestmark = pytest.mark.anyio

ORDERS = [*product(Sort, (False, True))]
SHOWN = ["a.mp4", "b/film.mp4", "b/mixed/c.mp4", "z.mp4"]
HIDDEN = ["._a.mp4", ".DS_Store", "@eaDir/a.mp4/x.jpg", "b/.DS_Store", "b/film.mp4.part", "b/mixed/Thumbs.db"]
HIDDEN += ["b/only/.DS_Store", "c.part", "y.part/film.mp4"]


def key(path: str) -> Key:
    return Key.at(SHARED, path)


async def fill(storage: Storage) -> dict[str, FileInfo]:
    paths = sorted([*SHOWN, *HIDDEN], key=lambda path: path[::-1])
    return {path: await put(storage, key(path), size) for size, path in enumerate(paths)}


async def listed(storage: Storage, listing: Listing, limit: int = 1000) -> list[str]:
    return [info.key.path for info in await pages(storage, listing, limit)]


async def test_list_leaves_out_ignored_files_and_fills_pages(storage: Storage) -> None:
    await fill(storage)
    for (sort, descending), limit in product(ORDERS, (1, 3, 1000)):
        everything = Listing(SHARED, recursive=True, sort=sort, descending=descending)
        assert sorted(await listed(storage, everything, limit)) == SHOWN
        beneath_b = Listing(SHARED, "b", recursive=True, sort=sort, descending=descending)
        assert sorted([info.key.path for info in await _all(storage, beneath_b, limit)]) == SHOWN[1:3]
        assert sorted(await listed(storage, Listing(SHARED, "", sort=sort), limit)) == ["a.mp4", "z.mp4"]
    for folder in ("@eaDir", "y.part", "b/only"):
        page = await storage.page(Listing(SHARED, folder), cursor=None, limit=9)
        assert (page.folders, page.items) == ((), ())


async def _all(storage: Storage, listing: Listing, limit: int) -> list[FileInfo]:
    """Return the files of all pages, which may be short."""
    page = await storage.page(listing, cursor=None, limit=limit)
    found = [*page.items]
    while page.next_cursor is not None:
        page = await storage.page(listing, cursor=page.next_cursor, limit=limit)
        found += page.items
    return found


async def test_search_leaves_out_ignored_files(storage: Storage) -> None:
    await fill(storage)
    for query, kind, sort in product(("film", "a", "mp4 film", "store", ""), ("", "video"), Sort):
        if query or kind:
            listing = Listing(SHARED, "", True, query, kind, sort)
            found = [info.key.path for info in await _all(storage, listing, 2)]
            assert set(found) <= set(SHOWN), listing
            assert found or query == "store"


async def test_folder_is_hidden_when_it_has_only_ignored_files(storage: Storage) -> None:
    await fill(storage)
    page = await storage.page(Listing(SHARED), cursor=None, limit=9)
    assert page.folders == await storage.folders(SHARED, "", limit=100) == ("b",)
    assert await storage.folders(SHARED, "b", limit=100) == ("mixed",)
    await put(storage, key("b/only/film.mp4"))
    assert await storage.folders(SHARED, "b", limit=100) == ("mixed", "only")
    await storage.delete(key("b/only/film.mp4"))
    assert await storage.folders(SHARED, "b", limit=100) == ("mixed",)


async def test_ignored_files_are_stored_and_listed_separately(storage: Storage) -> None:
    infos = await fill(storage)
    for path in HIDDEN:
        assert await storage.stat(key(path)) == infos[path]
        assert await storage.stat(FileId(SHARED, infos[path].id)) == infos[path]
    for sort, limit in product(Sort, (2, 1000)):
        hidden = Listing(SHARED, recursive=True, sort=sort, ignored=True)
        assert sorted(await listed(storage, hidden, limit)) == sorted(HIDDEN)
    assert (await storage.usage()).files == len(infos)
    assert await findings(storage) == []
    with pytest.raises(AlreadyExists):
        await put_new(storage, ".DS_Store")
    await put(storage, key(".DS_Store"), 7)
    assert (await storage.stat(key(".DS_Store"))).size == 7
    assert await listed(storage, Listing(SHARED)) == ["a.mp4", "z.mp4"]
    await storage.delete(key(".DS_Store"))
    with pytest.raises(NotFound):
        await storage.stat(key(".DS_Store"))


async def put_new(storage: Storage, path: str) -> None:
    async with storage.stage() as staged:
        await storage.commit(key(path), staged, content_type="video/mp4", expect=Expect.ABSENT)


async def test_move_shows_or_hides_file(storage: Storage) -> None:
    info = await put(storage, key("film.mp4.part"))
    assert await listed(storage, Listing(SHARED)) == []
    moved = await storage.move(info.key, key("film.mp4"))
    assert moved.id == info.id
    assert await listed(storage, Listing(SHARED)) == ["film.mp4"]
    assert await listed(storage, Listing(SHARED, query="film")) == ["film.mp4"]
    await storage.move(moved.key, key("#recycle/film.mp4"))
    assert await listed(storage, Listing(SHARED, recursive=True)) == []
    assert await storage.folders(SHARED, "", limit=100) == ()
    await storage.move(key("#recycle/film.mp4"), key("kept/film.mp4"))
    assert await listed(storage, Listing(SHARED, recursive=True)) == ["kept/film.mp4"]


@pytest.mark.parametrize("flags", ["kept", "lost"])
async def test_lists_follow_changed_setting_after_restart(settings: Settings, flags: str) -> None:
    async def names(**options: object) -> list[str]:
        changed = settings.model_copy(update=options)
        async with open_stores(changed) as stores:
            return await listed(stores.storage, Listing(SHARED, recursive=True))

    async with open_stores(settings) as stores:
        await fill(stores.storage)
    if flags == "lost":  # as in a library of an earlier version
        with closing(beneath(settings)) as library:
            library.clear_ignored_flags()
    assert await names() == ["a.mp4", "z.mp4", "b/film.mp4", "b/mixed/c.mp4"]
    assert sorted(await names(ignore=())) == sorted([*SHOWN, *HIDDEN])
    assert await names(ignore=("*", "!*.part")) == ["c.part"]
    assert sorted(await names()) == SHOWN


async def test_commands_use_patterns_of_last_server(settings: Settings) -> None:
    """`seekable scan` may run without the environment of the server."""
    served = settings.model_copy(update={"ignore": ("*.tmp",)})
    async with open_stores(served) as stores:
        await put(stores.storage, key("a.tmp"))
        await put(stores.storage, key("a.part"))
    async with open_stores(settings, serving=False) as stores:
        await put(stores.storage, key("b.tmp"))
        await put(stores.storage, key("b.part"))
        assert await listed(stores.storage, Listing(SHARED)) == ["a.part", "b.part"]
    prepare_database(settings)
    async with open_stores(served) as stores:
        assert await listed(stores.storage, Listing(SHARED)) == ["a.part", "b.part"]


async def test_scan_skips_ignored_files(settings: Settings, storage: Storage) -> None:
    with closing(beneath(settings)) as library:
        for path in (*HIDDEN, "b/film.mp4"):
            library.add_file(path, 7, b"by hand")
    foreign_changes.wait_for_tick()
    assert await findings(storage) == [ScanFinding("b/film.mp4", ScanOutcome.CREATED)]
    assert await listed(storage, Listing(SHARED, recursive=True)) == ["b/film.mp4"]
    assert await listed(storage, Listing(SHARED, recursive=True, ignored=True)) == []
    assert (await storage.usage()).files == 1

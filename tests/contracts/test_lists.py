"""The contract of lists: their files, their order, and consistent pages while files change."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import product

import anyio
import pytest

from app.storage.contract import Storage
from app.storage.errors import InvalidCursor, NotFound
from app.storage.file_text import fill
from app.storage.types import SHARED, FileFields, FileId, FileInfo, Key, Listing, Sort
from tests.support import model

pytestmark = pytest.mark.anyio

ORDERS = list(product(Sort, (False, True)))


async def put(storage: Storage, key: Key, size: int = 0, content_type: str = "video/mp4") -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(bytes(size))
        return (await storage.commit(key, staged, content_type=content_type)).info


async def put_all(storage: Storage, names: Iterable[str], folder: str = "f") -> list[FileInfo]:
    return [await put(storage, Key(SHARED, folder, name)) for name in names]


async def pages(storage: Storage, listing: Listing, limit: int = 1000) -> list[FileInfo]:
    """Return the files of all pages."""
    found: list[FileInfo] = []
    cursor = None
    for _ in range(1000):
        page = await storage.page(listing, cursor=cursor, limit=limit)
        assert len(page.items) <= limit
        assert cursor is None or page.folders == ()
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.items) == limit, "only the last page may be short"
    raise AssertionError("the cursors never end")


async def names(storage: Storage, query: str) -> list[str]:
    return [info.key.filename for info in await pages(storage, Listing(SHARED, "f", query=query))]


async def test_every_list_equals_reference_model(storage: Storage) -> None:
    infos = {}
    for key, size, content_type in model.FILES:
        infos[key] = await put(storage, key, size, content_type)
    for key, size, content_type in model.FILES[::4]:  # created early, updated late
        infos[key] = await put(storage, key, size + 1, content_type)
    await put(storage, Key("another", "a", "The End.mp4"))
    listed = 0
    unfiltered = [one for one in model.LISTINGS if not one.query and not one.content_type]
    in_pages = [(one, 7 if number % 3 == 0 else 1000) for number, one in enumerate(unfiltered)]
    for listing, limit in [*in_pages, *model.sample(model.LISTINGS, 150)]:
        wanted = model.expected(infos.values(), listing)
        assert await pages(storage, listing, limit) == wanted, listing
        listed += len(wanted)
    assert listed > 1500, "most of the lists above must have files"


def form(folder: str) -> str:
    """Return a `FolderFormat` with all values, and the escapes of the format itself."""
    folder = folder.replace("%", "%%")
    return f"{folder}é 100%% %s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s".replace("%s", '"%s"')


async def test_rendered_page_equals_page(storage: Storage) -> None:
    for key, size, content_type in model.FILES[:40]:
        await put(storage, key, size, content_type)
    listings = [Listing(SHARED, sort=sort, recursive=True, descending=one) for sort, one in ORDERS]
    sample = [one for one, _ in model.sample(model.LISTINGS, 20)]
    for listing in [*listings, Listing(SHARED), Listing(SHARED, "a"), *sample]:
        cursor = None
        for _ in range(10):
            page = await storage.page(listing, cursor=cursor, limit=7)
            found = await storage.render_page(listing, form, cursor=cursor, limit=7)
            assert found.items == fill(form, map(FileFields.of, page.items)), listing
            assert (found.folders, found.next_cursor) == (page.folders, page.next_cursor), listing
            cursor = page.next_cursor
            if cursor is None:
                break


ODD_NAMES = [
    "usual, with (spaces) & signs.mp4",
    "100%.mp4",
    "it's #1?.mp4",
    "ä é ß.mp4",
    "Фильм №1.mp4",
    "映画.mp4",
    "👩‍👩‍👧 🎬.mp4",
    "\u2028line\u2029.mp4",
    'quoted "name".mp4',
    "The quick brown fox; jumps = over [the] {lazy} dog + $5 @ <10>|^`!:*.mp4",
]


@pytest.mark.parametrize("folder", ["", "a b/100% 'é'", 'quoted "folder"'])
@pytest.mark.parametrize("content_type", ["video/mp4", 'text/plain; charset="utf-8"'])
async def test_rendered_page_equals_page_with_odd_names(
    storage: Storage, folder: str, content_type: str
) -> None:
    """Each name after one more: the database writes some of these pages, and Python the others."""
    for name in ODD_NAMES:
        await put(storage, Key(SHARED, folder, name), len(name), content_type)
        listing = Listing(SHARED, folder, descending=bool(len(name) % 2))
        for limit in (1, 2, len(ODD_NAMES)):
            page = await storage.page(listing, cursor=None, limit=limit)
            found = await storage.render_page(listing, form, cursor=None, limit=limit)
            assert found.items == fill(form, map(FileFields.of, page.items)), (name, limit)
            assert found.next_cursor == page.next_cursor, (name, limit)


async def test_rendering_does_not_block_the_event_loop(storage: Storage) -> None:
    await put_all(storage, ["film.mp4"])
    threads = set()

    def form_in_thread(folder: str) -> str:
        threads.add(threading.get_ident())
        return form(folder)

    await storage.render_page(Listing(SHARED, "f"), form_in_thread, cursor=None, limit=7)
    assert threads
    assert threading.get_ident() not in threads


async def test_pages_are_rendered_one_at_a_time(storage: Storage) -> None:
    """Two busy threads and the event loop would compete for the interpreter."""
    await put_all(storage, ["film.mp4"])
    both = threading.Barrier(2)
    met = []

    def form_of_both(folder: str) -> str:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
            met.append(folder)
        return form(folder)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(
                partial(storage.render_page, cursor=None, limit=7), Listing(SHARED, "f"), form_of_both
            )
    assert not met


BIG_SLEEP, PERCENT, HEART = "The_Big.Sleep (1946).mkv", "b%.mp4", "❤.mp4"
FOUND = {
    "the": [BIG_SLEEP],
    "sleep big": [BIG_SLEEP],
    "SLEE 19": [BIG_SLEEP],
    "b big": [BIG_SLEEP],
    "leep": [],
    "the small": [],
    "mkv": [BIG_SLEEP],
    "b": [BIG_SLEEP, PERCENT],
    "b%": [BIG_SLEEP, PERCENT],
    "b_": [BIG_SLEEP, PERCENT],
    "*.mp4": [PERCENT, HEART],
    "❤\ufe0f": [HEART],
    "": [BIG_SLEEP, PERCENT, HEART],
    " \t": [BIG_SLEEP, PERCENT, HEART],
    "-": [],
    "%": [],
    "\U0010ffff": [],
    "x" * 5000: [],
}


async def test_query_words_match_prefixes_of_name_words(storage: Storage) -> None:
    await put_all(storage, [BIG_SLEEP, PERCENT, HEART])
    for query, found in FOUND.items():
        assert await names(storage, query) == found, query


async def test_search_finds_moved_file_by_new_name_only(storage: Storage) -> None:
    [info] = await put_all(storage, ["old name.mp4"])
    await storage.move(info.key, Key(SHARED, "f", "new name.mp4"))
    assert await names(storage, "old") == []
    assert await names(storage, "new name mp4") == ["new name.mp4"]
    await put(storage, Key(SHARED, "f", "new name.mp4"), 5)
    assert await names(storage, "name") == ["new name.mp4"]
    await storage.delete(Key(SHARED, "f", "new name.mp4"))
    assert await names(storage, "name") == []


async def test_folders_are_listed_only_when_browsing(storage: Storage) -> None:
    for folder in ("f", "f/inside"):
        await put_all(storage, ["film.mp4"], folder)
    for listing, folders in (
        (Listing(SHARED, "f"), ("inside",)),
        (Listing(SHARED, "f", query=" "), ("inside",)),
        (Listing(SHARED, "f", content_type="audio"), ("inside",)),
        (Listing(SHARED, "f", sort=Sort.SIZE, descending=True), ("inside",)),
        (Listing(SHARED, "f", recursive=True), ()),
        (Listing(SHARED, "f", query="film"), ()),
        (Listing(SHARED, "f", query="-"), ()),
    ):
        assert (await storage.page(listing, cursor=None, limit=1)).folders == folders, listing


@pytest.mark.parametrize(("sort", "descending"), ORDERS)
async def test_pages_stay_consistent_when_files_come_and_go(
    storage: Storage, sort: Sort, descending: bool
) -> None:
    keys = [Key(SHARED, ("a", "a/b", "a-b", "a/c")[number % 4], f"film {number:02}") for number in range(24)]
    infos = {key: await put(storage, key, number % 5) for number, key in enumerate(keys)}
    listing = Listing(SHARED, "a", recursive=True, sort=sort, descending=descending)
    stay = {info.id for info in model.expected(infos.values(), listing)}
    seen: list[FileInfo] = []
    page = await storage.page(listing, cursor=None, limit=4)
    while True:
        seen += page.items
        if page.next_cursor is None:
            break
        last = page.items[-1]
        await storage.delete(last.key)  # the file that the cursor refers to
        stay.discard(last.id)
        for size in (0, 9):
            await put(storage, Key(SHARED, last.key.folder, f"film {len(seen)}-{size}"), size)
        page = await storage.page(listing, cursor=page.next_cursor, limit=4)
        assert len(seen) < 200
    ids = [info.id for info in seen]
    assert len(ids) == len(set(ids)), "no file may appear twice"
    assert stay <= set(ids), "every file that stayed must appear"
    assert seen == model.expected(seen, listing), "the pages must be in order"


@pytest.mark.parametrize("sort", [Sort.SIZE, Sort.UPDATED_AT])
async def test_pages_stay_consistent_when_file_moves_in_order(storage: Storage, sort: Sort) -> None:
    for number in range(12):
        await put(storage, Key(SHARED, "f", f"{number:02}"), number)
    listing = Listing(SHARED, "f", sort=sort)
    first = await storage.page(listing, cursor=None, limit=4)
    await put(storage, Key(SHARED, "f", "01"), 100)  # moves it from the first page to the last
    rest = await storage.page(listing, cursor=first.next_cursor, limit=100)
    assert [info.key.filename for info in rest.items] == [*(f"{number:02}" for number in range(4, 12)), "01"]


async def test_cursor_is_refused_in_other_folder_or_order(storage: Storage) -> None:
    for folder in ("", "a", "a/b"):
        await put_all(storage, ["1", "2", "3"], folder)
    listings = [
        Listing(SHARED, folder, sort=sort, descending=descending)
        for folder, sort, descending in product(("", "a"), Sort, (False, True))
    ]
    cursors = {one: (await storage.page(one, cursor=None, limit=1)).next_cursor for one in listings}
    for listing, other in product(listings, listings):
        if listing == other:
            assert (await storage.page(listing, cursor=cursors[other], limit=1)).items[0].key.filename == "2"
            continue
        with pytest.raises(InvalidCursor):
            await storage.page(listing, cursor=cursors[other], limit=1)
    beneath = Listing(SHARED, "a", recursive=True)
    with pytest.raises(InvalidCursor):
        await storage.page(beneath, cursor=cursors[Listing(SHARED, "")], limit=1)


async def test_folders_are_listed_in_byte_order(storage: Storage) -> None:
    paths = ["a", "a-b/c", "a/b", "a/b/c", "a0", "z/y/x", "é/f", "🎬/f", "f", "~/f"]
    for path in paths:
        await put(storage, Key.at(SHARED, f"top/{path}/film.mp4"))
    names = {path.partition("/")[0] for path in paths}
    assert await storage.folders(SHARED, "top", limit=100) == tuple(sorted(names, key=str.encode))
    assert await storage.folders(SHARED, "top/a", limit=100) == ("b",)
    assert await storage.folders(SHARED, "", limit=100) == ("top",)
    assert await storage.folders(SHARED, "to", limit=100) == ()
    assert await storage.folders("another", "top", limit=100) == ()
    assert await storage.folders(SHARED, "top", limit=2) == tuple(sorted(names, key=str.encode))[:2]


async def test_impossible_names_match_nothing(storage: Storage) -> None:
    await put(storage, Key(SHARED, "f", "a.mp4"))
    for kind in ("video\0", "video/\0", "\0"):
        assert await pages(storage, Listing(SHARED, "f", content_type=kind)) == []
    for query in ("\0", "a\0b"):
        assert await names(storage, query) == []
    with pytest.raises(NotFound):
        await storage.stat(FileId(SHARED, "a\0b"))

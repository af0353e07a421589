"""Pages on MongoDB examine no more than promised."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from pymongo.collection import Collection

from app.database.gridfs import list_index
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import RawDocument, parse_info
from app.database.gridfs.list_index import MongoListIndex
from app.database.paging import PAGE_LIMITS, PageLimits
from app.storage import cursors
from app.storage.types import SHARED, FileInfo, Key, Listing, Sort
from tests.support import model, mongo
from tests.unit.database.list_indexes import (
    FREQUENT_MATCHES,
    IN_INDEX_ORDER,
    NEVER_SORT,
    document,
    mongo_page,
    pages,
)

BY_PATH = "IXSCAN { library: 1, folder: 1, filename: 1 }"
ALONG_PATHS = "IXSCAN { library: 1, ignored: 1, folder: 1, filename: 1 }"


@contextmanager
def empty() -> Iterator[Collection[RawDocument]]:
    database = MongoDatabase(str(mongo.gridfs()["mongodb_url"]))
    database.ensure_indexes()
    yield database.media
    database.client.drop_database(database.name)
    database.close()


def everything_in(media: Collection[RawDocument]) -> list[FileInfo]:
    return [parse_info(one) for one in media.find()]


@pytest.fixture(scope="module")
def media() -> Iterator[Collection[RawDocument]]:
    """Store the model's files, and the same files in another library."""
    with empty() as media:
        media.insert_many(
            document(Key(library, key.folder, key.filename), number, size, content_type)
            for number, (key, size, content_type) in enumerate(model.FILES)
            for library in (SHARED, "another")
        )
        yield media


@pytest.fixture
def empty_media() -> Iterator[Collection[RawDocument]]:
    with empty() as media:
        yield media


def all_pages(
    media: Collection[RawDocument], listing: Listing, limit: int, limits: PageLimits = PAGE_LIMITS
) -> Iterator[list[FileInfo]]:
    def get_page(listing: Listing, cursor: str | None, limit: int) -> tuple[list[FileInfo], str | None]:
        return mongo_page(media, listing, cursor=cursor, limit=limit, limits=limits)

    return pages(get_page, listing, limit)


def listed(
    media: Collection[RawDocument], listing: Listing, limits: PageLimits = PAGE_LIMITS
) -> list[FileInfo]:
    return [one for page in all_pages(media, listing, 1000, limits) for one in page]


@contextmanager
def profiled(media: Collection[RawDocument]) -> Iterator[list[RawDocument]]:
    """Yield a list that receives, at the end, one profile document per command sent inside."""
    database = media.database
    commands: list[RawDocument] = []
    database.command("profile", 2)
    try:
        yield commands
    finally:
        database.command("profile", 0)
        commands += database["system.profile"].find({"ns": media.full_name}).sort("$natural", 1)
        database["system.profile"].drop()


def total(commands: list[RawDocument], field: str) -> int:
    return sum(command[field] for command in commands)


def assert_short(commands: list[RawDocument]) -> None:
    assert commands
    for command in commands:
        assert "COLLSCAN" not in command["planSummary"], command
        assert "hasSortStage" not in command, command


SPECIAL_CHARACTERS = ["a.b", "a|b", "(", "[x]", "$", "^", "a+", "a*", "{1}", "? !", "~#&-", "\u2028", ".b"]


@pytest.mark.parametrize(
    "limits", [PageLimits(sort_at_most=(0,)), PageLimits(sort_at_most=(100, 1_000, 10_000))]
)
def test_special_characters_are_literal(empty_media: Collection[RawDocument], limits: PageLimits) -> None:
    folders = [
        *SPECIAL_CHARACTERS,
        *(f"{character}/b" for character in SPECIAL_CHARACTERS),
        "",
        "a",
        "b",
        "axb",
        "axb/c",
        "x/b",
        "aa/b",
        "1/b",
    ]
    types = ["image/svg+xml", "image/svgg+xml", "image/svgxml", "image/x.y", "image/xzy", "i/a|b", "i/a"]
    empty_media.insert_many(
        document(Key(SHARED, folder, "film"), number, number % 3, types[number % len(types)])
        for number, folder in enumerate(folders)
    )
    infos = everything_in(empty_media)
    for sort, folder in product(Sort, SPECIAL_CHARACTERS):
        listing = Listing(SHARED, folder, recursive=True, sort=sort)
        assert len(wanted := model.expected(infos, listing)) > 1
        assert listed(empty_media, listing, limits) == wanted, listing
    for sort, kind in product(Sort, types):
        listing = Listing(SHARED, recursive=True, content_type=kind, sort=sort)
        assert listed(empty_media, listing, limits) == model.expected(infos, listing), listing


@pytest.mark.parametrize("listing", IN_INDEX_ORDER)
def test_page_examines_at_most_one_extra_file(media: Collection[RawDocument], listing: Listing) -> None:
    ascending_paths = listing.sort is Sort.NAME and not listing.descending
    most = 2 if ascending_paths or not listing.recursive else 3
    cursor: str | None = None
    for _ in range(1000):
        with profiled(media) as commands:
            _, cursor = mongo_page(media, listing, cursor=cursor, limit=5)
        assert_short(commands)
        assert len(commands) <= most
        assert total(commands, "docsExamined") <= 6
        assert total(commands, "keysExamined") <= 6 + len(commands)  # one key may mark the end of a range
        if cursor is None:
            return
    raise AssertionError("the cursors never end")


@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("listing", FREQUENT_MATCHES)
def test_frequent_matches_are_read_in_index_order(
    media: Collection[RawDocument], listing: Listing, sort: Sort
) -> None:
    listing = replace(listing, sort=sort)
    with profiled(media) as commands:
        mongo_page(media, listing, limit=2, limits=NEVER_SORT)
    assert_short(commands)
    order = {
        Sort.NAME: "folder: 1, filename: 1",
        **{
            one: f"{one.value}: 1, folder: 1, filename: 1"
            if listing.recursive
            else f"folder: 1, {one.value}: 1, filename: 1"
            for one in (Sort.SIZE, Sort.CREATED_AT, Sort.UPDATED_AT)
        },
    }[sort]
    assert commands[-1]["planSummary"] == f"IXSCAN {{ library: 1, ignored: 1, {order} }}"


@pytest.mark.parametrize(
    ("listing", "index"),
    [
        (Listing(SHARED, "", True, query="strasse", sort=Sort.SIZE), "IXSCAN { library: 1, words: 1 }"),
        (Listing(SHARED, "", False, query="strasse"), BY_PATH),
        (Listing(SHARED, "", True, content_type="audio"), "IXSCAN { library: 1, content_type: 1 }"),
        (Listing(SHARED, "a/b/c", True, sort=Sort.SIZE), BY_PATH),
        (Listing(SHARED, "a/b/c", False, query="e"), BY_PATH),
    ],
)
def test_rare_matches_are_found_by_their_own_index(
    media: Collection[RawDocument], listing: Listing, index: str
) -> None:
    with profiled(media) as commands:
        found, cursor = mongo_page(media, listing, limit=2)
    assert commands[-1]["planSummary"] == index
    with profiled(media) as more:
        mongo_page(media, listing, cursor=cursor, limit=2)
    few = min(media.count_documents(one) for one in conditions(media, listing))
    for page in (commands, more):
        assert page[-1]["docsExamined"] <= few, page
    assert found


def conditions(media: Collection[RawDocument], listing: Listing) -> list[RawDocument]:
    return [one.where for one in MongoListIndex(media, listing).candidates()]


def test_counting_examines_only_keys_up_to_limit(media: Collection[RawDocument]) -> None:
    listing = Listing(SHARED, "a", True, query="the", content_type="video/mp4", sort=Sort.SIZE)
    with profiled(media) as commands:
        mongo_page(media, listing, limit=2, limits=PageLimits(sort_at_most=(3,)))
    *counts, _strides, _ = commands
    assert len(counts) == 3
    for count in counts:
        assert count["docsExamined"] == 0
        assert count["keysExamined"] <= 4, count["planSummary"]


@pytest.mark.parametrize("folder", ["a|b", "a", "a.b"])
def test_counting_a_folder_examines_no_other_folder(
    empty_media: Collection[RawDocument], folder: str
) -> None:
    beside = [f"{folder}{character}x" for character in ("-", ".", "0", "a", " |")]
    folders = [folder, f"{folder}/b", *beside * 50]
    empty_media.insert_many(document(Key(SHARED, one, f"{n}"), n) for n, one in enumerate(folders))
    with profiled(empty_media) as commands:
        mongo_page(empty_media, Listing(SHARED, folder, True, sort=Sort.SIZE), limit=5)
    assert len(commands) == 2
    for command in commands:
        assert command["keysExamined"] <= 4, command


def test_search_examines_bounded_number_of_files_per_page(media: Collection[RawDocument]) -> None:
    limits = replace(NEVER_SORT, strides=(3, 4))
    everything = model.expected(everything_in(media), Listing(SHARED, "", True))
    listing = Listing(SHARED, "", True, query="the strasse")
    cursor = None
    for number in range(7, len(everything), 7):
        with profiled(media) as commands:
            found, cursor = mongo_page(media, listing, cursor=cursor, limit=2, limits=limits)
        assert found == []
        assert cursor is not None
        assert cursors.decode(listing, cursor).filename == everything[number - 1].key.filename
        assert_short(commands)
        assert total(commands, "docsExamined") <= 7
    assert mongo_page(media, listing, cursor=cursor, limit=2, limits=limits) == ([], None)


def test_frequent_words_that_rarely_meet_are_not_searched_in_index_order(
    media: Collection[RawDocument],
) -> None:
    limits = PageLimits(sort_at_most=(2,), with_all_tokens=3)
    with profiled(media) as commands:
        mongo_page(media, Listing(SHARED, "", True, query="the strasse"), limit=2, limits=limits)
    assert commands[-1]["planSummary"] in ("EOF", "IXSCAN { _id: 1 }")
    assert commands[-2]["keysExamined"] <= media.count_documents({"library": SHARED, "words": "strasse"}) + 2
    with profiled(media) as commands:
        mongo_page(media, Listing(SHARED, "", True, query="the end"), limit=2, limits=limits)
    assert commands[-1]["planSummary"] == ALONG_PATHS, "both words together are frequent"


@pytest.mark.parametrize(("sort", "descending"), list(product(Sort, (False, True))))
@pytest.mark.parametrize(
    "limits", [PageLimits(sort_at_most=(0,)), PageLimits(sort_at_most=(100, 1_000, 10_000))]
)
@pytest.mark.parametrize("query", ["", "film"])
def test_staying_files_are_listed_once_when_others_change(
    empty_media: Collection[RawDocument],
    sort: Sort,
    descending: bool,
    limits: PageLimits,
    query: str,
) -> None:
    folders = ("a", "a/b", "a-b", "a/c")
    empty_media.insert_many(
        document(Key(SHARED, folders[n % 4], f"film {n:02}"), n, n % 5) for n in range(40)
    )
    listing = Listing(SHARED, "a", True, query, sort=sort, descending=descending)
    staying = {info.id: info for info in model.expected(everything_in(empty_media), listing)}
    listed_ids: list[str] = []
    for number, page in enumerate(all_pages(empty_media, listing, 4, limits)):
        listed_ids += [one.id for one in page]
        last = page[-1]
        other = model.expected(staying.values(), listing)[len(staying) // 2]
        for changed_id in (last.id, other.id):
            staying.pop(changed_id, None)
        empty_media.delete_one({"_id": last.id})  # the file that the cursor refers to
        empty_media.update_one({"_id": other.id}, {"$set": {"size": 9 - number, "folder": "a/b/d"}})
        for size in (0, 9):
            key = Key(SHARED, last.key.folder, f"film {number}-{size}")
            empty_media.insert_one(document(key, 1000 - 10 * number + size, size))
    assert len(staying) > 5
    assert sorted(one for one in listed_ids if one in staying) == sorted(staying)


# Folders and libraries


@pytest.mark.parametrize("max_jumps", [0, 1, 3, 100])
def test_folders_are_listed_in_byte_order(empty_media: Collection[RawDocument], max_jumps: int) -> None:
    inside = ["a", "a-b/c", "a/b", "a/b/c", "a0", "z/y/x", "é/f", "\uffee/f", "🎬/f", "f", "~/f", "z-/y"]
    others = ["", "to", "to/p", "top-2/a", "top0/b", "topp/c"]
    folders = [*others, "top", *(f"top/{one}" for one in inside)]
    empty_media.insert_many(document(Key(SHARED, one, f"{n}"), n) for n, one in enumerate(folders * 2))
    names = sorted({one.partition("/")[0] for one in inside}, key=str.encode)
    found = partial(list_index.folders, empty_media, max_jumps=max_jumps)
    for limit in (1, 3, 1000):
        assert found(SHARED, "top", limit=limit) == tuple(names[:limit])
    assert found(SHARED, "top/a", limit=9) == ("b",)
    assert found(SHARED, "", limit=9) == (
        "to",
        "top",
        "top-2",
        "top0",
        "topp",
    )
    assert found(SHARED, "t", limit=9) == ()
    assert found("another", "top", limit=9) == ()


def test_cost_of_folders_depends_on_folders_not_files(empty_media: Collection[RawDocument]) -> None:
    folders = [f"f/{number:03}" for number in range(300) for _ in range(10)] + ["f"] * 2000
    empty_media.insert_many(document(Key(SHARED, one, f"{n}"), n) for n, one in enumerate(folders))
    with profiled(empty_media) as commands:
        assert len(list_index.folders(empty_media, SHARED, "f", limit=1000)) == 300
    assert len(commands) <= 103, "folders must be queried in batches"
    assert total(commands, "keysExamined") <= 302
    assert total(commands, "docsExamined") == 0


@pytest.mark.parametrize("max_checks", [0, 100])
def test_folders_with_only_ignored_files_are_hidden(
    empty_media: Collection[RawDocument], max_checks: int
) -> None:
    ignored = ["f/mixed", "f/only", "f/only-2/deep", "f/deep/er", "@eaDir"]
    shown = ["f/mixed", "f/only-", "f/only0", "f/deep/er/still", "f"]
    empty_media.insert_many(
        {**document(Key(SHARED, folder, f"{n}"), n), **({"ignored": True} if n < len(ignored) else {})}
        for n, folder in enumerate([*ignored, *shown])
    )
    found = partial(list_index.folders, empty_media, max_checks=max_checks)
    with profiled(empty_media) as commands:
        assert found(SHARED, "f", limit=9) == (
            "deep",
            "mixed",
            "only-",
            "only0",
        )
    assert total(commands, "docsExamined") == 0
    assert found(SHARED, "", limit=9) == ("f",)
    assert found(SHARED, "f/deep", limit=9) == ("er",)
    assert found(SHARED, "f/only-2", limit=9) == ()


def test_folders_skips_contents_of_subfolders(empty_media: Collection[RawDocument]) -> None:
    folders = [f"{number % 3}/{number:04}" for number in range(1500)]
    empty_media.insert_many(document(Key(SHARED, one, "film"), n) for n, one in enumerate(folders))
    with profiled(empty_media) as commands:
        assert list_index.folders(empty_media, SHARED, "", limit=1000) == ("0", "1", "2")
    assert total(commands, "keysExamined") <= 4


def test_number_of_folder_names_in_memory_is_bounded(empty_media: Collection[RawDocument]) -> None:
    empty_media.insert_many(document(Key(SHARED, f"{number:03}", "film"), number) for number in range(200))
    assert list_index.folders(empty_media, SHARED, "", limit=1000, max_names=150) == tuple(
        f"{number:03}" for number in range(150)
    )


def test_libraries_are_listed_in_byte_order_from_index(
    empty_media: Collection[RawDocument],
) -> None:
    assert list_index.libraries(empty_media) == ()
    names = [SHARED, "b", "\uffee", "🎬", "é", "a b", "A"]
    empty_media.insert_many(document(Key(name, "f", f"{n}"), n) for name in names for n in range(100))
    with profiled(empty_media) as commands:
        assert list_index.libraries(empty_media) == tuple(sorted(names, key=str.encode))
    [command] = commands
    assert command["planSummary"].startswith("DISTINCT_SCAN")
    assert command["keysExamined"] <= len(names) + 1

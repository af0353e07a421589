"""A reference model of listings in plain Python: read every file, sort, and cut into pages."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product

from app.storage.search_tokens import tokenize
from app.storage.types import SHARED, FileInfo, Key, Listing, Sort

words = cache(tokenize)

FOLDERS = ["", "a", "a-b", "a/b", "a/b/c", "a0", "A", "é", "a\uffee", "a\U00010000"]
NAMES = [
    "The End (2001).mp4",
    "the_end.mkv",
    "ENDE.mp4",
    "10% of 1_0.txt",
    "Straße.mp4",
    "STRASSE 2.flac",
    "éclair",
    "🎬 film.svg",
    "-",
    "\uffee",
    "\U00010000",
]
TYPES = ["video/mp4", "video/mp4; codecs=x", "video/mp4 ;a=b", "video/mp42", "image/svg+xml", "audio/flac"]
QUERIES = [
    *("", "  ", "-", "%", "the", "THE e", "end the", "en ende", "th 2001", "200", "strasse", "Straß"),
    *("e\u0301", "🎬", "\U00010000", "\U0010ffff", "1", "0", "of 10", "the nothing", "_", "a%", "t_e"),
]
KINDS = ["", "video", "video/mp4", "image/svg", "image/svg+xml", "audio", "text", "vide"]

# Few distinct sizes, so that many files are equal in the sort order.
FILES = [
    (Key(SHARED, folder, name), number % 3, TYPES[number % len(TYPES)])
    for number, (folder, name) in enumerate(product(FOLDERS, NAMES))
    if number % 5
]

LISTINGS = [
    Listing(SHARED, folder, recursive, query, kind, sort, descending)
    for folder, recursive, query, kind, sort, descending in product(
        ["", "a", "a/b", "a-b", "A", "nowhere"], (False, True), QUERIES, KINDS, Sort, (False, True)
    )
]


def expected(infos: Iterable[FileInfo], listing: Listing) -> list[FileInfo]:
    """Return the files of a listing, in its order."""
    found = [info for info in infos if info.key.library == listing.library and _is_in_listing(info, listing)]
    return sorted(found, key=lambda info: _sort_key(info, listing), reverse=listing.descending)


def _sort_key(info: FileInfo, listing: Listing) -> tuple[object, bytes, bytes]:
    value = None if listing.sort is Sort.NAME else getattr(info, listing.sort.value)
    return (0 if value is None else value), info.key.folder.encode(), info.key.filename.encode()


def _is_in_listing(info: FileInfo, listing: Listing) -> bool:
    folder = info.key.folder.split("/") if info.key.folder else []
    base = listing.folder.split("/") if listing.folder else []
    if folder[: len(base)] != base or (len(folder) > len(base) and not listing.recursive):
        return False
    stored = info.content_type.partition(";")[0].strip()
    if listing.content_type and listing.content_type not in (stored, stored.partition("/")[0]):
        return False
    wanted = words(listing.query)
    if listing.query.strip() and not wanted:
        return False
    return all(any(word.startswith(one) for word in words(info.key.filename)) for one in wanted)


def sample(listings: Sequence[Listing], number: int) -> Iterator[tuple[Listing, int]]:
    """Yield `number` listings, evenly spread, each with a page size."""
    step = len(listings) // number
    step += 1 - step % 2  # odd, because an even step would always select the same order
    for turn, listing in enumerate(listings[::step]):
        yield listing, (1, 2, 3, 7, 50, 1000)[turn % 6]

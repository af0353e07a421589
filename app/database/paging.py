"""The paging algorithm of lists, over the indexes that a database has.

If an index has the files of a listing in its order, a page is a range of that index, however many files there
are. Otherwise there are two ways. If few files can match, they are sorted. If many can, an index with the
order is searched: it soon yields a page, or else the page ends early, and the next continues from there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from app.storage import cursors
from app.storage.cursors import Position
from app.storage.types import Listing, Sort, is_storable

MAX_FOLDER_NAMES = 200_000
"""Maximum number of folder names in memory at once."""

R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
C = TypeVar("C")
Range = TypeVar("Range", bound="IndexRange[Any]")


@dataclass(frozen=True, slots=True)
class PageLimits:
    """Bounds of the work for one page, in numbers of files."""

    sort_at_most: Sequence[int] = (100, 1_000, 5_000)
    """Maximum number of files that are sorted. The smaller limits are tried first, to find the condition
    that selects the fewest files. If 5,000 of a million files match, 6,000 in index order contain the 30 of a
    page, so more need not be sorted."""

    strides: Sequence[int] = (1_000, 5_000)
    """Files to examine in index order. The first stride is enough where matches are frequent; if the page is
    not full, the next follows. After the last, the page ends."""

    with_token: int = 20_000
    """Maximum number of files with one search token that are examined for the other tokens."""

    with_all_tokens: int = 1_000
    """Maximum number of files with all tokens whose ids are collected."""


PAGE_LIMITS = PageLimits()


class IndexRange(Protocol[R_co]):
    """A range of an index, in the order of a listing. Its rows are those that the listing selects."""

    def after(self, position: Position | None) -> Self:
        """Return the part after a position."""

    def through(self, position: Position | None) -> Self:
        """Return the part up to a position, and including it."""

    def position_at(self, number: int) -> Position | None:
        """Return the position of the entry with this number, from 1; None if there are fewer. Reads only the
        index, and also counts entries that the listing does not select."""

    def rows(self, limit: int) -> Sequence[R_co]:
        """Return the first rows."""


class ListIndex(Protocol[R, C]):
    """The queries for one listing, each answered by one index. C is a condition that selects a
    superset of the listing's files."""

    listing: Listing
    tokens: Sequence[str]
    """The search tokens of the listing's query."""

    def candidates(self) -> Iterator[C]:
        """Yield each condition that an index can answer."""

    def with_token(self, token: str) -> C:
        """Return the condition that a word of the filename begins with this token."""

    def has_more_than(self, number: int, candidates: C) -> bool:
        """Return whether the condition selects more files. Examines `number` + 1 entries of an index."""

    def with_all_tokens(self, first: str, *, limit: int) -> C | None:
        """Return a condition for the files with all tokens, found among those with the `first`; None if there
        are more than the limit."""

    def sorted_rows(self, candidates: C, after: Position | None, limit: int) -> Sequence[R]:
        """Return the first rows of the listing after the position, by sorting the candidates."""

    def library_range(self) -> IndexRange[R]:
        """Return all files of the library."""

    def folder_range(self) -> IndexRange[R]:
        """Return the files directly in the folder."""

    def subfolders_range(self) -> IndexRange[R]:
        """Return the files of all subfolders, at any depth. For listings by name only."""

    def position(self, row: R) -> Position:
        """Return the position of a row in the listing."""


def page(
    index: ListIndex[R, C], *, cursor: str | None, limit: int, limits: PageLimits = PAGE_LIMITS
) -> tuple[Sequence[R], str | None]:
    """Return the rows of the next files of the listing, and the cursor of the page after them."""
    listing = index.listing
    position = None if cursor is None else cursors.decode(listing, cursor)
    if (listing.query.strip() and not index.tokens) or not is_storable(listing.content_type):
        return [], None
    strides: Sequence[int] = ()
    if not _is_index_range(index):
        candidates = _few_candidates(index, limits)
        if candidates is not None:
            return _cut(index, index.sorted_rows(candidates, position, limit + 1), limit)
        strides = limits.strides
    return _page_of_ranges(index, _index_ranges(index, position), strides, limit)


def page_of_folder(
    listing: Listing,
    folder_range: Callable[[], Range],
    write: Callable[[Range, int], tuple[T, Position | None] | None],
    *,
    cursor: str | None,
    limit: int,
) -> tuple[T, str | None] | None:
    """Return what `write` returns for the next files of the listing, with the cursor of the page after them.

    `write` gets a range and the limit, and also returns the position of the last file if more follow. Returns
    None if it does, and if the files are not in one folder and one range of an index.
    """
    if listing.recursive or listing.query.strip() or listing.content_type:
        return None
    position = None if cursor is None else cursors.decode(listing, cursor)
    written = write(folder_range().after(position), limit)
    if written is None:
        return None
    text, last = written
    return text, None if last is None else cursors.encode(listing, last)


def _page_of_ranges(
    index: ListIndex[R, C], ranges: Iterable[IndexRange[R]], strides: Sequence[int], limit: int
) -> tuple[Sequence[R], str | None]:
    rows: list[R] = []
    for one in ranges:
        end = None
        for part, part_end in _parts(one, strides):
            end = part_end
            rows += part.rows(limit + 1 - len(rows))
            if len(rows) > limit:
                return _cut(index, rows, limit)
        if end is not None:  # after the last stride
            return rows, cursors.encode(index.listing, end)
    return rows, None


def _cut(index: ListIndex[R, C], rows: Sequence[R], limit: int) -> tuple[Sequence[R], str | None]:
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], cursors.encode(index.listing, index.position(rows[limit - 1]))


def is_scattered(listing: Listing) -> bool:
    """Return whether the files are in one folder tree, but the index with their order spans the library."""
    return listing.recursive and bool(listing.folder) and listing.sort is not Sort.NAME


def _is_index_range(index: ListIndex[R, C]) -> bool:
    """Return whether the files of the listing are contiguous in an index that has their order."""
    return not (index.tokens or index.listing.content_type or is_scattered(index.listing))


def _few_candidates(index: ListIndex[R, C], limits: PageLimits) -> C | None:
    """Return a condition that selects few files; None if every condition selects many."""
    for number in limits.sort_at_most:
        for candidates in index.candidates():
            if not index.has_more_than(number, candidates):
                return candidates
    return _few_with_all_tokens(index, limits)


def _few_with_all_tokens(index: ListIndex[R, C], limits: PageLimits) -> C | None:
    """Handle tokens that are each frequent, but rarely in the same name: index order would have hardly any
    match in a stride."""
    if len(index.tokens) > 1:
        for first in sorted(index.tokens, key=len, reverse=True):  # the longest is likely to be the rarest
            if not index.has_more_than(limits.with_token, index.with_token(first)):
                return index.with_all_tokens(first, limit=limits.with_all_tokens)
    return None


def order_of(listing: Listing, *before: str) -> tuple[str, ...]:
    """Return the fields by which files of one library are sorted; `before` are those before the filename."""
    by = () if listing.sort is Sort.NAME else (listing.sort.value,)
    return *by, *before, "filename"


def _index_ranges(index: ListIndex[R, C], position: Position | None) -> Sequence[IndexRange[R]]:
    """Return the ranges that have the files of the listing after the position, in its order."""
    listing = index.listing
    if not listing.recursive:
        return [index.folder_range().after(position)]
    if not listing.folder or listing.sort is not Sort.NAME:
        return [index.library_range().after(position)]
    # Two ranges: other folders sort between a folder and those inside it, such as `a-b` between `a` and
    # `a/b`.
    ranges = [index.folder_range(), index.subfolders_range()]
    if listing.descending:
        ranges.reverse()
    if position is not None and (position.folder == listing.folder) is not listing.descending:
        return [ranges[0].after(position), ranges[1]]
    return ranges if position is None else [ranges[1].after(position)]


def _parts(whole: Range, strides: Sequence[int]) -> Iterator[tuple[Range, Position | None]]:
    """Yield a part of the range for each stride, with the position of its end: None if that is the end of the
    range. Yields the whole range if there are no strides."""
    for stride in strides:
        end = whole.position_at(stride)
        yield whole.through(end), end
        if end is None:
            return
        whole = whole.after(end)
    if not strides:
        yield whole, None


def distinct_names(names: Iterable[str], *, limit: int = MAX_FOLDER_NAMES) -> set[str]:
    """Return the different names, up to a limit."""
    found: set[str] = set()
    for name in names:
        found.add(name)
        if len(found) == limit:
            break
    return found


def in_byte_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=str.encode))

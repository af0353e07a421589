"""What pages of lists have in common, whatever the database: the order, and going along it in parts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

from app.storage.cursors import Position
from app.storage.types import Listing, Sort

FEW = 5_000
"""Maximum number of files that are sorted for a page. A page of more is found along the order. (Of a million
files, the 30 of a page that are among 5,000 are found within 6,000 along the order.)"""

HOW_FEW = (100, 1_000)
"""Smaller limits that are tried first, to select the condition that the fewest files meet."""

STRIDES = (1_000, 5_000)
"""Numbers of files to examine along the order for a page of a search: the first is enough where matches are
frequent; if the page is not full, the second follows. The page has the files found by then."""

RARELY_TOGETHER = 1_000
"""Maximum number of ids that are collected of files that have all of several common words."""

MAX_TOGETHER = 20_000
"""Maximum number of files with one word that are examined for the other words."""

MAX_LOOKED_AT = 200_000
"""Maximum number of folder names in memory at once; some occur twice."""


class Stretch(Protocol):
    """Files in the order of an index, all of them or those between two places."""

    def behind(self, position: Position | None) -> Self:
        """Only what comes after this position."""

    def until(self, position: Position | None) -> Self:
        """Only up to this position and with it."""


S = TypeVar("S", bound=Stretch)


def order_of(listing: Listing, *before: str) -> tuple[str, ...]:
    """By what the listing is sorted, where the library is the same, and the folder unless it comes before
    the name."""
    by = () if listing.sort is Sort.NAME else (listing.sort.value,)
    return *by, *before, "filename"


def remaining(listing: Listing, here: S, inside: S, position: Position | None) -> list[S]:
    """What is left behind the position of a folder's own files and of those in folders inside it."""
    stretches = [inside, here] if listing.descending else [here, inside]
    if position is None:
        return stretches
    if (position.folder == listing.folder) is listing.descending:
        stretches = stretches[1:]
    return [stretches[0].behind(position), *stretches[1:]]


def parts(
    stretch: S, strides: Sequence[int], place_of: Callable[[S, int], Position | None]
) -> Iterator[tuple[S, Position | None]]:
    """The stretch in parts of so many files, each with the place where it ends; all of it without strides.
    `place_of` says where the file of a number is."""
    for stride in strides:
        end = place_of(stretch, stride)
        yield stretch.until(end), end
        if end is None:
            return
        stretch = stretch.behind(end)
    if not strides:
        yield stretch, None

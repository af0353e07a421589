"""Which files a request is about."""

from typing import Annotated, Literal

from fastapi import Depends, Query

from app.library.mediatypes import canonical
from app.resources.deps import Flag, LibraryDep
from app.storage.types import Listing, Sort, clean_folder

Order = Annotated[
    Literal["name", "-name", "size", "-size", "created_at", "-created_at", "updated_at", "-updated_at"],
    Query(description="With `-` from the greatest to the least."),
]

# RFC 6838 4.2, with `video` and `video/*` for all of a kind.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TYPE = rf"^({_NAME}(/(\*|{_NAME}))?)?$"

Words = Annotated[
    str, Query(max_length=255, description="Words, each the beginning of a word in the filename.")
]


def ordered(sort: str) -> tuple[Sort, bool]:
    """What an Order says: by what, and whether from the greatest to the least."""
    return Sort(sort.removeprefix("-")), sort.startswith("-")


async def listing(
    library: LibraryDep,
    folder: Annotated[str, Query(description="The top if absent.")] = "",
    recursive: Annotated[Flag, Query(description="Also all that is in the folders inside.")] = False,
    q: Words = "",
    type: Annotated[
        str, Query(pattern=_TYPE, description="Media type: `video/mp4`, or `video` for all videos.")
    ] = "",
    sort: Order = "name",
) -> Listing:
    """The files that the query of the URL asks for."""
    kind = canonical(type.removesuffix("/*"))
    by, descending = ordered(sort)
    return Listing(library, clean_folder(folder), recursive, q, kind, by, descending)


ListingDep = Annotated[Listing, Depends(listing)]

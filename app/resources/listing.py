"""Which files a request is about."""

from typing import Annotated

from fastapi import Depends, Query

from app.resources.deps import LibraryDep
from app.storage.types import Listing, Sort, clean_folder

Order = Annotated[
    str,
    Query(
        pattern=f"^-?({'|'.join(sort.value for sort in Sort)})$",
        description="`name`, `size`, `created_at` or `updated_at`; from the other end with a `-` before it.",
    ),
]
"""What to sort by."""


def ordered(sort: str) -> tuple[Sort, bool]:
    """What an Order says: by what, and whether from the other end."""
    return Sort(sort.removeprefix("-")), sort.startswith("-")


async def listing(
    library: LibraryDep,
    folder: Annotated[str, Query(description="The top if absent.")] = "",
    recursive: Annotated[bool, Query(description="Also what is in the folders inside it.")] = False,
    q: Annotated[str, Query(description="Only names with words that begin so.")] = "",
    type: Annotated[str, Query(description="Only this media type: `video/mp4`, or `video`.")] = "",
    sort: Order = "name",
) -> Listing:
    """The files that the query of the URL asks for."""
    by, descending = ordered(sort)
    return Listing(library, clean_folder(folder), recursive, q, type, by, descending)


ListingDep = Annotated[Listing, Depends(listing)]

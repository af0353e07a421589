"""A folder as a page of links, in the format of nginx's autoindex, which Kodi, rclone and `wget -r` read."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from html import escape
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from app.resources.dependencies import LibraryDep, Services, ServicesDep
from app.resources.errors import TooManyFolders
from app.resources.listing import PAGE_SIZE, listing_response
from app.storage.contract import all_pages
from app.storage.errors import NotFound
from app.storage.types import MAX_FOLDERS, FileInfo, Listing, Page, normalize_folder, quoted

_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "private, no-cache",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

_NAME_WIDTH = 50
"""Characters of the column of names, padded with spaces."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

router = APIRouter(include_in_schema=False)


@router.head("/files/")
@router.get("/files/")
async def index_of_all(request: Request, services: ServicesDep, library: LibraryDep) -> Response:
    """The top folder."""
    return await _index(request, services, Listing(library))


@router.head("/files/{folder:folder}/")
@router.get("/files/{folder:folder}/")
async def index_of_folder(
    request: Request, services: ServicesDep, library: LibraryDep, folder: str
) -> Response:
    """A folder, with all of its files and folders."""
    return await _index(request, services, Listing(library, normalize_folder(folder)))


async def _index(request: Request, services: Services, listing: Listing) -> Response:
    first = await services.storage.page(listing, cursor=None, limit=PAGE_SIZE)
    if listing.folder and not first.folders and not first.items:
        raise NotFound(f"There is no folder {quoted(listing.folder)}.")
    folders = first.folders
    if len(folders) >= MAX_FOLDERS:
        folders = await services.storage.folders(
            listing.library, listing.folder, limit=services.max_index_folders
        )
    if len(folders) >= services.max_index_folders:
        # A truncated page would look complete to a client that copies the library by its links.
        raise TooManyFolders(
            f"The folder has {services.max_index_folders:,} folders inside, or more: too many for one page. "
            "Use GET /files instead."
        )
    pages = all_pages(services.storage, listing, limit=PAGE_SIZE, first=first)
    return await listing_response(request, first, _page(listing.folder, folders, pages), _HEADERS)


async def _page(folder: str, folders: Sequence[str], pages: AsyncIterator[Page]) -> AsyncIterator[str]:
    title = escape(f"/{folder}")
    up = f"{_link('..', '/')}\n" if folder else ""
    yield (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<h1>{title}</h1>\n<pre>\n{up}"
    )
    for start in range(0, len(folders), PAGE_SIZE):
        yield "".join(f"{_link(name, '/')}\n" for name in folders[start : start + PAGE_SIZE])
    async for page in pages:
        yield "".join(map(_line, page.items))
    yield "</pre>\n</html>\n"


def _line(info: FileInfo) -> str:
    """Return the line of a file: its link, its date in UTC and its size in bytes.

    Kodi's parser (HTTPDirectory.cpp) reads `DD-Mon-YYYY HH:MM` behind the link as the date, in any locale,
    and digits between spaces and the end of the line as the size.
    """
    name, at = info.key.filename, info.updated_at.astimezone(UTC)
    date = f"{at.day:02}-{_MONTHS[at.month - 1]}-{at.year:04} {at.hour:02}:{at.minute:02}"
    return f"{_link(name)}{' ' * (_NAME_WIDTH - len(name))} {date} {info.size:>19}\n"


def _link(name: str, end: str = "") -> str:
    # Escape everything but letters, digits and `-._~`: a colon would end a scheme.
    return f'<a href="{quote(name, safe="")}{end}">{escape(name)}{end}</a>'

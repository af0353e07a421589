"""A folder as a page of links, in the format of nginx's autoindex: Kodi, rclone and `wget -r` read it."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from html import escape
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from app.resources.dependencies import LibraryDep, Services, ServicesDep
from app.resources.streaming_pages import PAGE_SIZE, pages_from, pages_response
from app.storage.errors import NotFound
from app.storage.types import MAX_ALL_FOLDERS, MAX_FOLDERS, FileInfo, Listing, Page, normalize_folder

_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "private, no-cache",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


_NAME_WIDTH = 50
"""Characters that a name has, filled up with spaces, so that dates and sizes stand below one another."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class TooManyFolders(Exception):
    """There may be more folders inside than the storage names."""


class _Folder(Convertor[str]):
    """A folder, which may hold anything, but is not empty: `//` is no way to write the top."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("folder", _Folder())

router = APIRouter(include_in_schema=False)


@router.head("/files/")
@router.get("/files/")
async def index_of_all(request: Request, services: ServicesDep, library: LibraryDep) -> Response:
    """The top folder as a web page."""
    return await _index(request, services, Listing(library))


@router.head("/files/{folder:folder}/")
@router.get("/files/{folder:folder}/")
async def index_of_folder(
    request: Request, services: ServicesDep, library: LibraryDep, folder: str
) -> Response:
    """A folder as a web page: all that is in it, which `rclone` and `wget -r` can copy."""
    return await _index(request, services, Listing(library, normalize_folder(folder)))


async def _index(request: Request, services: Services, listing: Listing) -> Response:
    first = await services.storage.page(listing, cursor=None, limit=PAGE_SIZE)
    if listing.folder and not first.folders and not first.items:
        raise NotFound("There is no such folder.")
    folders = first.folders
    if len(folders) >= MAX_FOLDERS:
        folders = await services.storage.folders(listing.library, listing.folder)
    if len(folders) >= MAX_ALL_FOLDERS:
        # Who copies a library by its links would take one that is cut short for all of it.
        raise TooManyFolders(f"There are {MAX_ALL_FOLDERS:,} folders inside, or more: too many for one page.")
    pages = pages_from(first, services.storage, listing)
    return await pages_response(request, first, _page(listing.folder, folders, pages), _HEADERS)


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
    """Return a file's link, its date in UTC and its size in bytes, each where Kodi's parser looks for it.

    That parser (HTTPDirectory.cpp) takes `DD-Mon-YYYY HH:MM` behind the link for the date, whatever the
    locale, and digits between spaces and the end of the line for the size.
    """
    name, at = info.key.filename, info.updated_at.astimezone(UTC)
    date = f"{at.day:02}-{_MONTHS[at.month - 1]}-{at.year:04} {at.hour:02}:{at.minute:02}"
    return f"{_link(name)}{' ' * (_NAME_WIDTH - len(name))} {date} {info.size:>19}\n"


def _link(name: str, end: str = "") -> str:
    # All but letters, digits and `-._~` is escaped: a colon would make a scheme of what is before it.
    return f'<a href="{quote(name, safe="")}{end}">{escape(name)}{end}</a>'

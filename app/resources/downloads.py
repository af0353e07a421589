"""Stored files, whole or in ranges, at nearly the cost of a route that FastAPI does not know."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.resources.dependencies import Flag, LibraryDep, Services, library_of
from app.resources.errors import EXPECTED, explained
from app.resources.problems import problems
from app.storage.errors import NotFound, StorageError
from app.storage.types import Address, FileId, Key, Listing, normalize_folder
from app.streaming.file_response import StoredFileResponse

_BYTES: dict[str, Any] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
_MEDIA: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", **_BYTES},
    206: {"description": "The ranges asked for.", **_BYTES},
    304: {"description": "The client has this version already."},
    **problems(400, 404, 412, 416, 422, 503),
}

_MEDIA_OR_FOLDER: dict[int | str, dict[str, Any]] = {
    **_MEDIA,
    308: {"description": "A folder has this path: its page has a slash at the end."},
}

_QUERY = "%!$&'()*+,;=:@~/?-._"
"""What may stand in a query beside letters and digits (RFC 3986 3.4)."""

_STREAM: dict[str, Any] = {"response_model": None, "response_class": Response, "responses": _MEDIA}

# The response reads the Range header itself; as a parameter it has its place in the console.
RangeHeader = Annotated[
    str | None, Header(alias="Range", description="Such as `bytes=0-1023`.", examples=["bytes=0-1023"])
]
Download = Annotated[Flag, Query(description="Answer as an attachment, for saving rather than playing.")]


class StreamRoute(APIRoute):
    """A GET, and its HEAD, whose endpoint says which stored file is meant.

    For the console its endpoint is one like all others. But players ask for thousands of short ranges, and
    to solve the dependencies of an endpoint takes longer than to send one. So of FastAPI it is only asked
    what the query says: the endpoint is called with that, the library and what the path says.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._without_query = self._asked(b"")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As every route, but of HEAD too, and without looking for how it was included."""
        found = self.path_regex.match(get_route_path(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        match = Match.FULL if scope["method"] in ("GET", "HEAD") else Match.PARTIAL
        return match, {"endpoint": self.endpoint, "path_params": found.groupdict(), "route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await super().handle(scope, receive, send)  # which refuses it
            return
        library, query = library_of(scope), scope["query_string"]
        asked, faults = self._asked(query) if query else self._without_query
        if faults:
            if scope["path_params"]:
                self.endpoint(
                    library=library, **scope["path_params"]
                )  # what is wrong with the path comes first
            raise RequestValidationError(faults)
        address = self.endpoint(library=library, **scope["path_params"], **asked)
        services: Services = scope["state"]["services"]
        response = StoredFileResponse(
            services.storage, address, cache_control=services.cache_control, download=asked["download"]
        )
        await response(scope, receive, send)

    def _asked(self, query: bytes) -> tuple[dict[str, Any], list[Any]]:
        """What the query says by the names of the endpoint's parameters, and what is wrong with it."""
        return request_params_to_args(self.dependant.query_params, QueryParams(query))


router = APIRouter(tags=["files"], route_class=StreamRoute)


class StreamMiddleware:
    """Answers for these routes before the rest of FastAPI is asked: to get through all of that takes longer
    than to plan such an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in router.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                break
        else:
            await self._app(scope, receive, send)
            return
        try:
            scope.update(found)  # as a router does: who stands around all this learns the route
            await route.handle(scope, receive, send)
        except NotFound as error:
            response = await _folder_of(scope) or await explained(Request(scope, receive), error)
            await response(scope, receive, send)
        except EXPECTED as error:
            response = await explained(Request(scope, receive), error)
            await response(scope, receive, send)


async def _folder_of(scope: Scope) -> Response | None:
    """A redirect to the page of the folder that a path names without its slash; None if there is no such
    folder."""
    path = scope["path_params"].get("path")
    if path is None or scope["method"] not in ("GET", "HEAD"):
        return None
    services: Services = scope["state"]["services"]
    try:
        listing = Listing(library_of(scope), normalize_folder(path))
        page = await services.storage.page(listing, cursor=None, limit=1)
    except StorageError:
        return None
    if not page.items and not page.folders:
        return None
    # Relative, so that it leads there through any proxy. `./`, or a colon would make a scheme of what is
    # before it.
    name = quote(scope["raw_path"].rpartition(b"/")[2], safe="%!$&'()*+,;=:@~")
    query = scope["query_string"].decode("latin-1")
    location = f"./{name}/" + (f"?{quote(query, safe=_QUERY)}" if query else "")
    # A file may take the folder's place, so no cache keeps it.
    return Response(status_code=308, headers={"location": location, "cache-control": "no-store"})


# Before the others: routes are tried in this order, and nearly all that players ask for is this one.
@router.get("/files/{path:file}", **{**_STREAM, "responses": _MEDIA_OR_FOLDER})
def get_file(
    library: LibraryDep, path: str, download: Download = False, range_: RangeHeader = None
) -> Address:
    """A file, whole or in ranges, by its path."""
    return Key.at(library, path)


@router.get("/file/stream", **_STREAM)
def stream_file(
    library: LibraryDep,
    filename: Annotated[str, Query()],
    folder: Annotated[str, Query()] = "",
    download: Download = False,
    range_: RangeHeader = None,
) -> Address:
    """A file, whole or in ranges, by folder and filename."""
    return Key.of(library, folder, filename)


@router.get("/stream/{id}", **_STREAM)
def stream_file_by_id(
    library: LibraryDep, id: str, download: Download = False, range_: RangeHeader = None
) -> Address:
    """A file, whole or in ranges, by the id in its JSON, which outlives a move."""
    return FileId(library, id)

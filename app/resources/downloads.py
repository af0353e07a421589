"""GET and HEAD of stored files, whole or in ranges."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.resources.dependencies import (
    FilePath,
    Flag,
    LibraryDep,
    Services,
    library_of,
    parse_query,
    route_path,
)
from app.resources.errors import EXPECTED_ERRORS, error_response, problems
from app.resources.openapi import request_headers, response_headers
from app.storage.errors import NotFound, StorageError
from app.storage.types import Address, FileId, Key, Listing, normalize_folder
from app.streaming.file_response import StoredFileResponse

_BYTES = {"schema": {"type": "string", "format": "binary"}}
# A file is sent with its own media type. Generated clients know application/octet-stream.
_FILE = {"application/octet-stream": _BYTES, "*/*": _BYTES}
_RANGES = {"application/octet-stream": _BYTES, "multipart/byteranges": _BYTES, "*/*": _BYTES}
_VERSION = ("ETag", "Last-Modified", "Cache-Control", "Repr-Digest")
_HEADERS = response_headers(*_VERSION, "Accept-Ranges", "Content-Length", "Content-Disposition")
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": _FILE, "headers": _HEADERS},
    206: {
        "description": "The requested ranges; several as multipart/byteranges.",
        "content": _RANGES,
        "headers": _HEADERS | response_headers("Content-Range"),
    },
    304: {"description": "The client has the current version.", "headers": response_headers(*_VERSION)},
    **problems(400, 404, 412, 416, 422, 503),
}
_RESPONSES_OR_FOLDER: dict[int | str, dict[str, Any]] = {
    **_RESPONSES,
    308: {
        "description": "The path is that of a folder. Location is its page, with a slash at the end.",
        "headers": response_headers("Location"),
    },
}
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_STREAM: dict[str, Any] = {
    "response_model": None,
    "response_class": Response,
    "responses": _RESPONSES,
    "openapi_extra": request_headers("Range", "If-Range", *_CONDITIONS),
}

_QUERY = "%!$&'()*+,;=:@~/?-._"
"""The characters of a query besides letters and digits (RFC 3986 §3.4)."""


DownloadFlag = Annotated[Flag, Field(description="Send as an attachment, for saving instead of playing.")]


class Download(BaseModel):
    """The query of a stream route whose path names the file."""

    download: DownloadFlag = False


class DownloadByName(BaseModel):
    """The query of the stream route without a path."""

    filename: str = Field(examples=["film.mp4"])
    folder: str = Field("", examples=["films"])
    download: DownloadFlag = False


router = APIRouter()


# The first route is the one that players request most.
@router.head("/files/{path:file}", include_in_schema=False)
@router.get(
    "/files/{path:file}",
    operation_id="files_get",
    summary="Get a file by its path",
    **{**_STREAM, "responses": _RESPONSES_OR_FOLDER},
)
def get_file(library: LibraryDep, path: FilePath, query: Annotated[Download, Query()]) -> Address:
    """A file, whole or in ranges, by its path."""
    return Key.at(library, path)


@router.head("/file/stream", include_in_schema=False)
@router.get(
    "/file/stream", operation_id="files_stream", summary="Get a file by folder and filename", **_STREAM
)
def stream_file(library: LibraryDep, query: Annotated[DownloadByName, Query()]) -> Address:
    """A file, whole or in ranges, by folder and filename."""
    return Key.of(library, query.folder, query.filename)


@router.head("/stream/{id}", include_in_schema=False)
@router.get("/stream/{id}", operation_id="files_stream_by_id", summary="Get a file by its id", **_STREAM)
def stream_file_by_id(library: LibraryDep, id: str, query: Annotated[Download, Query()]) -> Address:
    """A file, whole or in ranges, by the id in its JSON, which outlives a move."""
    return FileId(library, id)


_ROUTES = [route for route in router.routes if isinstance(route, APIRoute) and "GET" in (route.methods or ())]


class StreamMiddleware:
    """Responds to GET and HEAD of the routes above; FastAPI only documents them.

    It also hides every other GET route whose path one of these matches: /files/count would be a file.

    Players request thousands of short ranges, and FastAPI takes longer to route a request and to solve the
    dependencies of its endpoint than we take to plan and send the response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            path = route_path(scope)
            for route in _ROUTES:
                if match := route.path_regex.match(path):
                    # As a router does: the metrics and library_of read the route.
                    scope.update(route=route, endpoint=route.endpoint, path_params=match.groupdict())
                    await _respond(scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _respond(scope: Scope, receive: Receive, send: Send) -> None:
    response: Response
    try:
        response = _file_response(scope)
        await response(scope, receive, send)
        return
    except NotFound as error:
        response = await _folder_redirect(scope) or await error_response(Request(scope, receive), error)
    except EXPECTED_ERRORS as error:
        response = await error_response(Request(scope, receive), error)
    await response(scope, receive, send)


def _file_response(scope: Scope) -> StoredFileResponse:
    """Return the response to a request of a stream route. Raises InvalidName, RequestValidationError."""
    endpoint, path_params = scope["endpoint"], scope["path_params"]
    model: type[Download | DownloadByName] = DownloadByName if endpoint is stream_file else Download
    library = library_of(scope, model.model_fields)
    try:
        raw = scope["query_string"]
        query = parse_query(model, raw) if raw or model is not Download else _NO_QUERY
    except RequestValidationError:
        if path_params:
            endpoint(library, **path_params, query=_NO_QUERY)  # an invalid path is reported first
        raise
    services: Services = scope["state"]["services"]
    return StoredFileResponse(
        services.storage,
        endpoint(library, **path_params, query=query),
        cache_control=services.cache_control,
        download=query.download,
    )


_NO_QUERY = Download()


async def _folder_redirect(scope: Scope) -> Response | None:
    """Return a redirect to the folder's page if the path names a folder without its slash; else None."""
    path = scope["path_params"].get("path")
    if path is None:
        return None
    services: Services = scope["state"]["services"]
    try:
        listing = Listing(library_of(scope, Download.model_fields), normalize_folder(path))
        page = await services.storage.page(listing, cursor=None, limit=1)
    except StorageError:
        return None
    if not page.items and not page.folders:
        return None
    # Relative, so that it works through any proxy. Without `./`, a colon in the name would end a scheme.
    name = quote(scope["raw_path"].rpartition(b"/")[2], safe="%!$&'()*+,;=:@~")
    query = scope["query_string"].decode("latin-1")
    location = f"./{name}/" + (f"?{quote(query, safe=_QUERY)}" if query else "")
    # A file may take the folder's place, so no cache may store the redirect.
    return Response(status_code=308, headers={"location": location, "cache-control": "no-store"})

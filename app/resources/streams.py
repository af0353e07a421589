"""Stored files, whole or in ranges, at nearly the cost of a route that FastAPI does not know."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.resources.deps import LibraryDep, Services, library_of
from app.resources.problems import problems
from app.storage.types import Address, FileId, Key
from app.streaming.response import StoredFileResponse

_BYTES: dict[str, Any] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
_MEDIA: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", **_BYTES},
    206: {"description": "The ranges asked for.", **_BYTES},
    304: {"description": "The client has this version already."},
    **problems(400, 404, 412, 416, 422, 503),
}

_STREAM: dict[str, Any] = {"response_model": None, "response_class": Response, "responses": _MEDIA}

# The response reads the Range header itself; as a parameter it has its place in the console.
RangeHeader = Annotated[
    str | None, Header(alias="Range", description="Such as `bytes=0-1023`.", examples=["bytes=0-1023"])
]
Download = Annotated[bool, Query(description="Answer as an attachment, for saving rather than playing.")]


class StreamRoute(APIRoute):
    """A GET, and its HEAD, whose endpoint says which stored file is meant.

    For the console its endpoint is one like all others. But players ask for thousands of short ranges, and
    to solve the dependencies of an endpoint takes longer than to send one. So of FastAPI it is only asked
    what the query says: the endpoint is called with that, the library and what the path says.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        is_head = match is Match.PARTIAL and scope["method"] == "HEAD"
        return Match.FULL if is_head else match, found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await super().handle(scope, receive, send)  # which refuses it
            return
        library = library_of(scope)
        query = QueryParams(scope["query_string"])
        asked, faults = request_params_to_args(self.dependant.query_params, query)
        if faults:
            raise RequestValidationError(faults)
        address = self.endpoint(library=library, **scope["path_params"], **asked)
        services: Services = scope["state"]["services"]
        response = StoredFileResponse(
            services.storage, address, cache_control=services.cache_control, download=asked["download"]
        )
        await response(scope, receive, send)


router = APIRouter(tags=["files"], route_class=StreamRoute)


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


@router.get("/files/{path:file}", **_STREAM)
def get_file(
    library: LibraryDep, path: str, download: Download = False, range_: RangeHeader = None
) -> Address:
    """A file, whole or in ranges, by its path."""
    return Key.at(library, path)

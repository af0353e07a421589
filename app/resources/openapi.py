"""The OpenAPI document, with what FastAPI does not derive from the routes, and the API docs at /docs.

This server also serves the assets of the docs.
"""

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from app.accounts.models import Scope
from app.resources import rendering
from app.resources.dependencies import base_path, get_account_holder
from app.resources.errors import PROBLEMS, Problem, problems
from app.resources.middleware.authentication import PUBLIC_PATHS
from app.resources.middleware.host_guard import SAFE_METHODS
from app.resources.rendering import JSON, StaticAssets

DESCRIPTION = """
Upload a film, play it anywhere, seek to any byte. See also [Help](help/).

- An error is a problem document (RFC 9457) with `title`, `status` and `detail`.
- Every `GET` route answers `HEAD` too. Other methods get a 405, with the methods of the path in `Allow`.
- In a path, the slashes between folders may be sent as `/` or as `%2F`.
- Two WebSockets are not in this document: `/` sends the progress of uploads, `/events` changes of files.
""".strip()

TAGS = {
    "files": "Upload, list, stream, replace, move and delete files.",
    "playlists": "The films and the music of a folder, for players such as VLC and mpv.",
    "accounts": "Sign up, log in, and manage the account of the caller.",
    "links": "Signed links: they open one file or one playlist without a login, until they expire.",
    "invites": "Addresses at which other people can sign up; for administrators.",
    "tokens": "Tokens for programs, with the scopes `read` and `write`.",
    "health": "Probes for orchestrators and monitoring.",
}

_REQUEST_HEADERS = {
    "Range": "The bytes to send, such as `bytes=0-1023`, or several ranges.",
    "If-Range": "The ETag or date for which the Range counts; the whole file is sent for another version.",
    "If-Match": "The ETag, with its quotes, of the version that is expected; another one is a 412.",
    "If-None-Match": "To GET, the ETags of versions that the client has: a 304. To PUT, `*`: only create.",
    "If-Modified-Since": "The date of the version that the client has; ignored beside If-None-Match.",
    "If-Unmodified-Since": "The date of the version that is expected; ignored beside If-Match.",
    "Content-Digest": "The hash of the body, such as `sha-256=:…:` (RFC 9530); another body is a 400.",
    "Repr-Digest": "The hash of the file, such as `sha-256=:…:` (RFC 9530); another body is a 400.",
}

# The description, the example, and whether every response that may have the header has it.
_RESPONSE_HEADERS: dict[str, tuple[str, Any, bool]] = {
    "Accept-Patch": ("The media type of patches (RFC 5789).", "application/merge-patch+json", False),
    "Accept-Ranges": ("Always `bytes`.", "bytes", True),
    "Cache-Control": ("By `SEEKABLE_CACHE_CONTROL`, private with accounts.", "no-cache", True),
    "Content-Disposition": ("The filename (RFC 6266), and whether to show or to save it.", "inline", True),
    "Content-Length": ("Bytes of the body.", 1024, True),
    "Content-Location": ("The new address of the file.", "http://localhost:8000/files/film.mp4", False),
    "Content-Range": ("The range; absent if there are several.", "bytes 0-1023/4096", False),
    "ETag": ("The version of the file, which changes whenever its bytes do.", '"5f2b9e"', True),
    "Last-Modified": ("The date of the version.", "Sun, 29 Nov 2026 18:00:00 GMT", True),
    "Link": ("The next page (RFC 8288).", '<http://localhost:8000/files?cursor=…>; rel="next"', False),
    "Location": ("The address of the file, or of the page.", "http://localhost:8000/files/film.mp4", True),
    "Repr-Digest": ("The hash of the file (RFC 9530), once it is known.", "sha-256=:…:", False),
    "Retry-After": ("Seconds to wait before the next attempt.", 5, True),
    "Set-Cookie": ("The cookie of the login.", "seekable-8000=…; HttpOnly; Path=/; SameSite=lax", True),
    "WWW-Authenticate": ("The schemes that the server accepts.", 'Basic realm="Seekable"', True),
}

_PROBLEM_HEADERS = {
    401: ("WWW-Authenticate",),
    415: ("Accept-Patch",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}

_UNSATISFIED_RANGE = {
    "Content-Range": {
        "description": "The size of the file.",
        "required": True,
        "schema": {"type": "string", "examples": ["bytes */4096"]},
    }
}

_SCHEMES: dict[str, dict[str, Any]] = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "description": "The cookie of a login. Its name ends with the port of the address in the browser.",
    },
    "password": {"type": "http", "scheme": "basic", "description": "Email address and password."},
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `tokens_create`. `read` permits GET and HEAD, `write` all other methods.",
    },
    "link": {"type": "apiKey", "in": "query", "name": "link", "description": "The signature of a link."},
}

ASSETS = StaticAssets(f"docs-{version('fastapi-offline')}", str(files("fastapi_offline") / "static"))

_PAGE_HEADERS = {
    # Swagger UI has an inline script and images in its styles. It may call this server only, and no other
    # site may frame it.
    "content-security-policy": "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

_OPENED_BY_LINKS = ("files_get", "playlists_get_m3u", "playlists_get_xspf")


def request_headers(*names: str) -> dict[str, Any]:
    """Return the OpenAPI description of these request headers."""
    return {"parameters": [{"$ref": f"#/components/parameters/{name}"} for name in names]}


def response_headers(*names: str) -> dict[str, Any]:
    """Return the OpenAPI description of these response headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def complete(document: dict[str, Any], routes: Iterable[BaseRoute], *, cookie: str | None) -> None:
    """Add to a document of FastAPI what it does not contain.

    `cookie` is the name of the login cookie; None without accounts.
    """
    document["info"]["description"] = DESCRIPTION
    components = document.setdefault("components", {})
    components |= _components()
    if cookie is not None:
        session = {**_SCHEMES["session"], "name": cookie}
        components["securitySchemes"] = {**_SCHEMES, "session": session}
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for operation, route, method in _operations(document, routes):
        operation["tags"] = [operation["operationId"].partition("_")[0]]
        if cookie is not None:
            _add_security(operation, route, method)
        _complete_responses(operation, has_receipts=cookie is not None)
        for parameter in operation.get("parameters", ()):
            _simplify(parameter)
        _name_body(operation, schemas)
    _remove_unused(document)
    for schema in schemas.values():
        for member in schema.get("properties", {}).values():
            member.pop("title", None)  # its name once more
    used = {operation["tags"][0] for operation, *_ in _operations(document, routes)}
    document["tags"] = [{"name": tag, "description": TAGS[tag]} for tag in TAGS if tag in used]


def _remove_unused(document: dict[str, Any]) -> None:
    """Remove components without references: those of accounts where there are none, and those of FastAPI."""
    components = {kind: document["components"][kind] for kind in ("schemas", *_components())}
    while True:
        text = json.dumps(document)
        unused = [
            (named, name)
            for kind, named in components.items()
            for name in named
            if f'"#/components/{kind}/{name}"' not in text
        ]
        if not unused:
            return
        for named, name in unused:
            del named[name]


def _operations(
    document: dict[str, Any], routes: Iterable[BaseRoute]
) -> Iterator[tuple[dict[str, Any], APIRoute, str]]:
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                yield document["paths"][route.path_format][method.lower()], route, method


def _components() -> dict[str, Any]:
    parameters: dict[str, dict[str, Any]] = {
        name: {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}
        for name, description in _REQUEST_HEADERS.items()
    }
    parameters["Range"]["example"] = "bytes=0-1023"
    headers = {
        name: {"description": description, "required": required, "schema": _schema_of(example)}
        for name, (description, example, required) in _RESPONSE_HEADERS.items()
    }
    return {
        "parameters": parameters,
        "headers": headers,
        "responses": {name: _problem(status) for status, (name, _) in PROBLEMS.items()},
    }


def _schema_of(example: str | int) -> dict[str, Any]:
    return {"type": "integer" if isinstance(example, int) else "string", "examples": [example]}


def _problem(status: int) -> dict[str, Any]:
    headers = _UNSATISFIED_RANGE if status == 416 else response_headers(*_PROBLEM_HEADERS.get(status, ()))
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": PROBLEMS[status][1], "headers": headers, "content": content}


def _add_security(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    """Add the credentials of which one is required, and the responses to wrong ones."""
    if route.path in PUBLIC_PATHS:
        operation["security"] = []
        return
    scope = Scope.READ if method in SAFE_METHODS else Scope.WRITE
    security: list[dict[str, list[str]]] = [{"session": []}, {"password": []}]
    if not _requires_account_holder(route.dependant):
        security.append({"token": [scope.value]})
    if operation["operationId"] in _OPENED_BY_LINKS:
        security.append({"link": []})
    operation["security"] = security
    operation["responses"] |= {str(status): answer for status, answer in problems(401, 403, 429).items()}


def _requires_account_holder(dependant: Dependant) -> bool:
    return dependant.call is get_account_holder or any(map(_requires_account_holder, dependant.dependencies))


def _complete_responses(operation: dict[str, Any], *, has_receipts: bool) -> None:
    """Sort the responses, and remove what FastAPI adds to them."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]  # FastAPI documents it for every route that has a parameter
    operation["responses"] = {
        status: {"$ref": response["$ref"]} if "$ref" in response else response
        for status, response in sorted(responses.items())
    }
    for response in responses.values():
        media = response.get("content", {}).get("application/json", {})
        if "anyOf" in media.get("schema", {}):  # a token for writing alone receives the second of them
            both = media["schema"]["anyOf"]
            media["schema"] = {"anyOf": both} if has_receipts else both[0]


def _simplify(parameter: dict[str, Any]) -> None:
    """Remove the title, the null, which no request can send, and what the parameter itself contains."""
    schema = parameter.get("schema", {})
    for name in ("title", "description"):
        schema.pop(name, None)
    if {"type": "null"} in schema.get("anyOf", ()):
        schema |= schema.pop("anyOf")[0]
    if examples := schema.pop("examples", None):  # /docs reads only that of the parameter
        parameter["example"] = examples[0]


def _name_body(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Move the schemas of a request body to the components."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if name := media["schema"].get("title"):
            schemas.update(media["schema"].pop("$defs", {}))
            schemas[name] = media["schema"]
            media["schema"] = {"$ref": f"#/components/schemas/{name}"}


router = APIRouter(include_in_schema=False)
router.include_router(ASSETS.router)


@router.head("/openapi.json")
@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document, whose operations lie below the path that a proxy puts this server below."""
    document, root = request.app.openapi(), request.scope.get("root_path", "")
    if root:
        document = {**document, "servers": [{"url": root}]}
    return JSON(document, headers={"cache-control": "no-cache"})


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API docs."""
    root = base_path(request.scope)
    assets = f"{root}{ASSETS.path}"
    response = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Seekable",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    html = bytes(response.body).decode().replace("<html>", '<html lang="en">')
    ours = f"{root}{rendering.ASSETS.path}"
    head = (
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="stylesheet" href="{ours}/docs.css">\n'
        f'<script src="{ours}/docs.js"></script>\n'
        "</head>"
    )
    return HTMLResponse(html.replace("</head>", head), headers=_PAGE_HEADERS)

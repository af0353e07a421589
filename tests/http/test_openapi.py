"""The OpenAPI document, and the API docs, which loads nothing from other sites."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import urljoin

import httpx
import openapi_spec_validator
import pytest
from fastapi import FastAPI, Response
from fastapi.routing import APIRoute

from app.main import create_app
from app.resources import downloads, errors, openapi
from app.settings import Settings

SendRequest = Callable[..., httpx.Response]
Part = Callable[..., bytes]

MEDIA = {200, 206, 304, 400, 404, 412, 416, 503}
ROUTES = {
    ("post", "/file/upload"): {201, 400, 403, 409, 413, 415, 503, 507},
    ("get", "/file/stream"): MEDIA | {422},
    ("get", "/stream/{id}"): MEDIA,
    ("get", "/files/{path}"): MEDIA | {308},
    ("put", "/files/{path}"): {201, 204, 400, 403, 409, 412, 413, 415, 503, 507},
    ("patch", "/files/{path}"): {200, 400, 403, 404, 409, 412, 413, 415, 503, 507},
    ("delete", "/files/{path}"): {204, 400, 403, 404, 412, 503},
    ("get", "/files"): {200, 400, 422, 503},
    ("get", "/playlist.m3u"): {200, 400, 422, 503},
    ("get", "/playlist.xspf"): {200, 400, 422, 503},
    ("get", "/health"): {200},
    ("get", "/health/live"): {200},
    ("get", "/health/ready"): {200, 503},
}

OPERATION_ID = re.compile(
    "(files|playlists|accounts|links|invites|tokens|health)"
    "_(get|list|create|put|move|delete|upload|stream|revoke|sign_up|log_in|log_out|change|preview)"
    "(_[a-z0-9_]+)?"
)

SUMMARY = re.compile(
    "(Change|Check|Create|Delete|Get|List|Log|Move|Preview|Revoke|Store|Upload)( (M3U|XSPF|[a-z]+))+"
)
"""An imperative verb, then no capitals, unlike the summaries that FastAPI makes of functions' names."""

PROBLEM = {"$ref": "#/components/schemas/Problem"}


def operation_ids(document: dict[str, Any]) -> list[str]:
    return [operation["operationId"] for item in document["paths"].values() for operation in item.values()]


def summaries(document: dict[str, Any]) -> list[str]:
    return [operation["summary"] for item in document["paths"].values() for operation in item.values()]


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    response = http.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_route_is_documented_with_its_statuses(document: dict[str, Any], method: str, path: str) -> None:
    operation = document["paths"][path][method]
    assert {int(status) for status in operation["responses"]} >= ROUTES[method, path]
    for status, response in operation["responses"].items():
        if int(status) < 400:
            assert response["description"]
        else:
            assert response["$ref"].startswith("#/components/responses/")
            content = dereferenced(document, response)["content"]
            assert content == {"application/problem+json": {"schema": PROBLEM}}


def test_no_other_route_is_documented(document: dict[str, Any]) -> None:
    methods = {(method, path) for path, item in document["paths"].items() for method in item}
    assert methods - set(ROUTES) <= {("head", path) for _, path in ROUTES}


def test_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)


def test_schemas_of_objects_are_components(document: dict[str, Any]) -> None:
    """Generators name classes after components, and the same schema inline becomes a class per route."""
    inline = [key for key in keys_of(document["paths"]) if key in ("properties", "enum", "$defs")]
    assert inline == []
    assert {"StoredFile", "FileList", "FileUpload", "FileMove", "FileOrder", "Problem"} < set(
        document["components"]["schemas"]
    )


@pytest.mark.parametrize("access", ["open", "accounts"])
def test_every_component_is_used(access: Literal["open", "accounts"]) -> None:
    document = create_app(Settings(_env_file=None, access=access)).openapi()
    text = json.dumps(document)
    unused = [
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        for name in named
        if kind != "securitySchemes" and f'"#/components/{kind}/{name}"' not in text
    ]
    assert unused == []


def test_problems_have_the_titles_of_their_components(http: httpx.Client) -> None:
    for status, (name, _) in errors.PROBLEMS.items():
        assert errors.phrase(status).replace(" ", "") == name
    assert http.get("/files?limit=0").json()["title"] == "Unprocessable Content"


def test_every_header_has_an_example(document: dict[str, Any]) -> None:
    headers = document["components"]["headers"]
    assert [name for name, header in headers.items() if not header["schema"]["examples"][0]] == []


def keys_of(value: Any) -> Iterator[str]:
    """Yield the keys of all objects in a JSON value."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from keys_of(each)


def test_every_tag_is_described(document: dict[str, Any]) -> None:
    used = {operation["tags"][0] for item in document["paths"].values() for operation in item.values()}
    assert {tag["name"] for tag in document["tags"]} == used == {"files", "playlists", "health"}
    assert all(tag["description"] for tag in document["tags"])


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    names = operation_ids(document)
    assert len(names) == len(set(names))


def test_operation_ids_are_noun_and_verb(document: dict[str, Any]) -> None:
    """Generated clients make functions of them. The verbs are few, so that a user can guess a name."""
    assert [name for name in operation_ids(document) if not re.fullmatch(OPERATION_ID, name)] == []


def test_summaries_are_imperative(document: dict[str, Any]) -> None:
    assert [text for text in summaries(document) if not re.fullmatch(SUMMARY, text) or len(text) > 40] == []


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        target: Any = document
        for step in reference.split("/"):
            target = target[step]


def test_document_describes_uploads_and_range_requests_for_console(document: dict[str, Any]) -> None:
    upload = document["paths"]["/file/upload"]["post"]["requestBody"]
    schemas = document["components"]["schemas"]
    assert upload["content"]["multipart/form-data"]["schema"] == {"$ref": "#/components/schemas/FileUpload"}
    form = schemas["FileUpload"]
    assert upload["required"]
    assert form["required"] == ["file"]
    assert form["properties"]["file"]["format"] == "binary"
    assert {"folder", "sid"} <= set(form["properties"])
    for method, path in (("post", "/file/upload"), ("put", "/files/{path}")):
        parameters = document["paths"][path][method]["parameters"]
        assert "sid" in {parameter.get("name") for parameter in parameters}
    assert "application/octet-stream" in document["paths"]["/files/{path}"]["put"]["requestBody"]["content"]
    patch = document["paths"]["/files/{path}"]["patch"]["requestBody"]
    assert "application/merge-patch+json" in patch["content"]
    assert set(schemas["FileMove"]["properties"]) == {"folder", "filename"}
    listing = {p["name"]: p["schema"] for p in document["paths"]["/files"]["get"]["parameters"]}
    assert set(listing) == {"folder", "recursive", "q", "type", "sort", "limit", "cursor"}
    order = schemas["FileOrder"]
    assert {"name", "-size", "created_at", "-updated_at"} < set(order["enum"])
    assert len(order["enum"]) == len(order["x-enum-varnames"])
    for path in ("/file/stream", "/stream/{id}", "/files/{path}"):
        parameters = document["paths"][path]["get"]["parameters"]
        assert "download" in {parameter.get("name") for parameter in parameters}
        assert {"$ref": "#/components/parameters/Range"} in parameters


def test_stream_routes_are_documented_like_ordinary_routes(document: dict[str, Any]) -> None:
    """FastAPI does not run these routes, so their documentation needs a test."""
    plain = FastAPI()
    for route in downloads.router.routes:
        assert isinstance(route, APIRoute)
        if not route.include_in_schema:
            continue
        plain.get(
            route.path,
            operation_id=route.operation_id,
            summary=route.summary,
            response_model=None,
            response_class=Response,
            responses=route.responses,
            openapi_extra=route.openapi_extra,
        )(route.endpoint)
    openapi.complete(plain.openapi(), plain.routes, cookie=None)
    paths = plain.openapi()["paths"]
    assert set(paths) == {"/file/stream", "/stream/{id}", "/files/{path}"}
    for path in paths:
        assert document["paths"][path]["get"] == json.loads(json.dumps(paths[path]["get"])), path


def test_responses_have_the_documented_fields(
    document: dict[str, Any], http: httpx.Client, folder: str
) -> None:
    file = http.put(f"/files/{folder}/a.mp4", content=b"x").json()
    # A server with accounts adds the owner.
    assert set(document["components"]["schemas"]["StoredFile"]["properties"]) - {"owner"} == set(file)
    page = http.get("/files", params={"folder": folder}).json()
    assert set(document["components"]["schemas"]["FileList"]["properties"]) == set(page)


def documented_headers(
    document: dict[str, Any], method: str, path: str, status: int
) -> Iterator[tuple[str, bool]]:
    """Yield the names of the response headers, in lower case, and whether each is required."""
    response = document["paths"][path][method]["responses"].get(str(status), {})
    for name, header in dereferenced(document, response).get("headers", {}).items():
        yield name.lower(), dereferenced(document, header)["required"]


def dereferenced(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    for step in value.get("$ref", "#").split("/")[1:]:
        document = document[step]
    return document if "$ref" in value else value


def test_responses_have_documented_statuses(
    document: dict[str, Any], send_request: SendRequest, part: Part, send_form: Any, folder: str
) -> None:
    """Request each status of each route. The host guard's 403 and 421 for reads are documented for no
    route."""
    film = f"/files/{folder}/film.mp4"
    found: set[tuple[str, str, int]] = set()
    documented_names: set[str] = set()
    sent_names: set[str] = set()

    def record(method: str, template: str, response: httpx.Response) -> None:
        # HEAD is not documented: its response is that of GET.
        method = "get" if method == "HEAD" else method.lower()
        found.add((method, template, response.status_code))
        for name, is_required in documented_headers(document, method, template, response.status_code):
            assert not is_required or name in response.headers, (method, template, response.status_code, name)
            documented_names.add(name)
            if name in response.headers:
                sent_names.add(name)

    def put(path: str, *headers: str, body: bytes = b"x" * 100) -> None:
        record("PUT", "/files/{path}", send_request("PUT", path, *headers, body=body))

    created = send_request("PUT", film, body=b"x" * 100)
    record("PUT", "/files/{path}", created)
    put(film)
    put(film, "If-None-Match: *")
    record("GET", "/files/{path}", send_request("GET", f"/files/{folder}"))
    put(film, "Content-Encoding: gzip")
    put(film, "Sec-Fetch-Site: cross-site")
    put(film, f"Content-Length: {1 << 50}", body=b"")
    put(f"{film}/below")
    put("/files/..")
    for name, query, headers in (
        ("film.mp4", f"?folder={folder}", ()),
        ("new.mp4", f"?folder={folder}", ()),
        ("..", "", ()),
        ("new.mp4", "", ("Origin: null",)),
        ("new.mp4", "", ("Content-Encoding: br",)),
    ):
        file = part("file", b"x", filename=name)
        record("POST", "/file/upload", send_form(file, query=query, headers=headers))
    kind = "Content-Type: multipart/form-data; boundary=x"
    record("POST", "/file/upload", send_request("POST", "/file/upload", kind, f"Content-Length: {1 << 50}"))
    by_name = "/file/stream?filename="
    reads = [
        ("/files/{path}", film, "/files/none", "/files/.."),
        ("/file/stream", f"{by_name}film.mp4&folder={folder}", f"{by_name}none", f"{by_name}.."),
        ("/stream/{id}", f"/stream/{created.json()['id']}", "/stream/none", "/stream/%ff"),
    ]
    conditions = "Range: bytes=0-1", "Range: bytes=999-", "If-Match: x", "If-None-Match: *", "X: y"
    for method in ("GET", "HEAD"):
        for template, found_target, missing, bad in reads:
            for header in conditions:
                record(method, template, send_request(method, found_target, header))
            for target in (missing, bad, f"{found_target}{'&' if '?' in found_target else '?'}download=x"):
                record(method, template, send_request(method, target))
        record(method, "/file/stream", send_request(method, "/file/stream"))
        for target in ("/files", "/files?limit=0", "/files?sort=x", "/files?folder=..", "/files?cursor=!"):
            record(method, "/files", send_request(method, target))
        for template in ("/playlist.m3u", "/playlist.xspf"):
            for query in ("", "?folder=..", "?sort=x"):
                record(method, template, send_request(method, template + query))
    kind = "Content-Type: application/merge-patch+json"
    for target, headers, body in (
        (film, (kind,), b"{}"),
        (film, (kind,), b"{"),
        (film, (kind, "Origin: null"), b"{}"),
        (f"{film}.none", (kind,), b"{}"),
        (film, (kind,), b'{"folder": "%s/film.mp4"}' % folder.encode()),
        (film, (kind, "If-Match: x"), b"{}"),
        (film, (kind, f"Content-Length: {1 << 20}"), b""),
        (film, (), b"{}"),
    ):
        record("PATCH", "/files/{path}", send_request("PATCH", target, *headers, body=body))
    for target, header in (
        (f"{film}.none", "X: y"),
        (film, "If-Match: x"),
        ("/files/..", "X: y"),
        (film, "Origin: null"),
        (film, "X: y"),
    ):
        record("DELETE", "/files/{path}", send_request("DELETE", target, header))

    documented = {
        (method, path, int(status))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for status in operation["responses"]
    }
    assert found <= documented
    assert documented_names - sent_names <= {"link", "retry-after"}
    assert len(found) > 43, "the requests cover enough statuses"


def test_console_works_offline(http: httpx.Client) -> None:
    response = http.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)["']""", response.text)
    assert len(addresses) >= 3
    for address in addresses:
        assert re.match(r"/[^/]", address), f"{address} is on another site"
    assert not re.findall(r"""["'(](?:https?:)?//[^"')]+""", response.text)
    assert re.search(r"""["']/openapi\.json["']""", response.text)


def test_console_cannot_be_framed(http: httpx.Client) -> None:
    headers = http.get("/docs").headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["frame-ancestors"] == policy["default-src"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_assets_are_cached_as_immutable(http: httpx.Client) -> None:
    page = http.get("/docs").text
    for address in re.findall(r"""["'](/assets/[^"']+)["']""", page):
        response = http.get(urljoin("/", address))
        assert response.status_code == 200
        assert response.content
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert int(re.search(r"max-age=(\d+)", response.headers["cache-control"])[1]) >= 31536000  # type: ignore[index]
        assert response.headers["content-type"].partition(";")[0] in (
            "text/javascript",
            "application/javascript",
            "text/css",
            "image/png",
        )
        # Neither scripts nor styles load anything from other sites.
        if "css" in response.headers["content-type"]:
            assert not re.findall(r"""url\(["']?(?:https?:)?//""", response.text)
            assert "@import" not in response.text
        head = http.head(address)
        assert (head.status_code, head.content) == (200, b"")
        again = http.get(address, headers={"if-none-match": response.headers["etag"]})
        assert again.status_code == 304


def test_assets_route_serves_only_assets(http: httpx.Client, send_request: SendRequest, folder: str) -> None:
    release = re.search(r"(/assets/[^/]+)/", http.get("/docs").text)
    assert release is not None
    http.put(f"/files/{folder}/film.mp4", content=b"x").raise_for_status()
    upwards = "/../../../etc/passwd", "/..%2f..%2f__init__.py", "//etc/passwd", "/%2e%2e/core.py"
    for target in (*upwards, f"/{folder}/film.mp4", "/%00", "/", "", "/nope.js"):
        response = send_request("GET", release[1] + target)
        assert response.status_code in (400, 404), target
        assert "immutable" not in response.headers.get("cache-control", "")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/openapi.json", 200),
        ("GET", "/health", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/files?folder=none", 200),
        ("PUT", "/files/{folder}/new.txt", 201),
        ("GET", "/files/none", 404),
        ("GET", "/none", 404),
        ("PUT", "/files/%00", 400),
        ("POST", "/health", 405),
        ("GET", "/files?limit=x", 422),
        ("CONNECT", "example.org:80", 501),  # a response of the server, not of the application
        ("GET / x", "/", 400),
    ],
)
def test_json_ends_with_newline(
    send_request: SendRequest, folder: str, method: str, target: str, status: int
) -> None:
    response = send_request(method, target.format(folder=folder))
    assert response.status_code == status
    assert response.content.endswith(b"}\n")
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.json()

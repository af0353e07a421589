"""The console at /docs, in a browser that reaches no other site."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from tests.support import Server, running
from tests.system.live.clients import sha256
from tests.system.live.conftest import HEADLESS_SHELL, launched_browser

pytestmark = pytest.mark.live


@dataclass
class Console:
    """The page, with its errors and its requests."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def open(self, title: str) -> Locator:
        """Expand an operation, like `POST /file/upload`, and return its block."""
        method, path = title.split()
        summary = self.page.locator(f".opblock-{method.lower()}").filter(
            has=self.page.locator(f'[data-path="{path}"]')
        )
        expect(summary).to_have_count(1)
        summary.locator(".opblock-summary-control").click()
        expect(summary.get_by_role("button", name="Execute")).to_be_visible()
        return summary

    def execute(self, operation: Locator) -> Locator:
        """Press Execute, and return the block that shows the response."""
        operation.get_by_role("button", name="Execute").click()
        response = operation.locator(".live-responses-table")
        expect(response).to_be_visible()
        return response

    def status(self, title: str) -> str:
        """Execute an operation with the values that the console fills in, and return the status."""
        operation = self.open(title)
        status = self.execute(operation).locator(".response-col_status").last.inner_text().split()[0]
        operation.locator(".opblock-summary-control").click()
        return status


@pytest.fixture(scope="module")
def shell() -> Iterator[Browser]:
    """Headless Chromium: faster, as no page has to open a window."""
    with launched_browser(HEADLESS_SHELL) as browser:
        yield browser


@pytest.fixture(scope="module")
def console(server: Server, shell: Browser) -> Iterator[Console]:
    """The console in a new browser profile. Requests to other sites are blocked, and count as errors.

    It opens an operation in two seconds of processor time, so all tests share one, and each operation is
    opened once.
    """
    context = shell.new_context(viewport={"width": 1200, "height": 1600})
    page = context.new_page()
    console = Console(page)

    def route(route: Route) -> None:
        console.requests.append(route.request)
        if route.request.url.startswith((f"{server.url}/", "data:", "blob:")):
            route.continue_()
        else:
            console.errors.append(f"request to another site: {route.request.url}")
            route.abort()

    page.route("**/*", route)
    page.on("console", lambda message: console.errors.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.errors.append(f"error: {error}"))
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("heading", name="Seekable")).to_be_visible()
    yield console
    context.close()


@pytest.fixture
def clip(tmp_path: Path, film: Path) -> Path:
    """A small film with a unique name."""
    clip = tmp_path / f"{tmp_path.name}.mp4"
    clip.write_bytes(film.read_bytes()[:100_000])
    return clip


def test_console_uploads_file_and_reads_range(
    console: Console, server: Server, folder: str, clip: Path
) -> None:
    """The values that the console itself puts into fields do not select a folder."""
    upload = console.open("POST /file/upload")
    upload.locator("input[type=file]").set_input_files(clip)
    response = console.execute(upload)
    expect(response.locator(".response-col_status").last).to_have_text("201")
    expect(response).to_contain_text(f'"path": "{clip.name}"')
    expect(response).to_contain_text(sha256(clip))
    with server.client() as client:
        assert client.get(f"/files/{clip.name}").content == clip.read_bytes()
        # Fill only one of the two fields that are called folder.
        upload.get_by_placeholder("folder").first.fill(folder)
        response = console.execute(upload)
        expect(response).to_contain_text(f'"path": "{folder}/{clip.name}"')
        expect(response.locator(".response-col_status").last).to_have_text("201")
        upload.get_by_placeholder("folder").first.fill("")
        upload.get_by_placeholder("folder").last.fill(f"{folder}/last")
        response = console.execute(upload)
        expect(response).to_contain_text(f'"path": "{folder}/last/{clip.name}"')
        assert client.get(f"/files/{folder}/last/{clip.name}").content == clip.read_bytes()
    upload.locator(".opblock-summary-control").click()
    assert console.errors == []

    get = console.open("GET /files/{path}")
    for placeholder, value in {"path": f"{folder}/{clip.name}", "Range": "bytes=4-7"}.items():
        get.get_by_placeholder(placeholder, exact=True).fill(value)
    response = console.execute(get)
    expect(response.locator(".response-col_status").last).to_have_text("206")
    expect(response).to_contain_text(f"content-range: bytes 4-7/{clip.stat().st_size}")
    expect(response.locator(".response-col_description .highlight-code")).to_contain_text("ftyp")
    assert len(console.requests) > 4
    assert console.errors == []
    get.get_by_placeholder("path", exact=True).fill(f"{folder}/none.mp4")
    response = console.execute(get)
    expect(response.locator(".response-col_status").last).to_contain_text("404")
    expect(response).to_contain_text("There is no such file.")
    get.locator(".opblock-summary-control").click()
    (error,) = console.errors
    assert "404" in error
    console.errors.clear()


def test_examples_run_as_they_stand(console: Console, server: Server, folder: str, clip: Path) -> None:
    """With the values that the console fills in: of a path, of a body, and of queries."""
    assert console.status("PUT /files/{path}") == "201"
    with server.client() as client:
        assert client.get("/files/films/film.mp4").status_code == 200
        client.put(f"/files/{folder}/{clip.name}", content=clip.read_bytes()).raise_for_status()
    listing = console.open("GET /files")
    listing.get_by_placeholder("folder", exact=True).fill(folder)
    response = console.execute(listing)  # the other fields as the console fills them
    expect(response.locator(".response-col_status").last).to_have_text("200")
    expect(response).to_contain_text(f'"path": "{folder}/{clip.name}"')
    listing.locator(".opblock-summary-control").click()

    patch = console.open("PATCH /files/{path}")
    response = console.execute(patch)
    expect(response.locator(".response-col_status").last).to_have_text("200")
    expect(response).to_contain_text('"path": "films/another name.mp4"')
    patch.get_by_placeholder("path", exact=True).fill(f"{folder}/{clip.name}")
    patch.locator("textarea").fill('{"filename": "moved.mp4"}')
    response = console.execute(patch)
    expect(response).to_contain_text(f'"path": "{folder}/moved.mp4"')
    patch.locator(".opblock-summary-control").click()
    with server.client() as client:
        assert client.get(f"/files/{folder}/moved.mp4").content == clip.read_bytes()
    assert console.errors == []


def test_examples_of_accounts_run_as_they_stand(tmp_path: Path, shell: Browser) -> None:
    with (
        running(tmp_path, access="accounts", sign_up="open") as server,
        closing(shell.new_context()) as context,
    ):
        console = Console(context.new_page())
        console.page.goto(f"{server.url}/docs")
        assert console.status("POST /sign-up") == "201"
        with server.client(auth=("anna@example.org", "correct horse battery staple")) as client:
            client.put("/files/films/film.mp4").raise_for_status()
        assert console.status("POST /account/links") == "201"


def test_examples_of_document_are_accepted(tmp_path: Path) -> None:
    """Each operation with the values of its examples alone, which are those that the console fills in.

    Only the file of a form and the id of a file have no example.
    """
    created = ("/account/links", "/account/tokens", "/invites")
    read = ("/files/{path}", "/file/stream", "/files", "/playlist.m3u", "/playlist.xspf", "/health")
    with running(tmp_path, access="accounts", sign_up="open") as server, server.client() as http:
        document = http.get("/openapi.json").json()
        for title, status in [
            ("POST /sign-up", 201),
            ("PUT /files/{path}", 201),
            *((f"POST {path}", 201) for path in created),
            *((f"GET {path}", 200) for path in read),
            ("PATCH /files/{path}", 200),
            ("PUT /files/{path}", 201),
            ("DELETE /files/{path}", 204),
            ("POST /login", 200),
            ("POST /account/password", 204),
        ]:
            assert request_by_examples(http, document, title).status_code == status, title


def request_by_examples(http: httpx.Client, document: dict[str, Any], title: str) -> httpx.Response:
    method, path = title.split()
    operation = document["paths"][path][method.lower()]
    query = {}
    for parameter in operation.get("parameters", []):
        example = parameter.get("example")
        if parameter.get("in") == "path":
            path = path.replace(f"{{{parameter['name']}}}", example)
        elif parameter.get("in") == "query" and example is not None:
            query[parameter["name"]] = example
    ((content_type, content),) = operation.get("requestBody", {"content": {"": {}}})["content"].items()
    if "json" not in content_type:
        return http.request(method, path, params=query)
    example = content.get("example")
    if example is None:
        fields = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["properties"]
        example = {name: field["examples"][0] for name, field in fields.items() if "examples" in field}
    headers = {"content-type": content_type}
    return http.request(method, path, params=query, content=json.dumps(example), headers=headers)

"""The console at /docs, in a browser that reaches no other site."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

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


@pytest.fixture
def console(server: Server, shell: Browser) -> Iterator[Console]:
    """The console in a new browser profile. Requests to other sites are blocked, and count as errors."""
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
    upload = console.open("POST /file/upload")
    upload.locator("input[type=file]").set_input_files(clip)
    upload.get_by_placeholder("folder").last.fill(folder)
    response = console.execute(upload)
    expect(response.locator(".response-col_status").last).to_have_text("201")
    expect(response).to_contain_text(sha256(clip))
    with server.client() as client:
        assert client.get(f"/files/{folder}/{clip.name}").content == clip.read_bytes()

    for title, fields in {
        "GET /files/{path}": {"path": f"{folder}/{clip.name}"},
        "GET /file/stream": {"filename": clip.name, "folder": folder},
    }.items():
        get = console.open(title)
        for placeholder, value in {**fields, "Range": "bytes=4-7"}.items():
            get.get_by_placeholder(placeholder, exact=True).fill(value)
        response = console.execute(get)
        expect(response.locator(".response-col_status").last).to_have_text("206")
        expect(response).to_contain_text(f"content-range: bytes 4-7/{clip.stat().st_size}")
        expect(response.locator(".response-col_description .highlight-code")).to_contain_text("ftyp")
    assert len(console.requests) > 4
    assert console.errors == []


def test_console_uploads_to_top_unless_a_folder_field_is_filled(
    console: Console, server: Server, folder: str, clip: Path
) -> None:
    """The values that the console itself puts into fields do not select a folder."""
    upload = console.open("POST /file/upload")
    upload.locator("input[type=file]").set_input_files(clip)
    response = console.execute(upload)
    expect(response.locator(".response-col_status").last).to_have_text("201")
    expect(response).to_contain_text(f'"path": "{clip.name}"')
    with server.client() as client:
        assert client.get(f"/files/{clip.name}").content == clip.read_bytes()
    # Fill only the first field that is called folder.
    upload.get_by_placeholder("folder").first.fill(folder)
    response = console.execute(upload)
    expect(response).to_contain_text(f'"path": "{folder}/{clip.name}"')
    expect(response.locator(".response-col_status").last).to_have_text("201")
    assert console.errors == []


def test_console_lists_moves_and_shows_404(console: Console, server: Server, folder: str, clip: Path) -> None:
    with server.client() as client:
        client.put(f"/files/{folder}/{clip.name}", content=clip.read_bytes()).raise_for_status()
    listing = console.open("GET /files")
    listing.get_by_placeholder("folder", exact=True).fill(folder)
    response = console.execute(listing)  # the other fields as the console fills them
    expect(response.locator(".response-col_status").last).to_have_text("200")
    expect(response).to_contain_text(f'"path": "{folder}/{clip.name}"')

    patch = console.open("PATCH /files/{path}")
    patch.get_by_placeholder("path", exact=True).fill(f"{folder}/{clip.name}")
    patch.locator("textarea").fill('{"filename": "moved.mp4"}')
    response = console.execute(patch)
    expect(response.locator(".response-col_status").last).to_have_text("200")
    expect(response).to_contain_text(f'"path": "{folder}/moved.mp4"')
    with server.client() as client:
        assert client.get(f"/files/{folder}/moved.mp4").content == clip.read_bytes()
    assert console.errors == []

    get = console.open("GET /files/{path}")
    get.get_by_placeholder("path").fill(f"{folder}/{clip.name}")
    response = console.execute(get)
    expect(response.locator(".response-col_status").last).to_contain_text("404")
    expect(response).to_contain_text("There is no such file.")


def test_examples_run_as_they_stand(console: Console, server: Server) -> None:
    """Only the file of a form and the id of a file have no example."""
    reads = ("/files/{path}", "/file/stream", "/files", "/playlist.m3u", "/playlist.xspf", "/health")
    assert console.status("PUT /files/{path}") == "201"
    assert {path: console.status(f"GET {path}") for path in reads} == dict.fromkeys(reads, "200")
    assert console.status("DELETE /files/{path}") == "204"
    with server.client() as client:
        client.put("/files/films/film.mp4").raise_for_status()
        assert console.status("PATCH /files/{path}") == "200"
        client.delete("/files/films/another name.mp4").raise_for_status()
    assert console.errors == []


def test_examples_of_accounts_run_as_they_stand(tmp_path: Path, shell: Browser) -> None:
    with (
        running(tmp_path, access="accounts", sign_up="open") as server,
        closing(shell.new_context()) as context,
    ):
        console = Console(context.new_page())
        console.page.goto(f"{server.url}/docs")
        assert console.status("POST /sign-up") == "201"
        assert console.status("PUT /files/{path}") == "201"
        creations = ("/account/links", "/account/tokens", "/invites")
        assert {path: console.status(f"POST {path}") for path in creations} == dict.fromkeys(creations, "201")
        assert console.status("POST /login") == "200"
        assert console.status("POST /account/password") == "204"

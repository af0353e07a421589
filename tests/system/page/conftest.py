"""Fixtures: a browser, and pages of a real server whose console must stay empty."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from tests.support import Server, need, run
from tests.system.live.conftest import HEADLESS_SHELL, launched_browser

SECONDS = 30


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of half a megabyte, with a key frame every second and the index at the front."""
    need("ffmpeg")
    film = tmp_path_factory.mktemp("films") / "film.mp4"
    # fmt: off
    run(
        "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error",
        "-f", "lavfi", "-i", f"testsrc=size=160x90:rate=10:duration={SECONDS}",
        "-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}",
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "10",
        "-c:a", "aac", "-b:a", "96k", "-movflags", "+faststart", film,
    )
    # fmt: on
    return film


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One headless browser per package: its event loop must not run during tests that run their own."""
    with launched_browser(HEADLESS_SHELL) as browser:
        yield browser


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


# Chromium's message for a page that is closed while its WebSocket still connects.
CLOSED_EARLY = "WebSocket is closed before the connection is established"


class Visitor:
    """An opener of pages in new profiles. Each console message must contain one of the `expected` texts."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.expected: set[str] = set()
        self._browser = browser
        self._messages: list[str] = []
        self._contexts: list[BrowserContext] = []

    def __call__(self, path: str = "/", **options: object) -> Page:
        context = self._browser.new_context(**options)  # type: ignore[arg-type]
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._messages.append(message.text))
        page.on("pageerror", lambda error: self._messages.append(f"error: {error}"))
        page.goto(f"{self.url}{path}")
        return page

    def end(self) -> None:
        for context in self._contexts:
            context.close()
        expected = {*self.expected, CLOSED_EARLY}
        assert [text for text in self._messages if not any(part in text for part in expected)] == []


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Call it with a path to open a page. Fails at the end if a console has an unexpected message."""
    visitor = Visitor(browser, server.url)
    yield visitor
    visitor.end()


def throttle(page: Page, bytes_per_second: int) -> Callable[[], None]:
    """Limit the page's upload rate. Returns a function that removes the limit."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")

    def limit(upload: int) -> None:
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": upload}
        session.send("Network.emulateNetworkConditions", conditions)

    limit(bytes_per_second)
    return lambda: limit(-1)


def row(page: Page, name: str) -> Locator:
    """Return the row of a file or folder."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def choose(page: Page, name: str, action: str) -> None:
    """Choose an action from the menu of a row."""
    row(page, name).get_by_role("button", name=f"Actions for {name}").click()
    page.get_by_role("menuitem", name=action).click()

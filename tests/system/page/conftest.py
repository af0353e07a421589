"""A browser before a real server, and whatever goes wrong in its pages written down."""

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
    """Half a megabyte, with a key frame every second and the index at the front."""
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
    """One for all tests of this folder. (Longer, and its event loop would be in the way of others.)

    All of Chromium but its windows, which each page would have to open: in tests/system/live it has them.
    """
    with launched_browser(HEADLESS_SHELL) as browser:
        yield browser


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


# What Chromium writes of a page that is left while it still connects.
LEFT = "WebSocket is closed before the connection is established"


class Visitor:
    """Opens pages, each in a profile of its own. `expected` says what may be written to their consoles."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.expected: set[str] = set()
        self._browser = browser
        self._faults: list[str] = []
        self._contexts: list[BrowserContext] = []

    def __call__(self, path: str = "/", **options: object) -> Page:
        context = self._browser.new_context(**options)  # type: ignore[arg-type]
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._faults.append(message.text))
        page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        page.goto(f"{self.url}{path}")
        return page

    def end(self) -> None:
        for context in self._contexts:
            context.close()
        expected = {*self.expected, LEFT}
        assert [fault for fault in self._faults if not any(part in fault for part in expected)] == []


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Call it with a path for a page. At the end nothing may be on any console: the policy writes there."""
    visitor = Visitor(browser, server.url)
    yield visitor
    visitor.end()


def throttle(page: Page, bytes_per_second: int) -> Callable[[], None]:
    """Let it send so slowly; the call of what is returned ends that."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")

    def limit(upload: int) -> None:
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": upload}
        session.send("Network.emulateNetworkConditions", conditions)

    limit(bytes_per_second)
    return lambda: limit(-1)


def row(page: Page, name: str) -> Locator:
    """The row of a file or folder."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def choose(page: Page, name: str, action: str) -> None:
    """An action of the menu of a row."""
    row(page, name).get_by_role("button", name=f"Actions for {name}").click()
    page.get_by_role("menuitem", name=action).click()

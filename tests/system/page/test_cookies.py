"""Session cookies in a browser: several servers on one host, a proxy that changes Host, and https."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import NewLibrary, Server, running
from tests.support.mongo import free_port
from tests.system.live.proxies import proxy
from tests.system.page.conftest import Visitor, row
from tests.system.page.test_accounts import log_in, sign_up
from tests.system.page.test_uploads import pick, write_films

pytestmark = pytest.mark.live

EMAIL = "anna@example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cookies")
    with running(folder, access="accounts", sign_up="open", **new_library()) as server:
        yield server


@pytest.fixture
def https(tmp_path: Path, new_library: NewLibrary) -> Iterator[Server]:
    """A server with an https base URL, which the browser opens at another URL over http."""
    port = free_port()
    options = {"access": "accounts", "sign_up": "open", "base_url": "https://media.example.org"}
    with running(tmp_path / "https", "--port", str(port), **options, **new_library()) as server:
        server.url = f"http://127.0.0.1:{port}"
        yield server


def test_logout_keeps_session_of_other_server_on_same_host(
    browser: Browser, server: Server, tmp_path: Path, new_library: NewLibrary
) -> None:
    with ExitStack() as stack:
        options = {"access": "accounts", "sign_up": "open", **new_library()}
        other = stack.enter_context(running(tmp_path / "other", **options))
        context = stack.enter_context(browser.new_context())
        # A cookie of another program on this host.
        context.add_cookies([{"name": "session", "value": "theirs", "url": server.url}])
        pages = []
        for one in (server, other):
            page = context.new_page()
            page.goto(one.url)
            sign_up(page, f"two-{EMAIL}")
            pages.append(page)
        for page in pages:
            page.reload()
            expect(page.get_by_role("heading", level=1)).to_have_text("All files")
        pages[0].get_by_role("button", name="Log out").click()
        expect(pages[0].get_by_role("heading", level=1)).to_have_text("Log in")
        pages[1].reload()
        expect(pages[1].get_by_role("heading", level=1)).to_have_text("All files")
        assert {"name": "session", "value": "theirs"}.items() <= context.cookies(server.url)[0].items()


def test_page_uploads_when_proxy_drops_port_of_host(browser: Browser, server: Server, tmp_path: Path) -> None:
    edit = ("proxy_set_header Host $http_host;", "proxy_set_header Host $host;")
    with proxy("nginx", server, tmp_path / "front", edit=edit) as front:
        visitor = Visitor(browser, f"https://127.0.0.1:{front.port}")
        # Chromium sends no Sec-Fetch-Site with WebSockets.
        visitor.expected = {"WebSocket"}
        page = visitor("/login", ignore_https_errors=True)
        sign_up(page, f"behind-{EMAIL}")
        pick(page, *write_films(tmp_path, film=b"a film"))
        expect(page.locator("#uploads [data-state=stored]")).to_have_count(1)
        page.reload()
        expect(row(page, "film.mp4")).to_be_visible()
        visitor.end()


def test_login_page_over_http_links_to_base_url(browser: Browser, https: Server) -> None:
    visitor = Visitor(browser, https.url)
    visitor.expected = {"403"}
    page = visitor("/?folder=films")
    link = page.get_by_role("link", name="Go to https://media.example.org")
    expect(link).to_have_attribute("href", "https://media.example.org/login?next=/%3Ffolder%3Dfilms")
    # If the base URL is wrong, there is still a form; and if the form fails, the page does not loop.
    page.get_by_role("link", name="Log in here").click()
    log_in(page, EMAIL)
    expect(link).to_be_visible()
    visitor.end()

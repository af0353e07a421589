"""The web page in a browser: browse folders, play a film and seek, with and without scripts."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import Server
from tests.system.live.clients import logged_statuses
from tests.system.live.conftest import SECONDS, WAIT_FOR_POSITION

pytestmark = pytest.mark.live

NAME = "<b>100%<b> #1? & סרט 🎬.mp4"


@pytest.fixture
def film_url(server: Server, folder: str, long_film: Path) -> str:
    with server.client() as client, long_film.open("rb") as body:
        response = client.put(f"/files/{folder}/{quote(NAME)}", content=body)
    url: str = response.raise_for_status().json()["url"]
    return url


def open_page(browser: Browser, server: Server, errors: list[str], **options: object) -> Page:
    """Open the page, and collect its console messages and errors."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: errors.append(f"error: {error}"))
    page.goto(f"{server.url}/")
    return page


def open_film(page: Page, folder: str, name: str) -> None:
    """Open a folder from the top page, and then a film in it, by clicks."""
    page.get_by_role("link", name=folder, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(folder)
    page.get_by_role("cell", name=name).get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_browser_plays_and_seeks_film(browser: Browser, server: Server, folder: str, film_url: str) -> None:
    errors: list[str] = []
    page = open_page(browser, server, errors)
    responses: list[tuple[int, str]] = []
    page.on("response", lambda each: responses.append((each.status, each.headers.get("content-range", ""))))
    open_film(page, folder, NAME)
    video = page.locator("video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    video.evaluate(WAIT_FOR_POSITION, 0.5)
    assert video.evaluate("video => video.duration") == pytest.approx(SECONDS, abs=0.5)
    before = len(logged_statuses(server, film_url, 0))
    responses.clear()
    position = SECONDS * 3 // 4
    reached = video.evaluate(
        """(video, position) => new Promise(resolve => {
            video.addEventListener("seeked", () => resolve(video.currentTime), {once: true});
            video.currentTime = position;
        })""",
        position,
    )
    assert reached == pytest.approx(position, abs=1)
    video.evaluate(WAIT_FOR_POSITION, position + 0.5)
    assert video.evaluate("video => video.error") is None
    starts = [int(re.findall(r"bytes (\d+)-", part)[0]) for status, part in responses if status == 206]
    size = int(responses[-1][1].rpartition("/")[2])
    assert any(0.6 < start / size < 0.8 for start in starts), (responses, size)
    page.context.close()
    assert 206 in logged_statuses(server, film_url, before + 1)[before:]
    assert set(logged_statuses(server, film_url)) <= {206, 304}  # 304: the browser revalidates its cache
    assert errors == []


def test_page_works_without_scripts(
    browser: Browser, server: Server, folder: str, film_url: str, tmp_path: Path
) -> None:
    errors: list[str] = []
    page = open_page(
        browser, server, errors, java_script_enabled=False, viewport={"width": 390, "height": 844}
    )
    open_film(page, folder, NAME)
    expect(page.locator("video[controls]")).to_be_visible()
    page.screenshot(path=tmp_path / "player.png")
    page.get_by_role("searchbox").fill("100")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("table")).to_contain_text(NAME)
    page.screenshot(path=tmp_path / "found.png")
    page.get_by_role("link", name="Size").click()
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {NAME}").click()
    assert download.value.path().stat().st_size > 40 << 20
    with page.expect_download() as download:
        page.get_by_role("link", name="M3U").click()
    assert download.value.suggested_filename == f"{folder}.m3u"
    assert film_url in download.value.path().read_text()
    page.context.close()
    assert errors == []

"""The web page in a browser: into a folder, to a film, and to any place in it; without scripts too."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live.clients import logged_statuses
from tests.live.conftest import SECONDS
from tests.support import Server

pytestmark = pytest.mark.live

NAME = "<b>100%<b> #1? & סרט 🎬.mp4"


PASSES = """(video, position) => new Promise((resolve, reject) => {
    video.addEventListener("timeupdate", () => { if (video.currentTime > position) resolve(); });
    video.addEventListener("error", () => reject(video.error.message));
})"""
"""Waits until it plays past a position. (The page's policy refuses wait_for_function.)"""


@pytest.fixture
def film_url(server: Server, folder: str, long_film: Path) -> str:
    with server.client() as client, long_film.open("rb") as body:
        answer = client.put(f"/files/{folder}/{quote(NAME)}", content=body)
    url: str = answer.raise_for_status().json()["url"]
    return url


def visit(browser: Browser, server: Server, faults: list[str], **options: object) -> Page:
    """A page that writes down whatever goes wrong in it."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.goto(f"{server.url}/")
    return page


def walk_to(page: Page, folder: str, name: str) -> None:
    """Click from the top into a folder, and there to a file."""
    page.get_by_role("link", name=folder, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(folder)
    page.get_by_role("cell", name=name).get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_a_film_plays_and_seeks(browser: Browser, server: Server, folder: str, film_url: str) -> None:
    faults: list[str] = []
    page = visit(browser, server, faults)
    given: list[tuple[int, str]] = []
    page.on("response", lambda got: given.append((got.status, got.headers.get("content-range", ""))))
    walk_to(page, folder, NAME)
    video = page.locator("video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    video.evaluate(PASSES, 0.5)
    assert video.evaluate("video => video.duration") == pytest.approx(SECONDS, abs=0.5)
    before = len(logged_statuses(server, film_url, 0))
    given.clear()
    position = SECONDS * 3 // 4
    reached = video.evaluate(
        """(video, position) => new Promise(resolve => {
            video.addEventListener("seeked", () => resolve(video.currentTime), {once: true});
            video.currentTime = position;
        })""",
        position,
    )
    assert reached == pytest.approx(position, abs=1)
    video.evaluate(PASSES, position + 0.5)
    assert video.evaluate("video => video.error") is None
    starts = [int(re.findall(r"bytes (\d+)-", part)[0]) for status, part in given if status == 206]
    size = int(given[-1][1].rpartition("/")[2])
    assert any(0.6 < start / size < 0.8 for start in starts), (given, size)
    page.context.close()
    assert 206 in logged_statuses(server, film_url, before + 1)[before:]
    assert set(logged_statuses(server, film_url)) <= {206, 304}  # it asks whether what it has is still good
    assert faults == []


def test_everything_works_without_scripts(
    browser: Browser, server: Server, folder: str, film_url: str, tmp_path: Path
) -> None:
    faults: list[str] = []
    page = visit(browser, server, faults, java_script_enabled=False, viewport={"width": 390, "height": 844})
    walk_to(page, folder, NAME)
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
    assert faults == []

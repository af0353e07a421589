"""The player: its keys, its speed, and going on where one stopped."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.system.page.conftest import SECONDS, Visitor

pytestmark = pytest.mark.live

Get = Callable[[str], object]


@pytest.fixture
def films(http: httpx.Client, folder: str, film: Path) -> str:
    """Three of them in a folder, and what is no film between."""
    for name in ("1.mp4", "2.mp4", "2.txt", "3.mp4"):
        http.put(f"/files/{folder}/{name}", content=film.read_bytes()).raise_for_status()
    return folder


PASSES = """(video, position) => new Promise((resolve, reject) => {
    video.addEventListener("timeupdate", () => { if (video.currentTime > position) resolve(); });
    video.addEventListener("error", () => reject(video.error.message));
})"""


def ready(page: Page) -> Get:
    """Wait until it knows how long it is. What is returned reads a property of it."""
    video = page.locator("video")
    video.evaluate("""async video => {
        video.muted = true;
        if (!video.readyState) await new Promise(done => video.addEventListener("loadedmetadata", done));
    }""")
    return lambda name: video.evaluate("(video, name) => video[name]", name)


def test_its_keys(visit: Visitor, films: str) -> None:
    page = visit(f"/?play={films}/2.mp4")
    get = ready(page)
    press = page.keyboard.press
    press("k")
    page.locator("video").evaluate(PASSES, 0.2)
    press("Space")
    assert get("paused")
    press("5")
    assert get("currentTime") == pytest.approx(SECONDS / 2)
    for key, by in (("ArrowRight", 5), ("ArrowLeft", -5), ("l", 10), ("j", -10)):
        before = get("currentTime")
        press(key)
        assert get("currentTime") == pytest.approx(before + by)  # type: ignore[operator]
    press("0")
    assert get("currentTime") == 0
    press("ArrowLeft")
    assert get("currentTime") == 0
    press("m")
    assert get("muted") is False
    press("m")
    press("ArrowDown")
    assert (get("volume"), get("muted")) == (0.95, False)
    press("ArrowUp")
    assert get("volume") == 1
    press("Shift+>")
    assert get("playbackRate") == 1.25
    expect(page.get_by_label("Speed")).to_have_value("1.25")
    expect(page.get_by_role("status")).to_have_text("Speed 1.25×")
    press("Shift+<")
    assert get("playbackRate") == 1
    press("f")
    expect(page.locator("video:fullscreen")).to_have_count(1)
    press("f")
    expect(page.locator("video:fullscreen")).to_have_count(0)
    press("n")
    expect(page.get_by_role("heading", level=1)).to_have_text("3.mp4")
    press("p")
    expect(page.get_by_role("heading", level=1)).to_have_text("2.mp4")


def test_keys_are_left_to_what_has_the_focus(visit: Visitor, films: str) -> None:
    page = visit(f"/?play={films}/1.mp4")
    get = ready(page)
    page.get_by_role("searchbox").press_sequentially("k 5m")
    assert (get("paused"), get("currentTime"), get("muted")) == (True, 0, True)
    expect(page.get_by_role("searchbox")).to_have_value("k 5m")
    page.get_by_label("Speed").focus()
    page.keyboard.press("ArrowDown")
    assert (get("playbackRate"), get("volume")) == (1.25, 1)
    page.get_by_role("button", name="Keys").focus()
    page.keyboard.press("Space")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("10 seconds back or forward")
    page.keyboard.press("l")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Keys")).to_be_focused()
    assert (get("paused"), get("currentTime")) == (True, 0)
    page.keyboard.press("?")
    expect(dialog).to_be_visible()


def test_going_on_where_one_stopped(visit: Visitor, http: httpx.Client, films: str) -> None:
    page = visit(f"/?play={films}/1.mp4")
    get = ready(page)
    expect(page.get_by_text("Continuing")).to_be_hidden()
    page.keyboard.press("k")
    page.locator("video").evaluate(PASSES, 0.1)
    page.keyboard.press("4")
    page.locator("video").evaluate(PASSES, SECONDS * 0.4 + 0.1)
    page.keyboard.press("k")
    stopped = get("currentTime")
    renamed = {"filename": "other.mp4"}
    patch = {"content-type": "application/merge-patch+json"}
    http.patch(f"/files/{films}/1.mp4", json=renamed, headers=patch).raise_for_status()
    page.goto(f"{visit.url}/?play={films}/other.mp4")
    get = ready(page)
    expect(page.get_by_text("Continuing at 0:12.")).to_be_visible()
    assert get("currentTime") == pytest.approx(stopped, abs=0.2)
    page.get_by_role("button", name="From the beginning").click()
    assert get("currentTime") == 0
    page.keyboard.press("k")
    page.locator("video").evaluate(PASSES, 0.1)
    page.keyboard.press("9")
    page.keyboard.press("ArrowRight")  # to its very end
    page.reload()
    ready(page)
    expect(page.get_by_text("Continuing")).to_be_hidden()
    assert page.locator("video").evaluate("video => video.currentTime") == 0


def test_a_film_that_no_browser_plays_says_so(visit: Visitor, http: httpx.Client, folder: str) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"no film").raise_for_status()
    page = visit(f"/?play={folder}/film.mp4")
    expect(page.get_by_role("alert")).to_contain_text("This browser cannot play it.")

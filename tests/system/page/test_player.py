"""The player: keys, speed, and resuming at the last position."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.system.live.conftest import WAIT_FOR_POSITION
from tests.system.page.conftest import SECONDS, Visitor

pytestmark = pytest.mark.live

Get = Callable[[str], object]


@pytest.fixture
def films(http: httpx.Client, folder: str, film: Path) -> str:
    """A folder with three films, and a text file between them."""
    for name in ("1.mp4", "2.mp4", "2.txt", "3.mp4"):
        http.put(f"/files/{folder}/{name}", content=film.read_bytes()).raise_for_status()
    return folder


def wait_for_metadata(page: Page) -> Get:
    """Wait until the video has its metadata. Returns a function that reads a property of the video."""
    video = page.locator("video")
    video.evaluate("""async video => {
        video.muted = true;
        if (!video.readyState) await new Promise(done => video.addEventListener("loadedmetadata", done));
    }""")
    return lambda name: video.evaluate("(video, name) => video[name]", name)


def test_keys_control_player(visit: Visitor, films: str) -> None:
    page = visit(f"/?play={films}/2.mp4")
    get = wait_for_metadata(page)
    press = page.keyboard.press
    press("k")
    page.locator("video").evaluate(WAIT_FOR_POSITION, 0.2)
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


def test_keys_go_to_focused_control(visit: Visitor, films: str) -> None:
    page = visit(f"/?play={films}/1.mp4")
    get = wait_for_metadata(page)
    page.get_by_role("searchbox").press_sequentially("k 5m")
    assert (get("paused"), get("currentTime"), get("muted")) == (True, 0, True)
    expect(page.get_by_role("searchbox")).to_have_value("k 5m")
    page.get_by_label("Speed").focus()
    page.keyboard.press("ArrowDown")
    assert (get("playbackRate"), get("volume")) == (1.25, 1)
    page.get_by_role("button", name="Shortcuts").focus()
    page.keyboard.press("Space")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_contain_text("10 seconds back or forward")
    page.keyboard.press("l")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Shortcuts")).to_be_focused()
    assert (get("paused"), get("currentTime")) == (True, 0)
    page.keyboard.press("?")
    expect(dialog).to_be_visible()


def test_player_resumes_at_last_position(visit: Visitor, http: httpx.Client, films: str) -> None:
    page = visit(f"/?play={films}/1.mp4")
    get = wait_for_metadata(page)
    expect(page.get_by_text("Resumed")).to_be_hidden()
    page.keyboard.press("k")
    page.locator("video").evaluate(WAIT_FOR_POSITION, 0.1)
    page.keyboard.press("4")
    page.locator("video").evaluate(WAIT_FOR_POSITION, SECONDS * 0.4 + 0.1)
    page.keyboard.press("k")
    stopped = get("currentTime")
    renamed = {"filename": "other.mp4"}
    patch = {"content-type": "application/merge-patch+json"}
    http.patch(f"/files/{films}/1.mp4", json=renamed, headers=patch).raise_for_status()
    page.goto(f"{visit.url}/?play={films}/other.mp4")
    get = wait_for_metadata(page)
    expect(page.get_by_text("Resumed at 0:12.")).to_be_visible()
    assert get("currentTime") == pytest.approx(stopped, abs=0.2)
    page.get_by_role("button", name="Start over").click()
    assert get("currentTime") == 0
    page.keyboard.press("k")
    page.locator("video").evaluate(WAIT_FOR_POSITION, 0.1)
    page.keyboard.press("9")
    page.keyboard.press("ArrowRight")  # to the end of the film
    page.reload()
    wait_for_metadata(page)
    expect(page.get_by_text("Resumed")).to_be_hidden()
    assert page.locator("video").evaluate("video => video.currentTime") == 0


def test_player_shows_error_when_browser_cannot_play_film(
    visit: Visitor, http: httpx.Client, folder: str
) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"no film").raise_for_status()
    page = visit(f"/?play={folder}/film.mp4")
    expect(page.get_by_role("alert")).to_contain_text("This browser cannot play this file.")

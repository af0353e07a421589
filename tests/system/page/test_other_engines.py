"""The page in Firefox and WebKit; every other test of the page runs in Chromium."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import Server
from tests.system.live.clients import logged_statuses, until
from tests.system.page.conftest import SECONDS
from tests.system.page.engines import ENGINES, Engine, minibrowser

pytestmark = [pytest.mark.live, pytest.mark.campaign]

Visit = Callable[[str], Engine]

# The last statement waits for a later picture, as `seeked` shows only the sought one.
PLAY_AND_SEEK = """
    const video = document.querySelector("video");
    const event = name => new Promise((resolve, reject) => {
        video.addEventListener(name, resolve, {once: true});
        video.addEventListener("error", () => reject(video.error.message), {once: true});
    });
    video.muted = true;
    await video.play();
    while (video.currentTime < 0.5) await event("timeupdate");
    const sought = event("seeked");
    video.currentTime = 25;
    await sought;
    const position = video.currentTime;
    while (video.currentTime < 25.5) await event("timeupdate");
    const shown = video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
    return [video.duration, position, video.videoWidth, shown];
"""

ADD_INLINE_SCRIPT = """
    const script = document.createElement("script");
    script.textContent = "console.error('an inline script')";
    document.head.append(script);
"""


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with ENGINES[request.param](tmp_path_factory.mktemp(request.param) / "browser") as engine:
        yield engine


@pytest.fixture
def visit(engine: Engine, server: Server) -> Iterator[Visit]:
    """Call it with a path to open a page. Fails at the end if a console has a message."""

    def visit(path: str) -> Engine:
        engine.open(f"{server.url}{path}")
        return engine

    before = len(engine.complaints())
    yield visit
    assert engine.complaints()[before:] == []


def text(engine: Engine, selector: str) -> str:
    """Return the text of the only element that the selector matches."""
    return "".join(texts(engine, selector))


def texts(engine: Engine, selector: str) -> list[str]:
    found: list[str] = engine.evaluate(
        f"return [...document.querySelectorAll({selector!r})].map(element => element.textContent.trim())"
    )
    return found


def test_film_of_list_plays_and_seeks(
    visit: Visit, server: Server, http: httpx.Client, folder: str, film: Path
) -> None:
    url = f"/files/{folder}/film.mp4"
    http.put(url, content=film.read_bytes()).raise_for_status()
    page = visit(f"/?folder={folder}")
    assert texts(page, "td.name a") == ["film.mp4"]
    page.open(page.evaluate("return document.querySelector('td.name a').href"))
    assert text(page, "h1") == "film.mp4"
    width = 160
    duration, position, *shown = page.evaluate(PLAY_AND_SEEK)
    assert (duration, position) == (pytest.approx(SECONDS, abs=0.2), pytest.approx(25, abs=0.2))
    assert shown == [width, True]
    until(lambda: 206 in logged_statuses(server, url), "a range request")


def test_chosen_file_is_uploaded_and_listed(
    visit: Visit, http: httpx.Client, folder: str, film: Path
) -> None:
    page = visit(f"/?folder={folder}")
    page.choose_file("#picked", film)
    until(lambda: texts(page, "td.name a") == ["film.mp4"], "the uploaded film in the list")
    assert texts(page, "#uploads [data-state=stored]")
    assert http.get(f"/files/{folder}/film.mp4").content == film.read_bytes()


def test_unknown_address_shows_error_page_with_link_home(visit: Visit, server: Server) -> None:
    page = visit("/nope")
    assert text(page, "h1") == "Not Found 404"
    page.open(page.evaluate("return document.querySelector('main .actions a').href"))
    assert text(page, "h1") == "All files"
    assert set(logged_statuses(server, "/nope")) == {404}


@pytest.mark.parametrize(
    ("path", "heading"), [("/help/", "Documentation"), ("/help/tutorial", "Tutorial"), ("/docs", "Seekable")]
)
def test_documentation_opens(visit: Visit, path: str, heading: str) -> None:
    page = visit(path)
    until(lambda: any(found.startswith(heading) for found in texts(page, "h1, h2")), f"{heading} at {path}")


def test_engine_reports_errors_and_blocked_scripts(engine: Engine, server: Server) -> None:
    """Without these reports the other tests would pass on a page that the policy blocks."""
    engine.open(server.url)
    before = len(engine.complaints())
    engine.evaluate(f"console.error('an error'); {ADD_INLINE_SCRIPT}")
    until(lambda: len(engine.complaints()) >= before + 2, "two messages")
    error, blocked = engine.complaints()[before:]
    assert "an error" in error
    assert "script-src" in blocked


def test_webkit_loads_each_page_without_console_message(
    server: Server, http: httpx.Client, folder: str, film: Path, tmp_path: Path
) -> None:
    """WebKit's driver misses the messages of a load."""
    http.put(f"/files/{folder}/film.mp4", content=film.read_bytes()).raise_for_status()
    paths = ("/", f"/?folder={folder}", f"/?play={folder}/film.mp4", "/nope", "/help/", "/docs")
    blocked = tmp_path / "blocked.html"
    policy = """<meta http-equiv="content-security-policy" content="script-src 'self'">"""
    blocked.write_text(f"{policy}<script>1</script>")
    begin = server.logged()
    urls = (*(f"{server.url}{path}" for path in paths), blocked.as_uri())
    with minibrowser(tmp_path / "browser", *urls) as browser:
        # The scripts of lists and of the player connect to /events; those of /docs request /openapi.json.
        until(lambda: server.log(begin).count('"WebSocket /events" [accepted]') >= 3, "three connections")
        targets = {"/openapi.json", "/help/", "/nope", f"/files/{folder}/film.mp4"}
        until(lambda: targets <= set(re.findall(r'"GET (\S+) HTTP', server.log(begin))), "the other requests")
        browser.wait_for("CONSOLE SECURITY ERROR Refused")
    lines = [line for line in browser.log().splitlines() if " CONSOLE " in line]
    assert [line for line in lines if not line.startswith(blocked.as_uri())] == []

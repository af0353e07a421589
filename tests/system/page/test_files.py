"""File actions in the page: menus, dialogs, and a list that follows other clients' changes."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, WebSocket, expect

from tests.support import NewLibrary, running
from tests.system.page.conftest import Visitor, choose, row
from tests.system.page.test_uploads import payload, pick

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("refusals_expected")]

CLIPBOARD = ["clipboard-read", "clipboard-write"]


@pytest.fixture
def refusals_expected(visit: Visitor) -> None:
    """Allow the console messages that browsers write for each refused request."""
    visit.expected = {"409", "412"}


@pytest.fixture
def page(visit: Visitor, http: httpx.Client, folder: str) -> Page:
    """A page that lists a folder with three files and a subfolder."""
    for name in ("a.mp4", "b & c.mp4", "d.txt", "sub/x.mp4"):
        http.put(f"/files/{folder}/{name}", content=name.encode()).raise_for_status()
    return visit(f"/?folder={folder}", permissions=CLIPBOARD)


def paths(http: httpx.Client, folder: str) -> list[str]:
    items = http.get("/files", params={"folder": folder, "recursive": "true"}).json()["items"]
    return sorted(item["path"].removeprefix(f"{folder}/") for item in items)


def test_file_can_be_renamed_by_keyboard_alone(page: Page, http: httpx.Client, folder: str) -> None:
    page.get_by_role("button", name="Actions for b & c.mp4").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Open in VLC")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Copy link")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Actions for b & c.mp4")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    field = page.get_by_label("New name")
    expect(field).to_be_focused()
    page.keyboard.type("a")  # replaces the name, without its extension
    page.keyboard.press("Enter")
    error = page.get_by_role("alert")
    # The dialog stays open.
    expect(error).to_have_text(f"“{folder}/a.mp4” already exists. Choose another name.")
    expect(field).to_have_value("a.mp4")
    field.fill("<i>סרט #1.mp4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("Renamed.")
    expect(page.get_by_role("link", name="<i>סרט #1.mp4", exact=True)).to_be_focused()
    assert paths(http, folder) == ["<i>סרט #1.mp4", "a.mp4", "d.txt", "sub/x.mp4"]


def test_move_dialog_moves_file(page: Page, http: httpx.Client, folder: str) -> None:
    choose(page, "a.mp4", "Move…")
    field = page.get_by_label("To the folder")
    expect(field).to_have_value(folder)
    expect(page.locator(f'#folders option[value="{folder}/sub"]')).to_have_count(1)
    field.fill(f"/{folder}/sub/")
    page.keyboard.press("Enter")
    expect(row(page, "a.mp4")).to_have_count(0)
    expect(page.get_by_role("link", name="b & c.mp4", exact=True)).to_be_focused()
    assert paths(http, folder) == ["b & c.mp4", "d.txt", "sub/a.mp4", "sub/x.mp4"]


def test_delete_asks_for_confirmation(page: Page, http: httpx.Client, folder: str) -> None:
    choose(page, "a.mp4", "Delete…")
    dialog = page.get_by_role("dialog", name="Delete?")
    expect(dialog).to_contain_text("a.mp4 will be deleted for good.")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(row(page, "a.mp4")).to_be_visible()
    choose(page, "a.mp4", "Delete…")
    dialog.get_by_role("button", name="Delete").click()
    expect(row(page, "a.mp4")).to_have_count(0)
    assert paths(http, folder) == ["b & c.mp4", "d.txt", "sub/x.mp4"]


def test_delete_is_refused_when_file_has_changed(page: Page, http: httpx.Client, folder: str) -> None:
    choose(page, "a.mp4", "Delete…")
    http.put(f"/files/{folder}/a.mp4", content=b"newer bytes").raise_for_status()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("changed meanwhile")
    assert http.get(f"/files/{folder}/a.mp4").content == b"newer bytes"
    page.get_by_role("button", name="Cancel").click()
    expect(row(page, "a.mp4")).to_contain_text("11 Bytes")
    choose(page, "a.mp4", "Delete…")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(row(page, "a.mp4")).to_have_count(0)


def test_player_renames_and_deletes_film(page: Page, http: httpx.Client, folder: str) -> None:
    page.get_by_role("link", name="a.mp4", exact=True).click()
    page.get_by_role("button", name="Rename…").click()
    page.get_by_label("New name").fill("z.mp4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("z.mp4")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(folder)
    assert paths(http, folder) == ["b & c.mp4", "d.txt", "sub/x.mp4"]


def test_menu_copies_links_and_downloads_playlists(page: Page, http: httpx.Client, folder: str) -> None:
    choose(page, "b & c.mp4", "Copy link")
    expect(page.get_by_role("status")).to_have_text("Link copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert http.get(link).content == b"b & c.mp4"
    with page.expect_download() as download:
        choose(page, "b & c.mp4", "Open in VLC")
    assert download.value.suggested_filename == "b & c.mp4.m3u"
    assert download.value.path().read_text().splitlines()[-2:] == ["#EXTINF:-1,b & c.mp4", link]
    with page.expect_download() as download:
        choose(page, "sub", "Open in VLC")
    assert f"/{folder}/sub/x.mp4" in download.value.path().read_text()
    row(page, "d.txt").get_by_role("button").click()
    expect(page.get_by_role("menuitem")).to_have_text(["Copy link", "Rename…", "Move…", "Delete…"])
    page.keyboard.press("Escape")
    choose(page, "sub", "Copy link")
    page.goto(page.evaluate("navigator.clipboard.readText()"))
    expect(page.get_by_role("heading", level=1)).to_have_text("sub")


def test_new_folder_dialog_opens_folder(page: Page, folder: str) -> None:
    page.get_by_role("button", name="New folder").click()
    page.get_by_label("Name", exact=True).fill("#1 & more")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("#1 & more")
    expect(page.get_by_role("link", name=folder)).to_be_visible()


def test_list_follows_other_clients_and_keeps_focus_and_input(
    page: Page, visit: Visitor, http: httpx.Client, folder: str
) -> None:
    other = visit(f"/?folder={folder}")
    link = page.get_by_role("link", name="d.txt", exact=True)
    link.focus()
    element = link.element_handle()
    choose(other, "a.mp4", "Rename…")
    other.get_by_label("New name").fill("zz.mp4")
    other.keyboard.press("Enter")
    expect(row(page, "zz.mp4")).to_be_visible()
    expect(row(page, "a.mp4")).to_have_count(0)
    expect(link).to_be_focused()
    assert element is not None
    assert element.evaluate("link => link.isConnected")
    choose(page, "d.txt", "Rename…")
    page.get_by_label("New name").fill("half a na")
    http.put(f"/files/{folder}/new.mp4", content=b"new").raise_for_status()
    expect(page.locator("tbody")).to_contain_text("new.mp4")
    expect(page.get_by_label("New name")).to_have_value("half a na")
    expect(page.get_by_label("New name")).to_be_focused()
    page.keyboard.press("Escape")
    for name in ("b & c.mp4", "d.txt", "new.mp4", "zz.mp4", "sub/x.mp4"):
        http.delete(f"/files/{folder}/{name}").raise_for_status()
    expect(page.locator("main")).to_contain_text("No files in this folder.")


def test_list_is_reloaded_when_websocket_reconnects(page: Page, http: httpx.Client, folder: str) -> None:
    """A page without a WebSocket misses changes; the next WebSocket begins with a resync event."""
    page.wait_for_timeout(600)  # until the page has reloaded the list after its first resync event
    with page.expect_websocket() as second:
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
        http.put(f"/files/{folder}/late.mp4", content=b"late").raise_for_status()
        page.wait_for_timeout(500)
        expect(row(page, "late.mp4")).to_have_count(0)
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    assert re.fullmatch(r"ws://[^/]+/events", second.value.url)
    expect(row(page, "late.mp4")).to_be_visible()


def test_player_shows_when_film_is_moved_or_deleted(page: Page, http: httpx.Client, folder: str) -> None:
    frames: list[object] = []

    def record_frames(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: frames.append(frame))  # noqa: PLW0108 - takes no builtin

    player = page.context.new_page()
    player.on("websocket", record_frames)
    player.goto(f"{page.url.partition('?')[0]}?play={folder}/a.mp4")
    while not frames:
        player.wait_for_timeout(20)
    patch = {"content-type": "application/merge-patch+json"}
    http.patch(f"/files/{folder}/a.mp4", json={"filename": "q.mp4"}, headers=patch).raise_for_status()
    expect(player.get_by_role("status")).to_have_text(f"This file was moved to {folder}/q.mp4.")
    http.delete(f"/files/{folder}/q.mp4").raise_for_status()
    expect(player.get_by_role("status")).to_have_text("This file was deleted.")


def test_page_works_under_path_prefix_of_proxy(
    browser: Browser, tmp_path: Path, new_library: NewLibrary
) -> None:
    requested: list[str] = []

    def strip_prefix(route: Route) -> None:
        requested.append(route.request.url)
        route.continue_(url=route.request.url.replace("/tv/", "/", 1))

    with running(tmp_path, base_url="http://127.0.0.1/tv", **new_library()) as server:
        port = server.log().partition("running on http://127.0.0.1:")[2].split()[0]
        context = browser.new_context()
        context.route("**/*", strip_prefix)
        context.route_web_socket("**/*", lambda socket: requested.append(socket.url))
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/tv/?folder=a b")
        page.locator("#picked").set_input_files([{"name": "c #.mp4", "mimeType": "", "buffer": b"film"}])
        choose(page, "c #.mp4", "Move…")
        page.get_by_label("To the folder").fill("d")
        page.keyboard.press("Enter")
        expect(row(page, "c #.mp4")).to_have_count(0)
        page.get_by_role("button", name="New folder").click()
        page.get_by_label("Name", exact=True).fill("e")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("e")
        context.close()
    assert f"ws://127.0.0.1:{port}/tv/events" in requested
    assert [url for url in requested if not re.match(r"(http|ws)://127\.0\.0\.1:\d+/tv/", url)] == []
    assert (server.files / "d" / "c #.mp4").read_bytes() == b"film"


def test_folder_name_keeps_leading_and_trailing_spaces(
    visit: Visitor, http: httpx.Client, folder: str
) -> None:
    spaced = f"{folder}/ two spaces "
    page = visit(f"/?folder={folder}")
    page.get_by_role("button", name="New folder").click()
    page.get_by_label("Name", exact=True).fill(" two spaces ")
    page.get_by_role("button", name="Open").click()
    page.wait_for_url("**/?folder=*spaces+")
    pick(page, payload("a.mp4"))
    expect(row(page, "a.mp4")).to_be_visible()
    assert http.get("/files", params={"folder": spaced}).json()["items"][0]["path"] == f"{spaced}/a.mp4"
    choose(page, "a.mp4", "Move…")
    assert page.get_by_label("To the folder").input_value() == spaced
    page.get_by_label("To the folder").fill(f"{spaced}/ b ")
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Moved.")
    listed = http.get("/files", params={"folder": f"{spaced}/ b "}).json()
    assert [item["path"] for item in listed["items"]] == [f"{spaced}/ b /a.mp4"]
    page.get_by_role("link", name="b", exact=True).click()
    expect(row(page, "a.mp4")).to_be_visible()
    row(page, "a.mp4").get_by_role("link", name="a.mp4", exact=True).click()
    page.get_by_role("link", name="b", exact=True).click()
    expect(row(page, "a.mp4")).to_be_visible()


def test_read_only_library_has_no_controls_for_changes(
    browser: Browser, tmp_path: Path, new_library: NewLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    library = {**new_library(), "database_url": f"sqlite:///{tmp_path}/films.db"}
    with running(tmp_path / "server", **library) as server, server.client() as http:
        http.put("/files/a.mp4", content=b"a").raise_for_status()
    with running(tmp_path / "server", read_only=True, **library) as server:
        visit = Visitor(browser, server.url)
        page = visit("/")
        row(page, "a.mp4").get_by_role("button", name="Actions for a.mp4").click()
        expect(page.get_by_role("menuitem")).to_have_text(["Open in VLC", "Copy link"])
        expect(page.get_by_role("button", name=re.compile("Upload|New folder"))).to_have_count(0)
        page = visit("/?play=a.mp4")
        visit.expected = {"404", "416", "demux", "DEMUXER"}  # its content is no film
        expect(page.locator("#tools button")).to_have_text(["Open in VLC", "Copy link"])
        visit.end()

"""Uploads from the page: progress, cancellation, name conflicts and errors."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Error, FilePayload, Page, Route, expect

from tests.system.page.conftest import Visitor, row, throttle

pytestmark = pytest.mark.live


def payload(name: str, size: int = 1000) -> FilePayload:
    return {"name": name, "mimeType": "video/mp4", "buffer": name.encode().ljust(size, b".")}


def write_films(folder: Path, **files: bytes) -> list[Path]:
    """Write films to disk, and return their paths. (Payloads reach the browser through a slow pipe.)"""
    paths = []
    for name, data in files.items():
        paths.append(folder / f"{name}.mp4")
        paths[-1].write_bytes(data)
    return paths


def pick(page: Page, *files: FilePayload | Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload files").click()
    chooser.value.set_files(list(files))  # type: ignore[arg-type]


def stored_sizes(http: httpx.Client, folder: str) -> dict[str, int]:
    """Return the sizes of all files below a folder, by path."""
    items = http.get("/files", params={"folder": folder, "recursive": "true"}).json()["items"]
    return {item["path"].removeprefix(f"{folder}/"): item["size"] for item in items}


def test_three_uploads_run_at_once_and_cancelled_one_can_be_retried(
    visit: Visitor, http: httpx.Client, folder: str
) -> None:
    page = visit(f"/?folder={folder}")
    end_throttle = throttle(page, 50_000)
    pick(page, *(payload(f"{name}.mp4", 400_000) for name in "abcde"))
    states = page.locator("#uploads li")
    expect(page.locator("#uploads [data-state=sending]")).to_have_count(3)
    expect(page.locator("#uploads [data-state=waiting]")).to_have_count(2)
    page.get_by_role("button", name="Cancel: b.mp4").click()
    expect(states.nth(1)).to_contain_text("Cancelled")
    expect(page.get_by_role("button", name="Retry: b.mp4")).to_be_focused()
    expect(states.nth(3)).to_have_attribute("data-state", "sending")
    end_throttle()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(4, timeout=15_000)
    assert "b.mp4" not in stored_sizes(http, folder)
    page.keyboard.press("Enter")
    expect(states.nth(1)).to_contain_text("uploaded")
    assert stored_sizes(http, folder) == dict.fromkeys((f"{name}.mp4" for name in "abcde"), 400_000)


def test_name_conflict_offers_keep_both_replace_and_skip(
    visit: Visitor, http: httpx.Client, folder: str
) -> None:
    visit.expected = {"412"}
    for name in ("a.mp4", "a (2).mp4", "b.mp4", "c.mp4"):
        http.put(f"/files/{folder}/{name}", content=b"old").raise_for_status()
    page = visit(f"/?folder={folder}")
    pick(page, payload("a.mp4"), payload("b.mp4"), payload("c.mp4"))
    expect(page.locator("#uploads [data-state=taken]")).to_have_count(3)
    page.get_by_role("button", name="Keep both: a.mp4").click()
    page.get_by_role("button", name="Replace: b.mp4").click()
    page.get_by_role("button", name="Skip: c.mp4").click()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(2)
    expect(page.locator("#uploads li")).to_have_count(2)
    expect(row(page, "a (3).mp4")).to_be_visible()
    sizes = {"a.mp4": 3, "a (2).mp4": 3, "a (3).mp4": 1000, "b.mp4": 1000, "c.mp4": 3}
    assert stored_sizes(http, folder) == sizes


def test_failed_upload_shows_reason(visit: Visitor, http: httpx.Client, folder: str) -> None:
    visit.expected = {"409", "ERR_"}
    http.put(f"/files/{folder}/film.mp4", content=b"film").raise_for_status()
    page = visit(f"/?folder={folder}/film.mp4")
    pick(page, payload("inside.mp4"))
    refused = http.put(f"/files/{folder}/film.mp4/inside.mp4", content=b"")
    assert refused.status_code == 409
    expect(page.locator("#uploads li")).to_contain_text(refused.json()["detail"])
    expect(page.get_by_role("status")).to_contain_text(refused.json()["detail"])
    page.context.set_offline(True)
    page.get_by_role("button", name="Retry: inside.mp4").click()
    expect(page.locator("#uploads li")).to_contain_text("The connection was lost")
    page.get_by_role("button", name="Dismiss: inside.mp4").click()
    expect(page.locator("#uploads")).to_be_hidden()


DROP = """names => {
    const dataTransfer = new DataTransfer();
    for (const name of names) dataTransfer.items.add(new File(["dropped"], name));
    for (const type of ["dragenter", "dragover", "drop"]) {
        document.querySelector("main").dispatchEvent(
            new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
    }
}"""


def test_dropped_files_are_uploaded(visit: Visitor, http: httpx.Client, folder: str) -> None:
    page = visit(f"/?folder={folder}/it's")
    page.evaluate(DROP, ["a.mp4", "<b>ñ.mp4"])
    expect(row(page, "a.mp4")).to_be_visible()
    expect(row(page, "<b>ñ.mp4")).to_be_visible()
    expect(page.locator("#drop")).to_be_hidden()
    assert stored_sizes(http, folder) == {"it's/a.mp4": 7, "it's/<b>ñ.mp4": 7}


def test_picked_folder_is_uploaded_with_subfolders(
    visit: Visitor, http: httpx.Client, folder: str, tmp_path: Path
) -> None:
    picked = tmp_path / "series"
    for path in ("1.mp4", "extra/2.mp4"):
        (picked / path).parent.mkdir(parents=True, exist_ok=True)
        (picked / path).write_bytes(b"film")
    page = visit(f"/?folder={folder}")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload a folder").click()
    chooser.value.set_files(picked)
    expect(row(page, "series")).to_be_visible()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(2)
    assert stored_sizes(http, folder) == {"series/1.mp4": 4, "series/extra/2.mp4": 4}


def drop_from_disk(page: Page, *paths: Path, before_drop: Callable[[], None] = lambda: None) -> None:
    """Drop files and folders from the disk, as a file manager does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        if kind == "drop":
            before_drop()
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


def test_unreadable_dropped_file_fails_and_others_are_stored(
    visit: Visitor, http: httpx.Client, folder: str, tmp_path: Path
) -> None:
    visit.expected = {"ERR_"}
    page = visit(f"/?folder={folder}")
    [good, gone] = write_films(tmp_path, good=b"good", gone=b"gone")
    series = tmp_path / "series"
    series.mkdir()
    write_films(series, inside=b"inside")
    drop_from_disk(page, good, gone, series, before_drop=gone.unlink)
    failed = page.locator("#uploads [data-state=failed]")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("gone.mp4")
    expect(failed).to_contain_text("The browser cannot read this file")
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(2)
    assert stored_sizes(http, folder) == {"good.mp4": 4, "series/inside.mp4": 6}
    page.get_by_role("button", name="Dismiss: gone.mp4").click()
    expect(page.locator("#uploads li")).to_have_count(2)


UNREADABLE = """names => {
    const entry = name => ({
        isFile: name.includes("."), fullPath: `/${name}`, name,
        file: (_, refuse) => refuse(new DOMException("no rights")),
        createReader: () => ({readEntries: (_, refuse) => refuse(new DOMException("no rights"))}),
    });
    DataTransferItem.prototype.webkitGetAsEntry = function () { return entry(this.getAsFile().name); };
}"""


def test_every_unreadable_dropped_entry_has_failed_row(visit: Visitor, folder: str) -> None:
    page = visit(f"/?folder={folder}")
    page.evaluate(UNREADABLE)
    page.evaluate(DROP, ["film.mp4", "folder"])
    failed = page.locator("#uploads [data-state=failed]")
    expect(failed).to_have_count(2)
    expect(failed.nth(0)).to_contain_text("film.mp4The browser cannot read this file: no rights")
    expect(failed.nth(1)).to_contain_text("folderThe browser cannot read this folder: no rights")
    expect(page.get_by_role("status")).to_contain_text("no rights")


def test_upload_fails_when_file_vanishes_before_it_is_sent(
    visit: Visitor, folder: str, tmp_path: Path
) -> None:
    visit.expected = {"ERR_"}
    page = visit(f"/?folder={folder}")
    end_throttle = throttle(page, 50_000)
    first = write_films(tmp_path, a=bytes(100_000), b=bytes(100_000), c=bytes(100_000))
    [late] = write_films(tmp_path, late=b"late")
    pick(page, *first, late)
    expect(page.locator("#uploads [data-state=waiting]")).to_have_count(1)
    late.unlink()
    end_throttle()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(3, timeout=15_000)
    failed = page.locator("#uploads [data-state=failed]")
    expect(failed).to_contain_text("The browser cannot read this file")


def test_cancel_after_replace_sends_nothing(visit: Visitor, http: httpx.Client, folder: str) -> None:
    visit.expected = {"412"}
    http.put(f"/files/{folder}/film.mp4", content=b"old").raise_for_status()
    page = visit(f"/?folder={folder}")
    pick(page, payload("film.mp4"))
    held: list[Route] = []
    sent: list[str] = []

    def hold(route: Route) -> None:
        sent.append(route.request.method)
        if route.request.method == "HEAD":
            held.append(route)
        else:
            route.continue_()

    replace = page.get_by_role("button", name="Replace: film.mp4")
    expect(replace).to_be_visible()
    page.route("**/files/**", hold)
    with page.expect_request(lambda request: request.method == "HEAD"):
        replace.click()
    page.get_by_role("button", name="Cancel: film.mp4").click()
    expect(page.locator("#uploads li")).to_contain_text("Cancelled")
    with contextlib.suppress(Error):  # the page has cancelled the request
        held[0].continue_()
    # A PUT caused by the first attempt would be sent before the second attempt ends.
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.get_by_role("button", name="Retry: film.mp4").click()
        held[-1].continue_()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(1)
    assert sent.count("PUT") == 1
    assert stored_sizes(http, folder) == {"film.mp4": 1000}

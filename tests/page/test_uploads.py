"""Uploads from the page: progress, cancelling, names that are taken, and errors in words."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.page.conftest import Visitor, row, throttle

pytestmark = pytest.mark.live


def payload(name: str, size: int = 1000) -> FilePayload:
    return {"name": name, "mimeType": "video/mp4", "buffer": name.encode().ljust(size, b".")}


def on_disk(folder: Path, **files: bytes) -> list[Path]:
    """Films of these names. What is not on the disk is slow to reach the browser, through a pipe."""
    paths = []
    for name, data in files.items():
        paths.append(folder / f"{name}.mp4")
        paths[-1].write_bytes(data)
    return paths


def pick(page: Page, *files: FilePayload | Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload files").click()
    chooser.value.set_files(list(files))  # type: ignore[arg-type]


def stored(http: httpx.Client, folder: str) -> dict[str, int]:
    items = http.get("/files", params={"folder": folder, "recursive": "true"}).json()["items"]
    return {item["path"].removeprefix(f"{folder}/"): item["size"] for item in items}


def test_three_at_once_and_one_is_cancelled_and_tried_again(
    visit: Visitor, http: httpx.Client, folder: str
) -> None:
    page = visit(f"/?folder={folder}")
    end = throttle(page, 50_000)
    pick(page, *(payload(f"{name}.mp4", 400_000) for name in "abcde"))
    states = page.locator("#uploads li")
    expect(page.locator("#uploads [data-state=sending]")).to_have_count(3)
    expect(page.locator("#uploads [data-state=waiting]")).to_have_count(2)
    page.get_by_role("button", name="Cancel: b.mp4").click()
    expect(states.nth(1)).to_contain_text("Cancelled")
    expect(page.get_by_role("button", name="Retry: b.mp4")).to_be_focused()
    expect(states.nth(3)).to_have_attribute("data-state", "sending")
    end()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(4, timeout=15_000)
    assert "b.mp4" not in stored(http, folder)
    page.keyboard.press("Enter")
    expect(states.nth(1)).to_contain_text("stored")
    assert stored(http, folder) == dict.fromkeys((f"{name}.mp4" for name in "abcde"), 400_000)


def test_a_name_that_is_taken(visit: Visitor, http: httpx.Client, folder: str) -> None:
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
    assert stored(http, folder) == sizes


def test_what_goes_wrong_is_told_in_words(visit: Visitor, http: httpx.Client, folder: str) -> None:
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
    expect(page.locator("#uploads li")).to_contain_text("The connection broke off")
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


def test_what_is_dropped_onto_the_page(visit: Visitor, http: httpx.Client, folder: str) -> None:
    page = visit(f"/?folder={folder}/it's")
    page.evaluate(DROP, ["a.mp4", "<b>ñ.mp4"])
    expect(row(page, "a.mp4")).to_be_visible()
    expect(row(page, "<b>ñ.mp4")).to_be_visible()
    expect(page.locator("#drop")).to_be_hidden()
    assert stored(http, folder) == {"it's/a.mp4": 7, "it's/<b>ñ.mp4": 7}


def test_a_folder_that_is_picked(visit: Visitor, http: httpx.Client, folder: str, tmp_path: Path) -> None:
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
    assert stored(http, folder) == {"series/1.mp4": 4, "series/extra/2.mp4": 4}

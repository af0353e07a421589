"""The page for everybody: in light and dark, on a phone, by a screen reader, without scripts."""

from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.system.page.conftest import Visitor, choose

pytestmark = pytest.mark.live

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

# Tell what is smaller than a finger; a link within text may be.
SMALL = """() => [
    ...document.querySelectorAll("button, input:not([type=checkbox]), select, a, label:has(input)")
].filter(element => {
    const {width, height} = element.getBoundingClientRect();
    return element.checkVisibility() && width > 1 && height < 44 &&
        !element.closest(".unseen, .skip, footer, p:not(.actions), dd, nav ol");
}).map(element => element.outerHTML)"""


def findings(page: Page) -> list[str]:
    """What axe finds serious or critical in what is shown, in the light; and in the dark, of colours."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = [f"light: {finding}" for finding in violations(page)]
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {finding}" for finding in violations(page, runOnly=["color-contrast"])]
    page.emulate_media(color_scheme="light")
    return found


def violations(page: Page, **options: object) -> list[str]:
    options["resultTypes"] = ["violations"]  # the others take longer
    found: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['html']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.fixture
def filled(http: httpx.Client, folder: str, film: Path) -> str:
    for name in ("film.mp4", "next.mp4", f"{'very long' * 20}.mp4", "d.txt", "sub/x.mp4"):
        http.put(f"/files/{folder}/{name}", content=film.read_bytes()).raise_for_status()
    return folder


def test_axe_finds_nothing(visit: Visitor, filled: str) -> None:
    # The script of axe is put into the page past its policy.
    page = visit(f"/?folder={filled}", bypass_csp=True)
    found = {"list": findings(page)}
    page.get_by_role("button", name="Actions for film.mp4").click()
    found["menu"] = findings(page)
    page.keyboard.press("Escape")
    visit.expected = {"412", "404"}
    page.locator("#picked").set_input_files([{"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"x"}])
    expect(page.locator("[data-state=taken]")).to_be_visible()
    found["uploads"] = findings(page)
    for action in ("Rename…", "Move…", "Delete…"):
        choose(page, "film.mp4", action)
        found[action] = findings(page)
        page.keyboard.press("Escape")
    for place, path in {
        "search": f"/?folder={filled}&q=x",
        "nothing": f"/?folder={filled}/none",
        "error": "/?play=none",
        "text": f"/?play={filled}/d.txt",
    }.items():
        page.goto(f"{visit.url}{path}")
        found[place] = findings(page)
    page.goto(f"{visit.url}/?play={filled}/film.mp4")
    page.keyboard.press("?")
    found["keys"] = findings(page)
    assert {place: violations for place, violations in found.items() if violations} == {}


def test_on_a_narrow_phone(visit: Visitor, filled: str) -> None:
    page = visit(f"/?folder={filled}", viewport={"width": 320, "height": 640}, has_touch=True)
    visit.expected = {"412"}
    page.locator("#picked").set_input_files([{"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"x"}])
    expect(page.locator("[data-state=taken]")).to_be_visible()
    check_narrow(page)
    page.get_by_role("button", name="Actions for film.mp4").tap()
    check_narrow(page)
    page.get_by_role("menuitem", name="Move…").tap()
    check_narrow(page)
    for path in (f"/?play={filled}/film.mp4", f"/?folder={filled}&q=x", "/?folder=none"):
        page.goto(f"{visit.url}{path}")
        check_narrow(page)


def check_narrow(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate(SMALL) == []


def test_without_scripts(visit: Visitor, filled: str) -> None:
    page = visit(f"/?folder={filled}", java_script_enabled=False)
    for offered in ("Upload files", "New folder", "Actions for film.mp4"):
        expect(page.get_by_role("button", name=offered)).to_be_hidden()
    page.get_by_role("link", name="film.mp4", exact=True).click()
    expect(page.locator("video[controls]")).to_be_visible()
    expect(page.get_by_label("Speed")).to_be_hidden()
    page.get_by_role("link", name="Next: next.mp4").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "next.mp4"


def test_no_script_of_a_name_and_none_of_elsewhere_runs(visit: Visitor, folder: str) -> None:
    """The policy holds where nothing was escaped."""
    visit.expected = {"Content Security Policy"}
    page = visit(f"/?folder={folder}")
    page.evaluate("""() => {
        for (const [name, value] of [["textContent", "window.ran = 1"], ["src", "data:,window.ran=1"]]) {
            const script = document.createElement("script");
            script[name] = value;
            document.body.append(script);
        }
        document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.ran = 1'>");
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None

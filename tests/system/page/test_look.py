"""Accessibility: light and dark colours, phones, screen readers, pages without scripts."""

import base64
from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.system.page.conftest import Visitor, choose

pytestmark = pytest.mark.live

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

# Returns the controls that are too small for a finger. Links within text may be small.
SMALL_TARGETS = """() => [
    ...document.querySelectorAll("button, input:not([type=checkbox]), select, a, label:has(input)")
].filter(element => {
    const {width, height} = element.getBoundingClientRect();
    return element.checkVisibility() && width > 1 && height < 44 &&
        !element.closest(".unseen, .skip, footer, p:not(.actions), dd, nav ol, article");
}).map(element => element.outerHTML)"""

# Returns the brightness, from 0 to 255, of the first pixel of a picture.
BRIGHTNESS = """async picture => {
    const image = new Image();
    image.src = `data:image/png;base64,${picture}`;
    await image.decode();
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.drawImage(image, 0, 0);
    return Math.max(...context.getImageData(0, 0, 1, 1).data.slice(0, 3));
}"""


def findings(page: Page) -> list[str]:
    """Return axe's serious and critical violations: all of them in light, those of contrast in dark."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = [f"light: {finding}" for finding in violations(page)]
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {finding}" for finding in violations(page, runOnly=["color-contrast"])]
    page.emulate_media(color_scheme="light")
    return found


def violations(page: Page, **options: object) -> list[str]:
    options["resultTypes"] = ["violations"]  # other results take longer to collect
    found: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['html']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.fixture
def filled_folder(http: httpx.Client, folder: str, film: Path) -> str:
    for name in ("film.mp4", "next.mp4", f"{'very long' * 20}.mp4", "d.txt", "sub/x.mp4"):
        http.put(f"/files/{folder}/{name}", content=film.read_bytes()).raise_for_status()
    return folder


def test_axe_finds_no_violations(visit: Visitor, filled_folder: str) -> None:
    # bypass_csp: otherwise the page's policy would block the script of axe.
    page = visit(f"/?folder={filled_folder}", bypass_csp=True)
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
    for name, path in {
        "search": f"/?folder={filled_folder}&q=x",
        "nothing": f"/?folder={filled_folder}/none",
        "error": "/?play=none",
        "text": f"/?play={filled_folder}/d.txt",
        "help": "/help/",
        "help with tables": "/help/configuration",
    }.items():
        page.goto(f"{visit.url}{path}")
        found[name] = findings(page)
    page.goto(f"{visit.url}/?play={filled_folder}/film.mp4")
    page.keyboard.press("?")
    found["keys"] = findings(page)
    assert {name: violations for name, violations in found.items() if violations} == {}


def test_axe_finds_no_violations_in_error_pages(visit: Visitor) -> None:
    page = visit("/nope", bypass_csp=True, viewport={"width": 320, "height": 640})
    visit.expected = {"404", "405"}
    found = {"unknown path": findings(page)}
    for name, path in {"file": "/files/none/film.mp4", "method": "/file/upload"}.items():
        page.goto(f"{visit.url}{path}")
        found[name] = findings(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert {name: violations for name, violations in found.items() if violations} == {}


def test_missing_film_page_leads_to_list_without_scripts(visit: Visitor, filled_folder: str) -> None:
    visit.expected = {"404"}
    page = visit(f"/files/{filled_folder}/gone.mp4", java_script_enabled=False)
    expect(page.get_by_role("heading", name="Not Found 404")).to_be_visible()
    expect(page.get_by_text(f"/files/{filled_folder}/gone.mp4")).to_be_visible()
    page.get_by_role("link", name="All files", exact=True).click()
    expect(page).to_have_url(f"{visit.url}/")
    expect(page.get_by_role("row")).not_to_have_count(0)


def test_refused_host_page_is_dark_in_dark_mode(visit: Visitor) -> None:
    visit.expected = {"421"}
    address = visit.url.replace("127.0.0.1", "nas.localhost")  # browsers resolve it to this machine
    page = visit("/health", bypass_csp=True, color_scheme="dark")
    page.goto(f"{address}/films")
    expect(page.get_by_text("SEEKABLE_ALLOWED_HOSTS=nas.localhost")).to_be_visible()
    assert findings(page) == []
    page.emulate_media(color_scheme="dark")
    assert is_dark(page)
    page.get_by_role("link", name="All files").click()
    expect(page).to_have_url(f"{visit.url}/")


def is_dark(page: Page) -> bool:
    """Return whether a picture of the page is dark in its lower right corner."""
    size = page.viewport_size
    assert size is not None
    clip = {"x": size["width"] - 4, "y": size["height"] - 4, "width": 2, "height": 2}
    picture = base64.b64encode(page.screenshot(clip=clip)).decode()  # type: ignore[arg-type]
    return bool(page.evaluate(BRIGHTNESS, picture) < 64)


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(("put",), id="one color"),
        pytest.param(("get", "post", "put", "patch", "delete"), id="all", marks=pytest.mark.campaign),
    ],
)
def test_api_docs_follow_dark_mode_with_sufficient_contrast(visit: Visitor, methods: tuple[str, ...]) -> None:
    page = visit("/docs", bypass_csp=True)
    for method in methods:
        operation = page.locator(f".opblock-{method}").first
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Execute").wait_for()
    found = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert is_dark(page) == (scheme == "dark")
        page.evaluate(AXE)
        found[scheme] = violations(page, runOnly=["color-contrast"])
    assert found == {"light": [], "dark": []}


def test_page_fits_narrow_phone_with_large_targets(visit: Visitor, filled_folder: str) -> None:
    page = visit(f"/?folder={filled_folder}", viewport={"width": 320, "height": 640}, has_touch=True)
    visit.expected = {"412"}
    page.locator("#picked").set_input_files([{"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"x"}])
    expect(page.locator("[data-state=taken]")).to_be_visible()
    check_narrow(page)
    page.get_by_role("button", name="Actions for film.mp4").tap()
    check_narrow(page)
    page.get_by_role("menuitem", name="Move…").tap()
    check_narrow(page)
    for path in (
        f"/?play={filled_folder}/film.mp4",
        f"/?folder={filled_folder}&q=x",
        "/?folder=none",
        "/help/tutorial",
    ):
        page.goto(f"{visit.url}{path}")
        check_narrow(page)


def test_tables_of_help_stay_tables_on_phone(visit: Visitor) -> None:
    page = visit("/help/benchmarks", viewport={"width": 390, "height": 800})
    table = page.get_by_role("table").first
    for heading, cell in zip(
        table.get_by_role("columnheader").all(), table.locator("td").all(), strict=False
    ):
        assert heading.bounding_box()["x"] == cell.bounding_box()["x"]  # type: ignore[index]


def check_narrow(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate(SMALL_TARGETS) == []


def test_page_hides_controls_that_need_scripts(visit: Visitor, filled_folder: str) -> None:
    page = visit(f"/?folder={filled_folder}", java_script_enabled=False)
    for name in ("Upload files", "New folder", "Actions for film.mp4"):
        expect(page.get_by_role("button", name=name)).to_be_hidden()
    page.get_by_role("link", name="film.mp4", exact=True).click()
    expect(page.locator("video[controls]")).to_be_visible()
    expect(page.get_by_label("Speed")).to_be_hidden()
    page.get_by_role("link", name="Next: next.mp4").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "next.mp4"


def test_policy_blocks_injected_scripts(visit: Visitor, folder: str) -> None:
    """The Content-Security-Policy blocks scripts even where the page fails to escape."""
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

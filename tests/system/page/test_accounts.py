"""Accounts in the page: sign up, log in, private films, shared links and settings."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from app.database import open_accounts
from app.settings import Settings
from tests.support import NewLibrary, Server, running
from tests.system.live.clients import until
from tests.system.live.conftest import WAIT_FOR_POSITION
from tests.system.page.conftest import SECONDS, Visitor, choose, row, throttle
from tests.system.page.test_look import SMALL_TARGETS, findings
from tests.system.page.test_uploads import pick, write_films

pytestmark = pytest.mark.live

PASSWORD = "correct horse"

RECORD_PROGRESS = """() => {
    window.progress = {};
    new MutationObserver(() => {
        for (const item of document.querySelectorAll("#uploads li")) {
            const bar = item.querySelector("progress");
            const values = (progress[item.querySelector("bdi").textContent] ??= []);
            if (!bar.hidden) values.push([bar.value / bar.max, item.querySelector(".quiet").textContent]);
        }
    }).observe(document.getElementById("uploads"), {subtree: true, childList: true, attributes: true});
}"""
"""Records the fraction and the text that the page shows for each upload, in `window.progress`."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    """A server with open sign-up and an administrator, so that later accounts are ordinary ones."""
    folder = tmp_path_factory.mktemp("accounts")
    with running(folder, access="accounts", sign_up="open", **new_library()) as server:
        with server.client() as http:
            credentials = {"email": "admin@example.org", "password": PASSWORD}
            http.post("/sign-up", json=credentials).raise_for_status()
        yield server


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visitor]:
    visitor = Visitor(browser, server.url)
    yield visitor
    visitor.end()


@pytest.fixture
def email(folder: str) -> str:
    """An address that no other test uses."""
    return f"{folder}@example.org".replace("_", "-").lower()


def sign_up(page: Page, email: str) -> None:
    if "/sign-up" not in page.url:
        page.get_by_role("link", name="Sign up").click()
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("All files")


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def share(page: Page, name: str) -> str:
    """Share a file for a day, and return the link."""
    choose(page, name, "Share…")
    page.get_by_label("Expires after").select_option("1 day")
    page.get_by_role("button", name="Create link").click()
    link = value_of(page, name)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("Link copied.")
    return link


def value_of(page: Page, label: str) -> str:
    """Wait until a field has a value, and return it."""
    field = page.get_by_role("textbox", name=label)
    expect(field).to_have_value(re.compile("."))
    return field.input_value()


def check_plays(page: Page, position: float) -> None:
    """Check that the film plays, and that it continues from a position after a seek."""
    video = page.locator("video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    video.evaluate(WAIT_FOR_POSITION, 0.2)
    video.evaluate("(video, position) => { video.currentTime = position; }", position)
    video.evaluate(WAIT_FOR_POSITION, position + 0.2)


def check_progress(progress: dict[str, list[tuple[float, str]]], names: list[str]) -> None:
    """Check that each bar only moved forward, with the speed and the time left."""
    assert [*progress] == names
    for name, steps in progress.items():
        assert len({fraction for fraction, _ in steps if 0 < fraction < 1}) >= 3, (name, steps)
        assert all(before <= after for (before, _), (after, _) in pairwise(steps)), name
        assert any("/s · " in text and text.endswith(" left") for _, text in steps), name


def test_user_signs_up_uploads_shares_deletes_and_logs_out(
    visit: Visitor, email: str, film: Path, tmp_path: Path
) -> None:
    visit.expected = {"401", "403", "404"}
    page = visit("/", permissions=["clipboard-read", "clipboard-write"])
    sign_up(page, email)
    throttle(page, 1_500_000)
    page.evaluate(RECORD_PROGRESS)
    films = write_films(tmp_path, **dict.fromkeys("123", film.read_bytes()))
    pick(page, *films)
    expect(page.get_by_role("status")).to_have_text("3 files were uploaded.", timeout=20_000)
    check_progress(page.evaluate("progress"), [film.name for film in films])
    page.get_by_role("button", name="Clear finished").click()
    expect(page.get_by_role("heading", name="Uploads")).to_be_hidden()
    page.get_by_role("link", name="2.mp4", exact=True).click()
    check_plays(page, SECONDS / 2)
    page.get_by_role("button", name="Rename…").click()
    page.get_by_label("New name").fill("renamed.mp4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("renamed.mp4")
    with page.expect_download() as download:
        page.get_by_role("button", name="Open in VLC").click()
    signed = download.value.path().read_text().splitlines()[-1]
    assert httpx.get(signed).content == film.read_bytes()
    page.get_by_role("link", name="All files").click()
    link = share(page, "renamed.mp4")
    assert page.evaluate("navigator.clipboard.readText()") == link
    recipient = visit("/login")
    recipient.goto(link)
    check_plays(recipient, SECONDS / 2)
    choose(page, "renamed.mp4", "Delete…")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(row(page, "renamed.mp4")).to_have_count(0)
    response = recipient.goto(link)
    assert response is not None
    assert response.status in (401, 403, 404)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.goto(f"{visit.url}/?play=1.mp4")
    log_in(page, email)
    expect(page.get_by_role("heading", level=1)).to_have_text("1.mp4")


def test_failed_upload_can_be_retried_after_login_in_another_tab(
    visit: Visitor, email: str, tmp_path: Path
) -> None:
    visit.expected = {"401", "WebSocket"}
    page = visit("/sign-up")
    sign_up(page, email)
    second_tab = page.context.new_page()
    second_tab.goto(page.url)
    second_tab.get_by_role("button", name="Log out").click()
    second_tab.wait_for_url("**/login")
    page.bring_to_front()
    pick(page, *write_films(tmp_path, a=b"film", b=b"film" * 1_000_000))
    failed = page.locator("#uploads [data-state=failed]")
    expect(failed).to_have_count(2)
    expect(failed.first).to_contain_text("Log in in another tab, then try again here.")
    log_in(second_tab, email)
    second_tab.wait_for_url(page.url)
    page.bring_to_front()
    for name in ("a.mp4", "b.mp4"):
        page.get_by_role("button", name=f"Retry: {name}").click()
    expect(page.locator("#uploads [data-state=stored]")).to_have_count(2)
    expect(row(page, "a.mp4")).to_be_visible()


def test_back_button_shows_login_page_after_logout(visit: Visitor, email: str) -> None:
    visit.expected = {"WebSocket"}
    page = visit("/sign-up")
    sign_up(page, email)
    page.get_by_role("link", name="Settings").click()
    page.wait_for_url("**/settings")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    for _ in range(2):
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_two_users_see_only_their_own_films(visit: Visitor, email: str, film: Path, tmp_path: Path) -> None:
    visit.expected = {"404"}
    pages = {name: visit("/") for name in ("anna", "ben")}
    for name, page in pages.items():
        sign_up(page, f"{name}-{email}")
        pick(page, film, *write_films(tmp_path, **{name: name.encode()}))
        expect(row(page, f"{name}.mp4")).to_be_visible()
    anna, ben = pages.values()
    choose(anna, "film.mp4", "Rename…")
    anna.get_by_label("New name").fill("renamed.mp4")
    anna.keyboard.press("Enter")
    expect(row(anna, "renamed.mp4")).to_be_visible()
    link = share(anna, "renamed.mp4")
    ben.wait_for_timeout(500)  # longer than a list takes to update
    films_of_ben = ben.locator("tbody td.name bdi")
    expect(films_of_ben).to_have_text(["ben.mp4", "film.mp4"])
    ben.goto(f"{visit.url}/?play=renamed.mp4")
    expect(ben.get_by_role("heading", level=1)).to_contain_text("404")
    ben.goto(link)
    check_plays(ben, SECONDS / 2)
    ben.goto(f"{visit.url}/?play=film.mp4")
    check_plays(ben, SECONDS / 2)
    choose(anna, "renamed.mp4", "Delete…")
    anna.get_by_role("button", name="Delete", exact=True).click()
    expect(row(anna, "renamed.mp4")).to_have_count(0)
    anna.get_by_role("button", name="Log out").click()
    ben.goto(visit.url)
    expect(films_of_ben).to_have_text(["ben.mp4", "film.mp4"])


def test_forms_show_errors_without_scripts(visit: Visitor, email: str) -> None:
    visit.expected = {"401", "409"}
    page = visit("/", java_script_enabled=False)
    sign_up(page, email)
    page.get_by_role("button", name="Log out").click()
    log_in(page, email, "something else")
    message = page.get_by_role("alert")
    expect(message).to_be_visible()
    expect(page.get_by_label("Email address")).to_have_value(email)
    page.get_by_role("link", name="Sign up").click()
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(message).to_contain_text("address")
    expect(page.get_by_label("Email address")).to_have_value(email)


def test_administrator_can_keep_files_when_account_is_deleted(
    visit: Visitor, server: Server, email: str, tmp_path: Path
) -> None:
    page = visit("/sign-up")
    sign_up(page, email)
    pick(page, *write_films(tmp_path, film=b"a film"))
    expect(row(page, "film.mp4")).to_be_visible()
    with open_accounts(Settings(_env_file=None, **server.settings), create=False) as store:
        account = store.by_email(email)
        assert account is not None
        store.set_admin(account.id, True)
        page.wait_for_timeout(2100)  # until the server has reloaded the account
        page.get_by_role("link", name="Settings").click()
        page.get_by_role("button", name="Delete account…").click()
        page.get_by_label("Keep the files").check()
        page.get_by_label("Type its address").fill(email)
        page.get_by_label("Your password").fill(PASSWORD)
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        until(lambda: store.get(account.id) is None, "the account is deleted")
    assert (server.files / email / "film.mp4").read_bytes() == b"a film"


def test_settings_manage_tokens_links_password_and_account(
    visit: Visitor, server: Server, email: str, tmp_path: Path
) -> None:
    visit.expected = {"401", "422"}
    page = visit("/")
    sign_up(page, email)
    pick(page, *write_films(tmp_path, film=bytes(2_000_000)))
    expect(row(page, "film.mp4")).to_be_visible()
    link = share(page, "film.mp4")
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_text("2.0 MB used")).to_be_visible()
    expect(page.get_by_role("heading", name="Invites")).to_be_hidden()

    page.get_by_label("Token name").fill("<b>rclone")
    page.get_by_role("button", name="Create token").click()
    token = value_of(page, "Copy the new token now.")
    bearer = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{server.url}/files/film.mp4", headers=bearer).status_code == 200
    assert httpx.put(f"{server.url}/files/a", content=b"", headers=bearer).status_code == 403
    page.get_by_role("button", name="Revoke <b>rclone").click()
    expect(page.locator("#tokens")).to_have_text("None.")
    assert httpx.get(f"{server.url}/files/film.mp4", headers=bearer).status_code == 401

    assert httpx.get(link).status_code == 200
    page.get_by_role("button", name="Revoke film.mp4").click()
    expect(page.locator("#links")).to_have_text("None.")
    assert httpx.get(link).status_code in (401, 403)

    change = page.locator("#change-password")
    for old_password, message in (
        ("wrong password", change.get_by_role("alert")),
        (PASSWORD, page.get_by_role("status")),
    ):
        page.get_by_label("Current password").fill(old_password)
        page.get_by_label("New password").fill("another horse")
        page.get_by_role("button", name="Change password").click()
        expect(message).not_to_be_empty()
    expect(page.get_by_label("New password")).to_have_value("")
    page.reload()
    page.get_by_role("button", name="Delete account…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("You have 1 file (2.0\u00a0MB).")
    expect(dialog.get_by_label("Keep the files")).to_be_hidden()
    page.get_by_label("Your password").fill("another horse")
    page.get_by_label("Type its address").fill("another@example.org")
    delete = page.get_by_role("button", name="Delete", exact=True)
    delete.click()
    refusal = "This is not the address of your account. Type the one that you log in with."
    expect(dialog.get_by_role("alert")).to_have_text(refusal)
    page.get_by_label("Type its address").fill(email)
    delete.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    basic = (email, "another horse")
    assert httpx.get(f"{server.url}/account", auth=basic).status_code == 401


def test_administrator_creates_and_revokes_invite(visit: Visitor) -> None:
    page = visit("/settings")
    log_in(page, "admin@example.org")
    page.get_by_role("button", name="Create invite").click()
    link = value_of(page, "Send this link to the person.")
    assert "/sign-up?invite=" in link
    page.get_by_role("button", name="Revoke Created").click()
    expect(page.locator("#invites")).to_have_text("None.")


def test_axe_finds_no_violations_in_account_pages(visit: Visitor, email: str) -> None:
    visit.expected = {"401"}
    page = visit("/", bypass_csp=True, viewport={"width": 320, "height": 640})
    found = {"login": findings(page)}
    log_in(page, email)
    expect(page.get_by_role("alert")).to_be_visible()
    found["refused"] = findings(page)
    page.get_by_role("link", name="Sign up").click()
    found["sign-up"] = findings(page)
    sign_up(page, f"new-{email}")
    found["nothing"] = findings(page)
    page.get_by_role("link", name="Settings").click()
    page.get_by_label("Token name").fill("a token")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_label("Copy the new token now.")).to_be_focused()
    found["settings"] = findings(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate(SMALL_TARGETS) == []
    page.get_by_role("button", name="Delete account…").click()
    found["leaving"] = findings(page)
    assert {page: violations for page, violations in found.items() if violations} == {}

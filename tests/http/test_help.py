"""The documentation at /help/: every page, link and image of it, for every client."""

import re
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from app.resources import manual
from tests.support import Server, running

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.stem if path.stem != "index" else "" for path in DOCS.glob("*.md")}


@pytest.fixture(scope="module")
def texts(server: Server) -> dict[str, str]:
    """All pages as HTML, by path."""
    with server.client() as http:
        return {f"/help/{name}": http.get(f"/help/{name}").raise_for_status().text for name in PAGES}


def test_each_file_of_docs_is_a_page_with_its_title(texts: dict[str, str]) -> None:
    for name in PAGES:
        title = (DOCS / f"{name or 'index'}.md").read_text().partition("\n")[0].removeprefix("# ")
        assert f"<title>{title} · Seekable</title>" in texts[f"/help/{name}"]
        assert re.search(rf'<h1 id="[\w-]+">{title}</h1>', texts[f"/help/{name}"])


def test_each_link_and_image_leads_to_something(texts: dict[str, str], http: httpx.Client) -> None:
    for path, text in texts.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            target = urlsplit(urljoin(path, link))
            if target.netloc:
                continue
            if target.path in texts:
                assert not target.fragment or f'id="{target.fragment}"' in texts[target.path], (path, link)
            else:
                assert http.get(target.path).status_code == 200, (path, link)


def test_each_page_links_to_all_others(texts: dict[str, str]) -> None:
    for text in texts.values():
        (nav,) = re.findall(r'<nav class="help".*?</nav>', text, re.DOTALL)
        assert set(re.findall(r'href="([^"]+)"', nav)) == set(texts)
        assert nav.count("aria-current") == 1


def test_pages_run_no_scripts(http: httpx.Client) -> None:
    response = http.get("/help/tutorial")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in response.text


def test_commands_name_the_server_that_shows_them(server: Server, texts: dict[str, str]) -> None:
    assert f"vlc {server.url}/files/films/film.mp4" in texts["/help/tutorial"]
    for path, text in texts.items():
        assert not re.search("[/@]127.0.0.1:8000", text), path


@pytest.mark.parametrize(
    ("example", "shown"),
    [
        ("vlc http://127.0.0.1:8000/files/a", "vlc https://nas.example/films/files/a"),
        ("vlc http://a%40b:PASSWORD@127.0.0.1:8000/", "vlc https://a%40b:PASSWORD@nas.example/films/"),
        ("ws://127.0.0.1:8000/events", "wss://nas.example/films/events"),
        ("127.0.0.1:8001 http://127.0.0.1/", "127.0.0.1:8001 http://127.0.0.1/"),
    ],
)
def test_examples_get_the_address_of_the_server(example: str, shown: str) -> None:
    assert manual.at_server(example, "https://nas.example/films") == shown


def test_footer_names_the_version(texts: dict[str, str]) -> None:
    assert f"Seekable {version('seekable')} ·" in texts["/help/"]


def test_page_has_help_in_its_footer(http: httpx.Client) -> None:
    assert '<a href="/help/">Help</a>' in http.get("/").text
    redirect = http.get("/help")
    assert (redirect.status_code, redirect.headers["location"]) == (308, "/help/")


def test_api_docs_link_to_help(http: httpx.Client) -> None:
    assert "[Help](help/)" in http.get("/openapi.json").json()["info"]["description"]


@pytest.mark.parametrize("name", ["none", "index", "tutorial.md", "..%2fREADME", "%2e%2e", "none.svg", "a/b"])
def test_unknown_page_is_missing(http: httpx.Client, name: str) -> None:
    assert http.get(f"/help/{name}").status_code == 404


def test_help_is_readable_without_login(tmp_path: Path) -> None:
    with running(tmp_path, access="accounts") as server, server.client() as http:
        for path in ("/help/", "/help/accounts", "/help"):
            response = http.get(path, follow_redirects=True)
            assert response.status_code == 200
            assert "<h1" in response.text
        assert http.get("/help/none").status_code == 404
        assert http.get("/helpless").status_code == 401


def test_html_in_markdown_is_shown_as_text() -> None:
    shown = manual.rendered("", "# Title\n\n<script>alert(1)</script> [x](javascript:alert(1))\n")
    assert "<script" not in shown.html
    assert "href" not in shown.html


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("accounts.md", "accounts"),
        ("accounts.md#tokens", "accounts#tokens"),
        ("index.md", "./"),
        ("#tokens", "#tokens"),
        ("https://example.org/a.md", "https://example.org/a.md"),
        ("architecture.svg", "architecture.svg"),
    ],
)
def test_page_address_follows_links_between_files(link: str, address: str) -> None:
    assert manual.page_address(link) == address


@pytest.mark.parametrize("name", [f"{'a' * 300}.svg", "%00.svg", "%FF.svg", "..%5Cindex.md", "%2E%2E"])
def test_odd_name_is_not_found(name: str, http: httpx.Client) -> None:
    assert http.get(f"/help/{name}").status_code == 404

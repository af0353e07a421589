"""Players and download clients open private films, by a password in the URL or by signed links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.support import NewLibrary, Server, need, on_disk_and_gridfs, run, running
from tests.support.together import Outcomes, Together
from tests.system.live.clients import Vlc, logged_statuses, sha256, until
from tests.system.live.conftest import SECONDS

pytestmark = pytest.mark.live

EMAIL, PASSWORD = "anna@example.org", "pässword: 100%/@#?"
NAMES = ["1 #? 100%.mp4", "2 סרט 🎬.mp4", "3 & <b>.mp4"]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    """A server with accounts."""
    library = new_library()
    if "mongodb_url" in library:
        library["users_url"] = str(library["mongodb_url"]).replace("library", "users")
    settings = {"access": "accounts", "sign_up": "open", **library}
    with running(tmp_path_factory.mktemp("private"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
def anna(private: Server, film: Path, long_film: Path) -> Iterator[httpx.Client]:
    """A client that is logged in as Anna, whose library has a long film, and three films in a folder."""
    with private.client() as http:
        credentials = {"email": EMAIL, "password": PASSWORD}
        http.post("/sign-up", json=credentials).raise_for_status()
        http.put("/files/long.mp4", content=long_film.read_bytes()).raise_for_status()
        put_three(http, "three", film)
        yield http


def with_password(url: str) -> str:
    """Return the URL with percent-encoded credentials, as a user types it into a player."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(EMAIL, safe='')}:{quote(PASSWORD, safe='')}@{rest}"


def create_link(anna: httpx.Client, **body: Any) -> str:
    return str(anna.post("/account/links", json=body).raise_for_status().json()["url"])


def statuses_since(server: Server, path: str, since: int, number: int) -> list[int]:
    """Return the statuses, but 401, of a path's GETs after the first `since`. Waits for `number` GETs."""
    return [status for status in logged_statuses(server, path, since + number)[since:] if status != 401]


vlc_tests = Together("vlc_tests")
"""Tests of VLC, which is slow. Each has its own films, so that their log lines differ."""


@pytest.fixture(scope="module", name="vlc_tests")
def begun_vlc_tests(
    request: pytest.FixtureRequest, private: Server, anna: httpx.Client, film: Path, long_film: Path
) -> Iterator[Outcomes]:
    need("vlc", "setpriv")

    def arguments(name: str) -> tuple[object, ...]:
        if "playlist" in name:
            put_three(anna, name, film)
        else:
            anna.put(f"/files/{name}/long.mp4", content=long_film.read_bytes()).raise_for_status()
        return private, anna, name, long_film

    with vlc_tests.begun(request, arguments) as outcomes:
        yield outcomes


def put_three(anna: httpx.Client, folder: str, film: Path) -> None:
    for name in NAMES:
        anna.put(f"/files/{folder}/{quote(name, safe='')}", content=film.read_bytes()).raise_for_status()


@vlc_tests
@on_disk_and_gridfs
def test_vlc_plays_and_seeks_private_film_by_password(
    private: Server, anna: httpx.Client, folder: str, long_film: Path
) -> None:
    path = f"/files/{folder}/long.mp4"
    requests = check_seeks(private, with_password(f"{private.url}{path}"), path, long_film)
    assert logged_statuses(private, path).count(401) <= requests


@vlc_tests
def test_vlc_plays_and_seeks_private_film_by_link(
    private: Server, anna: httpx.Client, folder: str, long_film: Path
) -> None:
    path = f"/files/{folder}/long.mp4"
    check_seeks(private, create_link(anna, path=f"{folder}/long.mp4"), path, long_film)
    assert 401 not in logged_statuses(private, path)


def check_seeks(private: Server, url: str, path: str, long_film: Path) -> int:
    """Play and seek twice with VLC, and return the number of its requests."""
    since = len(logged_statuses(private, path, 0))
    with Vlc(url) as vlc:
        vlc.play_to(1)
        assert vlc.query("get_length") == pytest.approx(SECONDS, abs=1)
        for second in (45, 10):
            vlc.seek(second)
        requests = vlc.requests()
    assert set(statuses_since(private, path, since, len(requests))) == {206}
    starts = [
        int(request["range"].removeprefix("bytes=").removesuffix("-"))
        for request in requests
        if "range" in request
    ]
    assert any(start > long_film.stat().st_size / 2 for start in starts[2:]), "VLC reads at second 45"
    return len(requests)


@vlc_tests
def test_vlc_plays_all_films_of_private_playlist_by_password(
    private: Server, anna: httpx.Client, folder: str, long_film: Path
) -> None:
    """VLC sends the password for the playlist; the entries are signed links."""
    check_playlist(private, with_password(f"{private.url}/playlist.m3u?folder={folder}"), folder)


@vlc_tests
def test_vlc_plays_all_films_of_private_playlist_by_link(
    private: Server, anna: httpx.Client, folder: str, long_film: Path
) -> None:
    check_playlist(private, create_link(anna, folder=folder, playlist="xspf"), folder)


def check_playlist(private: Server, url: str, folder: str) -> None:
    films = [f"/files/{folder}/{quote(name, safe='')}" for name in NAMES]
    since = [len(logged_statuses(private, film, 0)) for film in films]
    with Vlc(url) as vlc:
        for film in films:
            if film != films[0]:
                vlc.send("next")
            until(lambda film=film: vlc.has_requested(film), f"a request for {film}\n{vlc.log()[-3000:]}")
            vlc.play_to(1)
        titles = vlc.titles()
    for film, before in zip(films, since, strict=True):
        assert set(logged_statuses(private, film, before + 1)[before:]) == {206}, (
            "no 401: the entries need no credentials"
        )
    # For an XSPF, VLC's interface shows the end of the URL instead of the title.
    assert [title.partition("?link=")[0] for title in titles] == NAMES


def test_ffprobe_reads_private_film_by_link_and_by_password(private: Server, anna: httpx.Client) -> None:
    need("ffprobe")
    for url in (create_link(anna, path="long.mp4"), with_password(f"{private.url}/files/long.mp4")):
        shown = run("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", url)
        assert float(shown.stdout) == pytest.approx(SECONDS, abs=0.2)


def test_curl_uploads_downloads_and_deletes_private_file(
    private: Server, anna: httpx.Client, film: Path, tmp_path: Path
) -> None:
    need("curl")
    credentials, url = f"{EMAIL}:{PASSWORD}", f"{private.url}/files/by%20curl.mp4"
    refused = run("curl", "-sS", "-T", film, "-w", "%{http_code}", "-o", tmp_path / "refused", url)
    assert refused.stdout == "401"
    assert '"status":401' in (tmp_path / "refused").read_text()
    assert '"path":"by curl.mp4"' in run("curl", "-sSf", "-u", credentials, "-T", film, url).stdout
    run("curl", "-sSf", "-u", credentials, "-o", tmp_path / "whole", url)
    run("curl", "-sSf", "-u", credentials, "-r", "0-999999", "-o", tmp_path / "part", url)
    run("curl", "-sSf", "-u", credentials, "-C", "-", "-o", tmp_path / "part", url)
    assert sha256(tmp_path / "whole") == sha256(tmp_path / "part") == sha256(film)
    form = run(
        "curl",
        "-sSf",
        "-u",
        credentials,
        "-F",
        f"file=@{film};filename=form.mp4",
        f"{private.url}/file/upload",
    )
    assert '"filename":"form.mp4"' in form.stdout
    token = anna.post("/account/tokens", json={"name": "curl", "scopes": ["write"]}).json()["token"]
    for name in ("by%20curl.mp4", "form.mp4"):
        bearer = f"Authorization: Bearer {token}"
        run("curl", "-sSf", "-X", "DELETE", "-H", bearer, f"{private.url}/files/{name}")
    assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", credentials, url).stdout == "404"


def test_wget_downloads_private_film_by_password_and_by_link(
    private: Server, anna: httpx.Client, film: Path, tmp_path: Path
) -> None:
    """wget sends the password only after a 401."""
    need("wget")
    url = f"{private.url}/files/three/{quote(NAMES[0], safe='')}"
    run("wget", "-q", f"--user={EMAIL}", f"--password={PASSWORD}", "-O", tmp_path / "a", url)
    run("wget", "-q", "-O", tmp_path / "b", create_link(anna, path=f"three/{NAMES[0]}"))
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") == sha256(film)


def test_log_contains_neither_password_nor_signature(private: Server, anna: httpx.Client) -> None:
    signed = create_link(anna, path="long.mp4")
    anna.get(signed).raise_for_status()
    log = private.log()
    assert re.findall(r"link=(?!\.\.\.)\S+", log) == []
    assert PASSWORD not in log
    assert quote(PASSWORD, safe="") not in log
    assert urlsplit(signed).query.rpartition(".")[2] not in log

"""The `seekable` command and `uvicorn app.main:app`, started from a shell."""

import os
import re
import select
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gridfs import GridFSBucket

from tests.support import Process, find_external_addresses, mongo, need, run
from tests.support.forking import COMMAND, Command, completed
from tests.system.live.clients import BIN, Program, Vlc, program, sha256, until

pytestmark = pytest.mark.live

CHECKOUT = Path(__file__).parents[3]
SEEKABLE = BIN / "seekable"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """An empty folder to run commands in."""
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    return workdir


@contextmanager
def serving(
    workdir: Path, *arguments: object, first: str = "", **environment: str
) -> Iterator[tuple[Program, str]]:
    """Run `seekable serve`, after the code `first`. Yields the process and its URL once it is ready."""
    log = workdir.with_suffix(".log")
    log.write_bytes(b"")
    command = Command(
        *("serve", *map(str, arguments)),
        folder=workdir,
        output=log,
        errors=log,
        environment=without_settings() | environment,
        code=first and first + COMMAND,
    )
    try:
        server = Program(command, log)
        yield server, server.wait_for(r"docs +(http\S+)/docs")[1]
    finally:
        command.kill()
        command.wait()


def without_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, timeout=10)


def run_command(
    workdir: Path,
    *arguments: object,
    bound: bool = False,
    first: str = "",
    **environment: str,
) -> tuple[int, str]:
    """Run a command to its end, after the code `first`. Returns its exit status and output.

    With `bound`, permissions apply to it even when root runs it.
    """
    result = completed(
        *map(str, arguments),
        folder=workdir,
        environment=without_settings() | environment,
        timeout=20,
        bound=bound,
        first=first,
    )
    return result.returncode, result.stdout + result.stderr


def failure_output(workdir: Path, *arguments: object, **environment: str) -> str:
    """Run a command that fails, and return its output."""
    status, output = run_command(workdir, *arguments, **environment)
    assert status != 0
    return output


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


# The server trusts a proxy on loopback, so this header makes a request come from another machine.
FROM_OTHER_MACHINE = {"x-forwarded-for": "203.0.113.9"}


# Start output


def test_printed_commands_work(workdir: Path, film: Path) -> None:
    need("curl", "vlc", "setpriv")
    with serving(workdir, "--port", "0") as (server, url):
        assert get(f"{url}/docs").status_code == 200
        shutil.copy(film, workdir / "film.mp4")
        upload = shlex.split(server.wait_for(r"upload +(curl .+)")[1])
        uploaded = subprocess.run([*upload, "-sSf"], cwd=workdir, capture_output=True, text=True, timeout=30)
        assert uploaded.returncode == 0, uploaded.stderr
        assert sha256(workdir / "files" / "film.mp4") == sha256(film)
        play = shlex.split(server.wait_for(r"play +(vlc .+)")[1])
        assert len(play) == 2
        with Vlc(play[1]) as vlc:
            vlc.play_to(1)
        until(lambda: '"GET /files/film.mp4 HTTP/1.1" 206' in server.log(), "VLC's request is logged")
        server.terminate()
        assert "Application shutdown complete" in server.log()
        assert "Traceback" not in server.log()


def test_serve_listens_on_host_and_port_of_options(workdir: Path) -> None:
    port = free_port()
    with serving(workdir, "--host", "127.0.0.2", "--port", port) as (server, url):
        assert url == f"http://127.0.0.2:{port}"
        assert get(f"{url}/health").status_code == 200
        assert f"curl -F file=@film.mp4 {url}/file/upload" in server.log()
        assert f"vlc {url}/files/film.mp4" in server.log()
        with pytest.raises(httpx.ConnectError):
            get(f"http://127.0.0.1:{port}/health")


def test_options_override_host_and_port_of_environment(workdir: Path) -> None:
    port = free_port()
    environment = {"SEEKABLE_HOST": "127.0.0.2", "SEEKABLE_PORT": str(port)}
    with serving(workdir, **environment) as (_, url):
        assert url == f"http://127.0.0.2:{port}"
    with serving(workdir, "--host", "localhost", "--port", "0", **environment) as (_, url):
        assert url.startswith("http://localhost:")
        assert url != f"http://localhost:{port}"
        assert get(f"{url}/health").status_code == 200


def test_links_start_with_base_url(workdir: Path) -> None:
    with serving(workdir, "--port", "0", SEEKABLE_BASE_URL="https://media.example.org/tv/") as (server, url):
        assert url == "https://media.example.org/tv"
        port = server.wait_for(r"running on http://127.0.0.1:(\d+)")[1]
        put = httpx.put(f"http://127.0.0.1:{port}/files/a.txt", content=b"a", trust_env=False)
        assert put.json()["url"] == "https://media.example.org/tv/files/a.txt"


def test_base_url_leads_to_page_without_its_last_slash(workdir: Path) -> None:
    with serving(workdir, "--port", "0", SEEKABLE_BASE_URL="https://media.example.org/tv") as (server, _):
        port = server.wait_for(r"running on http://127.0.0.1:(\d+)")[1]
        for path in ("/tv", "/tv/", "/tv?order=name"):
            page = get(f"http://127.0.0.1:{port}{path}", host="media.example.org")
            assert page.is_success, path
            assert "/tv/assets/" in page.text


def test_base_path_causes_no_deprecation_warning(workdir: Path) -> None:
    first = "import warnings; warnings.simplefilter('error')\n"
    settings = {"SEEKABLE_BASE_URL": "https://example.org/media", "SEEKABLE_ACCESS": "open"}
    with serving(workdir, "--port", "0", first=first, **settings) as (server, _):
        port = server.wait_for(r"running on http://127.0.0.1:(\d+)")[1]
        for path in ("/docs", "/media/docs", "/media/files/", "/openapi.json"):
            assert get(f"http://127.0.0.1:{port}{path}").status_code == 200
        assert server.terminate() == 0
        assert "Warning" not in server.log()


def test_default_files_folder_is_in_working_directory(workdir: Path) -> None:
    with serving(workdir, "--port", "0") as (_, url):
        httpx.put(f"{url}/files/a/b.txt", content=b"b", trust_env=False).raise_for_status()
    assert [path.name for path in workdir.iterdir()] == ["files"]
    assert (workdir / "files/a/b.txt").read_bytes() == b"b"
    assert (workdir / "files/.seekable/seekable.db").exists()


# Access


@pytest.mark.parametrize("source", ["option", "environment"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serve_refuses_public_host_without_access_setting(host: str, source: str, workdir: Path) -> None:
    if source == "option":
        output = failure_output(workdir, "serve", "--port", "0", "--host", host)
    else:
        output = failure_output(workdir, "serve", "--port", "0", SEEKABLE_HOST=host)
    assert output.count("\n") == 1
    assert "SEEKABLE_ACCESS=accounts" in output
    assert list(workdir.iterdir()) == []


def test_open_access_serves_clients_of_other_machines(workdir: Path) -> None:
    with serving(workdir, "--host", "0.0.0.0", "--port", "0", SEEKABLE_ACCESS="open") as (_, url):
        assert url.startswith("http://127.0.0.1:"), "0.0.0.0 is no address to connect to"
        assert get(f"{url}/health").status_code == 200
        assert get(f"{url}/health", **FROM_OTHER_MACHINE).status_code == 200


# Films that were there before


@pytest.fixture
def films(workdir: Path) -> Path:
    """A folder with two films, one of them with a name that shells and URLs must quote."""
    films = workdir / "My films"
    (films / "Öl & Wasser").mkdir(parents=True)
    (films / "film.mp4").write_bytes(b"film")
    (films / "Öl & Wasser" / "Grüße #1.mp4").write_bytes(b"a second film")
    return films


def listed_paths(url: str) -> list[str]:
    return [item["path"] for item in get(f"{url}/files?recursive=true").json()["items"]]


@pytest.mark.parametrize(
    "named", ["{films}", "My films", "./My films/", "Link", "{films}/../My films", "~/My films"]
)
def test_folder_of_films_is_served(named: str, films: Path, workdir: Path) -> None:
    (workdir / "Link").symlink_to(films)
    settings = {"SEEKABLE_FILES_DIR": "elsewhere", "HOME": str(workdir)}
    with serving(workdir, named.format(films=films), "-p", "0", **settings) as (server, url):
        until(lambda: len(listed_paths(url)) == 2, "both films are listed")
        assert sorted(listed_paths(url)) == ["film.mp4", "Öl & Wasser/Grüße #1.mp4"]
        assert get(f"{url}/files/Öl & Wasser/Grüße %231.mp4", range="bytes=2-7").content == b"second"
        assert f"Seekable serves {workdir}/{'Link' if named == 'Link' else 'My films'}\n" in server.log()
        playlist = shlex.split(server.wait_for(r"play +(vlc .+)")[1])[1]
        assert get(playlist).text.count("http://") == 2, "the command plays films that are there"
    assert {path.name for path in workdir.iterdir()} == {"My films", "Link"}


def test_current_folder_is_served_without_its_env_file(films: Path) -> None:
    (films / ".env").write_text("SEEKABLE_ACCESS=open\n")
    with serving(films, ".", "-p", "0") as (server, url):
        assert server.log().count(f"{films}/.env is not read: it lies in the library {films}") == 1
        assert get(f"{url}/files", **FROM_OTHER_MACHINE).status_code == 403


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("My flims", "'{workdir}/My flims' does not exist. To create it: mkdir -p '{workdir}/My flims'"),
        ("My films/film.mp4", "is a file. Name its folder: '{workdir}/My films'"),
        ("", "The folder has no name. For this folder, write a dot."),
        ("/", "/ contains all files of this machine. Name the folder of the films."),
        ("/tmp/..", "/ contains all files of this machine. Name the folder of the films."),
    ],
)
@pytest.mark.usefixtures("films")
def test_folder_is_refused_with_remedy(named: str, message: str, workdir: Path) -> None:
    status, output = run_command(workdir, "serve", named, "-p", "0")
    assert status == 2
    assert output.endswith(f"{message.format(workdir=workdir)}\n")
    assert [path.name for path in workdir.iterdir()] == ["My films"]


def test_accounts_are_served_with_commands_that_name_the_account(
    films: Path, workdir: Path, film: Path
) -> None:
    need("curl")
    arguments = (films, "-p", "0", "--access", "accounts")
    with serving(workdir, *arguments) as (server, url):
        assert f"curl -u EMAIL -F file=@film.mp4 {url}/file/upload" in server.log()
        invite = server.wait_for(r"sign up +(\S+)")[1]
        page, _, secret = invite.partition("?invite=")
        account = {"email": "o'brien@example.org", "password": "long enough", "invite": secret}
        httpx.post(page, json=account, trust_env=False).raise_for_status()
    shutil.copy(film, workdir / "film.mp4")
    (films / "film.mp4").unlink()
    with serving(workdir, *arguments) as (server, _):
        upload = shlex.split(server.wait_for(r"upload +(curl .+)")[1])
        assert upload[2] == "o'brien@example.org"
        upload[2] += ":long enough"  # instead of curl's question for it
        uploaded = subprocess.run([*upload, "-sSf"], cwd=workdir, capture_output=True, text=True, timeout=30)
        assert uploaded.returncode == 0, uploaded.stderr
        assert sha256(films / "film.mp4") == sha256(film)
        assert "sign up" not in server.log()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_addresses_for_other_machines_work(host: str, films: Path, workdir: Path) -> None:
    with serving(workdir, films, "-p", "0", "--host", host, "--access", "open") as (server, url):
        shown = server.wait_for("(?s)page .*docs ")[0]
        assert f"page     {url}/\n" in shown
        addresses = re.findall(r"network +(\S+)", shown)
        is_ipv4 = host == "0.0.0.0"
        expected = [address for address in find_external_addresses() if is_ipv4]
        assert [urlsplit(address).hostname for address in addresses][: len(expected)] == expected
        for address in addresses:
            assert get(f"{address}health").status_code == 200
        warned = "Everyone who can reach this server can upload and delete." in server.log()
        assert warned == bool(addresses)
    with serving(workdir, films, "-p", "0", "--host", host, "--access", "accounts") as (server, url):
        sign_up = server.wait_for(r"sign up +(\S+)")[1]
        found = re.findall(r"network +(\S+)", server.log()) or [f"{url}/"]
        assert sign_up.startswith(f"{found[0]}sign-up?invite="), "another device can open it"
        _, invite = run_command(
            workdir, "account", "invite", SEEKABLE_ACCESS="accounts", SEEKABLE_FILES_DIR=str(films)
        )
        assert invite.startswith(f"{found[0]}sign-up?invite=")


def test_page_is_opened_in_browser_once_the_server_listens(films: Path, workdir: Path) -> None:
    browser = workdir / "browser"
    browser.write_text(
        f"#!/bin/sh\ncurl -s -o '{workdir}/page' -w '%{{http_code}}' \"$1\" > '{workdir}/opened'\n"
    )
    browser.chmod(0o755)
    with serving(workdir, films, "-p", "0", "--open", BROWSER=str(browser)):
        until(
            lambda: (workdir / "opened").exists() and (workdir / "opened").read_text() != "", "it is opened"
        )
        assert (workdir / "opened").read_text() == "200"
        assert "<title>" in (workdir / "page").read_text()


def test_server_runs_without_browser(films: Path, workdir: Path) -> None:
    nothing = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""}
    with serving(workdir, films, "-p", "0", "--open", **nothing) as (server, url):
        server.wait_for("No browser was found. Open the page yourself.")
        assert get(f"{url}/health").status_code == 200


@pytest.mark.skipif(not find_external_addresses(), reason="needs an address in a network")
def test_qr_code_is_printed_in_a_terminal_only(films: Path, workdir: Path) -> None:
    arguments = ["serve", films, "-p", "0", "--host", "0.0.0.0", "--access", "open", "--qr"]
    with serving(workdir, *arguments[1:]) as (server, url):
        assert get(f"{url}/health").status_code == 200  # after the whole start
        assert "█" not in server.log()
    with output_in_terminal(workdir, *arguments) as wait_for:
        wait_for("█")
        address = wait_for(r"network +(\S+)")[1]
        wait_for(f"\x1b\\[0m\r?\n{re.escape(address)}")


ON_TERMINAL = """
import sys
sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
"""
"""Code that opens the streams as a new interpreter does; those of a fork were opened on a pipe."""


@contextmanager
def output_in_terminal(workdir: Path, *arguments: object) -> Iterator[Callable[[str], re.Match[str]]]:
    """Run a command in a terminal. Yields a function that waits for a pattern in what it prints."""
    ours, theirs = os.openpty()
    shown = bytearray()

    def wait_for(pattern: str) -> re.Match[str]:
        while (found := re.search(pattern, shown.decode(errors="replace"))) is None:
            assert select.select([ours], [], [], 20)[0], shown
            shown.extend(os.read(ours, 1 << 16))
        return found

    terminal = Path(os.ttyname(theirs))
    command = Command(
        *map(str, arguments),
        folder=workdir,
        output=terminal,
        errors=terminal,
        environment=without_settings(),
        code=ON_TERMINAL + COMMAND,
    )
    try:
        yield wait_for
    finally:
        command.kill()
        command.wait()
        os.close(ours)
        os.close(theirs)


def test_second_interrupt_ends_transfers_at_once(films: Path, workdir: Path) -> None:
    with (films / "film.mp4").open("r+b") as sparse:
        sparse.truncate(1 << 30)
    with serving(workdir, films, "-p", "0") as (server, url):
        until(lambda: "film.mp4" in listed_paths(url), "the film is listed")
        with httpx.stream("GET", f"{url}/files/film.mp4", trust_env=False) as response:
            body = response.iter_raw()  # closes the response when it is discarded
            next(body)
            server.process.send_signal(signal.SIGINT)
            server.wait_for("Connections that may finish within 30 s: 1")
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(10) == 0
        assert "Traceback" not in server.log()


# Settings


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_server_runs_with_closed_standard_streams(streams: str, workdir: Path) -> None:
    """The interpreter sets streams that are closed at its start to None. One case starts it anew."""
    port = free_port()
    server: Process
    if "<" in streams:
        line = f"{shlex.join(['exec', str(SEEKABLE), 'serve', '-p', str(port)])} {streams}"
        server = subprocess.Popen(["sh", "-c", line], cwd=workdir, env=without_settings())
    else:
        closed = {1: "stdout"} | ({2: "stderr"} if "2" in streams else {})
        server = Command(
            *("serve", "-p", str(port)),
            folder=workdir,
            output=Path(os.devnull),
            errors=Path(os.devnull),
            environment=without_settings(),
            code="".join(
                f"import os, sys; os.close({number}); sys.{name} = sys.__{name}__ = None\n"
                for number, name in closed.items()
            )
            + COMMAND,
        )
    try:
        until(lambda: _responds(port), "The server responds")
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()


def _responds(port: int) -> bool:
    try:
        return get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", ["config", "account list", "migrate"])
def test_full_disk_under_output_is_reported_in_one_line(command: str, workdir: Path) -> None:
    run_command(workdir, "migrate")
    errors = workdir.with_suffix(".errors")
    ended = Command(
        *command.split(),
        folder=workdir,
        output=Path("/dev/full"),
        errors=errors,
        environment=without_settings(),
    )
    assert ended.wait(60) == 1
    assert errors.read_text() == "Error: Standard output cannot be written: No space left on device.\n"


def test_env_file_supplies_settings(workdir: Path) -> None:
    (workdir / ".env").write_text("SEEKABLE_PORT=0\nSEEKABLE_FILES_DIR='my films'\nOTHER=1\n")
    with serving(workdir) as (server, url):
        assert f"{workdir}/my films" in server.log()
        httpx.put(f"{url}/files/b.txt", content=b"b", trust_env=False).raise_for_status()
    assert (workdir / "my films" / "b.txt").read_bytes() == b"b"
    assert {path.name for path in workdir.iterdir()} == {".env", "my films"}


def test_uploaded_env_file_is_ignored_at_next_start(workdir: Path) -> None:
    films = {"SEEKABLE_FILES_DIR": "."}
    with serving(workdir, "--port", "0", **films) as (server, url):
        uploaded = b"SEEKABLE_ACCESS=open\nSEEKABLE_ALLOWED_HOSTS=*\n"
        httpx.put(f"{url}/files/.env", content=uploaded, trust_env=False).raise_for_status()
        assert "is not read" not in server.log()
    with serving(workdir, "--port", "0", **films) as (server, url):
        assert server.log().count(f"{workdir}/.env is not read: it lies in the library {workdir}") == 1
        assert get(f"{url}/files", **FROM_OTHER_MACHINE).status_code == 403
        assert get(f"{url}/files", host="evil.example").status_code == 421
    status, output = run_command(workdir, "doctor", **films)
    assert status == 1
    assert f"fix: {workdir}/.env is not read: " in output
    assert "is not read" in run_command(workdir, "scan", **films)[1]
    (workdir / ".env").write_text("SEEKABLE_FILES_DIR=.\n")
    for command in (("serve", "--port", "0"), ("scan",), ("account", "list")):
        assert "lies in the library that it names" in start_error(workdir, *command, expected=2)
    status, output = run_command(workdir, "doctor")
    assert status == 1
    assert re.search(r"fix: .* lies in the library that it names", output)


def test_env_file_is_refused_when_not_utf8(workdir: Path) -> None:
    (workdir / ".env").write_bytes("SEEKABLE_FILES_DIR=Köln\n".encode("latin-1"))
    message = f"{workdir}/.env is not in UTF-8. Save it in UTF-8.\n"
    for command in (("serve", "--port", "0"), ("copy", "--to", "gridfs")):
        assert start_error(workdir, *command, expected=2) == f"Error: {message}"
    status, output = run_command(workdir, "doctor", "--quiet")
    assert (status, output) == (1, f"fix: {message}")
    assert {path.name for path in workdir.iterdir()} == {".env"}


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def latin_1(folder: Path) -> dict[str, str]:
    """Compile a Latin-1 locale in the folder, and return the environment that selects it."""
    need("localedef", "locale-gen")
    run("localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / "de_DE")
    return {"LC_ALL": "de_DE", "LOCPATH": str(folder), "PYTHONUTF8": "0"}


def encodes_names_in_utf8(locale: dict[str, str]) -> bool:
    code = r"import os; print(os.fsencode('\xfc'))"
    encoded = subprocess.run(
        [sys.executable, "-S", "-c", code], env={**os.environ, **locale}, capture_output=True
    )
    return b"xc3" in encoded.stdout


def test_file_names_are_utf8_in_every_locale(workdir: Path, tmp_path: Path) -> None:
    """The server runs in a locale of Latin-1, and a command in one of ASCII."""
    name, locale = "Blüten 日本.txt", latin_1(tmp_path)
    assert not encodes_names_in_utf8(locale)
    assert not encodes_names_in_utf8(ASCII)
    with program(workdir, SEEKABLE, "serve", "--port", "0", **locale) as server:
        url = server.wait_for(r"docs +(http\S+)/docs")[1]
        httpx.put(f"{url}/files/{name}", content=b"a", trust_env=False).raise_for_status()
        assert get(f"{url}/files/{name}").content == b"a"
        assert get(f"{url}/files").json()["items"][0]["filename"] == name
    assert name.encode() in os.listdir(os.fsencode(workdir / "files"))
    moved = name.replace("日本", "ÿ")
    (workdir / "files" / name).rename(workdir / "files" / moved)
    scanned = subprocess.run(
        [SEEKABLE, "scan"], cwd=workdir, env=without_settings() | ASCII, capture_output=True
    )
    assert b"1 file, 1 moved" in scanned.stdout, scanned


def test_start_is_refused_when_locale_cannot_be_overridden(workdir: Path, tmp_path: Path) -> None:
    """Under another ASGI server than ours, and where Python ignores its environment."""
    locale = latin_1(tmp_path)
    for remedy, command in (
        ("Set PYTHONUTF8=1.", ("-m", "uvicorn", "app.main:app", "--port", "0")),
        ("Start Python with -X utf8.", ("-E", SEEKABLE, "scan")),
    ):
        environment = without_settings() | locale | ({"PYTHONUTF8": "1"} if "-E" in command else {})
        refused = subprocess.run(
            [sys.executable, *command],
            cwd=workdir,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode != 0
        assert "The encoding of file names is iso8859-1" in refused.stderr
        assert remedy in refused.stderr
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEEKABLE_PORT", "abc"),
        ("SEEKABLE_PORT", "65536"),
        ("SEEKABLE_ACCESS", "everyone"),
        ("SEEKABLE_STORAGE", "tape"),
        ("SEEKABLE_MAX_UPLOAD_SIZE", "many"),
        ("SEEKABLE_BASE_URL", "media.example.org"),
        ("SEEKABLE_DATABASE_URL", "nonsense"),
        ("SEEKABLE_DATABASE_URL", "oracle://somewhere/films"),
        ("SEEKABLE_DATABASE_URL", "sqlite+aiosqlite:///films.db"),
        ("SEEKABLE_DATABASE_URL", "sqlite://"),
        ("SEEKABLE_STORAGE", "gridfs"),
        ("SEEKABLE_FILES_DIR", "/dev/null/films"),
    ],
)
def test_invalid_setting_is_reported_in_one_line(name: str, value: str, workdir: Path) -> None:
    any_port = [] if name == "SEEKABLE_PORT" else ["--port", "0"]  # an option takes precedence
    for command in (["serve", *any_port], ["migrate"]):
        status, output = run_command(workdir, *command, **{name: value})
        assert status == 2
        assert "Traceback" not in output
        assert name in output
        assert sum(1 for line in output.splitlines() if not line.startswith("INFO: ")) == 1


def test_database_of_newer_version_is_refused(workdir: Path) -> None:
    assert run_command(workdir, "migrate")[0] == 0
    with closing(
        sqlite3.connect(workdir / "files" / ".seekable" / "seekable.db", isolation_level=None)
    ) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (["serve", "--port", "0"], ["migrate"]):
        output = failure_output(workdir, *command)
        assert "Traceback" not in output
        assert "The database was made by a newer Seekable. Install that version" in output
        assert "9999" in output
        assert len(output.splitlines()) == 1


# Unreadable files


def test_verify_and_scan_name_unreadable_files_and_exit_1(workdir: Path) -> None:
    films = workdir / "files"
    (films / "closed").mkdir(parents=True)
    for name in ("good.mp4", "bad.mp4", "closed/inside.mp4"):
        (films / name).write_bytes(b"film")
    assert run_command(workdir, "migrate")[0] == 0
    scan = run_command(workdir, "scan", bound=True, SEEKABLE_STABLE_AFTER="0")
    assert scan == (0, "3 files, 3 created\nScanning\n")
    (films / "bad.mp4").chmod(0)
    (films / "closed").chmod(0)
    status, output = run_command(workdir, "verify", bound=True)
    assert status == 1
    assert "unreadable: bad.mp4\n" in output
    assert "unreadable: closed/inside.mp4\n" in output
    assert "good.mp4" not in output
    status, output = run_command(workdir, "scan", bound=True)
    assert status == 1
    assert "unreadable: closed: The file system reported: Permission denied.\n" in output
    assert "unreadable: bad.mp4: The file system reported: Permission denied.\n" in output, (
        "a new ctime causes a new read"
    )
    (films / "closed").chmod(0o755)
    (films / "bad.mp4").chmod(0o644)
    assert run_command(workdir, "scan", bound=True)[0] == 0


def test_verify_and_scan_name_malformed_documents_of_gridfs_and_exit_1(workdir: Path) -> None:
    settings = mongo.gridfs()
    environment = {f"SEEKABLE_{name.upper()}": str(value) for name, value in settings.items()}
    assert run_command(workdir, "migrate", **environment)[0] == 0
    database = mongo.database(str(settings["mongodb_url"]))
    GridFSBucket(database).upload_from_stream("good.mp4", b"film")
    assert run_command(workdir, "scan", **environment)[0] == 0
    malformed = {"_id": "0" * 32, "library": "", "folder": "films", "filename": "bad.mp4"}
    database["media"].insert_one(malformed)
    status, output = run_command(workdir, "scan", **environment)
    assert status == 1
    assert (
        "unreadable: films/bad.mp4: Its document in media lacks fields, or has fields of a wrong type.\n"
        in output
    )
    status, output = run_command(workdir, "verify", **environment)
    assert status == 1
    assert "unreadable: films/bad.mp4\n" in output
    database["media"].delete_one({"_id": malformed["_id"]})
    assert run_command(workdir, "scan", **environment)[0] == 0


@pytest.mark.parametrize("fault", ["fstat,newfstatat:when=2+", "pread64,preadv,preadv2"])
def test_verify_names_file_when_disk_fails(fault: str, workdir: Path) -> None:
    need("strace")
    films = workdir / "files"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (films / name).write_bytes(b"film")
    assert run_command(workdir, "migrate")[0] == 0
    assert run_command(workdir, "scan", SEEKABLE_STABLE_AFTER="0")[0] == 0
    calls, _, when = fault.partition(":")
    inject = f"inject={calls}:error=EIO{when and ':'}{when}"
    strace = ("strace", "-f", "-o", workdir / "trace", "-P", films / "a.mp4", "-e", inject)
    command = [str(word) for word in (*strace, SEEKABLE, "verify")]
    verified = subprocess.run(
        command, cwd=workdir, env=without_settings(), capture_output=True, text=True, timeout=60
    )
    assert "INJECTED" in (workdir / "trace").read_text()
    assert verified.returncode == 1, verified
    assert "unreadable: a.mp4\n" in verified.stdout
    assert "Traceback" not in verified.stderr


# Start failures


READ_ONLY = """
import ctypes, os, pathlib, subprocess
user, group = os.geteuid(), os.getegid()
new_mounts, new_users = 0x20000, 0x10000000
assert ctypes.CDLL(None).unshare(new_mounts | (user and new_users)) == 0
if user:
    for name, mapped in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        pathlib.Path("/proc/self", name).write_text(mapped)
mounts = "mount --make-rprivate / && mount --bind files files && mount -o remount,bind,ro files"
subprocess.run(["sh", "-c", mounts], check=True)
"""
"""Code that remounts files/ read-only for this process alone, as root or not, like unshare(1)."""


def start_error(workdir: Path, *arguments: object, expected: int = 1, **options: Any) -> str:
    """Run a command that refuses to start, and return its one sentence.

    The `expected` status is 2 for wrong settings. Other errors may end by themselves, so that systemd tries
    again.
    """
    status, output = run_command(workdir, *arguments, **options)
    assert status == expected, output
    assert re.fullmatch(r"Error: .+\.\n", output), output
    return output


def serve_and_migrate_error(workdir: Path, **options: Any) -> str:
    """Run `serve` and `migrate`, and return the error that both must print."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(start_error, workdir, *arguments, **options)
            for arguments in (["serve", "--port", "0"], ["migrate"])
        ]
        errors = {run.result() for run in runs}
    assert len(errors) == 1
    return errors.pop()


def test_serve_is_refused_when_port_is_taken(workdir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        output = start_error(workdir, "serve", "--port", port)
        assert f"Port {port} of 127.0.0.1 is taken by another program" in output
        assert "--port" in output
        assert start_error(workdir, "serve", "--port", port, "--reload") == output
    assert list(workdir.iterdir()) == [], "the refusal precedes the creation of the library"


def test_serve_is_refused_when_port_needs_rights(workdir: Path) -> None:
    output = start_error(workdir, "serve", "--port", 1, bound=True)
    assert "Port 1 of 127.0.0.1 needs rights" in output
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("2001:db8::1", "2001:db8::1 is not an address of this machine"),
        ("films.invalid", "films.invalid is not the name of an address"),
        ("f" * 64, "is not the name of an address"),
        ("1\x1b[2J\n", r"1\x1b[2J\n is not the name of an address"),
    ],
)
def test_serve_is_refused_when_host_is_not_local(host: str, reason: str, workdir: Path) -> None:
    output = start_error(workdir, "serve", "--port", "0", SEEKABLE_HOST=host, SEEKABLE_ACCESS="open")
    assert reason in output
    assert "--host" in output
    assert list(workdir.iterdir()) == []


def test_start_is_refused_when_files_folder_is_a_file(workdir: Path) -> None:
    (workdir / "files").write_bytes(b"")
    output = serve_and_migrate_error(workdir, expected=2)
    assert output == "Error: SEEKABLE_FILES_DIR=files: This is not a folder.\n"
    output = serve_and_migrate_error(workdir, expected=2, SEEKABLE_FILES_DIR="files/inside")
    assert output == "Error: SEEKABLE_FILES_DIR=files/inside: This is not a folder.\n"


def test_start_is_refused_when_files_folder_cannot_be_created(workdir: Path) -> None:
    workdir.chmod(0o555)
    output = serve_and_migrate_error(workdir, bound=True)
    assert output == "Error: SEEKABLE_FILES_DIR=files: This user cannot write there.\n"


@pytest.mark.parametrize("folder", [".", ".seekable", ".seekable/staging"])
def test_start_is_refused_when_files_folder_is_not_writable(folder: str, workdir: Path) -> None:
    assert run_command(workdir, "migrate")[0] == 0
    (workdir / "files" / folder).chmod(0o555)
    output = serve_and_migrate_error(workdir, bound=True)
    assert output == (
        "Error: SEEKABLE_FILES_DIR=files: This user cannot write there. "
        "To serve it as it is, use `seekable serve --read-only`, or set SEEKABLE_READ_ONLY=true.\n"
    )


BAD_DISK = """
import errno, os
def mkdir(*arguments, **options):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
os.mkdir = mkdir
"""
"""Code after which the disk takes no new folder."""


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "ENOTCONN"])
def test_start_fails_when_disk_is_full_or_failing(error: str, workdir: Path) -> None:
    output = serve_and_migrate_error(workdir, first=BAD_DISK.format(error=error))
    assert output.startswith("Error: SEEKABLE_FILES_DIR=files: ")


def test_start_fails_when_postgresql_is_unreachable(workdir: Path) -> None:
    url = f"postgresql://127.0.0.1:{free_port()}/films"
    assert "Connection refused" in serve_and_migrate_error(workdir, SEEKABLE_DATABASE_URL=url)


@pytest.mark.parametrize("url", ["mongodb://127.0.0.1:{}/films", "mongodb+srv://films.invalid/films"])
def test_start_fails_when_mongodb_is_unreachable(url: str, workdir: Path) -> None:
    mongodb = {"SEEKABLE_STORAGE": "gridfs", "SEEKABLE_MONGODB_URL": url.format(free_port())}
    output = serve_and_migrate_error(workdir, **mongodb)
    assert re.match("Error: (MongoDB at 127.0.0.1:|SEEKABLE_MONGODB_URL: .*films.invalid)", output), output


WITHOUT_LINKS = """
import errno, os
def link(*arguments, **options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = link
"""
"""Code after which the file system is like FAT and exFAT."""


def test_start_is_refused_when_file_system_has_no_hard_links(workdir: Path) -> None:
    output = serve_and_migrate_error(workdir, first=WITHOUT_LINKS)
    assert output.startswith("Error: SEEKABLE_FILES_DIR=files: The file system has no hard links")
    assert "`seekable serve --read-only`" in output
    (workdir / "files" / "film.mp4").write_bytes(b"film")
    state = {"XDG_STATE_HOME": str(workdir / "state")}
    arguments = ("files", "--read-only", "--port", "0")
    with serving(workdir, *arguments, first=WITHOUT_LINKS, **state) as (_, url):
        until(lambda: get(f"{url}/files/film.mp4").content == b"film", "the film is served")


def test_start_is_refused_when_database_is_not_writable(workdir: Path) -> None:
    """As when another user has created it."""
    assert run_command(workdir, "migrate")[0] == 0
    database = workdir / "files" / ".seekable" / "seekable.db"
    database.chmod(0o444)
    output = serve_and_migrate_error(workdir, bound=True)
    assert output == f"Error: sqlite:///{database}: The database cannot be written.\n"


@pytest.mark.parametrize("command", ["scan", "verify"])
def test_scan_and_verify_create_no_library(command: str, workdir: Path) -> None:
    """If they did, a missing disk would look like an empty library without faults."""
    output = start_error(workdir, command, expected=2)
    assert (
        output == "Error: SEEKABLE_FILES_DIR=files: There is no library here; `seekable serve` creates one.\n"
    )
    assert list(workdir.iterdir()) == []


def test_start_is_refused_when_files_folder_is_missing_on_read_only_file_system(workdir: Path) -> None:
    """An existing folder is served: see test_read_only.py."""
    need("mount")
    (workdir / "files").mkdir()
    output = serve_and_migrate_error(workdir, first=READ_ONLY, SEEKABLE_FILES_DIR="files/inside")
    assert output == "Error: SEEKABLE_FILES_DIR=files/inside: Its file system is read-only.\n"


@pytest.mark.parametrize("in_its_place", ["an empty mount point", "nothing", "another library"])
def test_start_is_refused_when_disk_is_not_mounted(in_its_place: str, workdir: Path) -> None:
    environment = {"SEEKABLE_DATABASE_URL": f"sqlite:///{workdir}/films.db"}
    with serving(workdir, "--port", "0", **environment) as (_, url):
        httpx.put(f"{url}/files/a.txt", content=b"a", trust_env=False).raise_for_status()
    files, unmounted = workdir / "files", workdir / "unmounted"

    def paths_besides_database() -> list[Path]:
        return sorted(path for path in workdir.rglob("*") if not path.match("films.db-*"))

    files.rename(unmounted)
    if in_its_place == "an empty mount point":
        files.mkdir()
    elif in_its_place == "another library":
        assert run_command(workdir, "migrate")[0] == 0
        (files / ".seekable" / "seekable.db").unlink()
    before = paths_besides_database()
    output = serve_and_migrate_error(workdir, **environment)
    assert "The folder of files, files, is not the one that the database belongs to" in output
    assert paths_besides_database() == before, "nothing was written where the disk should be"
    shutil.rmtree(files, ignore_errors=True)
    unmounted.rename(files)
    with serving(workdir, "--port", "0", **environment) as (_, url):
        assert get(f"{url}/files/a.txt").content == b"a"


def test_serve_is_refused_when_database_is_locked(tmp_path: Path) -> None:
    """Both locks at the same time, each in its own library: the server waits four seconds for each."""
    locks = ("BEGIN IMMEDIATE", "PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")

    def check(number: int) -> None:
        workdir = tmp_path / str(number)
        workdir.mkdir()
        assert run_command(workdir, "migrate")[0] == 0
        path = workdir / "files" / ".seekable" / "seekable.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for statement in locks[number].split("; "):
                database.execute(statement)
            began = time.monotonic()
            output = start_error(workdir, "serve", "--port", "0")
            assert output == f"Error: sqlite:///{path}: The database is locked by another program.\n"
            assert time.monotonic() - began < 10

    with ThreadPoolExecutor(len(locks)) as pool:
        assert len(list(pool.map(check, range(len(locks))))) == len(locks)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "is not an SQLite file"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.touch(0o000), "cannot be opened"),
        (lambda path: path.touch(0o444), "cannot be written"),
        (lambda path: path.parent.chmod(0o555), "cannot be opened"),
        (lambda path: path.parent.rmdir(), "cannot be opened"),
    ],
    ids=["another file", "a folder", "unreadable", "read-only", "in a read-only folder", "in no folder"],
)
def test_migrate_is_refused_when_database_cannot_be_opened(
    make: Callable[[Path], None], reason: str, workdir: Path
) -> None:
    path = workdir / "data" / "films.db"
    path.parent.mkdir()
    make(path)
    url = f"sqlite:///{path}"
    output = start_error(workdir, "migrate", bound=True, SEEKABLE_DATABASE_URL=url)
    assert output == f"Error: {url}: The database {reason}.\n"


def test_start_is_refused_when_database_is_damaged(workdir: Path) -> None:
    assert run_command(workdir, "migrate")[0] == 0
    path = workdir / "files" / ".seekable" / "seekable.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    assert "The database is damaged." in serve_and_migrate_error(workdir)


# Other ways to start the server


def test_uvicorn_serves_this_machine_only(workdir: Path, film: Path) -> None:
    port = free_port()
    with program(workdir, BIN / "uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", port) as server:
        server.wait_for("Uvicorn running")
        url = f"http://127.0.0.1:{port}/files/film.mp4"
        assert httpx.put(url, content=film.read_bytes(), trust_env=False).status_code == 201
        assert get(url, range="bytes=4-7").content == b"ftyp"
        assert sha256(workdir / "files" / "film.mp4") == sha256(film)
        assert get(url, **FROM_OTHER_MACHINE).status_code == 403
        server.terminate()
        assert "Traceback" not in server.log()


def test_reload_prints_urls_keeps_options_and_restarts_when_code_changes(
    films: Path, workdir: Path, tmp_path: Path
) -> None:
    """Changes a copy of the code that no other test uses."""
    copy = tmp_path / "copy"
    for part in ("app", "alembic"):
        shutil.copytree(CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", films, "-p", port]
    options = ["--access", "accounts", "--read-only", "--reload"]
    environment = {"PYTHONPATH": str(copy), "XDG_STATE_HOME": str(tmp_path), "SEEKABLE_ACCESS": "open"}
    with program(workdir, *command, *options, **environment) as server:
        server.wait_for("Application startup complete")
        url = f"http://127.0.0.1:{port}"
        until(lambda: f"{url}/docs" in server.log(), server.log())
        assert get(f"{url}/files").status_code == 401
        assert "is read-only: no file of it can be uploaded" in server.log()
        assert "upload" not in server.log().partition("Seekable serves")[2].partition("\n2")[0]
        assert get(f"{url}/openapi.json").json()["info"]["title"] == "Seekable"
        program_file = copy / "app" / "main.py"
        program_file.write_text(program_file.read_text().replace('title="Seekable"', 'title="Changed"'))
        server.wait_for("(?s)Application startup complete.*Application startup complete")
        assert get(f"{url}/openapi.json").json()["info"]["title"] == "Changed"
        (child,) = _children(server.process.pid, "spawn_main")
        server.terminate()
        assert not _is_running(child)
        with pytest.raises(httpx.ConnectError):
            get(f"{url}/health")
        assert "Traceback" not in server.log()
    assert list(films.glob(".*")) == []


def _children(pid: int, command: str) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if command in Path(f"/proc/{child}/cmdline").read_text()]


def _is_running(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Path(f"/proc/{pid}").exists()


# Import


AUDIT = """
import os, sys
events = []
def note(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        inside = isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith(os.getcwd())
        if inside or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            events.append((event, path, mode, flags))
    elif event in (
        "os.mkdir", "os.rename", "os.remove", "sqlite3.connect", "socket.connect", "socket.bind",
        "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.system", "_thread.start_new_thread",
    ):
        events.append((event, *map(str, arguments)))
sys.addaudithook(note)
import app.main
print(*events, sep="\\n", end="")
"""


def test_import_has_no_side_effects(workdir: Path) -> None:
    """The import writes no file, opens no connection and does not read the settings."""
    (workdir / ".env").write_text("SEEKABLE_PORT=abc\n")
    python = [sys.executable, "-B", "-c"]
    imported = subprocess.run([*python, AUDIT], cwd=workdir, capture_output=True, text=True, timeout=60)
    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")
    assert os.listdir(workdir) == [".env"]
    # The audit reports a planted side effect.
    planted = AUDIT.replace("import app.main", "os.mkdir('files'); open('files/x', 'w').close()")
    audited = subprocess.run([*python, planted], cwd=workdir, capture_output=True, text=True, timeout=60)
    assert re.search(r"os\.mkdir.*\n.*open", audited.stdout)

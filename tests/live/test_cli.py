"""The `seekable` command, and `uvicorn app.main:app`, as a person starts them."""

import os
import re
import shlex
import shutil
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

import httpx
import pytest
from gridfs import GridFSBucket

from tests import mongo
from tests.forking import COMMAND, Command, completed
from tests.live.clients import BIN, Program, Vlc, program, sha256, until
from tests.support import Server, need, run

pytestmark = pytest.mark.live

CHECKOUT = Path(__file__).parents[2]
SEEKABLE = BIN / "seekable"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder to start things in."""
    here = tmp_path / "here"
    here.mkdir()
    return here


@contextmanager
def serving(
    here: Path, *arguments: object, first: str = "", **environment: str
) -> Iterator[tuple[Program, str]]:
    """`seekable serve`, once it can be reached, and where that is. Some code may run `first`."""
    log = here.with_suffix(".log")
    log.write_bytes(b"")
    command = Command(
        *("serve", *map(str, arguments)),
        folder=here,
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


def ended(
    here: Path,
    *arguments: object,
    bound: bool = False,
    first: str = "",
    **environment: str,
) -> tuple[int, str]:
    """The exit status of a command that ends by itself, and what it said. `bound` by permissions, even when
    root runs it. Some code may run `first`."""
    result = completed(
        *map(str, arguments),
        folder=here,
        environment=without_settings() | environment,
        timeout=20,
        bound=bound,
        first=first,
    )
    return result.returncode, result.stdout + result.stderr


def fails(here: Path, *arguments: object, **environment: str) -> str:
    """What a command says that ends by itself with an error."""
    status, said = ended(here, *arguments, **environment)
    assert status != 0
    return said


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


# The server believes a proxy on this machine about whom it speaks for: a peer from elsewhere on any machine.
FROM_ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}


# What it prints


def test_the_lines_it_prints_work(here: Path, film: Path) -> None:
    need("curl", "vlc", "setpriv")
    with program(here, SEEKABLE, "serve", "--port", "0") as server:
        url = server.wait_for(r"docs +(http\S+)/docs")[1]
        assert get(f"{url}/docs").status_code == 200
        shutil.copy(film, here / "film.mp4")
        upload = shlex.split(server.wait_for(r"upload +(curl .+)")[1])
        uploaded = subprocess.run([*upload, "-sSf"], cwd=here, capture_output=True, text=True, timeout=30)
        assert uploaded.returncode == 0, uploaded.stderr
        assert sha256(here / "files" / "film.mp4") == sha256(film)
        play = shlex.split(server.wait_for(r"play +(vlc .+)")[1])
        assert len(play) == 2
        with Vlc(play[1]) as vlc:
            vlc.play_to(1)
        until(lambda: '"GET /files/film.mp4 HTTP/1.1" 206' in server.log(), "it is logged")
        server.terminate()
        assert "Application shutdown complete" in server.log()
        assert "Traceback" not in server.log()


def test_host_and_port(here: Path) -> None:
    port = free_port()
    with serving(here, "--host", "127.0.0.2", "--port", port) as (server, url):
        assert url == f"http://127.0.0.2:{port}"
        assert get(f"{url}/health").status_code == 200
        assert f"curl -F file=@film.mp4 {url}/file/upload" in server.log()
        assert f"vlc {url}/files/film.mp4" in server.log()
        with pytest.raises(httpx.ConnectError):
            get(f"http://127.0.0.1:{port}/health")


def test_host_and_port_from_the_environment_yield_to_options(here: Path) -> None:
    port = free_port()
    environment = {"SEEKABLE_HOST": "127.0.0.2", "SEEKABLE_PORT": str(port)}
    with serving(here, **environment) as (_, url):
        assert url == f"http://127.0.0.2:{port}"
    with serving(here, "--host", "localhost", "--port", "0", **environment) as (_, url):
        assert url.startswith("http://localhost:")
        assert url != f"http://localhost:{port}"
        assert get(f"{url}/health").status_code == 200


def test_links_of_the_base_url(here: Path) -> None:
    with serving(here, "--port", "0", SEEKABLE_BASE_URL="https://media.example.org/tv/") as (server, url):
        assert url == "https://media.example.org/tv"
        port = server.wait_for(r"running on http://127.0.0.1:(\d+)")[1]
        put = httpx.put(f"http://127.0.0.1:{port}/files/a.txt", content=b"a", trust_env=False)
        assert put.json()["url"] == "https://media.example.org/tv/files/a.txt"


def test_base_path_needs_nothing_deprecated(tmp_path: Path) -> None:
    server = Server(tmp_path, base_url="https://example.org/media", access="open")
    server.wrapper = ("env", "PYTHONWARNINGS=error")
    try:
        server.start()
        (port,) = re.findall(r"running on http://127.0.0.1:(\d+)", server.log())
        for path in ("/docs", "/media/docs", "/media/files/", "/openapi.json"):
            assert get(f"http://127.0.0.1:{port}{path}").status_code == 200
        assert server.stop() == 0
        assert "Warning" not in server.log()
    finally:
        server.stop()


def test_defaults_are_in_the_folder_it_was_started_in(here: Path) -> None:
    with serving(here, "--port", "0") as (_, url):
        httpx.put(f"{url}/files/a/b.txt", content=b"b", trust_env=False).raise_for_status()
    assert [path.name for path in here.iterdir()] == ["files"]
    assert (here / "files/a/b.txt").read_bytes() == b"b"
    assert (here / "files/.seekable/seekable.db").exists()


# Who may knock


@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_does_not_open_itself_to_everybody_unasked(host: str, how: str, here: Path) -> None:
    if how == "option":
        said = fails(here, "serve", "--port", "0", "--host", host)
    else:
        said = fails(here, "serve", "--port", "0", SEEKABLE_HOST=host)
    assert said.count("\n") == 1
    assert "SEEKABLE_ACCESS=accounts" in said
    assert list(here.iterdir()) == []


def test_access_open_serves_everybody(here: Path) -> None:
    with serving(here, "--host", "0.0.0.0", "--port", "0", SEEKABLE_ACCESS="open") as (_, url):
        assert url.startswith("http://127.0.0.1:"), "0.0.0.0 is no address to connect to"
        assert get(f"{url}/health").status_code == 200
        assert get(f"{url}/health", **FROM_ELSEWHERE).status_code == 200


# Settings


def test_a_file_of_settings_is_read(here: Path) -> None:
    (here / ".env").write_text("SEEKABLE_PORT=0\nSEEKABLE_FILES_DIR='my films'\nOTHER=1\n")
    with serving(here) as (server, url):
        assert f"{here}/my films" in server.log()
        httpx.put(f"{url}/files/b.txt", content=b"b", trust_env=False).raise_for_status()
    assert (here / "my films" / "b.txt").read_bytes() == b"b"
    assert {path.name for path in here.iterdir()} == {".env", "my films"}


def test_an_uploaded_env_file_is_not_the_next_configuration(here: Path) -> None:
    films = {"SEEKABLE_FILES_DIR": "."}
    with serving(here, "--port", "0", **films) as (server, url):
        uploaded = b"SEEKABLE_ACCESS=open\nSEEKABLE_ALLOWED_HOSTS=*\n"
        httpx.put(f"{url}/files/.env", content=uploaded, trust_env=False).raise_for_status()
        assert "is not read" not in server.log()
    with serving(here, "--port", "0", **films) as (server, url):
        assert server.log().count(f"{here}/.env is not read: it lies in the library {here}") == 1
        assert get(f"{url}/files", **FROM_ELSEWHERE).status_code == 403
        assert get(f"{url}/files", host="evil.example").status_code == 421
    status, said = ended(here, "doctor", **films)
    assert status == 1
    assert f"fix: {here}/.env is not read: " in said
    assert "is not read" in ended(here, "scan", **films)[1]
    (here / ".env").write_text("SEEKABLE_FILES_DIR=.\n")
    for command in (("serve", "--port", "0"), ("scan",), ("doctor",), ("account", "list")):
        assert "lies in the library that it names" in refuses(here, *command)


def test_settings_that_are_not_in_utf8_are_refused_in_a_sentence(here: Path) -> None:
    (here / ".env").write_bytes("SEEKABLE_FILES_DIR=Köln\n".encode("latin-1"))
    for command in (("serve", "--port", "0"), ("doctor",), ("copy", "--to", "gridfs")):
        assert refuses(here, *command) == f"Error: {here}/.env is not in UTF-8. Save it in UTF-8.\n"
    assert {path.name for path in here.iterdir()} == {".env"}


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def latin_1(folder: Path) -> dict[str, str]:
    """The environment of a locale that is made in the folder."""
    need("localedef", "locale-gen")
    run("localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / "de_DE")
    return {"LC_ALL": "de_DE", "LOCPATH": str(folder), "PYTHONUTF8": "0"}


@pytest.fixture(params=["latin-1", "ascii"])
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a locale in which Python would not write names in UTF-8."""
    chosen = latin_1(tmp_path) if request.param == "latin-1" else ASCII
    code = r"import os; print(os.fsencode('\xfc'))"
    there = subprocess.run([sys.executable, "-c", code], env={**os.environ, **chosen}, capture_output=True)
    assert b"xc3" not in there.stdout
    return chosen


def test_names_are_in_utf8_whatever_the_locale(here: Path, locale: dict[str, str]) -> None:
    name = "Blüten 日本.txt"
    with program(here, SEEKABLE, "serve", "--port", "0", **locale) as server:
        url = server.wait_for(r"docs +(http\S+)/docs")[1]
        httpx.put(f"{url}/files/{name}", content=b"a", trust_env=False).raise_for_status()
        assert get(f"{url}/files/{name}").content == b"a"
        assert get(f"{url}/files").json()["items"][0]["filename"] == name
    assert name.encode() in os.listdir(os.fsencode(here / "files"))
    moved = name.replace("日本", "ÿ")
    (here / "files" / name).rename(here / "files" / moved)
    scanned = subprocess.run(
        [SEEKABLE, "scan"], cwd=here, env=without_settings() | locale, capture_output=True
    )
    assert b"1 files, 1 moved" in scanned.stdout, scanned


def test_a_locale_that_cannot_be_left_is_a_sentence(here: Path, tmp_path: Path) -> None:
    """Under another server than ours, and where Python does not look at its environment."""
    locale = latin_1(tmp_path)
    for says, command in (
        ("by the locale: set PYTHONUTF8=1.", ("-m", "uvicorn", "app.main:app", "--port", "0")),
        ("Start Python with -X utf8.", ("-E", SEEKABLE, "scan")),
    ):
        environment = without_settings() | locale | ({"PYTHONUTF8": "1"} if "-E" in command else {})
        ended = subprocess.run(
            [sys.executable, *command], cwd=here, env=environment, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode != 0
        assert "Names of files would be in iso8859-1" in ended.stderr
        assert says in ended.stderr
    assert list(here.iterdir()) == []


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
def test_a_bad_setting_gives_one_clear_line(name: str, value: str, here: Path) -> None:
    for command in (["serve", "--port", "0"], ["migrate"]):
        said = fails(here, *command, **{name: value})
        assert "Traceback" not in said
        assert name in said
        assert sum(1 for line in said.splitlines() if not line.startswith("INFO: ")) == 1


def test_a_database_of_a_newer_version_is_left_alone(here: Path) -> None:
    assert ended(here, "migrate")[0] == 0
    with closing(
        sqlite3.connect(here / "files" / ".seekable" / "seekable.db", isolation_level=None)
    ) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (["serve", "--port", "0"], ["migrate"]):
        said = fails(here, *command)
        assert "Traceback" not in said
        assert "The database was made by a newer Seekable. Install that version" in said
        assert "9999" in said
        assert len(said.splitlines()) == 1


# What cannot be read


def test_verify_and_scan_name_files_that_cannot_be_read_and_exit_1(here: Path) -> None:
    films = here / "files"
    (films / "closed").mkdir(parents=True)
    for name in ("good.mp4", "bad.mp4", "closed/inside.mp4"):
        (films / name).write_bytes(b"film")
    time.sleep(2.1)
    assert ended(here, "migrate")[0] == 0
    assert ended(here, "scan", bound=True) == (0, "3 files, 3 created\nScanning\n")
    (films / "bad.mp4").chmod(0)
    (films / "closed").chmod(0)
    status, said = ended(here, "verify", bound=True)
    assert status == 1
    assert "unreadable: bad.mp4\n" in said
    assert "unreadable: closed/inside.mp4\n" in said
    assert "good.mp4" not in said
    status, said = ended(here, "scan", bound=True)
    assert status == 1
    assert "unreadable: closed: The disk refuses: Permission denied.\n" in said
    assert "unreadable: bad.mp4: The disk refuses: Permission denied.\n" in said, "its ctime changed"
    (films / "closed").chmod(0o755)
    (films / "bad.mp4").chmod(0o644)
    assert ended(here, "scan", bound=True)[0] == 0


def test_verify_and_scan_on_gridfs_name_documents_that_cannot_be_read_and_exit_1(here: Path) -> None:
    chosen = mongo.gridfs()
    environment = {f"SEEKABLE_{name.upper()}": str(value) for name, value in chosen.items()}
    assert ended(here, "migrate", **environment)[0] == 0
    database = mongo.database(str(chosen["mongodb_url"]))
    GridFSBucket(database).upload_from_stream("good.mp4", b"film")
    assert ended(here, "scan", **environment)[0] == 0
    odd = {"_id": "0" * 32, "library": "", "folder": "films", "filename": "bad.mp4"}
    database["media"].insert_one(odd)
    status, said = ended(here, "scan", **environment)
    assert status == 1
    assert "unreadable: films/bad.mp4: Its document is not like those of this program.\n" in said
    status, said = ended(here, "verify", **environment)
    assert status == 1
    assert "unreadable: films/bad.mp4\n" in said
    database["media"].delete_one({"_id": odd["_id"]})
    assert ended(here, "scan", **environment)[0] == 0


@pytest.mark.parametrize("fault", ["fstat,newfstatat:when=2+", "pread64,preadv,preadv2"])
def test_verify_names_a_file_whose_disk_fails(fault: str, here: Path) -> None:
    need("strace")
    films = here / "files"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (films / name).write_bytes(b"film")
    assert ended(here, "migrate")[0] == 0
    time.sleep(2.1)
    assert ended(here, "scan")[0] == 0
    calls, _, when = fault.partition(":")
    inject = f"inject={calls}:error=EIO{when and ':'}{when}"
    strace = ("strace", "-f", "-o", here / "trace", "-P", films / "a.mp4", "-e", inject)
    command = [str(word) for word in (*strace, SEEKABLE, "verify")]
    verified = subprocess.run(
        command, cwd=here, env=without_settings(), capture_output=True, text=True, timeout=60
    )
    assert "INJECTED" in (here / "trace").read_text()
    assert verified.returncode == 1, verified
    assert "unreadable: a.mp4\n" in verified.stdout
    assert "Traceback" not in verified.stderr


# What it refuses


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
"""As unshare(1), for this process alone, whoever it is."""


def refuses(here: Path, *arguments: object, **how: Any) -> str:
    """The one sentence of a command that does not begin."""
    status, said = ended(here, *arguments, **how)
    assert status == 1, said
    assert re.fullmatch(r"Error: .+\.\n", said), said
    return said


def neither_begins(here: Path, **how: Any) -> str:
    """The one sentence of both commands."""
    with ThreadPoolExecutor(2) as pool:
        begun = [
            pool.submit(refuses, here, *arguments, **how)
            for arguments in (["serve", "--port", "0"], ["migrate"])
        ]
        said = {each.result() for each in begun}
    assert len(said) == 1
    return said.pop()


def test_a_port_that_is_taken(here: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refuses(here, "serve", "--port", port)
        assert f"Port {port} of 127.0.0.1 is taken by another program" in said
        assert "--port" in said
        assert refuses(here, "serve", "--port", port, "--reload") == said
    assert list(here.iterdir()) == [], "the database is not touched before"


def test_a_port_that_needs_rights(here: Path) -> None:
    said = refuses(here, "serve", "--port", 1, bound=True)
    assert "Port 1 of 127.0.0.1 needs rights" in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("2001:db8::1", "2001:db8::1 is not an address of this machine"),
        ("films.invalid", "films.invalid is not the name of an address"),
        ("f" * 64, "is not the name of an address"),
        ("1\x1b[2J\n", r"1\x1b[2J\n is not the name of an address"),
    ],
)
def test_a_host_that_is_not_here(host: str, why: str, here: Path) -> None:
    said = refuses(here, "serve", "--port", "0", SEEKABLE_HOST=host, SEEKABLE_ACCESS="open")
    assert why in said
    assert "--host" in said
    assert list(here.iterdir()) == []


def test_a_folder_of_files_that_is_a_file(here: Path) -> None:
    (here / "files").write_bytes(b"")
    assert neither_begins(here) == "Error: SEEKABLE_FILES_DIR=files: This is no folder.\n"
    said = neither_begins(here, SEEKABLE_FILES_DIR="files/inside")
    assert said == "Error: SEEKABLE_FILES_DIR=files/inside: This is no folder.\n"


def test_a_folder_of_files_that_cannot_be_made(here: Path) -> None:
    here.chmod(0o555)
    said = neither_begins(here, bound=True)
    assert said == "Error: SEEKABLE_FILES_DIR=files: This user cannot write there.\n"


@pytest.mark.parametrize("what", [".", ".seekable", ".seekable/staging"])
def test_a_folder_of_files_that_cannot_be_written(what: str, here: Path) -> None:
    assert ended(here, "migrate")[0] == 0
    (here / "files" / what).chmod(0o555)
    said = neither_begins(here, bound=True)
    assert said == (
        "Error: SEEKABLE_FILES_DIR=files: This user cannot write there. "
        "To serve it as it is, set SEEKABLE_READ_ONLY=true.\n"
    )


def test_a_database_that_cannot_be_written(here: Path) -> None:
    """As one that somebody else made."""
    assert ended(here, "migrate")[0] == 0
    database = here / "files" / ".seekable" / "seekable.db"
    database.chmod(0o444)
    said = neither_begins(here, bound=True)
    assert said == f"Error: sqlite:///{database}: The database cannot be written.\n"


@pytest.mark.parametrize("command", ["scan", "verify"])
def test_what_looks_after_files_makes_no_library(command: str, here: Path) -> None:
    """Or a disk that is missing would seem to hold nothing, and that all well."""
    said = refuses(here, command)
    assert said == "Error: SEEKABLE_FILES_DIR=files: There is no library here; `seekable serve` makes one.\n"
    assert list(here.iterdir()) == []


def test_folder_that_cannot_be_made_on_a_read_only_file_system_is_refused(here: Path) -> None:
    """One that is there is served: see test_read_only.py."""
    need("mount")
    (here / "files").mkdir()
    said = neither_begins(here, first=READ_ONLY, SEEKABLE_FILES_DIR="files/inside")
    assert said == "Error: SEEKABLE_FILES_DIR=files/inside: Its file system is read-only.\n"


@pytest.mark.parametrize("there", ["an empty mount point", "nothing", "another library"])
def test_a_disk_that_is_not_mounted(there: str, here: Path) -> None:
    environment = {"SEEKABLE_DATABASE_URL": f"sqlite:///{here}/films.db"}
    with serving(here, "--port", "0", **environment) as (_, url):
        httpx.put(f"{url}/files/a.txt", content=b"a", trust_env=False).raise_for_status()
    files, away = here / "files", here / "away"

    def beside_the_database() -> list[Path]:
        return sorted(path for path in here.rglob("*") if not path.match("films.db-*"))

    files.rename(away)
    if there == "an empty mount point":
        files.mkdir()
    elif there == "another library":
        assert ended(here, "migrate")[0] == 0
        (files / ".seekable" / "seekable.db").unlink()
    before = beside_the_database()
    said = neither_begins(here, **environment)
    assert "The folder of files, files, is not the one that the database speaks of" in said
    assert beside_the_database() == before, "nothing was written where the disk should be"
    shutil.rmtree(files, ignore_errors=True)
    away.rename(files)
    with serving(here, "--port", "0", **environment) as (_, url):
        assert get(f"{url}/files/a.txt").content == b"a"


def test_a_database_that_somebody_keeps(tmp_path: Path) -> None:
    """Each lock in a library of its own, at the same time: it waits for four seconds."""
    locks = ("BEGIN IMMEDIATE", "PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")

    def check(number: int) -> None:
        here = tmp_path / str(number)
        here.mkdir()
        assert ended(here, "migrate")[0] == 0
        path = here / "files" / ".seekable" / "seekable.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for statement in locks[number].split("; "):
                database.execute(statement)
            began = time.monotonic()
            said = refuses(here, "serve", "--port", "0")
            assert said == f"Error: sqlite:///{path}: The database is locked by another program.\n"
            assert time.monotonic() - began < 10

    with ThreadPoolExecutor(len(locks)) as pool:
        assert len(list(pool.map(check, range(len(locks))))) == len(locks)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "is no SQLite file"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.touch(0o000), "cannot be opened"),
        (lambda path: path.touch(0o444), "cannot be written"),
        (lambda path: path.parent.chmod(0o555), "cannot be opened"),
        (lambda path: path.parent.rmdir(), "cannot be opened"),
    ],
    ids=["another file", "a folder", "unreadable", "read-only", "in a read-only folder", "in no folder"],
)
def test_a_database_that_does_not_answer(make: Callable[[Path], None], why: str, here: Path) -> None:
    path = here / "data" / "films.db"
    path.parent.mkdir()
    make(path)
    url = f"sqlite:///{path}"
    said = refuses(here, "migrate", bound=True, SEEKABLE_DATABASE_URL=url)
    assert said == f"Error: {url}: The database {why}.\n"


def test_a_database_that_is_damaged(here: Path) -> None:
    assert ended(here, "migrate")[0] == 0
    path = here / "files" / ".seekable" / "seekable.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    assert "The database is damaged." in neither_begins(here)


# Other ways to start it


def test_uvicorn_serves_it_and_lets_nobody_else_in(here: Path, film: Path) -> None:
    port = free_port()
    with program(here, BIN / "uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", port) as server:
        server.wait_for("Uvicorn running")
        url = f"http://127.0.0.1:{port}/files/film.mp4"
        assert httpx.put(url, content=film.read_bytes(), trust_env=False).status_code == 201
        assert get(url, range="bytes=4-7").content == b"ftyp"
        assert sha256(here / "files" / "film.mp4") == sha256(film)
        assert get(url, **FROM_ELSEWHERE).status_code == 403
        server.terminate()
        assert "Traceback" not in server.log()


def test_reload_prints_where_it_is_and_starts_again_when_the_code_changes(here: Path, tmp_path: Path) -> None:
    """In a copy of the program, so that nobody else's is touched."""
    copy = tmp_path / "copy"
    for part in ("app", "alembic"):
        shutil.copytree(CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    start = "from app.cli import main; main()"
    port = free_port()
    with program(
        here, sys.executable, "-c", start, "serve", "--reload", "--port", port, PYTHONPATH=str(copy)
    ) as server:
        server.wait_for("Application startup complete")
        url = f"http://127.0.0.1:{port}"
        until(lambda: f"{url}/docs" in server.log(), server.log())
        assert f"curl -F file=@film.mp4 {url}/file/upload" in server.log()
        assert get(f"{url}/openapi.json").json()["info"]["title"] == "Seekable"
        program_file = copy / "app" / "main.py"
        program_file.write_text(program_file.read_text().replace('title="Seekable"', 'title="Changed"'))
        server.wait_for("(?s)Application startup complete.*Application startup complete")
        assert get(f"{url}/openapi.json").json()["info"]["title"] == "Changed"
        (child,) = _children(server.process.pid, "spawn_main")
        server.terminate()
        assert not _runs(child)
        with pytest.raises(httpx.ConnectError):
            get(f"{url}/health")
        assert "Traceback" not in server.log()


def _children(pid: int, command: str) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if command in Path(f"/proc/{child}/cmdline").read_text()]


def _runs(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Path(f"/proc/{pid}").exists()


# Importing it


AUDIT = """
import os, sys
events = []
def note(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        here = isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith(os.getcwd())
        if here or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
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


def test_importing_the_program_does_nothing(here: Path) -> None:
    """No file is made or written, nothing is connected, and not even the settings are read."""
    (here / ".env").write_text("SEEKABLE_PORT=abc\n")
    python = [sys.executable, "-B", "-c"]
    imported = subprocess.run([*python, AUDIT], cwd=here, capture_output=True, text=True, timeout=60)
    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")
    assert os.listdir(here) == [".env"]
    # The audit sees what it should: the same with an action added is noticed.
    planted = AUDIT.replace("import app.main", "os.mkdir('files'); open('files/x', 'w').close()")
    noticed = subprocess.run([*python, planted], cwd=here, capture_output=True, text=True, timeout=60)
    assert re.search(r"os\.mkdir.*\n.*open", noticed.stdout)

"""A library whose files cannot be changed: on a read-only file system, or by the settings."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.forking import completed
from tests.live.clients import until
from tests.live.test_cli import READ_ONLY as UNSHARED
from tests.live.test_cli import Program, run_command, serving
from tests.support import NewLibrary, on_disk_and_gridfs, running

pytestmark = pytest.mark.live

SAID = "This library is read-only: no file can be uploaded, renamed or deleted."
FILM = b"film" * 1000


def filled(here: Path) -> Path:
    """Make a folder with films in it that no server has seen, and which are taken for finished."""
    (here / "files" / "series").mkdir(parents=True)
    (here / "files" / "film.mp4").write_bytes(FILM)
    (here / "files" / "series" / "Köln.mkv").write_bytes(b"matroska")
    time.sleep(2.1)
    return here


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return filled(tmp_path / "here")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all tests in which nothing of ours writes there."""
    return filled(tmp_path_factory.mktemp("shared") / "here")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is beneath a folder, with what would show a change."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
        for path in (folder, *sorted(folder.rglob("*")))
    }


def refused(http: httpx.Client) -> list[httpx.Response]:
    """The responses to every kind of change."""
    patch = {"content-type": "application/merge-patch+json"}
    return [
        http.put("/files/film.mp4", content=b"new"),
        http.put("/files/new.mp4", content=b"new"),
        http.put("/files/a%00b", content=b"new"),
        http.post("/file/upload", files={"file": ("new.mp4", b"new")}),
        http.post("/file/upload", content=b"no form"),
        http.delete("/files/film.mp4"),
        http.delete("/files/none.mp4"),
        http.patch("/files/film.mp4", content=json.dumps({"filename": "x.mp4"}), headers=patch),
    ]


def check_served(http: httpx.Client) -> None:
    """All that reads works, and each change is refused in one sentence."""

    def listed_paths() -> list[str]:
        return [item["path"] for item in http.get("/files?recursive=true").raise_for_status().json()["items"]]

    # On a slow disk the first list names what it found within its time.
    until(lambda: listed_paths() == ["film.mp4", "series/Köln.mkv"], "both are listed")
    listed = http.get("/files?recursive=true").json()["items"]
    assert http.get("/files").json()["folders"] == ["series"]
    film = http.get("/files/film.mp4")
    assert (film.content, film.headers["etag"]) == (FILM, f'"{listed[0]["etag"]}"')
    piece = http.get(
        f"/stream/{listed[0]['id']}", headers={"range": "bytes=4-7", "if-match": film.headers["etag"]}
    )
    assert (piece.status_code, piece.content) == (206, b"film")
    assert "film.mp4" in http.get("/playlist.m3u?recursive=true").text
    assert "K%C3%B6ln.mkv" in http.get("/files/series/").text
    assert [item["filename"] for item in http.get("/files?q=k&recursive=true").json()["items"]] == [
        "Köln.mkv"
    ]
    assert http.get("/health/ready").status_code == 200
    for answer in refused(http):
        assert answer.status_code == 403, answer.request
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {"title": "Forbidden", "status": 403, "detail": SAID}
    until(lambda: "repr-digest" in http.get("/files/film.mp4").headers, "it is hashed")


@contextmanager
def serving_read_only_mount(here: Path, **environment: str) -> Iterator[tuple[Program, httpx.Client]]:
    """A server in mounts of its own, where `files` is a read-only bind mount."""
    with (
        serving(here, "--port", "0", first=UNSHARED, **environment) as (server, url),
        httpx.Client(base_url=url, trust_env=False, timeout=20) as http,
    ):
        yield server, http


def test_read_only_mount_is_noticed_and_served(shared: Path, tmp_path: Path) -> None:
    before = snapshot(shared / "files")
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with serving_read_only_mount(shared, **state) as (server, http):
        assert server.log().count(f"{shared}/files is read-only: no file of it can be ") == 1
        assert "upload  curl" not in server.log()
        check_served(http)
        identities = {item["path"]: item["id"] for item in http.get("/files?recursive=true").json()["items"]}
        # Another program, which can write there, works beside it.
        (shared / "files" / "late.mp4").write_bytes(b"late")
        (shared / "files" / "late.mp4").rename(shared / "files" / "later.mp4")
        time.sleep(2.1)
        assert http.get("/files/later.mp4").content == b"late"
        (shared / "files" / "later.mp4").unlink()
        assert http.get("/files/later.mp4").status_code == 404
        assert "Traceback" not in server.log()
    status = (shared / "files").stat()
    place = f"{status.st_dev:x}-{status.st_ino:x}"
    folder = tmp_path / "state" / "seekable"
    assert {path.name for path in folder.iterdir()} >= {f"{place}.db", f"{place}.leases"}
    assert folder.stat().st_mode & 0o777 == 0o700
    after = snapshot(shared / "files")
    assert {name: times for name, times in after.items() if name != "."} == {
        name: times for name, times in before.items() if name != "."
    }
    with serving_read_only_mount(shared, **state) as (_, http):
        again = {item["path"]: item["id"] for item in http.get("/files?recursive=true").json()["items"]}
        assert again == identities, "the same database is found"


def test_commands_work_on_a_read_only_mount(shared: Path, tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": "relative", "HOME": str(tmp_path / "home")}
    for arguments, wanted in (
        (("scan",), "2 files, 2 created"),
        (("verify",), "2 files, 2 not hashed yet"),
        (("account", "list"), "email"),
        (("migrate",), ""),
    ):
        status, said = run_command(shared, *arguments, first=UNSHARED, **state)
        assert status == 0, said
        assert wanted in said
    assert (tmp_path / "home" / ".local" / "state" / "seekable").is_dir(), "a relative path does not count"
    assert not (shared / "relative").exists()
    status, said = run_command(shared, "doctor", first=UNSHARED, **state)
    assert "note: SEEKABLE_FILES_DIR=files is on a read-only file system" in said
    assert "fix: SEEKABLE_FILES_DIR" not in said
    assert (shared / "files" / ".seekable").exists() is False


def test_library_of_another_server_on_a_read_only_mount_keeps_its_id(here: Path, tmp_path: Path) -> None:
    """With its own database, which is on another disk; and beside it, with one of this user's."""
    database = {"SEEKABLE_DATABASE_URL": f"sqlite:///{tmp_path}/films.db"}
    assert run_command(here, "scan", **database)[0] == 1
    assert run_command(here, "migrate", **database)[0] == 0
    assert run_command(here, "scan", **database)[0] == 0
    mark = (here / "files" / ".seekable" / "id").read_text()
    with serving_read_only_mount(here, **database, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        check_served(http)
    with serving_read_only_mount(here, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        check_served(http)
    assert (here / "files" / ".seekable" / "id").read_text() == mark
    # An empty mount point is not taken for it.
    (here / "files").rename(here / "away")
    (here / "files").mkdir()
    status, said = run_command(
        here, "scan", first=UNSHARED, **database, XDG_STATE_HOME=str(tmp_path / "state")
    )
    assert status == 1
    assert "is not the one that the database speaks of" in said


def test_setting_leaves_a_writable_folder_as_it_is(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with a database of ours, which is neither used nor touched."""
    assert run_command(here, "migrate")[0] == 0
    assert run_command(here, "scan")[0] == 0
    before = snapshot(here / "files")
    settings = {"read_only": True, "files_dir": here / "files"}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "server", **settings) as server, server.client() as http:
        check_served(http)
        assert "files is read-only: no file of it can be " in server.log()
    assert snapshot(here / "files") == before


def test_folder_that_this_user_cannot_write_is_served_when_that_is_meant(
    shared: Path, tmp_path: Path
) -> None:
    (shared / "files").chmod(0o555)
    status, said = run_command(shared, "serve", "--port", "0", bound=True)
    assert status == 1
    assert "This user cannot write there. To serve it as it is, set SEEKABLE_READ_ONLY=true." in said
    read_only = {"SEEKABLE_READ_ONLY": "true", "XDG_STATE_HOME": str(tmp_path / "state")}
    assert run_command(shared, "scan", bound=True, **read_only)[0] == 0
    status, said = run_command(shared, "doctor", bound=True, **read_only)
    assert "good: SEEKABLE_FILES_DIR=files is served read-only (SEEKABLE_READ_ONLY)." in said
    (shared / "files").chmod(0o755)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"SEEKABLE_FILES_DIR": "none"}, "SEEKABLE_FILES_DIR=none: No such file or directory."),
        ({"XDG_STATE_HOME": "{here}/files/state"}, "would be in the library itself"),
        ({"XDG_STATE_HOME": "/proc/none"}, "cannot be made: "),
        ({"XDG_STATE_HOME": "", "HOME": "nowhere"}, "This user has no home folder"),
    ],
)
def test_read_only_library_without_a_place_is_refused_in_a_sentence(
    settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    given = {name: value.format(here=tmp_path) for name, value in settings.items()}
    for command in (("serve", "--port", "0"), ("scan",)):
        status, said = run_command(
            tmp_path, *command, **{"SEEKABLE_READ_ONLY": "true", "XDG_STATE_HOME": str(tmp_path)} | given
        )
        assert status == 1
        assert re.fullmatch(r"Error: .+\.\n", said), said
        assert says in said
    assert list((tmp_path / "files").iterdir()) == []


@on_disk_and_gridfs
def test_setting_refuses_changes_on_every_backend(
    new_library: NewLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: dict[str, Any] = {"files_dir": tmp_path / "files", **new_library()}
    with running(tmp_path / "first", **library) as server, server.client() as http:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
        etag = http.get("/files/film.mp4").headers["etag"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "second", read_only=True, **library) as server, server.client() as http:
        for answer in refused(http):
            assert (answer.status_code, answer.json()["detail"]) == (403, SAID)
        # A new database knows no file that has changed within two seconds.
        until(lambda: http.get("/files/film.mp4").status_code == 200, "it is found")
        film = http.get("/files/film.mp4")
        assert film.content == FILM
        if "database_url" in library or library["storage"] == "gridfs":
            assert film.headers["etag"] == etag, "the database is the same"


def test_upload_that_waits_is_refused_before_its_body(shared: Path, tmp_path: Path) -> None:
    with serving_read_only_mount(shared, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        began = time.monotonic()
        answer = http.put("/files/new.mp4", content=b"x" * (1 << 20), headers={"expect": "100-continue"})
        assert answer.status_code == 403
        assert time.monotonic() - began < 5


def test_account_cannot_be_deleted_with_files_that_cannot(tmp_path: Path) -> None:
    settings = {"SEEKABLE_ACCESS": "accounts", "SEEKABLE_READ_ONLY": "true", "XDG_STATE_HOME": str(tmp_path)}
    (tmp_path / "files").mkdir()
    added = completed(
        "account",
        "add",
        "a@example.org",
        folder=tmp_path,
        environment=os.environ | settings,
        given=b"secret-1\n",
    )
    assert added.returncode == 0, added.stderr
    status, said = run_command(tmp_path, "account", "remove", "a@example.org", **settings)
    assert (status, said) == (1, f"Error: {SAID}\n")
    with (
        serving(tmp_path, "--port", "0", **settings) as (_, url),
        httpx.Client(base_url=url, auth=("a@example.org", "secret-1"), trust_env=False) as http,
    ):
        answer = http.post("/account/delete", json={"password": "secret-1"})
        assert (answer.status_code, answer.json()["detail"]) == (403, SAID)
        assert "Delete the account" not in http.get("/settings").text


def test_nothing_is_copied_into_a_read_only_library(here: Path, tmp_path: Path) -> None:
    target = {
        "SEEKABLE_COPY_TO_STORAGE": "filesystem",
        "SEEKABLE_COPY_TO_FILES_DIR": str(tmp_path / "copy"),
        "SEEKABLE_COPY_TO_READ_ONLY": "true",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    (tmp_path / "copy").mkdir()
    assert run_command(here, "migrate")[0] == 0
    status, said = run_command(here, "copy", **target)
    assert status == 1
    assert f"The library to copy to: {SAID}" in said
    assert list((tmp_path / "copy").iterdir()) == []
    del target["SEEKABLE_COPY_TO_READ_ONLY"]
    status, said = run_command(here, "copy", first=UNSHARED, **target)
    assert status == 0, said
    assert (tmp_path / "copy" / "film.mp4").read_bytes() == FILM
    # By device and inode alone, another disk could be taken for this one, and its films for gone.
    status, said = run_command(here, "copy", "--mirror", "--yes", first=UNSHARED, **target)
    assert status == 1
    assert "cannot be mirrored" in said


def test_page_shows_nothing_that_cannot_be_done(shared: Path, tmp_path: Path) -> None:
    with serving_read_only_mount(shared, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        for path in ("/", "/?folder=none", "/?play=film.mp4"):
            page = http.get(path).text
            assert " data-read-only" in page
            for thing in (
                "Upload",
                "upload",
                "New folder",
                'id="rename"',
                'id="move"',
                'id="delete"',
                'id="drop"',
            ):
                assert thing not in page.replace("uploads.css", ""), (path, thing)
        assert "Download" in http.get("/").text

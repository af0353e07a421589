"""Read-only libraries: on a read-only file system, or by SEEKABLE_READ_ONLY."""

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

from tests.support import NewLibrary, on_disk_and_gridfs, running
from tests.support.forking import completed
from tests.system.live.clients import until
from tests.system.live.test_cli import READ_ONLY as REMOUNT_READ_ONLY
from tests.system.live.test_cli import Program, run_command, serving

pytestmark = pytest.mark.live

READ_ONLY_DETAIL = "This library is read-only: no file can be uploaded, renamed or deleted."
FILM = b"film" * 1000


def create_library(workdir: Path) -> Path:
    """Create a folder with films that no server has scanned, and that count as complete at once."""
    (workdir / "files" / "series").mkdir(parents=True)
    (workdir / "files" / "film.mp4").write_bytes(FILM)
    (workdir / "files" / "series" / "Köln.mkv").write_bytes(b"matroska")
    (workdir / ".env").write_text("SEEKABLE_STABLE_AFTER=0\n")
    return workdir


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return create_library(tmp_path / "workdir")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One library for all tests in which Seekable writes nothing to it."""
    return create_library(tmp_path_factory.mktemp("shared") / "workdir")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the times of modification and of change (ns) of everything below a folder, by path."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
        for path in (folder, *sorted(folder.rglob("*")))
    }


def try_changes(http: httpx.Client) -> list[httpx.Response]:
    """Send one request for each kind of change, and return the responses."""
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
    """Check that each read succeeds, and that each change is refused in one sentence."""

    def listed_paths() -> list[str]:
        return [item["path"] for item in http.get("/files?recursive=true").raise_for_status().json()["items"]]

    # On a slow disk the first list has only the files that were found in time.
    until(lambda: listed_paths() == ["film.mp4", "series/Köln.mkv"], "both films are listed")
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
    for response in try_changes(http):
        assert response.status_code == 403, response.request
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {"title": "Forbidden", "status": 403, "detail": READ_ONLY_DETAIL}
    until(lambda: "repr-digest" in http.get("/files/film.mp4").headers, "the film is hashed")


@contextmanager
def serving_read_only_mount(workdir: Path, **environment: str) -> Iterator[tuple[Program, httpx.Client]]:
    """Run a server in its own mount namespace, where `files` is a read-only bind mount."""
    with (
        serving(workdir, "--port", "0", first=REMOUNT_READ_ONLY, **environment) as (server, url),
        httpx.Client(base_url=url, trust_env=False, timeout=20) as http,
    ):
        yield server, http


def test_read_only_mount_is_detected_and_served(shared: Path, tmp_path: Path) -> None:
    before = snapshot(shared / "files")
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with serving_read_only_mount(shared, **state) as (server, http):
        assert server.log().count(f"{shared}/files is read-only: no file of it can be ") == 1
        assert "upload  curl" not in server.log()
        check_served(http)
        identities = {item["path"]: item["id"] for item in http.get("/files?recursive=true").json()["items"]}
        # Another program can write there, and changes files meanwhile.
        (shared / "files" / "late.mp4").write_bytes(b"late")
        (shared / "files" / "late.mp4").rename(shared / "files" / "later.mp4")
        assert http.get("/files/later.mp4").content == b"late"
        (shared / "files" / "later.mp4").unlink()
        assert http.get("/files/later.mp4").status_code == 404
        assert "Traceback" not in server.log()
    status = (shared / "files").stat()
    identity = f"{status.st_dev:x}-{status.st_ino:x}"
    folder = tmp_path / "state" / "seekable"
    assert {path.name for path in folder.iterdir()} >= {f"{identity}.db", f"{identity}.leases"}
    assert folder.stat().st_mode & 0o777 == 0o700
    after = snapshot(shared / "files")
    assert {name: times for name, times in after.items() if name != "."} == {
        name: times for name, times in before.items() if name != "."
    }
    with serving_read_only_mount(shared, **state) as (_, http):
        again = {item["path"]: item["id"] for item in http.get("/files?recursive=true").json()["items"]}
        assert again == identities, "the server opens the same database"


def test_commands_work_on_read_only_mount(shared: Path, tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": "relative", "HOME": str(tmp_path / "home")}
    for arguments, expected in (
        (("scan",), "2 files, 2 created"),
        (("verify",), "2 files, 2 not hashed yet"),
        (("account", "list"), "email"),
        (("migrate",), ""),
    ):
        status, output = run_command(shared, *arguments, first=REMOUNT_READ_ONLY, **state)
        assert status == 0, output
        assert expected in output
    assert (tmp_path / "home" / ".local" / "state" / "seekable").is_dir(), "a relative path is ignored"
    assert not (shared / "relative").exists()
    status, output = run_command(shared, "doctor", first=REMOUNT_READ_ONLY, **state)
    assert "note: SEEKABLE_FILES_DIR=files is on a read-only file system" in output
    assert "fix: SEEKABLE_FILES_DIR" not in output
    assert (shared / "files" / ".seekable").exists() is False


def test_library_id_is_kept_on_read_only_mount(workdir: Path, tmp_path: Path) -> None:
    """With the library's own database on another disk, and with a second one in the user's state folder."""
    database = {"SEEKABLE_DATABASE_URL": f"sqlite:///{tmp_path}/films.db"}
    assert run_command(workdir, "scan", **database)[0] == 2
    assert run_command(workdir, "migrate", **database)[0] == 0
    assert run_command(workdir, "scan", **database)[0] == 0
    library_id = (workdir / "files" / ".seekable" / "id").read_text()
    with serving_read_only_mount(workdir, **database, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        check_served(http)
    with serving_read_only_mount(workdir, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        check_served(http)
    assert (workdir / "files" / ".seekable" / "id").read_text() == library_id
    # An empty mount point is refused.
    (workdir / "files").rename(workdir / "unmounted")
    (workdir / "files").mkdir()
    status, output = run_command(
        workdir, "scan", first=REMOUNT_READ_ONLY, **database, XDG_STATE_HOME=str(tmp_path / "state")
    )
    assert status == 1
    assert "is not the one that the database belongs to" in output


def test_setting_leaves_writable_folder_unchanged(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's existing database is neither used nor changed."""
    assert run_command(workdir, "migrate")[0] == 0
    assert run_command(workdir, "scan")[0] == 0
    before = snapshot(workdir / "files")
    settings = {"read_only": True, "files_dir": workdir / "files"}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "server", **settings) as server, server.client() as http:
        check_served(http)
        assert "files is read-only: no file of it can be " in server.log()
    assert snapshot(workdir / "files") == before


def test_unwritable_folder_is_served_when_setting_is_true(shared: Path, tmp_path: Path) -> None:
    (shared / "files").chmod(0o555)
    status, output = run_command(shared, "serve", "--port", "0", bound=True)
    assert status == 1
    assert "This user cannot write there. To serve it as it is, use `seekable serve --read-only`" in output
    read_only = {"SEEKABLE_READ_ONLY": "true", "XDG_STATE_HOME": str(tmp_path / "state")}
    assert run_command(shared, "scan", bound=True, **read_only)[0] == 0
    status, output = run_command(shared, "doctor", bound=True, **read_only)
    assert "good: SEEKABLE_FILES_DIR=files is served read-only (SEEKABLE_READ_ONLY)." in output
    (shared / "files").chmod(0o755)


def test_folder_of_another_user_is_served_read_only(workdir: Path, tmp_path: Path) -> None:
    """Another user's server keeps its database there."""
    assert run_command(workdir, "migrate")[0] == 0
    (workdir / "files" / ".seekable").chmod(0)
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    status, output = run_command(workdir, "scan", bound=True, SEEKABLE_READ_ONLY="true", **state)
    assert (status, output.splitlines()[0]) == (0, "2 files, 2 created"), output
    (workdir / "files").chmod(0o300)
    status, output = run_command(workdir, "serve", "files", "--read-only", "-p", "0", bound=True, **state)
    assert status == 1
    assert output == f"Error: SEEKABLE_FILES_DIR={workdir}/files: This user cannot read it.\n"
    (workdir / "files").chmod(0)
    status, output = run_command(workdir, "serve", "files/series", bound=True, **state)
    assert status == 2
    assert output.endswith(f"Error: {workdir}/files/series: Permission denied. Name another folder.\n")
    (workdir / "files").chmod(0o755)


@pytest.mark.parametrize(
    ("settings", "expected", "message"),
    [
        ({"SEEKABLE_FILES_DIR": "none"}, 1, "SEEKABLE_FILES_DIR=none: No such file or directory."),
        ({"XDG_STATE_HOME": "{workdir}/files/state"}, 2, "would be in the library itself"),
        ({"XDG_STATE_HOME": "/proc/none"}, 1, "cannot be made: "),
        ({"XDG_STATE_HOME": "", "HOME": "nowhere"}, 2, "This user has no home folder"),
    ],
)
def test_read_only_library_is_refused_when_database_has_no_folder(
    settings: dict[str, str], expected: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    environment = {name: value.format(workdir=tmp_path) for name, value in settings.items()}
    for command in (("serve", "--port", "0"), ("scan",)):
        status, output = run_command(
            tmp_path,
            *command,
            **{"SEEKABLE_READ_ONLY": "true", "XDG_STATE_HOME": str(tmp_path)} | environment,
        )
        assert status == expected
        assert re.fullmatch(r"Error: .+\.\n", output), output
        assert message in output
    assert list((tmp_path / "files").iterdir()) == []


@on_disk_and_gridfs
def test_setting_refuses_changes_on_each_backend(
    new_library: NewLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: dict[str, Any] = {"files_dir": tmp_path / "files", **new_library()}
    with running(tmp_path / "first", **library) as server, server.client() as http:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
        etag = http.get("/files/film.mp4").headers["etag"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "second", read_only=True, **library) as server, server.client() as http:
        for response in try_changes(http):
            assert (response.status_code, response.json()["detail"]) == (403, READ_ONLY_DETAIL)
        # A new database contains no file that has changed within the last two seconds.
        until(lambda: http.get("/files/film.mp4").status_code == 200, "the scan has imported the film")
        film = http.get("/files/film.mp4")
        assert film.content == FILM
        if "database_url" in library or library["storage"] == "gridfs":
            assert film.headers["etag"] == etag, "the database is the same"


def test_upload_with_expect_is_refused_before_body(shared: Path, tmp_path: Path) -> None:
    with serving_read_only_mount(shared, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        began = time.monotonic()
        response = http.put("/files/new.mp4", content=b"x" * (1 << 20), headers={"expect": "100-continue"})
        assert response.status_code == 403
        assert time.monotonic() - began < 5


def test_account_deletion_is_refused_when_library_is_read_only(tmp_path: Path) -> None:
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
    status, output = run_command(tmp_path, "account", "remove", "a@example.org", **settings)
    assert (status, output) == (1, f"Error: {READ_ONLY_DETAIL}\n")
    with (
        serving(tmp_path, "--port", "0", **settings) as (_, url),
        httpx.Client(base_url=url, auth=("a@example.org", "secret-1"), trust_env=False) as http,
    ):
        response = http.post("/account/delete", json={"password": "secret-1"})
        assert (response.status_code, response.json()["detail"]) == (403, READ_ONLY_DETAIL)
        assert "Delete the account" not in http.get("/settings").text


def test_copy_into_read_only_library_is_refused(workdir: Path, tmp_path: Path) -> None:
    target = {
        "SEEKABLE_COPY_TO_STORAGE": "filesystem",
        "SEEKABLE_COPY_TO_FILES_DIR": str(tmp_path / "copy"),
        "SEEKABLE_COPY_TO_READ_ONLY": "true",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    (tmp_path / "copy").mkdir()
    assert run_command(workdir, "migrate")[0] == 0
    status, output = run_command(workdir, "copy", **target)
    assert status == 1
    assert f"The library to copy to: {READ_ONLY_DETAIL}" in output
    assert list((tmp_path / "copy").iterdir()) == []
    del target["SEEKABLE_COPY_TO_READ_ONLY"]
    status, output = run_command(workdir, "copy", first=REMOUNT_READ_ONLY, **target)
    assert status == 0, output
    assert (tmp_path / "copy" / "film.mp4").read_bytes() == FILM
    # Device and inode alone could match another disk, and a mirror would then remove all films.
    status, output = run_command(workdir, "copy", "--mirror", "--yes", first=REMOUNT_READ_ONLY, **target)
    assert status == 2
    assert "cannot be mirrored" in output


def test_page_has_no_controls_for_changes(shared: Path, tmp_path: Path) -> None:
    with serving_read_only_mount(shared, XDG_STATE_HOME=str(tmp_path / "state")) as (_, http):
        for path in ("/", "/?folder=none", "/?play=film.mp4"):
            page = http.get(path).text
            assert " data-read-only" in page
            for control in (
                "Upload",
                "upload",
                "New folder",
                'id="rename"',
                'id="move"',
                'id="delete"',
                'id="drop"',
            ):
                assert control not in page.replace("uploads.css", ""), (path, control)
        assert "Download" in http.get("/").text

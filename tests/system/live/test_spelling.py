"""curl against a server whose folder is on a case-insensitive file system."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, need, run, running
from tests.support.folding import FILE_SYSTEMS
from tests.support.forking import completed
from tests.system.live.clients import until


@pytest.fixture(scope="module", params=["folding", "ntfs"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need("curl")
    folder = tmp_path_factory.mktemp("server")
    with FILE_SYSTEMS[request.param](folder) as files, running(folder, files_dir=files / "films") as server:
        server.files = files / "films"
        assert put(server, "film.mp4") == 201
        yield server


def curl(server: Server, path: str, *arguments: object) -> int:
    """Request a path with curl, and return the status. The body is in `answer`."""
    shown = ("-s", "-o", server.folder / "answer", "-w", "%{http_code}", "--path-as-is")
    return int(run("curl", *shown, *arguments, f"{server.url}{path}").stdout)


def put(server: Server, path: str, *arguments: object) -> int:
    (server.folder / "film").write_bytes(b"film")
    return curl(server, f"/files/{path}", "-T", server.folder / "film", *arguments)


@pytest.mark.parametrize(
    "folder", [".SEEKABLE", ".Seekable", ".%C5%BFeekable", "%EF%BC%8Eseekable", ".see%E2%80%8Ckable"]
)
def test_reserved_folder_is_refused_in_every_spelling(server: Server, folder: str) -> None:
    names = ("seekable.db", "SEEKABLE.DB", "id", "libraries/anna/film.mp4")
    for name in names if folder == ".SEEKABLE" else names[:1]:
        path = f"/files/{folder}/{name}"
        assert [curl(server, path), curl(server, path, "-I")] == [400, 400]
        assert put(server, f"{folder}/{name}") == 400
        assert curl(server, path, "-X", "DELETE") == 400
    database = server.files / ".seekable" / "seekable.db"
    assert database.read_bytes().startswith(b"SQLite format 3")


def test_reserved_folder_is_refused_by_every_route(server: Server) -> None:
    folder, database = ".SEEKABLE", server.files / ".seekable" / "seekable.db"
    assert curl(server, f"/files/{folder}/") == 400
    for query in (f"/files?folder={folder}", f"/playlist.m3u?folder={folder}"):
        assert curl(server, query) == 400
    assert curl(server, f"/file/stream?folder={folder}&filename=id") == 400
    form = ("-F", f"file=@{server.folder / 'film'};filename=id")
    assert curl(server, f"/file/upload?folder={folder}", *form) == 400
    assert curl(server, "/file/upload", "-F", f"folder={folder}", *form) == 400
    patch = ("-X", "PATCH", "-H", "Content-Type: application/merge-patch+json")
    assert curl(server, "/files/film.mp4", *patch, "-d", '{"folder": ".SEEKABLE", "filename": "id"}') == 400
    assert database.read_bytes().startswith(b"SQLite format 3")


def test_file_is_not_found_under_other_case(server: Server) -> None:
    for path in ("/files/FILM.mp4", "/files/Film.MP4", "/file/stream?filename=FILM.mp4"):
        assert curl(server, path) == 404
    assert put(server, "FILM.mp4") == 409
    assert "“film.mp4”" in (server.folder / "answer").read_text()
    assert put(server, "FILM.mp4", "-H", "If-None-Match: *") == 409
    assert curl(server, "/file/upload", "-F", f"file=@{server.folder / 'film'};filename=FILM.mp4") == 409
    assert curl(server, "/files/FILM.mp4", "-X", "DELETE") == 404
    assert put(server, "film.mp4") == 204
    assert curl(server, "/files/film.mp4") == 200


@pytest.mark.parametrize("server", ["folding"], indirect=True)
def test_rename_may_change_case_alone(server: Server) -> None:
    patch = ("-X", "PATCH", "-H", "Content-Type: application/merge-patch+json", "-d")
    assert put(server, "old.mp4") == 201
    assert curl(server, "/files/old.mp4", *patch, '{"filename": "Old.mp4"}') == 200
    assert (curl(server, "/files/Old.mp4"), curl(server, "/files/old.mp4")) == (200, 404)
    assert "Old.mp4" in {path.name for path in server.files.iterdir()}
    assert curl(server, "/files/Old.mp4", "-X", "DELETE") == 204


@pytest.mark.parametrize("server", ["folding"], indirect=True)
def test_copy_reports_conflict_when_names_differ_only_in_case(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("film.mp4", "FILM.mp4"):
        (source / name).write_bytes(name.encode())
        os.utime(source / name, (1, 1))
    environment = {"SEEKABLE_FILES_DIR": str(source)}
    target = server.files.parent / "copies"
    assert completed("migrate", folder=tmp_path, environment=environment).returncode == 0
    # A file counts as complete once it is unchanged for a moment.
    until(
        lambda: "2 files" in completed("scan", folder=tmp_path, environment=environment).stdout,
        "the scan has imported both files",
    )
    to = ("copy", "--to", "filesystem", "--files-dir", str(target))
    done = completed(*to, folder=tmp_path, environment=environment)
    assert done.returncode == 1
    assert "conflict: " in done.stdout
    assert "“film.mp4” exists as “FILM.mp4”" in done.stdout
    assert [path.name for path in target.iterdir() if path.name != ".seekable"] == ["FILM.mp4"]


def test_start_and_doctor_report_case_insensitive_file_system(server: Server, tmp_path: Path) -> None:
    assert "ignores case" in server.log()
    for files in (server.files, server.files.parent / "other"):
        done = completed("doctor", folder=tmp_path, environment={"SEEKABLE_FILES_DIR": str(files)})
        assert any(line.startswith("note: ") and "ignores case" in line for line in done.stdout.splitlines())


def test_start_and_doctor_are_silent_when_file_system_is_case_sensitive(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert "ignores case" not in server.log()
    done = completed("doctor", folder=tmp_path, environment={})
    assert "ignores case" not in done.stdout


def test_folder_with_nfd_name_is_served_under_nfc_name(tmp_path: Path) -> None:
    need("curl")
    with running(tmp_path) as server:
        folder = server.files / unicodedata.normalize("NFD", "séries")
        folder.mkdir()
        (folder / unicodedata.normalize("NFD", "été.mkv")).write_bytes(b"film")
        path = "s%C3%A9ries/%C3%A9t%C3%A9.mkv"
        # 412 if the film is in the index already, 409 if it still counts as incomplete.
        assert put(server, path, "-H", "If-None-Match: *") in (409, 412)
        until(lambda: curl(server, f"/files/{path}") == 200, "the film is served")
        assert put(server, path, "-H", "If-None-Match: *") == 412
        assert put(server, "s%C3%A9ries/new.mkv") == 201
        assert curl(server, "/files?folder=s%C3%A9ries") == 200
        assert (server.folder / "answer").read_text().count('"path"') == 2
        assert [*server.files.glob("s*")] == [folder]

"""`seekable copy` from a shell: while a server runs, killed, repeated, interrupted, and back."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.support import SEEKABLE, NewLibrary, on_disk_and_gridfs, running
from tests.support.forking import completed
from tests.system.live.clients import sha256

pytestmark = pytest.mark.live

MB = 1_000_000
Files = dict[str, bytes]


def environment(source: Mapping[str, object], target: Mapping[str, object]) -> dict[str, str]:
    """Return the environment variables that select both libraries."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    named = {f"SEEKABLE_{key.upper()}": str(value) for key, value in source.items()}
    return (
        inherited | named | {f"SEEKABLE_COPY_TO_{key.upper()}": str(value) for key, value in target.items()}
    )


def copy(
    source: Mapping[str, object], target: Mapping[str, object], *options: object
) -> subprocess.CompletedProcess[str]:
    return completed("copy", *map(str, options), environment=environment(source, target))


def last_line(copied: subprocess.CompletedProcess[str]) -> str:
    return copied.stdout.splitlines()[-1] if copied.stdout else copied.stderr


def interrupt(
    source: Mapping[str, object], target: Mapping[str, object], number: int, output: Path
) -> tuple[int, str]:
    """Copy on a terminal, and send a signal when the progress bar shows 30 to 49 %.

    Returns the exit status and the terminal's content.
    """
    terminal, child_end = os.openpty()
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [SEEKABLE, "copy"], env=environment(source, target), stdout=stdout, stderr=child_end
        )
    os.close(child_end)
    shown = b""
    try:
        while not re.search(rb"Copying .*[34]\d%", shown):
            shown += os.read(terminal, 4096)
        process.send_signal(number)
        while True:
            shown += os.read(terminal, 4096)
    except OSError:  # the process has closed its end
        pass
    finally:
        os.close(terminal)
    return process.wait(20), shown.decode()


def fill(http: httpx.Client, files: Files) -> dict[str, dict[str, object]]:
    """Upload files, and return the server's description of each by path."""
    return {
        path: http.put(f"/files/{path}", content=data, headers={"content-type": f"video/x-{number}"}).json()
        for number, (path, data) in enumerate(files.items())
    }


def to_millisecond(timestamp: str) -> datetime:
    time = datetime.fromisoformat(timestamp)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


@on_disk_and_gridfs
def test_copy_to_another_backend_and_back_keeps_every_file(new_library: NewLibrary, tmp_path: Path) -> None:
    files = {f"films/{number}/ü {number}.mp4": os.urandom(MB) for number in range(12)}
    target = {"files_dir": tmp_path / "target" / "files", **new_library()}
    back = {"storage": "filesystem", "files_dir": tmp_path / "back"}
    with running(tmp_path / "source", storage="filesystem") as server, server.client() as http:
        source = {"storage": "filesystem", "files_dir": server.files}
        infos = fill(http, files)
        # While the server runs, killed at about a third.
        status, shown = interrupt(source, target, signal.SIGKILL, tmp_path / "killed.txt")
        assert status == -signal.SIGKILL
        assert "%" not in (tmp_path / "killed.txt").read_text()
        again = copy(source, target)
        assert (again.returncode, again.stderr) == (0, "Scanning\nCopying\n")
        summary = re.fullmatch(
            r"12 files, (\d+) already there, (\d+) copied, (\d+) bytes copied", last_line(again)
        )
        assert summary is not None, again.stdout
        assert 0 < int(summary[1]) < len(files)
        assert int(summary[3]) == int(summary[2]) * MB
    with running(tmp_path / "target", **target) as server, server.client() as http:
        for path, info in infos.items():
            assert sha256(http.get(f"/stream/{info['id']}").content) == info["sha256"]
            found = http.get("/files", params={"q": path.rpartition(" ")[2], "recursive": True}).json()
            (listed,) = [item for item in found["items"] if item["path"] == path]
            for name in ("created_at", "updated_at"):
                assert to_millisecond(listed.pop(name)) == to_millisecond(str(info.pop(name)))
            assert {**listed, "url": "", "stream_url": ""} == {**info, "url": "", "stream_url": ""}
        # And back, interrupted by SIGTERM.
        status, shown = interrupt(target, back, signal.SIGTERM, tmp_path / "stopped.txt")
        assert status == 1
        assert shown.splitlines()[-1] == (
            "Error: Stopped. Files copied so far are kept. Run the same command again to continue."
        )
        assert re.search(r"\d files, \d copied, \d+ bytes copied\n", (tmp_path / "stopped.txt").read_text())
        assert os.listdir(tmp_path / "back" / ".seekable" / "staging") == []
        assert copy(target, back).returncode == 0
    assert {path: (tmp_path / "back" / path).read_bytes() for path in files} == files


@pytest.fixture
def source(tmp_path: Path) -> dict[str, object]:
    with running(tmp_path / "server", storage="filesystem") as server, server.client() as http:
        fill(http, {"a/film.mp4": b"film" * 1000, "a/ok.mp4": b"ok", "top.mp4": b"top"})
    return {"files_dir": server.files}


def test_copy_names_skipped_files_and_exits_1(source: dict[str, object], tmp_path: Path) -> None:
    files = tmp_path / "server" / "files"
    # As if the disk returned other bytes than were written.
    with closing(sqlite3.connect(files / ".seekable" / "seekable.db")) as database, database:
        database.execute("UPDATE media SET sha256 = ? WHERE filename = 'film.mp4'", ["0" * 64])
    target = tmp_path / "target" / "files"
    with running(tmp_path / "target", storage="filesystem") as server, server.client() as http:
        http.put("/files/top.mp4", content=b"pot")
        with (files / "a" / "half.mp4").open("wb", buffering=0) as half:
            half.write(b"half")  # the file stays open, as while a program is writing it
            copied = copy(source, {}, "--to", "filesystem", "--files-dir", target)
        assert copied.returncode == 1
        assert sorted(copied.stdout.splitlines()) == [
            "3 files, 1 in conflict, 1 damaged, 1 copied, 2 bytes copied",
            "3 files, 1 unfinished",
            "damaged: a/film.mp4: Its bytes do not match its hash.",
            "in conflict: top.mp4: Another file has this name.",
            "unfinished: a/half.mp4: It is being written, or was until just now.",
        ]
        assert http.get("/files/a/film.mp4").status_code == 404
        assert http.get("/files/a/ok.mp4").content == b"ok"
        assert http.get("/files/top.mp4").content == b"pot"


def test_copy_is_refused_when_libraries_are_missing_or_overlap(
    source: dict[str, object], tmp_path: Path
) -> None:
    files = tmp_path / "server" / "files"
    (tmp_path / "link").symlink_to(files)
    to = "--to", "filesystem", "--files-dir"
    for settings, options, message in (
        (source, (), "Set SEEKABLE_COPY_TO_STORAGE, or its option, to the target of the copy."),
        (source, (*to, tmp_path / "link"), "are the same folder, or one is in the other"),
        (source, (*to, tmp_path / "server" / "server.log"), "The library to copy to: SEEKABLE_FILES_DIR="),
        ({"files_dir": tmp_path / "none"}, (*to, tmp_path / "new"), "There is no library here"),
    ):
        refused = copy(settings, {}, *options)
        assert refused.returncode == 2
        assert re.fullmatch(r"(Scanning\n)?Error: .+\.\n", refused.stderr), refused.stderr
        assert message in refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"server", "link"}
    assert sorted(path.name for path in files.iterdir()) == [".seekable", "a", "top.mp4"]


def test_mirror_asks_before_it_removes_files(source: dict[str, object], tmp_path: Path) -> None:
    target = tmp_path / "target" / "files"
    to = ("--to", "filesystem", "--files-dir", target)
    assert copy(source, {}, *to).returncode == 0
    files = tmp_path / "server" / "files"
    for path in ("a/ok.mp4", "top.mp4"):
        (files / path).unlink()
    mirror = (*to, "--mirror")

    refused = copy(source, {}, *mirror)
    assert refused.returncode == 1
    assert refused.stdout.splitlines()[-2:] == ["gone: top.mp4", "gone: a/ok.mp4"]
    assert refused.stderr.splitlines()[-1] == (
        "Error: 2 files (5 bytes) would be removed from the target. Add --yes to remove them, or omit "
        "--mirror."
    )

    shown = copy_on_terminal(b"n\n", source, *mirror)
    assert "Remove 2 files (5 bytes) from the target? [y/N]" in shown
    assert "1 file, 1 already there" in shown, "it copies all the same"
    assert {path.name for path in target.rglob("*.mp4")} == {"film.mp4", "ok.mp4", "top.mp4"}

    shown = copy_on_terminal(b"y\n", source, *mirror)
    assert "removed: top.mp4\nremoved: a/ok.mp4\n2 files removed, 5 bytes\n" in shown.replace("\r", "")
    assert {path.name for path in target.rglob("*.mp4")} == {"film.mp4"}

    (files / "a" / "film.mp4").unlink()
    assert "removed: a/film.mp4\n1 file removed, 4000 bytes\n" in copy(source, {}, *mirror, "--yes").stdout
    assert list(target.rglob("*.mp4")) == []


def copy_on_terminal(answer: bytes, source: Mapping[str, object], *options: object) -> str:
    """Copy on a terminal, type the answer to its question, and return the terminal's content."""
    terminal, child_end = os.openpty()
    command = [SEEKABLE, "copy", *map(str, options)]
    process = subprocess.Popen(
        command, env=environment(source, {}), stdin=child_end, stdout=child_end, stderr=child_end
    )
    os.close(child_end)
    shown = b""
    try:
        while b"[y/N]" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, answer)
        while True:
            shown += os.read(terminal, 4096)
    except OSError:  # the process has closed its end
        pass
    finally:
        os.close(terminal)
    assert process.wait(20) == 0, shown.decode()
    return shown.decode()


def test_terminal_separates_lines_from_progress_bar(source: dict[str, object], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "server" / "files" / "top.mp4", tmp_path / "server" / "files" / "a" / "t\x1b[31m")
    terminal, child_end = os.openpty()
    scan = subprocess.Popen(
        [SEEKABLE, "scan"], env=environment(source, {}), stdout=child_end, stderr=child_end
    )
    os.close(child_end)
    shown = b""
    with pytest.raises(OSError, match="Input/output"):
        while True:
            shown += os.read(terminal, 4096)
    os.close(terminal)
    assert scan.wait() == 0
    lines = [re.split(r"\r|\x1b\[K", line.rstrip("\r"))[-1] for line in shown.decode().split("\n")]
    assert lines[0].startswith("skipped: a/t\\x1b[31m: “t\\x1b[31m” contains the control character")
    assert "100%" in lines[1]
    assert lines[2:] == ["3 files, 1 skipped", ""]

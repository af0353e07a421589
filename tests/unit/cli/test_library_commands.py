"""`seekable scan`, `verify` and `copy` for scripts: --json, --quiet and exit statuses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.forking import completed

Done = subprocess.CompletedProcess[str]


def run(folder: Path, *arguments: str, **settings: str) -> Done:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    environment |= {"SEEKABLE_STABLE_AFTER": "0", **settings}
    return completed(*arguments, folder=folder, environment=environment)


def objects(done: Done) -> list[dict[str, Any]]:
    """Return the output, all of which must be JSON objects, one per line."""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A working directory with a library of one film, which is not indexed yet."""
    assert run(tmp_path, "migrate").returncode == 0
    (tmp_path / "files" / "film.mp4").write_bytes(b"a film")
    return tmp_path


def test_scan_prints_objects_for_findings_and_then_counts(library: Path) -> None:
    (library / "files" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"not UTF-8")
    done = run(library, "scan", "--json")
    *findings, counts = objects(done)
    assert {"outcome": "created", "path": "film.mp4"} in findings
    (skipped,) = [finding for finding in findings if finding["outcome"] == "skipped"]
    assert skipped["path"] == r"caf\udce9.mp4"
    assert "not valid UTF-8" in skipped["reason"]
    assert counts == {"files": 1, "outcomes": {"created": 1, "skipped": 1}}
    assert done.stderr.strip() == "Scanning", "progress goes to standard error"
    assert objects(run(library, "scan", "--json", "--quiet")) == [skipped]


def test_quiet_command_prints_nothing_when_all_is_well(library: Path) -> None:
    for arguments in (["scan"], ["verify"], ["copy", "--to", "filesystem", "--files-dir", "copy"]):
        done = run(library, *arguments, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), arguments
    assert (library / "copy" / "film.mp4").read_bytes() == b"a film"


def test_verify_prints_objects_for_faults_and_then_counts(library: Path) -> None:
    run(library, "scan")
    (library / "files" / "film.mp4").write_bytes(b"another film")
    done = run(library, "verify", "--json")
    assert objects(done) == [
        {"outcome": "changed", "path": "film.mp4"},
        {"files": 1, "outcomes": {"changed": 1}},
    ]
    assert done.returncode == 1
    quiet = run(library, "verify", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (1, "changed: film.mp4\n", "")


def test_copy_prints_objects_that_name_their_step(library: Path) -> None:
    to = ("--to", "filesystem", "--files-dir", "copy", "--json")
    assert objects(run(library, "copy", *to)) == [
        {"step": "scan", "outcome": "created", "path": "film.mp4"},
        {"step": "scan", "files": 1, "outcomes": {"created": 1}},
        {"step": "copy", "files": 1, "outcomes": {"copied": 1}, "bytes": 6},
    ]
    (library / "copy" / "new.mp4").write_bytes(b"of another program")
    (library / "files" / "new.mp4").write_bytes(b"a new film")
    done = run(library, "copy", *to)
    assert done.returncode == 1
    (conflict,) = [each for each in objects(done) if each.get("outcome") == "conflict"]
    assert conflict.items() >= {"step": "copy", "library": "", "path": "new.mp4"}.items()
    (library / "files" / "film.mp4").unlink()
    (library / "files" / "new.mp4").unlink()
    mirrored = objects(run(library, "copy", *to, "--mirror", "--yes"))
    removed = {"step": "mirror", "outcome": "removed", "library": "", "path": "film.mp4"}
    assert removed in mirrored
    assert {"step": "mirror", "files": 1, "outcomes": {"removed": 1}, "bytes": 6} in mirrored


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "films"),
        ("verify", "--yaml"),
        ("copy", "--to", "tape"),
        ("doctor", "--port"),
        ("config", "--quick"),
        ("no-such-command",),
    ],
)
def test_wrong_usage_has_exit_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


def test_commands_work_on_folder_of_command_line(library: Path) -> None:
    """As after `seekable serve FOLDER`, in another working directory."""
    elsewhere = library / "elsewhere"
    elsewhere.mkdir()
    for arguments in (["scan", "--json"], ["verify", "--json"]):
        assert objects(run(elsewhere, *arguments, "../files"))[-1]["files"] == 1
    to = ("--to", "filesystem", "--files-dir", "../copy")
    assert objects(run(elsewhere, "copy", "../files", *to, "--json"))[-1]["files"] == 1
    assert run(elsewhere, "migrate", "../files").returncode == 0
    checked = run(elsewhere, "doctor", "../files").stdout
    assert f"good: SEEKABLE_FILES_DIR={library / 'files'} can be written" in checked
    (setting,) = objects(run(elsewhere, "config", "../files", "--json", "-q"))[0]["settings"][:1]
    assert setting == {
        "name": "SEEKABLE_FILES_DIR",
        "value": str(library / "files"),
        "source": "command line",
    }
    assert [*elsewhere.iterdir()] == []
    gridfs = {"SEEKABLE_STORAGE": "gridfs", "SEEKABLE_MONGODB_URL": "mongodb://nas"}
    for command in (["scan"], ["migrate"], ["copy", *to]):
        in_mongodb = run(elsewhere, *command, "../files", **gridfs)
        assert in_mongodb.returncode == 2
        assert "the films are in MongoDB" in in_mongodb.stderr

"""The units in deploy/: verified by systemd, and a server under their system call filters.

The start of the units needs systemd as the first process, and was tried by hand (systemd 252).
"""

import ctypes.util
import os
import re
import sys
from pathlib import Path

import click
import httpx
import pytest
from websockets.sync.client import connect

from app.settings import Settings
from tests.support import SEEKABLE, Server, need, need_root, noise, run, skip_or_fail
from tests.support.forking import COMMAND, completed
from tests.support.unit_sandbox import allowed_calls, directives
from tests.system.live.clients import forked_python

pytestmark = pytest.mark.live

DEPLOY = Path(__file__).parents[3] / "deploy"
UNIT = DEPLOY / "seekable.service"
SANDBOX = Path(__file__).parents[2] / "support" / "unit_sandbox.py"

MAX_EXPOSURE = 15
"""Ten times the exposure level that `systemd-analyze security` may report; 10.0 is the worst."""

MARGIN_S = 10
"""Seconds between the end of the server's own patience and the SIGKILL of systemd."""


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with the program of this environment: systemd verifies that it exists."""
    need("systemd-analyze")
    copies = []
    for name in ("seekable.service", "seekable.socket"):
        copies.append(tmp_path / name)
        text = (DEPLOY / name).read_text()
        copies[-1].write_text(text.replace("/opt/seekable/bin/seekable", SEEKABLE))
    return copies


@pytest.fixture
def sandbox() -> tuple[str, ...]:
    """The command before a program that runs under the filters of the unit."""
    need("systemd-analyze")
    if ctypes.util.find_library("seccomp") is None:
        skip_or_fail("needs libseccomp: run tests/support/tools.sh")
    return (sys.executable, str(SANDBOX), str(UNIT))


def test_units_are_valid(units: list[Path]) -> None:
    done = run("systemd-analyze", "verify", *units)
    assert done.stdout + done.stderr == ""
    units[0].write_text(units[0].read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    planted = run("systemd-analyze", "verify", *units, check=False)
    assert "ProtectSystems" in planted.stderr


def test_exposure_is_low(units: list[Path]) -> None:
    (version,) = re.findall(r"^systemd (\d+)", run("systemd-analyze", "--version").stdout)
    if int(version) < 250:
        pytest.skip("systemd before 250 cannot rate a unit that is not installed")
    rate = ("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE}")
    rated = run(*rate, units[0], check=False)
    assert rated.returncode == 0, rated.stdout
    units[0].write_text(units[0].read_text().replace("PrivateUsers=yes", "").replace("ProtectProc=", "#"))
    assert run(*rate, units[0], check=False).returncode != 0


def test_systemd_kills_no_server_that_ends_its_transfers() -> None:
    (seconds,) = map(int, directives(UNIT, "TimeoutStopSec"))
    defaults = Settings.model_fields
    patience = defaults["shutdown_delay"].default + defaults["shutdown_timeout"].default
    assert seconds == patience + MARGIN_S


def test_systemd_starts_no_server_with_wrong_settings_again() -> None:
    assert directives(UNIT, "Restart") == ["on-failure"]
    assert directives(UNIT, "RestartPreventExitStatus") == [str(click.UsageError.exit_code)]


def test_server_works_under_filters_of_unit(sandbox: tuple[str, ...], tmp_path: Path) -> None:
    """A forbidden system call would kill it."""
    film = noise(3 << 20)
    server = Server(tmp_path, stable_after=0)
    server.files.mkdir()
    (server.files / "by hand.mp4").write_bytes(film)
    server.wrapper = sandbox
    try:
        server.start()
        with server.client() as http, connect(f"ws{server.url.removeprefix('http')}/events") as events:
            assert http.put("/files/a/film.mp4", content=film).status_code == 201
            assert "type" in events.recv(timeout=10)
            assert http.post("/file/upload", files={"file": ("form.mp4", film)}).status_code == 201
            part = http.get("/files/a/film.mp4", headers={"range": "bytes=1048576-2097151"})
            assert (part.status_code, part.content) == (206, film[1 << 20 : 2 << 20])
            assert http.get("/files/by%20hand.mp4").content == film
            move = {"content-type": "application/merge-patch+json"}
            moved = http.patch("/files/form.mp4", content=b'{"folder": "b"}', headers=move)
            assert moved.status_code == 200
            assert http.delete("/files/b/form.mp4").status_code == 204
            assert http.get("/files", params={"recursive": "true"}).status_code == 200
            assert http.get("/playlist.m3u").status_code == 200
            assert http.get("/").status_code == 200
            assert http.get("/metrics").status_code == 200
            assert http.get("/health/ready").status_code == 200
        assert server.stop() == 0, server.log()
        assert "ERROR" not in server.log()
    finally:
        server.stop()


ONLY_PROCESSES = "mount --make-rprivate / && mount -t proc -o subset=pid proc /proc"
"""Hides the rest of /proc, as ProcSubset=pid does; needs a namespace of its own."""

HIDE = f"""
import ctypes, subprocess, sys
new_mounts = 0x20000
assert ctypes.CDLL(None).unshare(new_mounts) == 0
subprocess.run(["sh", "-c", {ONLY_PROCESSES!r}], check=True)
sys.argv[1:] = ["serve", "--port", "0"]
"""
"""Code that hides it from this process alone."""


def test_server_starts_where_proc_shows_processes_only(tmp_path: Path) -> None:
    """It lists the addresses of this machine without /proc/net."""
    need_root()
    need("unshare", "mount")
    if run("unshare", "--mount", "sh", "-c", ONLY_PROCESSES, check=False).returncode != 0:
        skip_or_fail("cannot mount a part of /proc here")
    settings = {"SEEKABLE_HOST": "0.0.0.0", "SEEKABLE_ACCESS": "open"}
    with forked_python(tmp_path, HIDE + COMMAND, **settings) as server:
        url = server.wait_for(r"docs +(http\S+)/docs")[1]
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        assert not Path(f"/proc/{server.process.pid}/root/proc/net").exists()


@pytest.mark.usefixtures("sandbox")
def test_commands_work_under_filters_of_unit(tmp_path: Path) -> None:
    load = (
        f"from pathlib import Path; from tests.support.unit_sandbox import load_filters\n"
        f"load_filters(Path({str(UNIT)!r}))\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    for command in ("migrate", "scan", "verify", "doctor", "config"):
        done = completed(command, folder=tmp_path, environment=environment, first=load)
        assert done.returncode in (0, 1), done
        assert "Traceback" not in done.stderr


FORBIDDEN = {
    "import os; os.setuid(0)": -31,
    "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)": -31,
    "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)": 1,
}
"""Programs that the unit forbids, and their exit statuses: by SIGSYS, or by an error."""


@pytest.mark.parametrize("program", FORBIDDEN)
def test_planted_violation_is_found(sandbox: tuple[str, ...], program: str) -> None:
    done = run(*sandbox, sys.executable, "-c", program, check=False)
    assert done.returncode == FORBIDDEN[program], done.stderr


def test_filter_allows_fast_paths_of_server(sandbox: tuple[str, ...]) -> None:
    """The server would work without these, but slower."""
    assert allowed_calls(UNIT) >= {"sendfile", "splice", "openat2", "renameat2", "ioprio_set", "prlimit64"}
    assert not allowed_calls(UNIT) & {"mount", "ptrace", "bpf", "setuid", "init_module", "kexec_load"}

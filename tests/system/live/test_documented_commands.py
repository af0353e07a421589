"""The shell commands of README and docs/, as they are written.

Each line of a shell block runs here, or stands in one of the two tables with the test or the reason.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support import NewLibrary, need, running
from tests.support.forking import COMMAND, completed
from tests.support.mongo import free_port
from tests.system.live.clients import forked_python, until

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = "http://127.0.0.1:8000"

CLIENTS = ("curl", "ffmpeg", "mpv", "wget", "aria2c", "rclone")
"""Programs that this module runs, with the address of a server of its own."""

RUN_ELSEWHERE = {
    r"(mkdir -p backup|sqlite3|copy\(\)|status=|while|\[|rsync|cp|pg_dump|pg_restore) ?": "test_backup.py",
    r"seekable copy ": "test_copy.py",
    r"make run-gridfs": "test_run_gridfs.py",
    r"curl --unix-socket ": "test_unix_sockets.py",
    r"uvx |pipx ": "test_wheel.py, without the downloads of uvx and pipx",
    r"pip install |openapi-python-client |npm |npx |node ": "test_generated_clients.py",
    r"vlc ": "test_players.py, as a user who is not root",
}

NOT_RUN = {
    r"docker |minikube |kubectl |cd k8s|echo \"\$\(minikube": "no container engine and no cluster",
    r"make run |make test ": "make test runs these tests; make run installs, then serves like seekable serve",
    r"sudo |cd /var/lib/seekable && sudo ": "no systemd; test_systemd.py verifies the units",
    r"seekable verify --json \| jq": "no jq; other tests read this JSON",
    r"SEEKABLE_DATABASE_URL=": "no host of that name; every test on PostgreSQL has such a setting",
    r"SEEKABLE_STORAGE=gridfs": "no host of that name; every test on GridFS has such a setting",
}


def shell_lines(document: Path) -> list[str]:
    """Return the lines of the shell blocks, without empty ones; continued lines are joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line for line in "".join(blocks).replace("\\\n", " ").splitlines() if line.strip()]


def is_listed(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in (*RUN_ELSEWHERE, *NOT_RUN))


def is_serve(line: str) -> bool:
    return re.match(r"(SEEKABLE_\w+=\S+ )*seekable serve", line) is not None and not is_listed(line)


def lines_of(name: str, *programs: str) -> list[str]:
    """Return the lines of a document that run one of the programs, and are in no table."""
    (document,) = (document for document in DOCUMENTS if document.stem == name)
    return [
        line
        for line in shell_lines(document)
        if line.startswith(tuple(f"{one} " for one in programs)) and not is_listed(line)
    ]


SERVES = [line for document in DOCUMENTS for line in shell_lines(document) if is_serve(line)]
OPERATIONS = [
    line
    for line in shell_lines(ROOT / "docs" / "operations.md")
    if re.match(r"_SEEKABLE_COMPLETE=|seekable doctor |mkdir -p ~", line)
]
RUN_HERE = [
    *SERVES,
    *lines_of("README", *CLIENTS),
    *lines_of("tutorial", *CLIENTS, "seekable scan", "seekable verify"),
    *lines_of("accounts", "curl", "seekable account"),
    *OPERATIONS,
]


def test_each_command_runs_here_or_is_listed() -> None:
    lines = [line for document in DOCUMENTS for line in shell_lines(document)]
    assert len(lines) > 60
    assert [line for line in lines if not is_listed(line) and line not in RUN_HERE] == []
    for pattern in (*RUN_ELSEWHERE, *NOT_RUN):
        assert any(re.match(pattern, line) for line in lines), f"no command matches {pattern}"


def environment(home: Path, **settings: object) -> dict[str, str]:
    """Return an environment with `seekable` on the PATH, a home folder, and these settings alone."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "HOME": str(home), "XDG_STATE_HOME": str(home), "RCLONE_CONFIG": str(home / "none")}
    return inherited | own | {f"SEEKABLE_{name.upper()}": str(value) for name, value in settings.items()}


def shell(line: str, folder: Path, variables: Mapping[str, str], given: str = "") -> str:
    """Run a line in a folder, and return its output. Fails if it does."""
    line = re.sub(r"^curl ", "curl --fail -sS ", line)
    line = re.sub(r"^mpv ", "mpv --no-config --vo=null --ao=null --no-terminal --ytdl=no --end=0.3 ", line)
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=variables, input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def parsed(line: str, folder: Path, variables: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Let a shell parse a line that runs `seekable`. Returns the arguments, and the settings of the line.

    The command then runs in a fork: the tests of its start are in test_cli.py.
    """
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    recorder = programs / "seekable"
    recorder.write_text(
        f"#!{sys.executable} -S\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], {{**os.environ}}]))\n"
    )
    recorder.chmod(0o755)
    path = f"{programs}{os.pathsep}{variables['PATH']}"
    arguments, environment = json.loads(shell(line, folder, {**variables, "PATH": path}))
    return arguments, environment | {"PATH": variables["PATH"]}


def run_line(line: str, folder: Path, variables: Mapping[str, str], given: str = "") -> str:
    """Run a line like `shell`, but `seekable` in a fork."""
    if not line.startswith("seekable "):
        return shell(line, folder, variables, given)
    arguments, environment = parsed(line, folder, variables)
    done = completed(*arguments, folder=folder, environment=environment, given=given.encode())
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("document", ["README", "tutorial"])
def test_commands_of_clients_work(document: str, tmp_path: Path, film: Path, new_library: NewLibrary) -> None:
    need(*CLIENTS)
    lines = lines_of(document, *CLIENTS, "seekable scan", "seekable verify")
    assert len(lines) > 8
    local = tmp_path / "local"
    local.mkdir()
    (local / "film.mp4").write_bytes(film.read_bytes())
    with running(tmp_path / "server", **new_library()) as server:
        variables = environment(tmp_path, **server.settings)
        for line in lines:
            if "-C -" in line:
                os.truncate(local / "film.mp4", 1000)  # as after an interrupted download
            output = run_line(line.replace(EXAMPLE, server.url), local, variables)
            if "/files?" in line:
                assert '"filename":"film.mp4"' in output, line
        with server.client() as http:
            assert http.get("/files?recursive=true").json()["items"] == []  # the last one deletes it
    for copy in (local / "film.mp4", local / "backup" / "films" / "film.mp4"):
        moved = local / "backup" / "classics" / "film.mp4"  # README copies after it has moved the film
        assert (copy if copy.exists() else moved).read_bytes() == film.read_bytes()
    assert (local / "still.png").stat().st_size > 1000


@pytest.mark.parametrize("line", SERVES)
def test_server_starts_as_documented(line: str, tmp_path: Path, film: Path) -> None:
    home = tmp_path / "home"
    (home / "Films").mkdir(parents=True)
    (home / "Films" / "film.mp4").write_bytes(film.read_bytes())
    browser = home / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{home}/opened\n')
    browser.chmod(0o755)
    command = line.replace("/mnt/films", "~/Films").replace("9000", str(free_port()))
    variables = environment(home, port=0) | {"BROWSER": str(browser)}
    arguments, given = parsed(command, home, variables)
    serve = f"import sys; sys.argv[1:] = {arguments!r}\n" + COMMAND
    with forked_python(home, serve, **given) as serving:
        url = serving.wait_for(r"page +(http\S+)/\n")[1]
        page = httpx.get(f"{url}/", headers={"accept": "text/html"}, trust_env=False, follow_redirects=True)
        assert page.status_code == 200
        assert ("Log in" if "accounts" in line else "film.mp4") in page.text
        upload = httpx.put(f"{url}/files/new.mp4", content=b"new", trust_env=False)
        assert upload.status_code == (
            403 if "read-only" in line or "READ_ONLY" in line else 401 if "accounts" in line else 201
        )
        if "--open" in line:
            opened = home / "opened"
            until(lambda: opened.exists() and opened.read_text() == f"{url}/\n", "the browser opens the page")
        assert serving.terminate() == 0


def test_commands_of_accounts_work(tmp_path: Path, film: Path) -> None:
    need("curl")
    email, password = "anna@example.org", "a good long password"
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    films = tmp_path / "Films"
    films.mkdir()
    settings = {"files_dir": films, "access": "accounts"}
    with running(tmp_path / "server", **settings) as server, server.client() as http:
        variables = environment(tmp_path, base_url=server.url)
        outputs = {}
        for line in lines_of("accounts", "curl", "seekable account"):
            command = line.replace(EXAMPLE, server.url).replace(f"-u {email}", f"-u '{email}:{password}'")
            if "skb_…" in line:
                made = http.post(
                    "/account/tokens", json={"name": "script", "scopes": ["read"]}, auth=(email, password)
                )
                command = command.replace("skb_…", made.raise_for_status().json()["token"])
            outputs[line.partition(" #")[0].strip()] = run_line(command, tmp_path, variables, f"{password}\n")
    assert f"{server.url}/sign-up?invite=" in outputs["seekable account invite --folder ~/Films"]
    assert email in outputs["seekable account list --folder ~/Films"]
    assert '"filename":"film.mp4"' in outputs[f"curl -H 'Authorization: Bearer skb_…' {EXAMPLE}/files"]


def test_commands_of_operations_work(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for line in OPERATIONS:
        run_line(line, tmp_path, environment(tmp_path))
    for file in (
        ".local/share/bash-completion/completions/seekable",
        ".config/fish/completions/seekable.fish",
    ):
        assert "_SEEKABLE_COMPLETE" in (tmp_path / file).read_text()


def test_make_check_leaves_out_other_databases_when_args_select_tests() -> None:
    """As CONTRIBUTING.md promises. Of several -k, pytest obeys the last only. Collecting all
    modules would take ten seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    dry = subprocess.run(
        ["make", "-n", "check", "ARGS=-k leases"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    (command,) = (shlex.split(line) for line in dry.stdout.splitlines() if "/pytest " in line)
    assert {"tests/unit", "tests/contracts"} <= set(command)
    options = [word for word in command[1:] if not word.startswith("tests/")]
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/contracts/test_leases.py", "-n0", "--collect-only"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    tests = [line for line in collected.splitlines() if line.startswith("tests/")]
    assert tests
    assert [test for test in tests if "lease" not in test or re.search("gridfs|postgresql", test)] == []

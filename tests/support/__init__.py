"""A real server on a free port, and helpers for the tests that use one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from tests.support.forking import Command

NewLibrary = Callable[[], dict[str, Any]]
"""Returns the settings of one more empty library."""

Process = subprocess.Popen[bytes] | Command

each_backend = pytest.mark.backends("filesystem", "postgresql", "gridfs")
"""Runs a test that needs a library on every backend, and not on SQLite alone."""

on_disk_and_gridfs = pytest.mark.backends("filesystem", "gridfs")
"""Runs it without PostgreSQL, which stores rows but no bytes."""

SEEKABLE = str(Path(sys.executable).with_name("seekable"))


class Server:
    """`seekable serve` in a process of its own.

    `settings` are SEEKABLE_* variables in lower case, without the prefix.
    """

    forked = True
    """Whether the process is forked with its modules already imported; see forking.py."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.log_file = folder / "server.log"
        self.url = ""
        self.wrapper: tuple[str, ...] = ()  # a command that runs the server
        self.bound = False  # whether file permissions apply, even to root
        self.settings: dict[str, Any] = {"files_dir": self.files, **settings}
        self._process: Process | None = None

    def start(self, *arguments: str, within: float = 30) -> "Server":
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
        environment |= {f"SEEKABLE_{key.upper()}": str(value) for key, value in self.settings.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file.touch()
        offset = self.logged()
        self._process = self._begin("serve", "--port", "0", *arguments, environment=environment)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and self._process.poll() is None:
            found = re.search(r"docs +(http\S+)/docs", self.log(offset))
            if found:
                self.url = found[1]
                return self
            time.sleep(0.02)
        raise AssertionError(f"The server did not start:\n{self.log(offset)}")

    def _begin(self, *arguments: str, environment: dict[str, str]) -> Process:
        if self.forked and not self.wrapper:
            return Command(
                *arguments,
                folder=self.folder,
                output=self.log_file,
                errors=self.log_file,
                environment=environment,
                bound=self.bound,
            )
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [*self.wrapper, SEEKABLE, *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def was_started(self) -> bool:
        return self._process is not None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self, since: int = 0) -> str:
        """Return the log, from a byte offset on."""
        with self.log_file.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def logged(self) -> int:
        """Return the size of the log in bytes."""
        return self.log_file.stat().st_size

    def kill(self) -> None:
        """Kill the process with SIGKILL: like a power cut, except that the page cache survives."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def client(self, **options: object) -> httpx.Client:
        # No test uses TLS, and loading the CA certificates takes longer than most tests.
        options = {"base_url": self.url, "timeout": 30, "trust_env": False, "verify": False, **options}
        return httpx.Client(**options)  # type: ignore[arg-type]

    def staging(self) -> list[Path]:
        """Return the contents of the staging folder of the filesystem backend."""
        return list((self.files / ".seekable" / "staging").iterdir())

    def rss(self) -> int:
        """Return the resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@cache
def noise(size: int) -> bytes:
    """Return `size` random bytes, without repetition. All modules share one value per size; the process keeps
    it until it ends."""
    return os.urandom(size)


@contextmanager
def running(folder: Path, *arguments: str, **settings: object) -> Iterator[Server]:
    """Start a server and stop it at the end.

    A new library on SQLite gets a copy of empty tables: migrations take longer than the rest of a start."""
    # Not above: the process that forks servers imports this module before it measures the coverage of `app`.
    from tests.support.sqlite import begin_library

    server = Server(folder, **settings)
    if settings.get("storage") != "gridfs" and not {"database_url", "files_dir", "read_only"} & {*settings}:
        begin_library(server.files)
    try:
        yield server.start(*arguments)
    finally:
        if server.was_started:
            server.stop()


def need(*commands: str, installer: str = "tests/support/tools.sh") -> None:
    """Skip a test whose system packages are missing; in CI, where none may be missing, fail it."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        skip_or_fail(f"needs {', '.join(missing)}: run {installer}")


def need_root() -> None:
    """Skip a test that mounts file systems or traces a process, unless root runs it; in CI, fail it."""
    if os.geteuid() != 0:
        skip_or_fail("needs root, to mount file systems and to trace processes")


def skip_or_fail(message: str) -> NoReturn:
    """Skip a test because this machine lacks something; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def mounted(folder: Path, *arguments: object) -> Iterator[Path]:
    """Create a folder and mount a file system on it, with the arguments of mount(8)."""
    need_root()
    need("mount", "umount")
    folder.mkdir(parents=True, exist_ok=True)
    result = run("mount", *arguments, folder, check=False)
    if result.returncode != 0:
        skip_or_fail(f"cannot mount here: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        run("umount", folder)


def run(*command: object, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a client until it exits. Raises AssertionError with its output if it fails."""
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout, errors="replace"
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def find_external_addresses() -> list[str]:
    """Return the address of this machine that is not loopback, if any; clients that connect to it have it as
    their source."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return []
        address = str(probe.getsockname()[0])
    return [] if address.startswith("127.") else [address]

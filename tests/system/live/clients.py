"""Helpers for tests that run real clients: hashes, the access log, child processes, VLC."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support import Process, Server
from tests.support.forking import Command

BIN = Path(sys.executable).parent

ODD_NAME = 'it\'s; a "film" — 100% #1 & more? 🎬 שלום.mp4'


def sha256(data: bytes | Path) -> str:
    return hashlib.sha256(data.read_bytes() if isinstance(data, Path) else data).hexdigest()


def logged_statuses(server: Server, url: str, minimum: int = 1) -> list[int]:
    """Return the statuses of the GETs of a URL in the server's log, in the order in which they ended.

    Waits for `minimum` of them: a request is logged shortly after the client has the response or disconnects.
    """
    path = unquote(urlsplit(url).path)

    def logged() -> list[int]:
        found = re.findall(r'"GET (\S+) HTTP/1\.[01]" (\d{3})', server.log())
        return [int(status) for target, status in found if unquote(target.partition("?")[0]) == path]

    until(lambda: len(logged()) >= minimum, f"{minimum} logged responses for {url}")
    return logged()


def until(condition: Callable[[], bool], description: str, within: float = 20) -> None:
    """Poll the condition until it is true. Fails with the description after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{description}: not within {within} s"
        time.sleep(0.01)


def refuses_connections(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) != 0


class Program:
    """A process that a test has started, and its output so far."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, within: float = 30) -> re.Match[str]:
        """Return the first match in the output. Fails if the process exits without one."""
        until(
            lambda: re.search(pattern, self.log()) is not None or self.process.poll() is not None,
            f"{pattern!r} in\n{self.log()}",
            within,
        )
        found = re.search(pattern, self.log())
        assert found is not None, f"It exited with {self.process.returncode}:\n{self.log()}"
        return found

    def terminate(self, within: float = 20) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.terminate()
        return self.process.wait(within)


@contextmanager
def program(folder: Path, *command: object, **environment: str) -> Iterator[Program]:
    """Run a command in a folder, without inherited SEEKABLE_* variables. Kills its process group on exit."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def forked_python(folder: Path, code: str, **environment: str) -> Iterator[Program]:
    """Run Python code as `program` would, in a fork of a process that has already imported Seekable."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    log = folder.parent / f"{folder.name}.log"
    log.write_bytes(b"")
    command = Command(
        folder=folder, output=log, errors=log, environment={**inherited, **environment}, code=code
    )
    try:
        yield Program(command, log)
    finally:
        command.kill()
        command.wait()


class Vlc:
    """VLC without a window, sound or terminal, controlled through its `oldrc` interface."""

    def __init__(self, url: str) -> None:
        # VLC refuses to run as root, and only their owner can enter pytest's folders.
        self._home = Path(tempfile.mkdtemp(prefix="vlc-"))
        self._errors = self._home / "log"
        self._output: list[str] = []
        become: list[str] = []
        if os.geteuid() == 0:
            os.chown(self._home, 65534, 65534)
            become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        # fmt: off
        command = [
            *become, "vlc", "-vv", "--intf", "oldrc", "--rc-fake-tty", "--no-interact",
            "--vout", "vdummy", "--aout", "adummy", "--no-metadata-network-access", "--rate", "2", url,
        ]
        # fmt: on
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=self._home,
                env={"HOME": str(self._home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
            )
        self._reader = threading.Thread(target=self._read_output)
        self._reader.start()

    def __enter__(self) -> "Vlc":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        shutil.rmtree(self._home)

    def play_to(self, seconds: int) -> None:
        """Wait until the playback position is at this second, or at most 15 s later."""
        until(
            lambda: seconds <= self.query("get_time") < seconds + 15,
            f"VLC at {seconds} s\n{self.log()[-3000:]}",
        )

    def query(self, command: str) -> int:
        """Return the number that VLC prints for a command, or -1 if it prints none."""
        before = len(self._output)
        self.send(command)
        numbers: list[str] = []

        def answered() -> bool:
            numbers[:] = [line for line in self._output[before:] if line.isdigit()]
            return bool(numbers) or "" in self._output[before:]

        until(answered, f"VLC's reply to {command}\n{self.log()[-3000:]}")
        return int(numbers[0]) if numbers else -1

    def titles(self) -> list[str]:
        """Return the titles in VLC's playlist, in order, without their durations."""
        before = len(self._output)
        self.send("playlist")
        until(lambda: "+----[ End of playlist ]" in self._output[before:], "VLC's playlist")
        entries = [line[5:] for line in self._output[before:] if line.startswith("|  - ")]
        return [re.sub(r" \(\d\d:\d\d\)$", "", entry) for entry in entries]

    def send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def seek(self, second: int) -> None:
        """Seek with a request to the server, and wait until playback continues from there."""
        before = len(self.requests())
        self.send(f"seek {second}")
        until(lambda: len(self.requests()) > before, f"a request for second {second}\n{self.log()[-3000:]}")
        self.play_to(second + 1)  # VLC reports `second` before it plays it

    def has_requested(self, url: str) -> bool:
        targets = re.findall(r"outgoing request:\nGET (\S+)", self.log())
        return any(unquote(urlsplit(target).path) == unquote(urlsplit(url).path) for target in targets)

    def requests(self) -> list[dict[str, str]]:
        """Return the headers of each request in VLC's log, with lower-case names."""
        heads = re.findall(r"outgoing request:\n(GET .*?)\n\n", self.log(), re.DOTALL)
        return [
            {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head.split("\n")[1:])
            }
            for head in heads
        ]

    def log(self) -> str:
        return self._errors.read_text(errors="replace").replace("\r", "")

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.append(line.removeprefix("> ").strip())

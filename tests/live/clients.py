"""What the tests of real clients share: hashes, the access log, programs to start and stop, and VLC."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.forking import Command
from tests.support import Process, Server

BIN = Path(sys.executable).parent


def sha256(data: bytes | Path) -> str:
    return hashlib.sha256(data.read_bytes() if isinstance(data, Path) else data).hexdigest()


def answers(server: Server, url: str, least: int = 1) -> list[int]:
    """The statuses that the server's log shows for GETs of this URL, in the order in which they ended. Waits
    for so many: they are logged just after the client has all of them, or has gone."""
    path = unquote(urlsplit(url).path)

    def logged() -> list[int]:
        found = re.findall(r'"GET (\S+) HTTP/1\.[01]" (\d{3})', server.log())
        return [int(status) for target, status in found if unquote(target.partition("?")[0]) == path]

    until(lambda: len(logged()) >= least, f"{least} answers to {url}")
    return logged()


def until(condition: Callable[[], bool], what: str, within: float = 20) -> None:
    """Wait for it."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.05)


class Program:
    """A process that was started by a test, and what it has said so far."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, within: float = 30) -> re.Match[str]:
        """What it says that matches."""
        until(
            lambda: re.search(pattern, self.log()) is not None or self.process.poll() is not None,
            f"{pattern!r} in\n{self.log()}",
            within,
        )
        found = re.search(pattern, self.log())
        assert found is not None, f"It ended with {self.process.returncode}:\n{self.log()}"
        return found

    def terminate(self, within: float = 20) -> int:
        """Ask it to end. The exit status."""
        self.process.terminate()
        return self.process.wait(within)


@contextmanager
def program(folder: Path, *command: object, **environment: str) -> Iterator[Program]:
    """Run a command in a folder, with no SEEKABLE_* but those given. It and its children end here."""
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
def forked(folder: Path, code: str, **environment: str) -> Iterator[Program]:
    """As `program` with Python and this code, but begun with the modules of Seekable in memory."""
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
    """VLC without a window, sound or terminal, driven by its line interface."""

    def __init__(self, url: str) -> None:
        # pytest's folders can be entered by their owner only, and VLC does not run as root.
        self._home = Path(tempfile.mkdtemp(prefix="vlc-"))
        self._errors = self._home / "log"
        self._said: list[str] = []
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
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> "Vlc":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        shutil.rmtree(self._home)

    def play_to(self, seconds: int) -> None:
        """Wait until it shows this second of the film, or one a little later."""
        until(
            lambda: seconds <= self.ask("get_time") < seconds + 15,
            f"VLC at {seconds} s\n{self.log()[-3000:]}",
        )

    def ask(self, question: str) -> int:
        """The number it answers; -1 while it has none."""
        before = len(self._said)
        self.tell(question)
        numbers: list[str] = []

        def answered() -> bool:
            numbers[:] = [line for line in self._said[before:] if line.isdigit()]
            return bool(numbers) or "" in self._said[before:]

        until(answered, f"VLC's answer to {question}\n{self.log()[-3000:]}")
        return int(numbers[0]) if numbers else -1

    def titles(self) -> list[str]:
        """What its playlist shows, in order; those with a known length without it."""
        before = len(self._said)
        self.tell("playlist")
        until(lambda: "+----[ End of playlist ]" in self._said[before:], "VLC's playlist")
        entries = [line[5:] for line in self._said[before:] if line.startswith("|  - ")]
        return [re.sub(r" \(\d\d:\d\d\)$", "", entry) for entry in entries]

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def seek(self, second: int) -> None:
        """Wait until it plays from there, for which it has to ask the server."""
        before = len(self.requests())
        self.tell(f"seek {second}")
        until(lambda: len(self.requests()) > before, f"a request for second {second}\n{self.log()[-3000:]}")
        self.play_to(second + 1)  # it says that it is at `second` before it is

    def has_asked_for(self, url: str) -> bool:
        targets = re.findall(r"outgoing request:\nGET (\S+)", self.log())
        return any(unquote(urlsplit(target).path) == unquote(urlsplit(url).path) for target in targets)

    def requests(self) -> list[dict[str, str]]:
        """The headers of the requests that its log shows, names in lower case."""
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

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.removeprefix("> ").strip())

"""The contestants' processes: started side by side on free ports, and stopped in every case."""

import importlib.util
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.contestants import Contestant, Place, program
from benchmarks.wire import Target
from deploy.run_gridfs import start_bound


class NotStarted(Exception):
    """A contestant did not start; the message is the reason."""


class Server:
    """The process of one contestant. `film` is a file with the bytes that it serves."""

    def __init__(self, contestant: Contestant, place: Place, film: Path) -> None:
        self.contestant = contestant
        self.place = place
        self.film = film
        self._log = place.home / "server.log"
        self.ready_after = 0.0  # seconds of the last start, from exec(2) to a server that is ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.contestant.name

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def target(self) -> Target:
        return self.at(self.contestant.film, self.film.stat().st_size)

    def at(self, path: str, size: int = 0) -> Target:
        return Target(self.place.port, path, size)

    def start_if_needed(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.start()

    def start(self, within: float = 30) -> None:
        reason = why_unavailable(self.contestant)
        if reason:
            raise NotStarted(reason)
        self.place.home.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
        own = self.contestant.environment(self.place)
        environment |= {key: str(value) for key, value in own.items()}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(self.place.code), environment.get("PYTHONPATH")])
        )
        with self._log.open("wb") as log:
            self._process = start_bound(
                self.contestant.command(self.place),
                cwd=self.place.home,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        begun = time.monotonic()
        deadline = begun + within
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                output = self._log.read_text(errors="replace").strip()
                raise NotStarted(f"its log ends with {output.rpartition(chr(10))[2][-500:]!r}")
            time.sleep(0.01)
        self.ready_after = time.monotonic() - begun

    def _answers(self) -> bool:
        with suppress(OSError), self.at("/").connect() as connection:
            connection.send(self.at(self.contestant.ready or self.contestant.ping).get())
            answer = connection.recv(12)
            return answer == b"HTTP/1.1 200" or (not self.contestant.ready and answer.startswith(b"HTTP/1.1"))
        return False

    def stop(self, within: float = 10) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def why_unavailable(contestant: Contestant) -> str | None:
    """Return why a contestant cannot run on this machine, or None if it can."""
    needs = contestant.needs
    if needs is None or program(needs) or importlib.util.find_spec(needs):
        return None
    return f"{needs} is not installed"


def free_port() -> int:
    """Return a free port below Linux's ephemeral ports, which outgoing connections may take."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@contextmanager
def stopped_at_the_end() -> Iterator[dict[str, Server]]:
    """Yield an empty mapping by name, and stop every server in it on exit."""
    servers: dict[str, Server] = {}
    try:
        yield servers
    finally:
        for server in servers.values():
            server.stop()

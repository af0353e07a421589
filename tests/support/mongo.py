"""A real MongoDB for tests: one server shared by a process, separate ones for fault tests, and a replica set
of three."""

import atexit
import itertools
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pymongo
from pymongo.database import Database

from deploy.run_gridfs import Mongod as Bare
from tests.support import skip_or_fail

# The failCommand fail point makes one command on one collection fail; it needs the test commands.
OPTIONS = (
    "--setParameter", "enableTestCommands=1", "--setParameter", "diagnosticDataCollectionEnabled=false",
    "--oplogSize", "256",
)  # fmt: skip
MEMORY = Path("/dev/shm")


class Mongod(Bare):
    """A mongod for fault tests.

    Start it in the main thread: the kernel kills it with the thread that started it.
    """

    at_death = "KILL"  # also ends a paused process

    def __init__(self, folder: Path, *, replica_set: str = "tests") -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            skip_or_fail("needs a mongod, which pip has for Linux on x86-64 only")
        super().__init__(folder, free_port(), *OPTIONS, replica_set=replica_set)

    def kill(self) -> None:
        """Kill the process with SIGKILL: like a power cut, except that the page cache survives."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop the process with SIGSTOP: its connections stay open, and it answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> "Mongod":
        """Start it again after a kill or a stop, with the same data and port."""
        self.start()
        if self.replica_set:
            self.lead()
        return self


class ReplicaSet:
    """Three nodes, any one of which may fail; an election takes 2 to 4 s."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Mongod(folder / str(number)) for number in range(3)]

    def start(self) -> "ReplicaSet":
        for node in self.nodes:
            node.begin()
        for node in self.nodes:
            node.answers()
        config = {
            "_id": self.nodes[0].replica_set,
            "members": [{"_id": number, "host": node.host} for number, node in enumerate(self.nodes)],
            "settings": {
                "electionTimeoutMillis": 1000,
                "heartbeatIntervalMillis": 200,
                "heartbeatTimeoutSecs": 1,
                "catchUpTimeoutMillis": 2000,
            },
        }
        with self.nodes[0].direct() as client:
            client.admin.command("replSetInitiate", config)
            deadline = time.monotonic() + 60
            while sorted(states(client)) != ["PRIMARY", "SECONDARY", "SECONDARY"]:
                assert time.monotonic() < deadline, f"The states after a minute: {states(client)}."
                time.sleep(0.05)
        return self

    def url(self, database: str) -> str:
        hosts = ",".join(node.host for node in self.nodes)
        return f"mongodb://{hosts}/{database}?replicaSet={self.nodes[0].replica_set}"

    def primary(self, within: float = 30) -> Mongod:
        """Return the primary node. Blocks until there is one."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.process is not None and node.process.poll() is None and is_primary(node):
                    return node
            time.sleep(0.05)
        raise AssertionError(f"no primary within {within} s:\n{self.nodes[0].log_file.read_text()[-3000:]}")

    def kill(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.kill()


def states(client: "pymongo.MongoClient[dict[str, object]]") -> list[str]:
    """Return the states of the nodes, as one node sees them."""
    return [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]


def is_primary(node: Mongod) -> bool:
    try:
        with node.direct(timeout_ms=500) as client:
            return bool(client.admin.command("hello")["isWritablePrimary"])
    except pymongo.errors.PyMongoError:
        return False


@contextmanager
def mongod(*, replica_set: str = "tests") -> Iterator[Mongod]:
    """Start a mongod for one test: the only node of a replica set, or standalone with `replica_set=""`."""
    with temporary_folder() as folder:
        node = Mongod(folder, replica_set=replica_set)
        try:
            yield node.restart()
        finally:
            if node.process is not None:
                node.kill()


@contextmanager
def three_nodes() -> Iterator[ReplicaSet]:
    """Start a replica set that survives the loss of one node."""
    with temporary_folder() as folder:
        nodes = ReplicaSet(folder)
        try:
            yield nodes.start()
        finally:
            nodes.kill()


@cache
def shared() -> Mongod:
    """Return the server that all tests of this process share; no test may harm it.

    It ends with the process.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(mongod())


def database(url: str) -> "Database[dict[str, Any]]":
    """Return the database that a URL names."""
    address, _, rest = url.rpartition("/")
    name, _, options = rest.partition("?")
    return _client(f"{address}/?{options}").get_database(name)


@cache
def _client(url: str) -> "pymongo.MongoClient[dict[str, Any]]":
    """Return one client for all databases of a server. It is closed when the process ends."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        url, serverSelectionTimeoutMS=5000, tz_aware=True
    )
    atexit.register(client.close)
    return client


NUMBERS = itertools.count(1)


def gridfs() -> dict[str, object]:
    """Return the settings of one more empty library: a new database on the shared server."""
    return {"storage": "gridfs", "mongodb_url": shared().url(f"library-{next(NUMBERS)}")}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create an empty folder, in memory if possible: the speed of the disk is not under test."""
    sweep()
    parent = MEMORY if MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix=f"seekable-mongod-{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders that killed test processes left in memory."""
    for folder in MEMORY.glob("seekable-mongod-*"):
        pid = folder.name.split("-")[2]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a free port below Linux's ephemeral range: while a server is down, the kernel could give its
    ephemeral port to any client, even to the one that tries to reach that server."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@contextmanager
def fail_point(
    database: Database[Any], command: str, collection: str, mode: object = "alwaysOn", **how: object
) -> Iterator[int]:
    """Make a command on a collection fail or delay. Yields how often the fail point was entered before."""
    failing = {"failCommands": [command], "namespace": f"{database.name}.{collection}", **how}
    configure = {"configureFailPoint": "failCommand"}
    entered = database.client.admin.command({**configure, "mode": mode, "data": failing})["count"]
    try:
        yield entered
    finally:
        database.client.admin.command({**configure, "mode": "off"})

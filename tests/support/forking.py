"""`seekable` in processes that start with its modules already imported.

Imports take ten times as long as the rest of a start, and the tests start hundreds of servers. So one process
imports the modules and forks. In each child the command then runs as in a new process, up to the end of the
interpreter.
"""

import atexit
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from tests.support import measuring

ROOT = Path(__file__).parents[2]
MODULES = (
    "app.cli",
    "app.main",
    "app.server.serving",
    "app.database.gridfs.opening",
    "app.database.sql.opening",
    "app.database.sql.postgresql",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
)
"""The modules that `seekable serve` imports, some of them depending on the settings."""

COMMAND = "import sys; from app.cli import main; sys.exit(main())"

CAPABILITY_VERSION_3 = 0x20080522
RIGHTS = 1 << 1 | 1 << 2 | 1 << 10  # dac_override, dac_read_search, net_bind_service


class Command:
    """`seekable` with arguments, with the part of the interface of subprocess.Popen that tests use."""

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        output: Path,
        errors: Path,
        environment: Mapping[str, str],
        given: str = os.devnull,
        bound: bool = False,
        code: str = "",
    ) -> None:
        """With `bound`, file permissions apply even to root. `code` runs instead of the command, which it may
        change and then run."""
        paths = {"folder": str(folder), "given": given, "output": str(output), "errors": str(errors)}
        how = {"environment": {**environment}, "bound": bound, "code": code}
        how["measured"] = measuring.is_measured(os.environ.get("PYTEST_CURRENT_TEST", ""))
        self.pid: int = _parent().ask({"arguments": arguments, **how, **paths})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _parent().ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("seekable", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def completed(
    *arguments: str,
    folder: Path | None = None,
    environment: Mapping[str, str],
    timeout: float = 60,
    given: bytes = b"",
    bound: bool = False,
    first: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `seekable` until it exits, with `given` as its standard input; `first` is code that runs before.
    Raises TimeoutExpired.
    """
    with TemporaryDirectory() as temporary:
        output, errors = Path(temporary, "output"), Path(temporary, "errors")
        Path(temporary, "given").write_bytes(given)
        command = Command(
            *arguments,
            folder=folder or Path.cwd(),
            output=output,
            errors=errors,
            environment=environment,
            given=str(Path(temporary, "given")),
            bound=bound,
            code=first and first + COMMAND,
        )
        try:
            status = command.wait(timeout)
        finally:
            command.kill()
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


class _Parent:
    """The client's side of the process that forks. That process ends with this one."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.forking"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)
        self._one_at_a_time = Lock()

    def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(f"{json.dumps(question)}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return json.loads(answer)


def _parent() -> _Parent:
    with _BEGINNING:  # or threads that call this at the same time would start one process each
        return _the_parent()


_BEGINNING = Lock()


@cache
def _the_parent() -> _Parent:
    return _Parent()


def serve_forks() -> str:
    """In the parent, answer requests until the input ends. In each child, return the code to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest handles Ctrl-C and stops the servers
    measuring.start_in_worker()
    for name in MODULES:
        __import__(name)
    _rehearse()
    _end_at_once()
    gc.collect()
    gc.freeze()  # or a collection in each child would touch, and so copy, all of this memory
    for line in sys.stdin:
        question = json.loads(line)
        if "pid" in question:
            answer = _status(question["pid"])
        else:
            answer = os.fork()
            if answer == 0:
                return _become(**question)
        print(json.dumps(answer), flush=True)
    sys.exit()


def _rehearse() -> None:
    """Create a library once, to warm up caches of SQLAlchemy and Alembic."""
    from app.database import prepare_database
    from app.settings import Settings

    with TemporaryDirectory() as folder:
        temporary = Path(folder, "files")
        prepare_database(
            Settings(_env_file=None, storage="filesystem", database_url=None, files_dir=temporary)
        )


def _end_at_once() -> None:
    """Skip PyMongo's wait at exit, half a second until its sleeping threads wake up.

    They are closed daemon threads; only the exit waits for them.
    """
    from pymongo.periodic_executor import PeriodicExecutor

    PeriodicExecutor.join = lambda self, timeout=None: None  # type: ignore[method-assign]


def _status(pid: int) -> int | None:
    """Return the exit status of the child, or None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(
    arguments: list[str],
    folder: str,
    given: str,
    output: str,
    errors: str,
    environment: dict[str, str],
    bound: bool,
    code: str,
    measured: bool,
) -> str:
    measuring.continue_in_fork(measured)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, flags in ((0, given, os.O_RDONLY), (1, output, writing), (2, errors, writing)):
        descriptor = os.open(path, flags, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    program = Path(sys.executable).with_name("seekable")
    sys.path[0] = str(program.parent)
    sys.argv[:] = [str(program), *arguments]
    if bound and os.geteuid() == 0:
        _give_up_rights()
    return code or COMMAND


def _give_up_rights() -> None:
    """Drop capabilities as `setpriv --bounding-set` does for a new process; see capabilities(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the first 32 of each, then the others
    if libc.capget(header, sets) == 0:
        for number in range(3):
            sets[number] &= ~RIGHTS
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "rights cannot be given up")


if __name__ == "__main__":
    exec(compile(serve_forks(), "<string>", "exec"), {"__name__": "__main__"})

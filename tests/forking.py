"""`seekable` in processes that have its modules in memory when they begin.

To import them takes ten times as long as all else at a start, and the tests start hundreds of servers. So
one process imports them, and forks. From there on the command runs as it does in a process of its own, to
the end of the interpreter.
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

ROOT = Path(__file__).parent.parent
MODULES = (
    "app.cli",
    "app.main",
    "app.server.serving",
    "app.database.mongo.opening",
    "app.database.sql.opening",
    "app.database.sql.postgresql",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
)
"""What `seekable serve` imports, some of it when it knows the settings."""

COMMAND = "import sys; from app.cli import main; sys.exit(main())"

CAPABILITY_VERSION_3 = 0x20080522
RIGHTS = 1 << 1 | 1 << 2 | 1 << 10  # dac_override, dac_read_search, net_bind_service


class Command:
    """`seekable` with arguments, as far as tests need it what subprocess.Popen is."""

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
        """`bound` by permissions, even when root runs it. `code` is run instead of the command, which it may
        change before it runs it."""
        paths = {"folder": str(folder), "given": given, "output": str(output), "errors": str(errors)}
        how = {"environment": {**environment}, "bound": bound, "code": code}
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
) -> subprocess.CompletedProcess[str]:
    """`seekable` with arguments, and this as its standard input, run to its end. Raises TimeoutExpired."""
    with TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        Path(place, "given").write_bytes(given)
        command = Command(
            *arguments,
            folder=folder or Path.cwd(),
            output=output,
            errors=errors,
            environment=environment,
            given=str(Path(place, "given")),
            bound=bound,
        )
        try:
            status = command.wait(timeout)
        finally:
            command.kill()
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


class _Parent:
    """The process that forks, as others see it. It ends with this one."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.forking"]
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
    with _BEGINNING:  # or threads that ask first at the same time would have one each
        return _the_parent()


_BEGINNING = Lock()


@cache
def _the_parent() -> _Parent:
    return _Parent()


def serve_forks() -> str:
    """In the parent: answer questions until there are no more. In each child: return what it is to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends the servers
    for name in MODULES:
        __import__(name)
    _rehearse()
    _end_at_once()
    gc.collect()
    gc.freeze()  # or each child would look through all of it, and so have a copy of its own
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
    """Make a library, once, for what SQLAlchemy and Alembic do but the first time."""
    from app.database import prepare_database
    from app.settings import Settings

    with TemporaryDirectory() as folder:
        place = Path(folder, "files")
        prepare_database(Settings(_env_file=None, storage="filesystem", database_url=None, files_dir=place))


def _end_at_once() -> None:
    """PyMongo would wait at the end, for half a second each time, until its sleeping threads have woken up.
    They are daemons, and closed: nothing but the end is waiting for them."""
    from pymongo.periodic_executor import PeriodicExecutor

    PeriodicExecutor.join = lambda self, timeout=None: None  # type: ignore[method-assign]


def _status(pid: int) -> int | None:
    """How the child ended, or None while it runs."""
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
) -> str:
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
    """As `setpriv --bounding-set` takes them away from a process that begins; see capabilities(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of 32 each, and then of the others
    if libc.capget(header, sets) == 0:
        for number in range(3):
            sets[number] &= ~RIGHTS
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "rights cannot be given up")


if __name__ == "__main__":
    exec(compile(serve_forks(), "<string>", "exec"), {"__name__": "__main__"})

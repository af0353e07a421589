"""Control of the processes of victim.py."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.system.faults.victim import NEW, OLD, sha256

InjectFaults = Callable[..., AbstractContextManager[Path]]

KINDS = ("create", "replace", "delete", "move")

NO_RENAME = "renameat2:error=EINVAL"
"""The error of a file system that cannot rename without replacing, such as NFS."""

CHANGES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "create": ("create", (), "linkat"),
    "replace": ("replace", (), "renameat"),
    "store together": ("store together", (), "linkat"),
    "delete": ("delete", (), "linkat"),
    "move": ("move", (), "renameat2"),
    "move by link": ("move", (NO_RENAME,), "linkat"),
}
"""By name: the kind of change, the faults that are injected throughout, and a system call that it needs."""

States = set[tuple[str | None, str | None]]
"""Possible hashes at the path of a change, and at the path that it moves to, or stores as well."""

_OLD, _NEW = sha256(OLD), sha256(NEW)
_AFTER: dict[str, States] = {
    "create": {(_NEW, None)},
    "replace": {(_NEW, None)},
    "store together": {(_NEW, _NEW)},
    "delete": {(None, None)},
    "move": {(None, _OLD)},
}


def possible_states(kind: str, *, acknowledged: bool) -> States:
    """Return the states that are possible after a change and its recovery."""
    if acknowledged:
        return _AFTER[kind]
    if kind == "store together":  # a replacement and a new file, each of them wholly there or not
        return {(first, second) for first in (_OLD, _NEW) for second in (None, _NEW)}
    before = (None if kind == "create" else _OLD, None)
    return _AFTER[kind] | {before}


Outcome = tuple[bool, str]
"""Whether a change was acknowledged, and the trace of the calls with injected faults."""


class Victims:
    """Processes that change one library, one after another; a fault may kill each during its change."""

    def __init__(self, root: Path, inject_faults: InjectFaults, database: str | None = None) -> None:
        self.root = root
        self._inject_faults = inject_faults
        command = [
            sys.executable,
            Path(__file__).with_name("victim.py"),
            root,
            *([database] if database else []),
        ]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def close(self) -> None:
        self._process.communicate()

    def _send(self, **task: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        message: dict[str, Any] = json.loads(self._process.stdout.readline())
        return message

    def _start(self, **task: Any) -> int:
        self._send(**task)
        message = self._receive()
        assert message["staging"] == []
        self.found = message["found"]
        pid: int = message["pid"]
        return pid

    def read(self, *paths: str) -> None:
        """Start a process, and have it read these paths into `found`."""
        self._start(read=paths)
        assert self._receive() == {"status": 0}

    @contextmanager
    def change(
        self, kind: str, path: str, *faults: str, read: tuple[str, ...] = ()
    ) -> Iterator[tuple[bool, str]]:
        """Make a change. The process runs until the context ends, unless a fault kills it."""
        pid = self._start(read=list(read), kind=kind, path=path)
        assert self._receive() == {"ready": True}
        with ExitStack() as stack:
            trace = stack.enter_context(self._inject_faults(pid, *faults)) if faults else None
            self._send()
            message = self._receive()
            stack.close()
        done = message == {"done": True}
        yield done, trace.read_text() if trace is not None else ""
        if done:
            self._send()
            message = self._receive()
        assert message == {"status": 0 if done else -9}

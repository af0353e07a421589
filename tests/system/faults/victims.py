"""Drives the processes of victim.py."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.system.faults.victim import NEW, OLD, sha256

Injected = Callable[..., AbstractContextManager[Path]]

KINDS = ("create", "replace", "delete", "move")

NO_RENAME = "renameat2:error=EINVAL"
"""What file systems answer that cannot rename without replacing, such as NFS."""

WAYS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "create": ("create", (), "linkat"),
    "replace": ("replace", (), "renameat"),
    "delete": ("delete", (), "linkat"),
    "move": ("move", (), "renameat2"),
    "move by link": ("move", (NO_RENAME,), "linkat"),
}
"""What is changed, the faults that are there all the time, and a call that the change cannot do without."""

States = set[tuple[str | None, str | None]]
"""Hashes that may be found at the path of a change, and at the path that it moves to."""

_OLD, _NEW = sha256(OLD), sha256(NEW)
_AFTER: dict[str, States] = {
    "create": {(_NEW, None)},
    "replace": {(_NEW, None)},
    "delete": {(None, None)},
    "move": {(None, _OLD)},
}


def states(kind: str, *, acknowledged: bool) -> States:
    """What may be found after a change, once that is settled."""
    if acknowledged:
        return _AFTER[kind]
    before = (None if kind == "create" else _OLD, None)
    return _AFTER[kind] | {before}


Outcome = tuple[bool, str]
"""Whether a change was acknowledged, and the calls at which faults were put in."""


class Victims:
    """Processes that change one library, one after another, and may be killed in the middle."""

    def __init__(self, root: Path, injected: Injected, database: str | None = None) -> None:
        self.root = root
        self._injected = injected
        words = [
            sys.executable,
            Path(__file__).with_name("victim.py"),
            root,
            *([database] if database else []),
        ]
        self._process = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        self._process.communicate()

    def _tell(self, **task: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        heard: dict[str, Any] = json.loads(self._process.stdout.readline())
        return heard

    def _start(self, **task: Any) -> int:
        self._tell(**task)
        heard = self._hear()
        assert heard["staging"] == []
        self.found = heard["found"]
        pid: int = heard["pid"]
        return pid

    def look(self, *paths: str) -> None:
        """Only start, and find what is there."""
        self._start(look=paths)
        assert self._hear() == {"status": 0}

    @contextmanager
    def change(
        self, kind: str, path: str, *faults: str, look: tuple[str, ...] = ()
    ) -> Iterator[tuple[bool, str]]:
        """Make a change. The process lives on until the context ends, unless a fault kills it."""
        pid = self._start(look=list(look), kind=kind, path=path)
        assert self._hear() == {"ready": True}
        with ExitStack() as stack:
            trace = stack.enter_context(self._injected(pid, *faults)) if faults else None
            self._tell()
            heard = self._hear()
            stack.close()
        done = heard == {"done": True}
        yield done, trace.read_text() if trace is not None else ""
        if done:
            self._tell()
            heard = self._hear()
        assert heard == {"status": 0 if done else -9}

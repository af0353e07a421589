"""A client in a process of its own: `python -m benchmarks.client KIND JSON` prints its figures as JSON."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.downloads import download
from benchmarks.exchanges import get, put_small
from benchmarks.seeks import ping, seek
from benchmarks.slow import read_slowly
from benchmarks.uploads import form, put
from benchmarks.wire import Target

ROOT = Path(__file__).parent.parent

KINDS: dict[str, Callable[..., dict[str, float]]] = {
    "download": download,
    "seek": seek,
    "ping": ping,
    "slow": read_slowly,
    "put": put,
    "form": form,
    "put-small": put_small,
    "get": get,
}


class Failed(Exception):
    """A client failed; the message is the last line of its error output."""


class Client:
    """A running client."""

    def __init__(self, kind: str, target: Target, **options: Any) -> None:
        order = json.dumps({"target": vars(target), **options})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.client", kind, order],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, within: float = 300) -> dict[str, float]:
        try:
            output, errors = self._process.communicate(timeout=within)
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode != 0:
            raise Failed(errors.strip().rpartition("\n")[2])
        return json.loads(output)  # type: ignore[no-any-return]


def main() -> None:
    kind, order = sys.argv[1], json.loads(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(KeyboardInterrupt):  # the parent process reports the interruption
        json.dump(KINDS[kind](Target(**order.pop("target")), **order), sys.stdout)


if __name__ == "__main__":
    main()

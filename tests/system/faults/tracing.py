"""Faults in the system calls of a running process."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import skip_or_fail


@contextmanager
def inject_faults(folder: Path, process: int, *faults: str, paths: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Inject faults, in the syntax of strace(1), into calls on these paths (on any path if there are none).

    Yields the trace: a file in `folder` with one line for each call and its result.
    """
    trace = folder / f"trace-{time.monotonic_ns()}"
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    command = ["strace", "-f", "-y", "-p", str(process), "-o", str(trace), "-e", f"trace={calls}"]
    command += [word for fault in faults for word in ("-e", f"inject={fault}")]
    command += [word for path in paths for word in ("-P", str(path))]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert strace.stderr is not None
    try:
        attached = strace.stderr.readline().decode()
        if "attached" not in attached:
            skip_or_fail(f"cannot trace here: {attached.strip()}")
        yield trace
    finally:
        strace.send_signal(signal.SIGINT)
        try:
            strace.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            strace.kill()  # it waits for a dead process that its parent has not reaped yet
            strace.communicate()

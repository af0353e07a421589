"""Faults put into the system calls of a process that runs."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import skip_or_fail


@contextmanager
def injected(folder: Path, process: int, *faults: str, paths: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Faults as strace(1) words them, until the context ends, at calls that name these paths, or at all.

    Gives a file, in the folder, that names each call that was made, with its result.
    """
    trace = folder / f"trace-{time.monotonic_ns()}"
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    command = ["strace", "-f", "-y", "-p", str(process), "-o", str(trace), "-e", f"trace={calls}"]
    command += [word for fault in faults for word in ("-e", f"inject={fault}")]
    command += [word for path in paths for word in ("-P", str(path))]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert strace.stderr is not None
    try:
        said = strace.stderr.readline().decode()
        if "attached" not in said:
            skip_or_fail(f"cannot trace here: {said.strip()}")
        yield trace
    finally:
        strace.send_signal(signal.SIGINT)
        try:
            strace.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            strace.kill()  # it waits for a process that is dead, whose parent has yet to ask for it
            strace.communicate()

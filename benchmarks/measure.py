"""Processor time and memory of a server's processes, from /proc."""

import os
import re
import time
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


def tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*"):
            with suppress(*_GONE):
                found += map(int, (task / "children").read_text().split())
    return found


def processor_time(pid: int) -> float:
    """Return the processor seconds that the process tree has used, in user and kernel mode."""
    total = 0
    for one in tree(pid):
        with suppress(*_GONE):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, and those of children that ended
    return total / _TICKS


def memory(pid: int, *, peak: bool = False) -> int:
    """Return the resident bytes of the process tree, or their peak since `forget_peak`."""
    total = 0
    for one in tree(pid):
        with suppress(*_GONE):
            status = Path(f"/proc/{one}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)
            total += int(found[1]) << 10 if found else 0
    return total


def read_into_page_cache(file: Path) -> None:
    """Read a file, so that a run does not measure the disk: some kernels evict idle pages within minutes."""
    buffer = bytearray(1 << 20)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def forget_peak(pid: int) -> None:
    for one in tree(pid):
        with suppress(*_GONE):
            Path(f"/proc/{one}/clear_refs").write_text("5")  # proc(5)


def wait_until_idle(pid: int, within: float = 5) -> None:
    """Block until the process tree is idle, so that the next run is not charged for the one before."""
    deadline = time.monotonic() + within
    used = processor_time(pid)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        before, used = used, processor_time(pid)
        if used - before < 0.02:
            return

"""Detection of processes that have a file open for writing, which must not disturb them."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.database.filesystem.file_identity import FileStat, has_writer
from app.database.filesystem.writable_disk import WritableDisk
from tests.support import need

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs file leases, which only Linux has")


def test_writer_is_detected_while_file_is_open(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"film")
    disk = WritableDisk(tmp_path)

    def is_written() -> bool | None:
        return disk.has_writer(("film",), film.stat())

    assert is_written() is False
    with film.open("rb"):
        assert is_written() is False
    with film.open("ab"):
        assert is_written() is True
    assert is_written() is False
    disk.close()


def test_changed_file_counts_as_written(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"film")
    before = film.stat()
    with film.open("ab") as file:
        file.write(b" and more")
    disk = WritableDisk(tmp_path)
    assert disk.has_writer(("film",), before) is True
    assert disk.has_writer(("film",), film.stat()) is False
    film.unlink()
    assert disk.has_writer(("film",), before) is True
    disk.close()


def test_mapping_without_descriptor_counts_as_writer(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"film")
    disk = WritableDisk(tmp_path)
    with film.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4)
    assert disk.has_writer(("film",), film.stat()) is True
    mapped.close()
    assert disk.has_writer(("film",), film.stat()) is False
    disk.close()


ASK_AND_OPEN = """
import os, sys, threading, time
from app.database.filesystem.file_identity import has_writer
from app.database.filesystem.file_identity import FileStat
end = time.monotonic() + 0.5
def write():
    while time.monotonic() < end:
        os.close(os.open(sys.argv[1], os.O_WRONLY))
writer = threading.Thread(target=write)
writer.start()
descriptor = os.open(sys.argv[1], os.O_RDONLY)
expected = FileStat.of(os.fstat(descriptor))
results = {has_writer(descriptor, expected) for _ in iter(lambda: time.monotonic() < end, False)}
writer.join()
assert results == {True, False}, results
"""


def test_process_survives_when_other_thread_opens_file_during_check(tmp_path: Path) -> None:
    """The kernel then sends SIGIO for the lease, which would end the program by default."""
    (tmp_path / "film").write_bytes(b"film")
    asking = subprocess.run(
        [sys.executable, "-c", ASK_AND_OPEN, tmp_path / "film"], capture_output=True, text=True, timeout=20
    )
    assert asking.returncode == 0, (asking.returncode, asking.stderr)


def test_writer_is_unknown_when_file_belongs_to_another_user(tmp_path: Path) -> None:
    """The kernel answers only for one's own files; on a shared disk, every file may belong to another
    user."""
    path = tmp_path / "film"
    path.write_bytes(b"film")
    if os.geteuid() != 0:
        path = Path("/etc/passwd")
    descriptor = os.open(path, os.O_RDONLY)
    expected = FileStat.of(os.fstat(descriptor))
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        assert has_writer(descriptor, expected) is None
    finally:
        os.seteuid(user)
        os.close(descriptor)


_LONGEST_PAUSE = """
import os, sys, threading, time
from app.database.filesystem.file_identity import FileStat, has_writer
longest, ended = 0, threading.Event()
sys.setswitchinterval(60)  # a thread is never asked to release the GIL
def run():
    global longest
    last = time.monotonic()
    while not ended.is_set():
        time.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
descriptor = os.open(sys.argv[1], os.O_RDONLY)
expected = FileStat.of(os.fstat(descriptor))
other = threading.Thread(target=run)
other.start()
assert has_writer(descriptor, expected) is False
ended.set()
other.join()
print(longest)
"""
"""Prints for how many seconds at most another thread did not run while a file was checked."""


def test_lease_is_held_briefly_when_threads_compete(tmp_path: Path) -> None:
    """A program that opens the file for writing meanwhile waits, or fails (O_NONBLOCK).

    So the thread that holds the lease keeps the GIL: here for three calls, each of a twentieth of a second.
    """
    need("strace")
    film = tmp_path / "film"
    film.write_bytes(b"film")
    slow_calls = ["strace", "-f", "-o", "/dev/null", "-P", film, "-e", "inject=fcntl:delay_exit=50000"]
    checking = subprocess.run(
        [*slow_calls, sys.executable, "-c", _LONGEST_PAUSE, film], capture_output=True, text=True, timeout=60
    )
    assert checking.returncode == 0, checking.stderr
    assert float(checking.stdout) > 0.15

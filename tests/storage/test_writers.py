"""Whether somebody has a file open for writing: asked often, of anybody's files, to nobody's harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.storage.descriptors import has_writer
from app.storage.disk import Disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def test_a_writer_is_seen_for_as_long_as_it_has_the_file_open(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"film")
    disk = Disk(tmp_path)
    assert not disk.is_written(("film",))
    with (tmp_path / "film").open("rb"):
        assert not disk.is_written(("film",))
    with (tmp_path / "film").open("ab"):
        assert disk.is_written(("film",))
    assert not disk.is_written(("film",))
    assert not disk.is_written(("nothing",))
    disk.close()


ASK_AND_OPEN = """
import os, sys, threading, time
from app.storage.descriptors import has_writer
end = time.monotonic() + 0.5
def write():
    while time.monotonic() < end:
        os.close(os.open(sys.argv[1], os.O_WRONLY))
writer = threading.Thread(target=write)
writer.start()
descriptor = os.open(sys.argv[1], os.O_RDONLY)
seen = {has_writer(descriptor) for _ in iter(lambda: time.monotonic() < end, False)}
writer.join()
assert seen == {True, False}, seen
"""


def test_who_opens_a_file_while_it_is_asked_about_ends_nobody(tmp_path: Path) -> None:
    """The kernel sends a signal then, which would end the program."""
    (tmp_path / "film").write_bytes(b"film")
    asking = subprocess.run(
        [sys.executable, "-c", ASK_AND_OPEN, tmp_path / "film"], capture_output=True, text=True, timeout=20
    )
    assert asking.returncode == 0, (asking.returncode, asking.stderr)


def test_a_file_of_somebody_else_is_not_taken_for_one_that_is_written(tmp_path: Path) -> None:
    """The system tells that of one's own files only, and every file is somebody else's on a shared disk."""
    if os.geteuid() == 0:
        (tmp_path / "film").write_bytes(b"film")
        descriptor = os.open(tmp_path / "film", os.O_RDONLY)
        os.seteuid(65534)
        try:
            assert not has_writer(descriptor)
        finally:
            os.seteuid(0)
            os.close(descriptor)
    else:
        descriptor = os.open("/etc/passwd", os.O_RDONLY)
        assert not has_writer(descriptor)
        os.close(descriptor)

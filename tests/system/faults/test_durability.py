"""The promise "Durable", by system calls: acknowledged changes are on the disk, in a safe order."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import Server, need
from tests.support.sqlite import begin_library

CALLS = "fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"


class Traced:
    """A server whose system calls that change the disk are traced, and slowed by the faults of strace(1)."""

    def __init__(self, folder: Path, *faults: str) -> None:
        self.trace = folder / "trace"
        self.server = Server(folder / "server")
        begin_library(self.server.files)  # the many calls of a migration would be slowed too
        # -D: the started process is the server itself. -y: print descriptors with their paths.
        injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
        self.server.wrapper = (
            "strace",
            "-D",
            "-f",
            "-y",
            "-e",
            f"trace={CALLS}",
            *injected,
            "-o",
            str(self.trace),
        )

    def calls(self, method: str, path: str, **request: object) -> list[str]:
        """Send a request. Return the successful calls of the server before its response, in order."""
        before = len(self.trace.read_text())
        with self.server.client() as http:
            response = http.request(method, path, **request)  # type: ignore[arg-type]
        assert response.is_success, response.text
        done = [line for line in whole_lines(self.trace.read_text()[before:]) if "= 0" in line]
        return [line.replace(str(self.server.files), "FILES") for line in done]


def whole_lines(trace: str) -> Iterator[str]:
    """Yield the calls in the order of their ends. A call during which another thread has one is split."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif " resumed>" in call:
            yield begun.pop(thread, "") + call.partition(" resumed>")[2]
        else:
            yield call


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    need("strace")
    traced = Traced(tmp_path)
    traced.server.start(within=60)
    yield traced
    traced.server.stop()


def assert_in_order(calls: list[str], *patterns: str) -> None:
    """Assert that each pattern matches a call after the match of the pattern before it."""
    rest = iter(calls)
    for pattern in patterns:
        assert any(re.search(pattern, call) for call in rest), f"{pattern} in\n" + "\n".join(calls)


STAGED = r"fsync\(\d+<FILES/\.seekable/staging/\w+>"
COMMIT = r"f(data)?sync\(\d+<FILES/\.seekable/seekable\.db-wal>"


def test_change_is_synced_to_disk_before_it_is_acknowledged(traced: Traced) -> None:
    created = traced.calls("PUT", "/files/new/deep/film.mp4", content=b"film")
    assert_in_order(created, "mkdirat.*new", r"fsync\(\d+<FILES>", "mkdirat.*deep", r"fsync\(\d+<FILES/new>")
    assert_in_order(created, STAGED, r"linkat\(.*film\.mp4", r"fsync\(\d+<FILES/new/deep>", COMMIT)

    replaced = traced.calls("PUT", "/files/new/deep/film.mp4", content=b"other")
    assert_in_order(replaced, STAGED, r"renameat2?\(.*film\.mp4", r"fsync\(\d+<FILES/new/deep>", COMMIT)

    deleted = traced.calls("DELETE", "/files/new/deep/film.mp4")
    assert_in_order(deleted, r"unlinkat\(.*film\.mp4", r"fsync\(\d+<FILES/new/deep>", COMMIT)

    form = traced.calls("POST", "/file/upload", files={"file": ("top.mp4", b"film")})
    assert_in_order(form, STAGED, r"linkat\(.*top\.mp4", r"fsync\(\d+<FILES>", COMMIT)


def test_small_uploads_are_synced_together_before_they_are_acknowledged(tmp_path: Path) -> None:
    need("strace")
    # Uploads arrive while a COMMIT takes its time.
    traced = Traced(tmp_path, "fdatasync:delay_enter=300000")
    traced.server.start(within=60)
    try:
        with ThreadPoolExecutor(9) as clients:
            uploads = {
                number: clients.submit(
                    traced.calls, "PUT", f"/files/{number % 2}/film{number}", content=b"film"
                )
                for number in range(9)
            }
        for number, calls in uploads.items():
            name, folder = rf"linkat\(.*film{number}\W", rf"fsync\(\d+<FILES/{number % 2}>"
            assert_in_order(calls.result(), STAGED, name, folder, COMMIT)
        every = list(whole_lines(traced.trace.read_text().replace(str(traced.server.files), "FILES")))
        first = next(number for number, call in enumerate(every) if re.search(r"linkat\(.*film\d", call))
        commits = [call for call in every[first:] if re.search(COMMIT, call)]
        syncs = [call for call in every[first:] if re.search(r"fsync\(\d+<FILES/\d>", call)]
        assert len(commits) < 9, "no two uploads were committed together"
        assert len(syncs) < 9, "each upload has synced the folder"
    finally:
        traced.server.stop()

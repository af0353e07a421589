"""The promise "Durable", by system calls: acknowledged changes are on the disk, in a safe order."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, need

CALLS = "fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"


class Traced:
    """A server whose system calls that change the disk are traced."""

    def __init__(self, folder: Path) -> None:
        self.trace = folder / "trace"
        self.server = Server(folder / "server")
        # -D: the started process is the server itself. -y: print descriptors with their paths.
        self.server.wrapper = ("strace", "-D", "-f", "-y", "-e", f"trace={CALLS}", "-o", str(self.trace))

    def calls(self, method: str, path: str, **request: object) -> list[str]:
        """Send a request. Return the successful calls of the server before its response, in order."""
        before = len(self.trace.read_text())
        with self.server.client() as http:
            response = http.request(method, path, **request)  # type: ignore[arg-type]
        assert response.is_success, response.text
        done = [line for line in self.trace.read_text()[before:].splitlines() if line.endswith("= 0")]
        return [line.replace(str(self.server.files), "FILES") for line in done]


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

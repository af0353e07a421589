"""Metrics of a backend: durations, failures and scans."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.database.sql.opening import open_filesystem
from app.metrics.backend_timing import observed
from app.settings import Settings
from app.storage.backend import Backend
from app.storage.errors import NotFound, StorageUnavailable
from app.storage.maintenance import Scanned
from app.storage.types import SHARED, Expect, Key, Listing

KEY = Key.at(SHARED, "a/film.mp4")


class Recorder:
    def __init__(self) -> None:
        self.operations: list[tuple[str, bool]] = []
        self.scans: list[bool] = []
        self.files = 0

    def asked(self, operation: str, seconds: float, *, failed: bool) -> None:
        assert 0 < seconds < 60
        self.operations.append((operation, failed))

    def scanned(self, step: Scanned) -> None:
        self.files += step.files + len(step.findings)

    def scan_ended(self, *, failed: bool) -> None:
        self.scans.append(failed)

    def hashed(self, size: int) -> None:
        pass


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def backend(tmp_path: Path, recorder: Recorder) -> Iterator[Backend]:
    with ExitStack() as stack:
        settings = Settings(_env_file=None, files_dir=tmp_path / "files")
        yield observed(recorder, open_filesystem(settings, lambda _: "video/mp4", stack))


def test_calls_are_timed_and_rejected_ones_are_no_failures(backend: Backend, recorder: Recorder) -> None:
    backend.check(KEY, Expect.ABSENT)
    with pytest.raises(NotFound):
        backend.delete(KEY, Expect.ANY)
    assert backend.page(Listing(SHARED), cursor=None, limit=1, wait=True)
    backend.ping()
    assert recorder.operations == [("check", False), ("delete", False), ("page", False), ("ping", False)]


def test_unavailable_storage_counts_as_failure(backend: Backend, recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "files" / ".seekable" / "id").write_text("another")
    with pytest.raises(StorageUnavailable):
        backend.ping("folder")
    assert recorder.operations == [("ping", True)]


def test_scan_is_counted_when_it_ends(backend: Backend, recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "files" / "film.mp4").write_bytes(b"film")
    steps = backend.scan()
    next(steps)
    steps.close()
    assert recorder.scans == [], "an aborted scan is not counted"
    assert [*backend.scan()]
    assert recorder.scans == [False]
    assert recorder.files > 0

"""What is timed of a backend."""

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


class Heard:
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
def heard() -> Heard:
    return Heard()


@pytest.fixture
def backend(tmp_path: Path, heard: Heard) -> Iterator[Backend]:
    with ExitStack() as stack:
        settings = Settings(_env_file=None, files_dir=tmp_path / "files")
        yield observed(heard, open_filesystem(settings, lambda _: "video/mp4", stack))


def test_what_may_wait_is_timed_and_an_answer_is_no_failure(backend: Backend, heard: Heard) -> None:
    backend.check(KEY, Expect.ABSENT)
    with pytest.raises(NotFound):
        backend.delete(KEY, Expect.ANY)
    assert backend.page(Listing(SHARED), cursor=None, limit=1, wait=True)
    backend.ping()
    assert heard.operations == [("check", False), ("delete", False), ("page", False), ("ping", False)]


def test_a_storage_that_does_not_answer_is_a_failure(backend: Backend, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "files" / ".seekable" / "id").write_text("another")
    with pytest.raises(StorageUnavailable):
        backend.ping("folder")
    assert heard.operations == [("ping", True)]


def test_scans_are_counted_when_they_end(backend: Backend, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "files" / "film.mp4").write_bytes(b"film")
    steps = backend.scan()
    next(steps)
    steps.close()
    assert heard.scans == [], "who wants no more of it has not seen it end"
    assert [*backend.scan()]
    assert heard.scans == [False]
    assert heard.files > 0

"""Durations, failures and scans that a storage reports to its observer."""

from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path

import pytest

from app.database.filesystem.opening import open_filesystem
from app.settings import Settings
from app.storage.async_storage import Observer, ThreadedStorage
from app.storage.errors import NotFound, StorageUnavailable
from app.storage.maintenance import ScanStep
from app.storage.types import SHARED, Expect, Key, Listing

pytestmark = pytest.mark.anyio

KEY = Key.at(SHARED, "a/film.mp4")


class Recorder(Observer):
    def __init__(self) -> None:
        self.operations: list[tuple[str, bool]] = []
        self.scans: list[bool] = []
        self.files = 0

    def operation_ended(self, operation: str, seconds: float, *, failed: bool) -> None:
        assert 0 < seconds < 60
        self.operations.append((operation, failed))

    def scanned(self, step: ScanStep) -> None:
        self.files += step.files + len(step.findings)

    def scan_ended(self, *, failed: bool) -> None:
        self.scans.append(failed)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def storage(tmp_path: Path, recorder: Recorder) -> Iterator[ThreadedStorage]:
    with ExitStack() as stack:
        settings = Settings(_env_file=None, files_dir=tmp_path / "files")
        backend = open_filesystem(settings, stack)
        storage = ThreadedStorage(backend, observer=recorder)
        stack.callback(storage.close)
        yield storage


async def test_calls_are_timed_and_rejected_ones_are_no_failures(
    storage: ThreadedStorage, recorder: Recorder
) -> None:
    await storage.check(KEY, Expect.ABSENT)
    with pytest.raises(NotFound):
        await storage.delete(KEY)
    assert await storage.folders(SHARED, "", limit=100) == ()
    await storage.ping()
    assert recorder.operations == [("check", False), ("delete", False), ("folders", False), ("ping", False)]


async def test_page_is_timed_twice_when_it_waits_for_refresh(
    storage: ThreadedStorage, recorder: Recorder
) -> None:
    await storage.page(Listing(SHARED), cursor=None, limit=1)
    assert recorder.operations == [("page", False), ("page", False)]


async def test_unavailable_storage_counts_as_failure(
    storage: ThreadedStorage, recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "files" / ".seekable" / "id").write_text("another")
    with pytest.raises(StorageUnavailable):
        await storage.ping("folder")
    assert recorder.operations == [("ping", True)]


async def test_scan_is_counted_when_it_ends(
    storage: ThreadedStorage, recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "files" / "film.mp4").write_bytes(b"film")
    async with aclosing(storage.scan()) as steps:
        await anext(steps)
    assert recorder.scans == [], "an aborted scan is not counted"
    assert [step async for step in storage.scan()]
    assert recorder.scans == [False]
    assert recorder.files > 0

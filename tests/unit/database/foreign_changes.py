"""Helpers for changes by other programs in the folder of files, and for how the library reports them."""

import os
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from app.database.filesystem import reconcile, scanner
from app.storage.maintenance import Integrity, ScanFinding, ScanOutcome
from app.storage.types import SHARED, FileInfo, Key, Listing, Page
from tests.unit.database.library import FILM, Library

NFD = unicodedata.normalize("NFD", "Amélie.mkv")
NFC = unicodedata.normalize("NFC", NFD)


def page(library: Library, folder: str = "", *, recursive: bool = False, of: str = SHARED) -> Page:
    """Return the first page as a request gets it: without blocking if possible, else from a thread."""
    listing = Listing(of, folder, recursive=recursive)
    for wait in (False, True):
        found = library.backend.page(listing, cursor=None, limit=1000, wait=wait)
        if found is not None:
            return found
    raise AssertionError("the backend returned None although it may block")


def names(library: Library, folder: str = "") -> list[str]:
    return [info.key.filename for info in page(library, folder).items]


def scan(library: Library) -> Counter[ScanOutcome]:
    return Counter(finding.outcome for finding in findings(library))


def findings(library: Library) -> list[ScanFinding]:
    return [finding for step in library.backend.maintenance.scan() for finding in step.findings]


def verdicts(library: Library) -> dict[str, Integrity]:
    return {
        step.path: step.verdict for step in library.backend.maintenance.verify() if step.verdict is not None
    }


def drop(path: Path, data: bytes = b"dropped") -> Path:
    """Write a file as another program would; it counts as finished once it has been stable for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shorten_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that exist at `age_files()` count as stable, so that no test has to wait two seconds or to be
    quick. Trust the times of folders after one tick of any kernel's clock."""
    age_s = reconcile._age_s

    def effective_age_s(status: os.stat_result) -> float:
        is_aged = age_s(status) >= 0 and status.st_ctime_ns <= AGED_NS[-1]
        return max(age_s(status), reconcile.STABLE_AFTER_S) if is_aged else age_s(status)

    monkeypatch.setattr(reconcile, "_age_s", effective_age_s)
    monkeypatch.setattr(scanner, "FINE_NS", 20_000_000)


AGED_NS = [0]
"""The times of all calls of `age_files()`."""


def age_files() -> None:
    AGED_NS.append(time.time_ns())
    time.sleep(0.03)  # or the next change could have the same timestamp


def stat(library: Library, key: Key = FILM) -> FileInfo:
    return library.get(key)[1]

"""What is done in the folder of the files by hand, and what the library says of it then."""

import os
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from app.database.filesystem import reconcile, scanner
from app.storage.maintenance import Finding, Outcome, Verdict
from app.storage.types import SHARED, FileInfo, Key, Listing, Page
from tests.unit.database.library import FILM, Library

NFD = unicodedata.normalize("NFD", "Amélie.mkv")
NFC = unicodedata.normalize("NFC", NFD)


def page(library: Library, folder: str = "", *, recursive: bool = False, of: str = SHARED) -> Page:
    """The first page, as whoever asks for it gets it."""
    listing = Listing(of, folder, recursive=recursive)
    for wait in (False, True):
        found = library.backend.page(listing, cursor=None, limit=1000, wait=wait)
        if found is not None:
            return found
    raise AssertionError("it says neither yes nor no")


def names(library: Library, folder: str = "") -> list[str]:
    return [info.key.filename for info in page(library, folder).items]


def scan(library: Library) -> Counter[Outcome]:
    return Counter(finding.outcome for finding in findings(library))


def findings(library: Library) -> list[Finding]:
    return [finding for step in library.backend.scan() for finding in step.findings]


def verdicts(library: Library) -> dict[str, Verdict]:
    return {step.path: step.verdict for step in library.backend.verify() if step.verdict is not None}


def drop(path: Path, data: bytes = b"dropped") -> Path:
    """Put a file there; when it has rested it is taken for finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished is what was there when the test rested, and all that is two seconds old: so no test has to
    wait for that, and none has to be quick. The times of folders are trusted after a tick of any kernel."""
    age_s = reconcile._age_s

    def rested_s(status: os.stat_result) -> float:
        rested = age_s(status) >= 0 and status.st_ctime_ns <= RESTED_NS[-1]
        return max(age_s(status), reconcile.STABLE_AFTER_S) if rested else age_s(status)

    monkeypatch.setattr(reconcile, "_age_s", rested_s)
    monkeypatch.setattr(scanner, "FINE_NS", 20_000_000)


RESTED_NS = [0]
"""When tests rested."""


def rest() -> None:
    RESTED_NS.append(time.time_ns())
    time.sleep(0.03)  # or what comes now could have the time of what was there


def stat(library: Library, key: Key = FILM) -> FileInfo:
    return library.get(key)[1]

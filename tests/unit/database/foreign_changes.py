"""Helpers for changes by other programs in the folder of files, and for how the library reports them."""

import time
import unicodedata
from collections import Counter
from pathlib import Path

from app.database.filesystem.file_identity import TICK_S
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
    """Write a file as another program would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shorten_waits(library: Library) -> None:
    """Let new files count as complete at once, and trust the times of folders after one tick of the clock."""
    library.limits.stable_after_s = 0
    library.limits.folder_tick_s = TICK_S


def wait_for_tick() -> None:
    """Let the next change of a file get another timestamp than the last one."""
    time.sleep(0.03)


def stat(library: Library, key: Key = FILM) -> FileInfo:
    return library.get(key)[1]

"""What is done in the folder of the files by hand, and what the library says of it then."""

import time
import unicodedata
from collections import Counter
from pathlib import Path

from app.storage.types import SHARED, FileInfo, Key, Listing, Page
from app.storage.upkeep import Finding, Outcome, Verdict
from tests.database.library import FILM, Library

STABLE_AFTER_S = 0.2
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


def rest() -> None:
    time.sleep(STABLE_AFTER_S + 0.05)


def stat(library: Library, key: Key = FILM) -> FileInfo:
    return library.get(key)[1]

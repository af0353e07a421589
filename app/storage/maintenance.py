"""Maintenance of everything that is stored: scans, hashing, verification."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class ScanOutcome(Enum):
    """What a scan did about a file."""

    CREATED = "created"
    """It was put there by hand, and is taken in."""
    REPLACED = "replaced"
    """It was changed by hand: a new version."""
    MOVED = "moved"
    DELETED = "deleted"
    UNFINISHED = "unfinished"
    """It is still being written, so that it is left for later."""
    UNREADABLE = "unreadable"
    """The disk does not let us look at it."""
    SKIPPED = "skipped"
    """It cannot be taken in."""


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """A file about which a scan did something, or would have."""

    path: str
    """May hold lone surrogates, where a name on the disk is not UTF-8."""
    outcome: ScanOutcome
    reason: str = ""
    """Why it was left or skipped."""


@dataclass(frozen=True, slots=True)
class ScanStep:
    """A step of a scan."""

    files: int
    """How many stored files were looked at."""
    findings: tuple[ScanFinding, ...]
    swept: int = 0
    """How many pieces of debris were removed: what crashed uploads left, and versions that are over."""


class Integrity(Enum):
    """What a verification found of a file."""

    SOUND = "sound"
    UNKNOWN = "not hashed yet"
    DAMAGED = "damaged"
    """Its bytes are not those that were stored."""
    CHANGED = "changed"
    """Its size or time is another than was recorded: somebody worked in the folder by hand."""
    MISSING = "missing"
    UNREADABLE = "unreadable"

    @classmethod
    def of_hash(cls, recorded: str | None, computed: str) -> "Integrity":
        """Return the result for bytes with this hash, whose recorded hash may be unknown."""
        if recorded is None:
            return cls.UNKNOWN
        return cls.SOUND if computed == recorded else cls.DAMAGED


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """A step of a verification."""

    path: str
    size: int
    """Bytes that were read in this step."""
    verdict: Integrity | None
    """None while there is more of the file to read."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much is stored."""

    files: int
    size: int
    """In bytes."""


class Maintenance(Protocol):
    """Work of a backend over all of its files, blocking. Thread-safe.

    Each method keeps the promise of its namesake in `contract.Storage`. A generator yields after every short
    step and may be closed at any of them.
    """

    def usage(self, library: str | None) -> Usage: ...

    def estimate_file_count(self) -> int: ...

    def scan(self) -> Generator[ScanStep]: ...

    def adopt_all(self, library: str) -> Generator[ScanStep]: ...

    def hash_unverified(self) -> Generator[int]: ...

    def verify(self) -> Generator[VerifyStep]: ...

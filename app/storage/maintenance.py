"""Maintenance of everything that is stored: scans, hashing, verification."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class ScanOutcome(Enum):
    """The action of a scan for one file."""

    CREATED = "created"
    """Another program added the file; it is now in the library."""
    REPLACED = "replaced"
    """Another program changed the file; it is a new version."""
    MOVED = "moved"
    DELETED = "deleted"
    UNFINISHED = "unfinished"
    """Another program is still writing the file; a later scan handles it."""
    UNREADABLE = "unreadable"
    """The file or folder cannot be read."""
    SKIPPED = "skipped"
    """The file cannot be stored, for example because of its name."""


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """A file that a scan changed in the library, or could not add."""

    path: str
    """With lone surrogates where a name on the disk is not UTF-8."""
    outcome: ScanOutcome
    reason: str = ""
    """Why the file was skipped or could not be read."""


@dataclass(frozen=True, slots=True)
class ScanStep:
    files: int
    """The number of stored files that were examined."""
    findings: tuple[ScanFinding, ...]
    swept: int = 0
    """The number of leftovers that were removed: of crashed uploads, and of replaced versions."""


class Integrity(Enum):
    """The result of a verification of one file."""

    SOUND = "sound"
    UNKNOWN = "not hashed yet"
    DAMAGED = "damaged"
    """The bytes have another hash than those that were stored."""
    CHANGED = "changed"
    """The size or the time differs from the record: another program changed the file."""
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
    path: str
    size: int
    """Bytes that were read in this step."""
    verdict: Integrity | None
    """None until the last step of the file."""


@dataclass(frozen=True, slots=True)
class Usage:
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

"""Copies: files that `seekable copy` put into a library, as they were when it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from app.storage.types import FileInfo

MILLISECOND = timedelta(milliseconds=1)
"""What times are kept to by every backend."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One file as it was copied; `id`, `path`, `etag` and `updated_at` are those of the copy."""

    id: str
    path: str
    etag: str
    updated_at: datetime
    source: str
    """The id of the library that it was copied from."""
    origin: str
    """The id of the file there."""

    @classmethod
    def of(cls, info: FileInfo, source: str, origin: str) -> "Copy":
        return cls(info.id, info.key.path, info.etag, info.updated_at, source, origin)

    def is_version(self, info: FileInfo) -> bool:
        """Return whether the file still has the bytes that were copied; it may have been moved."""
        return not info.doubtful and self.seems_version(info)

    def seems_version(self, info: FileInfo) -> bool:
        """Return the same, as far as it shows before a hash has proved a doubtful file."""
        same_time = abs(info.updated_at - self.updated_at) < MILLISECOND
        return (info.id, info.etag) == (self.id, self.etag) and same_time

    def is_untouched(self, info: FileInfo) -> bool:
        """Return whether nothing has changed the file since, nor moved it."""
        return self.is_version(info) and info.key.path == self.path


class CopyLedger(Protocol):
    """The copies of one library. Plain blocking calls, from any thread. Raises StorageUnavailable."""

    def find(self, ids: Sequence[str]) -> Mapping[str, Copy]:
        """Return those that are known, by the id of the copy."""
        ...

    def note(self, copy: Copy) -> None:
        """Keep it, instead of an earlier one of that id."""
        ...

    def forget(self, copy: str) -> None: ...

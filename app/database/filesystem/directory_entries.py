"""What is in a folder of the disk."""

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from app.database.filesystem import name_equivalence
from app.database.filesystem.file_identity import FileStat
from app.storage.errors import DiskFault, Unreadable

_NO_FAULTS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors for want of rights, of descriptors or of memory."""


@contextmanager
def looking() -> Iterator[None]:
    """Raise DiskFault, or for other reasons Unreadable, where the system does not let us look."""
    try:
        yield
    except OSError as error:
        kind = Unreadable if error.errno in _NO_FAULTS else DiskFault
        raise kind(f"The disk refuses: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder, as it is on the disk: what is not UTF-8 is in lone surrogates."""

    name: str
    kind: Literal["file", "folder", "link", "other"]


class Folder:
    """An open folder."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Not the time of modification, which programs that copy folders set back.
        self.changed_ns = os.fstat(descriptor).st_ctime_ns
        """When names came or went last, or the folder's rights changed, before `entries` looks."""
        self._is_exact = False
        self._names: frozenset[str] | None = None

    def entries(self) -> Generator[Entry]:
        """What is in it, in no order. Every name that is there the whole time comes once."""
        with looking(), os.scandir(self._descriptor) as found:
            for entry in found:
                if entry.is_symlink():
                    kind: Literal["file", "folder", "link", "other"] = "link"
                elif entry.is_dir(follow_symlinks=False):
                    kind = "folder"
                else:
                    kind = "file" if entry.is_file(follow_symlinks=False) else "other"
                yield Entry(entry.name, kind)

    def has_file(self, name: str) -> bool:
        """Whether this is the name of a regular file."""
        with looking():
            try:
                return stat.S_ISREG(os.lstat(name, dir_fd=self._descriptor).st_mode)
            except FileNotFoundError:
                return False

    def spells(self, name: str) -> bool:
        """Return whether a name that leads to something is that of an entry in just this spelling."""
        if self._is_exact and name.isascii():
            return True
        with looking():
            others = name_equivalence.equivalent_names(name)
            if not any(name_equivalence.exists(self._descriptor, other) for other in others):
                # One name tells it of all: case counts in all of a folder, or in nothing of it.
                self._is_exact = self._is_exact or bool(others)
                return True
            if self._names is None:
                self._names = frozenset(os.listdir(self._descriptor))
        return name in self._names

    def signature(self, name: str) -> FileStat | None:
        """The signature of what has this name; None when nothing has."""
        with looking():
            try:
                return FileStat.of(os.lstat(name, dir_fd=self._descriptor))
            except FileNotFoundError:
                return None

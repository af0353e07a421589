"""Looking through the folders on the disk for what came, changed or went by hand."""

import contextlib
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from cachetools import FIFOCache

from app.database.filesystem.diff import BATCH, FolderDiff
from app.database.filesystem.directory_entries import Folder
from app.database.filesystem.disk import Disk
from app.database.filesystem.name_equivalence import is_equivalent
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import path_at, root_of
from app.database.sql.engine import Database
from app.database.sql.list_index import disk_folders, folder_names
from app.storage.errors import DiskFault, InvalidName, Unreadable
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep
from app.storage.types import RESERVED, SHARED, Key, normalize_folder

MAX_FOLDERS = 100_000
MAX_NAMES = 500_000
"""Of folders inside folders, in all."""

FINE_NS = 100_000_000
COARSE_NS = 2_000_000_000
"""How long after a change another one may still have the same time, on file systems whose times have
fractions of a second, and on others."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as it was when it was looked through."""

    changed_ns: int
    folders: tuple[str, ...]
    """Names of those inside, as on the disk."""
    empty: tuple[str, ...]
    """Those of them that no row speaks of: nothing but looking would tell that a file came."""
    files: int = 0
    """How many it has that rows speak of."""


class ScanCache:
    """The folders that were looked through last, within bounds. Used by many threads at once."""

    def __init__(self, *, max_folders: int = MAX_FOLDERS, max_names: int = MAX_NAMES) -> None:
        self._max_folders = max_folders
        self._folders: FIFOCache[DiskPath, FolderState] = FIFOCache(max_names, lambda seen: len(seen.folders))
        self._lock = threading.Lock()

    def get(self, path: DiskPath) -> FolderState | None:
        with self._lock:
            return self._folders.get(path)

    def put(self, path: DiskPath, seen: FolderState, looked_ns: int) -> None:
        """Remember it, unless it changed so shortly before it was looked through (`looked_ns`) that a later
        change may not show."""
        fine = seen.changed_ns % 1_000_000_000 != 0
        is_old = seen.changed_ns <= looked_ns - (FINE_NS if fine else COARSE_NS)
        with self._lock:
            self._folders.pop(path, None)
            if is_old and len(seen.folders) <= self._folders.maxsize:
                if len(self._folders) == self._max_folders:
                    self._folders.popitem()
                self._folders[path] = seen

    def note(self, path: DiskPath, changed_ns: int) -> None:
        """Remember that it changed in a way that is known, if it is remembered still."""
        with self._lock:
            seen = self._folders.get(path)
            if seen is not None:
                self._folders[path] = replace(seen, changed_ns=changed_ns)

    def forget(self, path: DiskPath) -> None:
        with self._lock:
            self._folders.pop(path, None)

    def clear(self) -> None:
        with self._lock:
            self._folders.clear()


T = TypeVar("T")

REFRESH_FOR_S = 1
"""How long a list may look for new files. A folder that it can hardly read in this time waits for the next
scan."""

LEFT_FOR_S = 60
"""How long no list looks again into such a folder."""

LEFT_NEW_FOR_S = 2
"""The same where the time went to files that somebody put there just now, which will soon be finished."""

MAX_LEFT = 1000
"""Of how many such folders is known that they are."""

_LATER = (ScanOutcome.UNFINISHED, ScanOutcome.UNREADABLE)
"""What the time of its folder does not tell the end of."""

_LEFT = (*_LATER, ScanOutcome.SKIPPED)
"""What brings a look no further."""

MAX_WALKED = 200
"""Folders beneath a list that are asked for changes while nothing else may wait for that."""

REST = 20
"""How many times as long as a look beneath a folder took no list takes such a look again, if that is more
than MAX_WALKED folders."""

BIG = 10_000
"""In a folder of so many files a change of ours is no reason to compare them all. (What somebody puts there
while our change is brought to the disk is then found by the next scan.)"""

Look = tuple[DiskPath, bool]
"""A folder, and whether those inside it are meant too."""


class Scanner:
    """Finds the folders that are to be compared with their rows, and has it done.

    `reconciler` begins a transaction. A generator of it may be left at any step.
    """

    def __init__(
        self,
        database: Database,
        files: Disk,
        reconciler: Callable[[], AbstractContextManager[Reconciler]],
        ignored: IgnoredNames,
    ) -> None:
        self._database = database
        self._disk = files
        self._diff = FolderDiff(database, files, reconciler, ignored)
        self._ignored = ignored
        self._cache = ScanCache()
        self._refreshing = threading.Lock()
        self._refreshed: tuple[Look, float] | None = None
        self._left_until: dict[Look, float] = {}
        self._walked_until: dict[Look, float] = {}

    def estimate_file_count(self) -> int:
        """Return the approximate number of files that a scan will look at."""
        return sum(self._count(root_of(library)) for library in self._libraries())

    def _count(self, root: DiskPath) -> int:
        stack = [root]
        files = 0
        while stack:
            path = stack.pop()
            folder = "/".join(path[len(root) :])
            try:
                normalize_folder(
                    folder
                )  # the scan does not enter one that has no legal name, nor what is beneath it
                with self._disk.folder(path) as found:
                    for entry in found.entries() if found is not None else ():
                        is_folder = entry.kind == "folder" and (path or entry.name != RESERVED)
                        if is_folder and not self._is_passed_over(folder, entry.name, set()):
                            stack.append((*path, entry.name))
                        files += entry.kind == "file"
            except (Unreadable, InvalidName):
                continue
        return files

    def scan(self) -> Generator[ScanStep]:
        """Look at every file of every library, to see also one that was edited in place."""
        finished = False
        try:
            # What is gone comes last: what was moved is then found where it is before it is missed.
            for library in self._libraries():
                yield from self.scan_library(library)
            for library in self._libraries():
                yield from self._diff.gone(library, "", beneath=True)
            finished = True
        finally:
            if not finished:
                self._cache.clear()  # or nobody would look for what is gone

    def scan_library(self, library: str) -> Generator[ScanStep]:
        """Look at every file that is in a library."""
        yield from self._look(library, "", anew=True, recursive=True)

    def _libraries(self) -> list[str]:
        with self._disk.folder((RESERVED, "libraries")) as found:
            others = [] if found is None else [entry.name for entry in found.entries()]
        return [SHARED, *sorted(others)]

    def is_fresh(self, library: str, folder: str, *, recursive: bool) -> bool:
        """Whether nothing came to or went from the folder since it was last looked through. Never waits for
        a change."""
        look = (*root_of(library), *_segments(folder)), recursive
        tops = self._tops(library, folder)
        stack = [path for path in tops if len(tops) == 1 or self._disk.folder_changed_ns(path) is not None]
        walked = 0
        while stack:
            path = stack.pop()
            seen = self._cache.get(path)
            walked += 1
            if walked > MAX_WALKED and time.monotonic() < self._walked_until.get(look, 0):
                return True
            if seen is None or walked > MAX_WALKED or seen.changed_ns != self._disk.folder_changed_ns(path):
                return time.monotonic() < self._left_until.get(look, 0)
            stack += [(*path, name) for name in (seen.folders if recursive else seen.empty)]
        return True

    def forget(self, key: Key) -> None:
        """Look again for folders that no row speaks of, above a file that is no longer there."""
        path = path_at(key)[:-1]
        while path:
            self._cache.forget(path)
            path = path[:-1]
        self._cache.forget(path)

    def known(self, *paths: DiskPath) -> list[DiskPath]:
        """The folders of these files that are big and as they were when they were looked through."""
        return [path for path in {path[:-1] for path in paths} if self._is_big_and_as_seen(path)]

    def _is_big_and_as_seen(self, path: DiskPath) -> bool:
        seen = self._cache.get(path)
        if seen is None or seen.files < BIG:
            return False
        return seen.changed_ns == self._disk.folder_changed_ns(path)

    def note(self, known: list[DiskPath]) -> None:
        """Take the folders as known still, after a file step of ours."""
        for path in known:
            changed_ns = self._disk.folder_changed_ns(path)
            if changed_ns is not None:
                self._cache.note(path, changed_ns)

    def _tops(self, library: str, folder: str) -> set[DiskPath]:
        """Where a folder is on the disk: there may be several, whose names only normalisation makes one."""
        with self._database.reading() as session:
            found = {_segments(folder), *disk_folders(session, library, folder)}
        tops = {(*root_of(library), *path) for path in found}
        if len(tops) == 1 and not folder.isascii():
            (top,) = tops
            if self._disk.folder_changed_ns(top) is None:  # perhaps a Mac's, of which no file is known yet
                with contextlib.suppress(Unreadable):
                    tops |= {self._disk.actual_path(top)}
        return tops

    def _is_there(self, path: DiskPath) -> bool:
        """Return whether the path of a folder is known to be, or is, spelled so."""
        return self._cache.get(path) is not None or is_equivalent(self._disk.actual_path(path), path)

    def refresh(self, library: str, folder: str, *, recursive: bool) -> None:
        """Look through the folder if anything came or went since that was done last. Raises DiskFault."""
        asked = time.monotonic()
        look = (*root_of(library), *_segments(folder)), recursive
        if not self._refreshing.acquire(timeout=REFRESH_FOR_S):
            return
        try:
            # One that began after this was asked for has found all that this one would.
            if self._refreshed is None or self._refreshed[0] != look or self._refreshed[1] < asked:
                began = time.monotonic()
                self._refresh(library, folder, look)
                self._refreshed = look, began
        finally:
            self._refreshing.release()

    def _refresh(self, library: str, folder: str, look: Look) -> None:
        began = time.monotonic()
        deadline = began + REFRESH_FOR_S
        found, unfinished = 0, 0
        for step in self._look(library, folder, anew=False, recursive=look[1]):
            found += sum(finding.outcome not in _LEFT for finding in step.findings)
            unfinished += sum(finding.outcome is ScanOutcome.UNFINISHED for finding in step.findings)
            if time.monotonic() > deadline:
                if not found:  # else the next list finds more
                    left_for = LEFT_NEW_FOR_S if unfinished >= BATCH else LEFT_FOR_S
                    _remember(self._left_until, look, deadline + left_for)
                return
        now = time.monotonic()
        _remember(self._walked_until, look, now + REST * (now - began))

    def _look(self, library: str, folder: str, *, anew: bool, recursive: bool) -> Iterator[ScanStep]:
        """Look through a folder; also through those inside if recursive, else only through those that no
        row speaks of. What is gone comes last: what was moved is then found where it is before it is
        missed. Anew, nothing that is remembered counts, and what is gone is left to the caller.

        Unless anew, raises DiskFault for the folder itself."""
        root = root_of(library)
        tops = [path for path in self._tops(library, folder) if self._is_there(path)]
        stack = tops.copy()
        last: dict[DiskPath, tuple[int, list[str]]] = {}
        there = False
        try:
            while stack:
                path = stack.pop()
                try:
                    with self._disk.folder(path) as found:
                        if found is None:
                            continue
                        there = True
                        seen = self._cache.get(path)
                        if anew or seen is None or seen.changed_ns != found.changed_ns:
                            seen, files = yield from self._look_into(found, library, path)
                            if not anew:
                                last[path] = files, list(seen.folders)
                except (Unreadable, InvalidName) as error:
                    if not anew and path in tops and isinstance(error, DiskFault):
                        raise
                    there = True
                    outcome = (
                        ScanOutcome.SKIPPED if isinstance(error, InvalidName) else ScanOutcome.UNREADABLE
                    )
                    yield ScanStep(0, (ScanFinding("/".join(path[len(root) :]), outcome, str(error)),))
                else:
                    stack += [(*path, name) for name in (seen.folders if recursive else seen.empty)]
            while last:
                path, (files, folders) = next(iter(last.items()))
                yield from self._reconcile_gone(library, "/".join(path[len(root) :]), files, folders)
                del last[path]
        finally:
            for path in last:
                self._cache.forget(path)  # or nobody would look for what is gone
        if not there:
            yield from self._diff.gone(library, folder, beneath=True)

    def _look_into(
        self, found: Folder, library: str, path: DiskPath
    ) -> Generator[ScanStep, None, tuple[FolderState, int]]:
        """Settle what came to one folder or changed there, and remember how it was. How many files it has."""
        folder = normalize_folder("/".join(path[len(root_of(library)) :]))
        looked_ns = time.time_ns()
        folders: list[str] = []
        files, unfinished = 0, False
        yield ScanStep(0, ())  # an empty folder is a step too
        for entries in _batches(found.entries()):
            folders += [entry.name for entry in entries if entry.kind == "folder"]
            step = self._diff.entries(found, library, path, folder, entries)
            files += step.files
            unfinished = unfinished or any(one.outcome in _LATER for one in step.findings)
            yield step
        if not path:
            folders = [name for name in folders if name != RESERVED]
        known = self._folders(library, folder)
        folders = [name for name in folders if not self._is_passed_over(folder, name, known)]
        empty = tuple(name for name in folders if unicodedata.normalize("NFC", name) not in known)
        seen = FolderState(found.changed_ns, tuple(folders), empty, files)
        if unfinished:  # what has no row yet must be looked for again
            self._cache.forget(path)
        else:
            self._cache.put(path, seen, looked_ns)
        return seen, files

    def _is_passed_over(self, folder: str, name: str, known: set[str]) -> bool:
        """Return whether a folder inside is ignored and has no row: a NAS keeps millions of files in such."""
        name = unicodedata.normalize("NFC", name)
        return name not in known and self._ignored.matches_folder(f"{folder}/{name}" if folder else name)

    def _reconcile_gone(
        self, library: str, folder: str, files: int, folders: list[str]
    ) -> Iterator[ScanStep]:
        """Settle the rows that have no file any more, where there are more rows than files, or rows in
        folders that are not there."""
        folder = normalize_folder(folder)
        if self._diff.rows(library, folder) > files:
            yield from self._diff.gone(library, folder, beneath=False)
        there = {unicodedata.normalize("NFC", name) for name in folders}
        for name in self._folders(library, folder) - there:
            yield from self._diff.gone(library, f"{folder}/{name}" if folder else name, beneath=True)

    def _folders(self, library: str, folder: str) -> set[str]:
        """The names of the folders inside that rows speak of."""
        with self._database.reading() as session:
            return set(folder_names(session, library, folder))


def _remember(until: dict[Look, float], look: Look, when: float) -> None:
    if len(until) >= MAX_LEFT:
        until.clear()
    until[look] = when


def _segments(folder: str) -> DiskPath:
    return tuple(folder.split("/")) if folder else ()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch

"""Scans of the folders on disk for files that other programs added, changed or removed."""

import threading
import time
import unicodedata
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from cachetools import FIFOCache
from sqlalchemy.orm import Session

from app.database.filesystem import Limits
from app.database.filesystem.diff import FolderDiff, Reconciling
from app.database.filesystem.disk import Disk, Folder
from app.database.filesystem.file_identity import tick_s
from app.database.filesystem.name_equivalence import is_equivalent
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.rows import disk_folders, path_at, places, root_of
from app.database.sql.engine import Database
from app.database.sql.list_index import folder_names
from app.storage.errors import DiskFault, InvalidName, Unreadable
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep
from app.storage.types import RESERVED, SHARED, Key, normalize_folder

T = TypeVar("T")

MAX_CACHED_FOLDERS = 100_000
MAX_NAMES = 500_000
"""Maximum number of names of subfolders in the scan cache, of all folders together."""

MAX_TARGETS = 1000
"""Maximum number of lists for which the time of their next scan is kept."""

_RETRIED = (ScanOutcome.UNFINISHED, ScanOutcome.UNREADABLE)
"""Outcomes that may change without a change of the folder's time."""

_UNPRODUCTIVE = (*_RETRIED, ScanOutcome.SKIPPED)

Target = tuple[DiskPath, bool]
"""A folder, and whether the folders below it are included."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as the last scan found it."""

    changed_ns: int
    folders: tuple[str, ...]
    """Names of its subfolders, as on disk."""
    unindexed: tuple[str, ...]
    """Those without rows, which must be entered to find new files."""
    files: int = 0
    """Number of its files that have rows."""


class ScanCache:
    """The states of the most recently scanned folders, within bounds. Thread-safe."""

    def __init__(
        self, limits: Limits, *, max_folders: int = MAX_CACHED_FOLDERS, max_names: int = MAX_NAMES
    ) -> None:
        self._max_folders = max_folders
        self._limits = limits
        self._folders: FIFOCache[DiskPath, FolderState] = FIFOCache(
            max_names, lambda state: len(state.folders)
        )
        self._lock = threading.Lock()

    def get(self, path: DiskPath) -> FolderState | None:
        with self._lock:
            return self._folders.get(path)

    def put(self, path: DiskPath, state: FolderState, scanned_ns: int) -> None:
        """Keep the state, unless the folder changed so shortly before the scan (`scanned_ns`) that a later
        change may have the same time."""
        tick_ns = int(tick_s(state.changed_ns, self._limits.folder_tick_s) * 1e9)
        is_old = state.changed_ns <= scanned_ns - tick_ns
        with self._lock:
            self._folders.pop(path, None)
            if is_old and len(state.folders) <= self._folders.maxsize:
                if len(self._folders) == self._max_folders:
                    self._folders.popitem()
                self._folders[path] = state

    def update(self, path: DiskPath, changed_ns: int) -> None:
        """Record that a folder, if it is cached, changed in a known way."""
        with self._lock:
            state = self._folders.get(path)
            if state is not None:
                self._folders[path] = replace(state, changed_ns=changed_ns)

    def remove(self, path: DiskPath) -> None:
        with self._lock:
            self._folders.pop(path, None)

    def clear(self) -> None:
        with self._lock:
            self._folders.clear()


class Scanner:
    """Finds the folders that changed, and has them compared with their rows.

    Each of its generators may be closed at any step.
    """

    def __init__(
        self,
        database: Database,
        disk: Disk,
        reconciling: Reconciling,
        ignored: IgnoredNames,
        limits: Limits,
    ) -> None:
        self._database = database
        self._disk = disk
        self._diff = FolderDiff(database, disk, reconciling, ignored, limits)
        self._ignored = ignored
        self._limits = limits
        self._cache = ScanCache(limits)
        self._refreshing = threading.Lock()
        self._refreshed: tuple[Target, float] | None = None
        self._postponed_until: dict[Target, float] = {}
        self._complete: dict[Target, tuple[float, float]] = {}
        """When the last complete search of each list began and ended."""

    # Full scans

    def estimate_file_count(self) -> int:
        """Return the approximate number of files that a scan will examine."""
        return sum(self._count(root_of(library)) for library in self._libraries())

    def _count(self, root: DiskPath) -> int:
        stack = [root]
        files = 0
        while stack:
            path = stack.pop()
            folder = "/".join(path[len(root) :])
            # The scan does not enter a folder without a legal name.
            with suppress(Unreadable, InvalidName):
                normalize_folder(folder)
                with self._disk.open_folder(path) as found:
                    for entry in found.entries() if found is not None else ():
                        is_folder = entry.type == "folder" and (path or entry.name != RESERVED)
                        if is_folder and not self._is_passed_over(folder, entry.name, set()):
                            stack.append((*path, entry.name))
                        files += entry.type == "file"
        return files

    def scan(self) -> Generator[ScanStep]:
        """Examine every file of every library, which also finds files that were edited in place."""
        finished = False
        try:
            # Missing files come last, so that moved ones are found at their new path first.
            for library in self._libraries():
                yield from self.scan_library(library)
            for library in self._libraries():
                yield from self._diff.reconcile_missing(library, "", recursive=True)
            finished = True
        finally:
            if not finished:
                self._cache.clear()  # otherwise no list would look for missing files

    def scan_library(self, library: str) -> Generator[ScanStep]:
        """Examine every file on disk of a library."""
        yield from self._walk(library, "", full=True, recursive=True)

    def _libraries(self) -> list[str]:
        others: list[str] = []
        try:
            with self._disk.open_folder((RESERVED, "libraries")) as found:
                others += [] if found is None else [entry.name for entry in found.entries()]
        except Unreadable:
            if not self._disk.read_only:  # else they are those of another user's server
                raise
        return [SHARED, *sorted(others)]

    # Scans of a list

    def is_absent(self, library: str, folder: str) -> bool:
        """Return whether neither the disk nor the database has the folder, so that a scan would find nothing.

        Returns False if in doubt.
        """
        if not folder or not folder.isascii():  # its name on disk may be in another normalization
            return False
        try:
            with self._disk.open_folder((*root_of(library), *_segments(folder))) as found:
                if found is not None:
                    return False
        except (Unreadable, InvalidName):
            return False
        with self._database.reading() as session:
            return not places(session, library, folder, ("", ""), beneath=True, limit=1)

    def is_fresh(self, session: Session, library: str, folder: str, *, recursive: bool) -> bool:
        """Return whether no file was added or removed since the last scan of the folder, without waiting for
        a change in progress."""
        target = (*root_of(library), *_segments(folder)), recursive
        tops = self._tops(session, library, folder)
        stack = [path for path in tops if len(tops) == 1 or self._disk.folder_changed_ns(path) is not None]
        checked = 0
        while stack:
            path = stack.pop()
            state = self._cache.get(path)
            checked += 1
            is_over = checked > self._limits.max_folders_checked
            if is_over and self._is_resting(target):
                return True
            if state is None or is_over or state.changed_ns != self._disk.folder_changed_ns(path):
                return time.monotonic() < self._postponed_until.get(target, 0)
            stack += [(*path, name) for name in (state.folders if recursive else state.unindexed)]
        return True

    def _is_resting(self, target: Target) -> bool:
        began, ended = self._complete.get(target, (0, 0))
        return time.monotonic() < ended + self._limits.rest_factor * (ended - began)

    def refresh(self, library: str, folder: str, *, recursive: bool) -> None:
        """Scan the folder if files were added or removed since its last scan. Raises DiskFault."""
        requested_at = time.monotonic()
        target = (*root_of(library), *_segments(folder)), recursive
        if not self._refreshing.acquire(timeout=self._limits.refresh_s):
            return
        try:
            # A scan that began after this request has found everything that this one would.
            if self._refreshed is None or self._refreshed[0] != target or self._refreshed[1] < requested_at:
                began = time.monotonic()
                self._refresh(library, folder, target)
                self._refreshed = target, began
        finally:
            self._refreshing.release()

    def _refresh(self, library: str, folder: str, target: Target) -> None:
        limits = self._limits
        began = time.monotonic()
        deadline = began + limits.refresh_s
        found, unfinished = 0, 0
        for step in self._walk(library, folder, full=False, recursive=target[1]):
            found += sum(finding.outcome not in _UNPRODUCTIVE for finding in step.findings)
            unfinished += sum(finding.outcome is ScanOutcome.UNFINISHED for finding in step.findings)
            if time.monotonic() > deadline:
                if not found:  # otherwise the next list goes on
                    is_new = unfinished >= limits.batch
                    pause_s = limits.retry_new_after_s if is_new else limits.retry_after_s
                    _set_bounded(self._postponed_until, target, deadline + pause_s)
                return
        now = time.monotonic()
        _set_bounded(self._complete, target, (began, now))

    # Changes of this process

    def forget_parents(self, key: Key) -> None:
        """Scan the folders above a removed file again, whose unindexed subfolders may have changed."""
        path = path_at(key)[:-1]
        while path:
            self._cache.remove(path)
            path = path[:-1]
        self._cache.remove(path)

    def big_unchanged_folders(self, *paths: DiskPath) -> list[DiskPath]:
        """Return those folders of these files that are big, and unchanged since their last scan."""
        return [path for path in {path[:-1] for path in paths} if self._is_big_and_unchanged(path)]

    def _is_big_and_unchanged(self, path: DiskPath) -> bool:
        state = self._cache.get(path)
        if state is None or state.files < self._limits.big_folder:
            return False
        return state.changed_ns == self._disk.folder_changed_ns(path)

    def accept_own_change(self, folders: list[DiskPath]) -> None:
        """Keep the cached state of these folders after a file step of this process."""
        for path in folders:
            changed_ns = self._disk.folder_changed_ns(path)
            if changed_ns is not None:
                self._cache.update(path, changed_ns)

    # The walk

    def _tops(self, session: Session, library: str, folder: str) -> set[DiskPath]:
        """Return the paths of a folder on disk: several if their names differ only in normalization."""
        found = {_segments(folder), *disk_folders(session, library, folder)}
        tops = {(*root_of(library), *path) for path in found}
        if len(tops) == 1 and not folder.isascii():
            (top,) = tops
            if self._disk.folder_changed_ns(top) is None:  # perhaps in NFD, and not scanned yet
                with suppress(Unreadable):
                    tops |= {self._disk.actual_path(top)}
        return tops

    def _has_actual_name(self, path: DiskPath) -> bool:
        """Return whether the path of a folder, after normalization, is that of an existing one."""
        return self._cache.get(path) is not None or is_equivalent(self._disk.actual_path(path), path)

    def _walk(self, library: str, folder: str, *, full: bool, recursive: bool) -> Iterator[ScanStep]:
        """Scan a folder, and the folders below it: all if recursive, otherwise only those without rows.

        Missing files come last, so that moved ones are found at their new path first. A full walk ignores the
        cache and leaves missing files to the caller; any other raises DiskFault for the folder itself.
        """
        root = root_of(library)
        with self._database.reading() as session:
            known = self._tops(session, library, folder)
        tops = [path for path in known if self._has_actual_name(path)]
        stack = tops.copy()
        scanned: dict[DiskPath, FolderState] = {}
        exists = False
        try:
            while stack:
                path = stack.pop()
                try:
                    with self._disk.open_folder(path) as found:
                        if found is None:
                            continue
                        exists = True
                        state = self._cache.get(path)
                        if full or state is None or state.changed_ns != found.changed_ns:
                            state = yield from self._scan_folder(found, library, path)
                            if not full:
                                scanned[path] = state
                except (Unreadable, InvalidName) as error:
                    if not full and path in tops and isinstance(error, DiskFault):
                        raise
                    exists = True
                    yield ScanStep(0, (_finding(path[len(root) :], error),))
                else:
                    stack += [(*path, name) for name in (state.folders if recursive else state.unindexed)]
            while scanned:
                path, state = next(iter(scanned.items()))
                yield from self._reconcile_missing(library, "/".join(path[len(root) :]), state)
                del scanned[path]
        finally:
            for path in scanned:
                self._cache.remove(path)  # otherwise no list would look for missing files
        if not exists:
            yield from self._diff.reconcile_missing(library, folder, recursive=True)

    def _scan_folder(
        self, found: Folder, library: str, path: DiskPath
    ) -> Generator[ScanStep, None, FolderState]:
        """Reconcile the new and changed files of one folder. Return its state, which is cached."""
        folder = normalize_folder("/".join(path[len(root_of(library)) :]))
        scanned_ns = time.time_ns()
        folders: list[str] = []
        files, must_retry = 0, False
        yield ScanStep(0, ())  # an empty folder is a step too
        for entries in _batches(found.entries(), self._limits.batch):
            folders += [entry.name for entry in entries if entry.type == "folder"]
            step = self._diff.reconcile_entries(found, library, path, folder, entries)
            files += step.files
            must_retry = must_retry or any(finding.outcome in _RETRIED for finding in step.findings)
            yield step
        if not path:
            folders = [name for name in folders if name != RESERVED]
        known = self._indexed_folders(library, folder)
        folders = [name for name in folders if not self._is_passed_over(folder, name, known)]
        unindexed = tuple(name for name in folders if unicodedata.normalize("NFC", name) not in known)
        state = FolderState(found.changed_ns, tuple(folders), unindexed, files)
        if must_retry:
            self._cache.remove(path)
        else:
            self._cache.put(path, state, scanned_ns)
        return state

    def _is_passed_over(self, folder: str, name: str, known: set[str]) -> bool:
        """Return whether a subfolder is ignored and has no row: on a NAS it may hold millions of files."""
        name = unicodedata.normalize("NFC", name)
        return name not in known and self._ignored.matches_folder(f"{folder}/{name}" if folder else name)

    def _reconcile_missing(self, library: str, folder: str, state: FolderState) -> Iterator[ScanStep]:
        """Reconcile rows without files: in the folder, if it has more rows than files, and in subfolders that
        are missing."""
        folder = normalize_folder(folder)
        if self._diff.count_rows(library, folder) > state.files:
            yield from self._diff.reconcile_missing(library, folder, recursive=False)
        existing = {unicodedata.normalize("NFC", name) for name in state.folders}
        for name in self._indexed_folders(library, folder) - existing:
            subfolder = f"{folder}/{name}" if folder else name
            yield from self._diff.reconcile_missing(library, subfolder, recursive=True)

    def _indexed_folders(self, library: str, folder: str) -> set[str]:
        """Return the names of the subfolders that have rows."""
        with self._database.reading() as session:
            return set(folder_names(session, library, folder))


def _finding(path: DiskPath, error: Unreadable | InvalidName) -> ScanFinding:
    outcome = ScanOutcome.SKIPPED if isinstance(error, InvalidName) else ScanOutcome.UNREADABLE
    return ScanFinding("/".join(path), outcome, str(error))


def _set_bounded(times: dict[Target, T], target: Target, when: T) -> None:
    if len(times) >= MAX_TARGETS:
        times.clear()
    times[target] = when


def _segments(folder: str) -> DiskPath:
    return tuple(folder.split("/")) if folder else ()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch

"""Looking through the folders on the disk for what came, changed or went by hand."""

import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import TypeVar

from sqlalchemy import func, select

from app.database.sql.engine import Database
from app.database.sql.paths import Place, disk_folders, folder_names, places
from app.database.sql.rows import root_of
from app.database.sql.seen import Seen, SeenFolders
from app.database.sql.settling import Settling
from app.database.sql.tables import Media
from app.storage.disk import Disk
from app.storage.entries import Entry, Folder
from app.storage.errors import InvalidName, PathConflict, Unfinished, Unreadable
from app.storage.folders import Segments
from app.storage.staging import Signature
from app.storage.types import RESERVED, SHARED, Key, clean_folder
from app.storage.upkeep import Finding, Outcome, Scanned

T = TypeVar("T")

BATCH = 256
"""Files that are looked at in one go, or settled in one transaction."""

REFRESH_FOR_S = 2
"""How long a list may look for new files. Folders with more than that allows wait for the next scan."""

LEFT_FOR_S = 60
"""How long no list looks again into such a folder."""

_LATER = (Outcome.UNFINISHED, Outcome.UNREADABLE)
"""What the time of its folder does not tell the end of."""

_NO_FILE = {"link": "It is a symbolic link.", "other": "It is neither a file nor a folder."}


class Scanner:
    """Compares folders with rows, and settles what differs.

    `settling` begins a transaction. A generator of it may be left at any step.
    """

    def __init__(
        self, database: Database, files: Disk, settling: Callable[[], AbstractContextManager[Settling]]
    ) -> None:
        self._database = database
        self._disk = files
        self._settling = settling
        self._seen = SeenFolders()
        self._refreshing = threading.Lock()
        self._left_until: dict[tuple[Segments, bool], float] = {}

    def scan(self) -> Generator[Scanned]:
        """Look at every file of every library, closely enough to see one that was edited in place."""
        with self._disk.folder((RESERVED, "libraries")) as found:
            others = [] if found is None else [entry.name for entry in found.entries()]
        for library in (SHARED, *sorted(others)):
            yield from self._look(library, "", closely=True, recursive=True)

    def is_fresh(self, library: str, folder: str, *, recursive: bool) -> bool:
        """Whether nothing came to or went from the folder since it was last looked through. Never waits for
        a change."""
        top = (*root_of(library), *_segments(folder))
        stack = [top]
        while stack:
            path = stack.pop()
            seen = self._seen.get(path)
            if seen is None or seen.changed_ns != self._disk.folder_changed_ns(path):
                return time.monotonic() < self._left_until.get((top, recursive), 0)
            stack += [(*path, name) for name in (seen.folders if recursive else seen.empty)]
        return True

    def refresh(self, library: str, folder: str, *, recursive: bool) -> None:
        """Look through the folder if anything came or went since that was done last."""
        deadline = time.monotonic() + REFRESH_FOR_S
        # One at a time: others would only find the same.
        if not self._refreshing.acquire(timeout=REFRESH_FOR_S):
            return
        try:
            for _ in self._look(library, folder, closely=False, recursive=recursive):
                if time.monotonic() > deadline:
                    top = (*root_of(library), *_segments(folder))
                    self._left_until[top, recursive] = deadline + LEFT_FOR_S
                    return
        finally:
            self._refreshing.release()

    def _look(self, library: str, folder: str, *, closely: bool, recursive: bool) -> Iterator[Scanned]:
        """Look through a folder; also through those inside if recursive, else only through those that no
        row speaks of.

        Closely, what is gone is settled last: what was moved is then found where it is before it is missed.
        """
        root = root_of(library)
        with self._database.reading() as session:
            paths = {_segments(folder), *disk_folders(session, library, folder)}
        stack = [(*root, *path) for path in paths]
        last: list[Generator[Scanned, None, list[str]]] = []
        there = False
        while stack:
            path = stack.pop()
            shown = "/".join(path[len(root) :])
            seen = self._seen.get(path)
            inner: Iterable[str]
            try:
                with self._disk.folder(path) as found:
                    if found is None:
                        continue
                    there = True
                    if not closely and seen is not None and seen.changed_ns == found.changed_ns:
                        inner = seen.folders if recursive else seen.empty
                    else:
                        inner, rest = yield from self._look_into(found, library, path, closely=closely)
                        if closely:
                            last.append(rest)
                        else:
                            empty = yield from rest
                            inner = inner if recursive else empty
            except (Unreadable, InvalidName) as error:
                there = True
                outcome = Outcome.SKIPPED if isinstance(error, InvalidName) else Outcome.UNREADABLE
                yield Scanned(0, (Finding(shown, outcome, str(error)),))
            else:
                stack += [(*path, name) for name in inner]
        for rest in last:
            yield from rest
        if not there:
            yield from self._settle_rows(library, folder, beneath=True)

    def _look_into(
        self, found: Folder, library: str, path: Segments, *, closely: bool
    ) -> Generator[Scanned, None, tuple[list[str], Generator[Scanned, None, list[str]]]]:
        """Settle what differs in one folder. The folders inside, and what is to be done last."""
        inside = path[len(root_of(library)) :]
        folder = clean_folder("/".join(inside))
        looked_ns = time.time_ns()
        folders: list[str] = []
        files, unfinished = 0, False
        for entries in _batches(found.entries()):
            folders += [entry.name for entry in entries if entry.kind == "folder"]
            step = self._settle_entries(found, library, path, folder, entries, closely=closely)
            files += step.files
            unfinished = unfinished or any(one.outcome in _LATER for one in step.findings)
            yield step
        if not path:
            folders = [name for name in folders if name != RESERVED]
        rest = self._settle_gone(library, folder, files, folders)
        if unfinished:  # what has no row yet must be looked for again
            return folders, rest
        return folders, self._remembered(rest, path, found.changed_ns, folders, looked_ns)

    def _remembered(
        self,
        rest: Generator[Scanned, None, list[str]],
        path: Segments,
        changed_ns: int,
        folders: list[str],
        looked_ns: int,
    ) -> Generator[Scanned, None, list[str]]:
        empty = yield from rest
        self._seen.put(path, Seen(changed_ns, tuple(folders), tuple(empty)), looked_ns)
        return empty

    def _settle_entries(
        self,
        found: Folder,
        library: str,
        path: Segments,
        folder: str,
        entries: list[Entry],
        *,
        closely: bool,
    ) -> Scanned:
        """One batch of what is in a folder. `files` counts those that have a row in the end."""
        findings: list[Finding] = []
        files: dict[str, Place] = {}
        depth = len(root_of(library))
        for entry in entries:
            shown = "/".join((*path[depth:], entry.name))
            if entry.kind in _NO_FILE:
                findings.append(Finding(shown, Outcome.SKIPPED, _NO_FILE[entry.kind]))
            elif entry.kind == "file":
                try:
                    files[entry.name] = Key.of(library, folder, entry.name), (*path, entry.name)
                except InvalidName as error:
                    findings.append(Finding(shown, Outcome.SKIPPED, str(error)))
        known = self._known(library, folder, [key.filename for key, _ in files.values()])
        differing = []
        for entry in entries:
            if entry.name in files:
                key, where = files[entry.name]
                path_known, signature = known.get(key.filename, (None, None))
                if path_known != "/".join(where[depth:]) or not _agree(found, entry, signature, closely):
                    differing.append((key, where))
        settled = self._settle(differing)
        findings += settled.findings
        return Scanned(len(files) - len(differing) + settled.files, tuple(findings))

    def _settle_gone(
        self, library: str, folder: str, files: int, folders: list[str]
    ) -> Generator[Scanned, None, list[str]]:
        """Settle the rows that have no file any more, where there are more rows than `files`, or rows in
        folders that are none of `folders`. Those of them that no row speaks of."""
        here = (Media.library == library) & (Media.folder == folder)
        with self._database.reading() as session:
            rows = session.scalar(select(func.count()).select_from(Media).where(here)) or 0
            known = set(folder_names(session, library, folder))
        if rows > files:
            yield from self._settle_rows(library, folder, beneath=False)
        names = {name: unicodedata.normalize("NFC", name) for name in folders}
        for name in known.difference(names.values()):
            yield from self._settle_rows(library, f"{folder}/{name}" if folder else name, beneath=True)
        return [name for name in folders if names[name] not in known]

    def _settle_rows(self, library: str, folder: str, *, beneath: bool) -> Iterator[Scanned]:
        """Settle the rows in a folder, or all beneath it, that have no file where they say."""
        after = ("", "")
        while True:
            with self._database.reading() as session:
                found = places(session, library, folder, after, beneath=beneath, limit=BATCH)
            if not found:
                return
            last = found[-1][0]
            after = (last.folder, last.filename)
            yield Scanned(0, self._settle(list(self._missing(found))).findings)

    def _missing(self, known: list[Place]) -> Iterator[Place]:
        """Those that have no file."""
        for inside, those in groupby(known, lambda place: place[1][:-1]):
            with self._disk.folder(inside) as folder:
                for key, path in those:
                    if folder is None or not folder.has_file(path[-1]):
                        yield key, path

    def _settle(self, differing: list[Place]) -> Scanned:
        if not differing:
            return Scanned(0, ())
        findings: list[Finding] = []
        files = 0
        with self._settling() as settling:
            for key, path in differing:
                before = len(settling.changes)
                left: tuple[Outcome, str] | None = None
                try:
                    if settling.settle(key, path) is not None:
                        files += 1
                    elif self._disk.status(path) is not None:
                        left = Outcome.UNFINISHED, "It is being written, or was until just now."
                except Unfinished as error:
                    left = Outcome.UNFINISHED, str(error)
                except Unreadable as error:
                    left = Outcome.UNREADABLE, str(error)
                except PathConflict as error:
                    left = Outcome.SKIPPED, str(error)
                for change in settling.changes[before:]:
                    findings.append(Finding(change.info.key.path, Outcome(change.kind.value)))
                if left is not None:
                    findings.append(Finding("/".join(path[len(root_of(key.library)) :]), *left))
            settling.commit()
        return Scanned(files, tuple(findings))

    def _known(self, library: str, folder: str, names: list[str]) -> dict[str, tuple[str, Signature]]:
        """Where the rows of these names say that their files are, and what these are."""
        if not names:
            return {}
        # Not whole rows: making them takes most of the time of a scan.
        query = select(Media.filename, Media.disk_path, Media.size, Media.mtime_ns, Media.inode).where(
            Media.library == library, Media.folder == folder, Media.filename.in_(names)
        )
        prefix = f"{folder}/" if folder else ""
        with self._database.reading() as session:
            return {
                name: (path or f"{prefix}{name}", Signature(*signature))
                for name, path, *signature in session.execute(query)
            }


def _agree(found: Folder, entry: Entry, signature: Signature | None, closely: bool) -> bool:
    """Whether this is the file that a row has this signature of. An inode is known without asking for it;
    not all file systems say the same one there."""
    if not closely and signature is not None and entry.inode == signature.inode:
        return True
    return found.signature(entry.name) == signature


def _segments(folder: str) -> Segments:
    return tuple(folder.split("/")) if folder else ()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch

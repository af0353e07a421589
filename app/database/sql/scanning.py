"""Looking through the folders on the disk for what came, changed or went by hand."""

import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import TypeVar

from sqlalchemy import func, select

from app.database.sql.engine import Database
from app.database.sql.pages import folder_names
from app.database.sql.rows import after, disk_folders, key_of, path_of, root_of, signature_of
from app.database.sql.seen import Seen, SeenFolders
from app.database.sql.settling import Settling
from app.database.sql.tables import Media
from app.storage.disk import Disk
from app.storage.entries import Entry, Folder
from app.storage.errors import InvalidName, PathConflict, StorageUnavailable, Unfinished
from app.storage.folders import Segments
from app.storage.types import RESERVED, SHARED, Key, clean_folder
from app.storage.upkeep import Finding, Outcome, Scanned

T = TypeVar("T")

BATCH = 256
"""Files that are looked at in one go, or settled in one transaction."""

REFRESH_FOR_S = 2
"""How long a list may look for new files; what is left is found by the next one, or by the sweep."""

_NO_FILE = {"link": "It is a symbolic link.", "other": "It is neither a file nor a folder."}

Place = tuple[Key, Segments]
"""A file that may be there, and where."""


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

    def scan(self) -> Generator[Scanned]:
        """Look at every file of every library, closely enough to see one that was edited in place."""
        with self._disk.folder((RESERVED, "libraries")) as found:
            others = [] if found is None else [entry.name for entry in found.entries()]
        for library in (SHARED, *sorted(others)):
            yield from self._look(library, "", closely=True, recursive=True)

    def is_fresh(self, library: str, folder: str, *, recursive: bool) -> bool:
        """Whether nothing came to or went from the folder since it was last looked through. Never waits for
        a change."""
        stack = [(*root_of(library), *_segments(folder))]
        while stack:
            path = stack.pop()
            seen = self._seen.get(path)
            if seen is None or seen.changed_ns != self._disk.folder_changed_ns(path):
                return False
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
                    return
        finally:
            self._refreshing.release()

    def _look(self, library: str, folder: str, *, closely: bool, recursive: bool) -> Iterator[Scanned]:
        root = root_of(library)
        with self._database.reading() as session:
            paths = {_segments(folder), *disk_folders(session, library, folder)}
        stack = [(*root, *path) for path in paths]
        there = False
        while stack:
            path = stack.pop()
            try:
                with self._disk.folder(path) as found:
                    if found is None:
                        continue
                    there = True
                    inner = yield from self._look_into(
                        found, library, path, closely=closely, recursive=recursive
                    )
            except StorageUnavailable as error:
                yield Scanned(0, (Finding("/".join(path), Outcome.SKIPPED, str(error)),))
                there = True
            else:
                stack += [(*path, name) for name in inner]
        if not there:
            yield from self._settle_rows(library, folder, beneath=True)

    def _look_into(
        self, found: Folder, library: str, path: Segments, *, closely: bool, recursive: bool
    ) -> Generator[Scanned, None, Iterable[str]]:
        """Settle what differs in one folder. The folders inside that are to be looked into as well."""
        seen = self._seen.get(path)
        if not closely and seen is not None and seen.changed_ns == found.changed_ns:
            return seen.folders if recursive else seen.empty
        depth = len(root_of(library))
        try:
            folder = clean_folder("/".join(path[depth:]))
        except InvalidName as error:
            yield Scanned(0, (Finding("/".join(path[depth:]), Outcome.SKIPPED, str(error)),))
            return ()
        began_ns = time.time_ns()
        folders: list[str] = []
        files, unfinished = 0, False
        for entries in _batches(found.entries()):
            folders += [entry.name for entry in entries if entry.kind == "folder"]
            step = self._settle_entries(found, library, path, folder, entries, closely=closely)
            files += step.files
            unfinished = unfinished or any(one.outcome is Outcome.UNFINISHED for one in step.findings)
            yield step
        if depth == 0 and not folder and RESERVED in folders:
            folders.remove(RESERVED)
        yield from self._settle_gone(
            library, folder, files, {unicodedata.normalize("NFC", name) for name in folders}
        )
        empty = [name for name in folders if self._is_unknown(library, folder, name)]
        if not unfinished:
            self._seen.put(path, Seen(found.changed_ns, tuple(folders), tuple(empty)), began_ns)
        return folders if recursive else empty

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
        places: dict[str, Place] = {}
        for entry in entries:
            shown = "/".join((*path[len(root_of(library)) :], entry.name))
            if entry.kind in _NO_FILE:
                findings.append(Finding(shown, Outcome.SKIPPED, _NO_FILE[entry.kind]))
            elif entry.kind == "file":
                try:
                    places[entry.name] = Key.of(library, folder, entry.name), (*path, entry.name)
                except InvalidName as error:
                    findings.append(Finding(shown, Outcome.SKIPPED, str(error)))
        known = self._rows(library, folder, [key.filename for key, _ in places.values()])
        differing = []
        for entry in entries:
            if entry.name in places:
                key, where = places[entry.name]
                row = known.get(key.filename)
                if row is None or path_of(row) != where or not _agree(found, entry, row, closely=closely):
                    differing.append((key, where))
        settled = self._settle(differing)
        findings += settled.findings
        return Scanned(len(places) - len(differing) + settled.files, tuple(findings))

    def _settle_gone(self, library: str, folder: str, files: int, folders: set[str]) -> Iterator[Scanned]:
        """Settle the rows of a folder that have no file any more, if there are more rows than files."""
        here = (Media.library == library) & (Media.folder == folder)
        with self._database.reading() as session:
            rows = session.scalar(select(func.count()).select_from(Media).where(here)) or 0
            known = list(folder_names(session, library, folder))
        if rows > files:
            yield from self._settle_rows(library, folder, beneath=False)
        for name in known:
            if name not in folders:
                yield from self._settle_rows(library, f"{folder}/{name}" if folder else name, beneath=True)

    def _settle_rows(self, library: str, folder: str, *, beneath: bool) -> Iterator[Scanned]:
        """Settle the rows in a folder, or all beneath it, that have no file where they say."""
        position = ("", "")
        while True:
            with self._database.reading() as session:
                rows = after(session, library, folder, position, beneath=beneath, limit=BATCH)
            if not rows:
                return
            position = (rows[-1].folder, rows[-1].filename)
            gone = [(key_of(row), path_of(row)) for row in rows if self._disk.status(path_of(row)) is None]
            yield Scanned(0, self._settle(gone).findings)

    def _settle(self, places: list[Place]) -> Scanned:
        if not places:
            return Scanned(0, ())
        findings: list[Finding] = []
        files = 0
        with self._settling() as settling:
            for key, path in places:
                before = len(settling.changes)
                left: tuple[Outcome, str] | None = None
                try:
                    if settling.settle(key, path) is not None:
                        files += 1
                    elif self._disk.status(path) is not None:
                        left = Outcome.UNFINISHED, "It is being written, or was until just now."
                except Unfinished as error:
                    left = Outcome.UNFINISHED, str(error)
                except PathConflict as error:
                    left = Outcome.SKIPPED, str(error)
                for change in settling.changes[before:]:
                    findings.append(Finding(change.info.key.path, Outcome(change.kind.value)))
                if left is not None:
                    findings.append(Finding("/".join(path[len(root_of(key.library)) :]), *left))
            settling.commit()
        return Scanned(files, tuple(findings))

    def _rows(self, library: str, folder: str, names: list[str]) -> dict[str, Media]:
        if not names:
            return {}
        query = select(Media).where(
            Media.library == library, Media.folder == folder, Media.filename.in_(names)
        )
        with self._database.reading() as session:
            return {row.filename: row for row in session.scalars(query)}

    def _is_unknown(self, library: str, folder: str, name: str) -> bool:
        """Whether no row is in or beneath this folder, so that nothing but looking would tell of it."""
        try:
            inner = clean_folder(f"{folder}/{name}" if folder else name)
        except InvalidName:
            return False
        with self._database.reading() as session:
            return not after(session, library, inner, ("", ""), beneath=True, limit=1)


def _agree(found: Folder, entry: Entry, row: Media, *, closely: bool) -> bool:
    """Whether the row speaks of this file. An inode is known without asking for it; not all file systems
    say the same one there."""
    if not closely and entry.inode == row.inode:
        return True
    return found.signature(entry.name) == signature_of(row)


def _segments(folder: str) -> Segments:
    return tuple(folder.split("/")) if folder else ()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch

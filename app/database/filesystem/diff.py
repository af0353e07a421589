"""Holding the files of a folder against the rows that speak of them, and reconciler what differs."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby

from sqlalchemy import func, select

from app.database.filesystem.directory_entries import Entry, Folder
from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.posix import DiskPath, ReservedFolder
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import STAT_COLUMNS, root_of
from app.database.sql.engine import Database
from app.database.sql.list_index import Place, places
from app.database.sql.schema import Media
from app.storage.errors import InvalidName, PathConflict, Unfinished, Unreadable
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep
from app.storage.types import Key

BATCH = 256
"""Files that are looked at in one go, or settled in one transaction."""

_NO_FILE = {"link": "It is a symbolic link.", "other": "It is neither a file nor a folder."}


class FolderDiff:
    """What is on the disk against what the rows say. `reconciler` begins a transaction."""

    def __init__(
        self,
        database: Database,
        files: Disk,
        reconciler: Callable[[], AbstractContextManager[Reconciler]],
        ignored: IgnoredNames,
    ) -> None:
        self._database = database
        self._disk = files
        self._reconciling = reconciler
        self._ignored = ignored

    def entries(
        self,
        found: Folder,
        library: str,
        path: DiskPath,
        folder: str,
        entries: list[Entry],
    ) -> ScanStep:
        """One batch of what is in a folder. `files` counts those that have a row in the end: of those that
        are ignored, what was uploaded or asked for by its address."""
        findings: list[ScanFinding] = []
        files: dict[str, Place] = {}
        depth = len(root_of(library))
        for entry in entries:
            shown = "/".join((*path[depth:], entry.name))
            if entry.kind in _NO_FILE:
                findings.append(ScanFinding(shown, ScanOutcome.SKIPPED, _NO_FILE[entry.kind]))
            elif entry.kind == "file":
                try:
                    files[entry.name] = Key.of(library, folder, entry.name), (*path, entry.name)
                except InvalidName as error:
                    findings.append(ScanFinding(shown, ScanOutcome.SKIPPED, str(error)))
        known = self._known(library, folder, [key.filename for key, _ in files.values()])
        differing = []
        ignored = 0
        for entry in entries:
            if entry.name in files:
                key, where = files[entry.name]
                if key.filename not in known and self._ignored.matches(key):
                    ignored += 1
                    continue
                path_known, signature = known.get(key.filename, (None, None))
                if path_known != "/".join(where[depth:]) or _signature(found, entry.name) != signature:
                    differing.append((key, where))
        settled = self._reconcile(differing)
        findings += settled.findings
        return ScanStep(len(files) - ignored - len(differing) + settled.files, tuple(findings))

    def rows(self, library: str, folder: str) -> int:
        """How many rows speak of files directly in the folder."""
        here = (Media.library == library) & (Media.folder == folder)
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(Media).where(here)) or 0

    def gone(self, library: str, folder: str, *, beneath: bool) -> Iterator[ScanStep]:
        """Settle the rows in a folder, or all beneath it, that have no file where they say."""
        after = ("", "")
        while True:
            with self._database.reading() as session:
                found = places(session, library, folder, after, beneath=beneath, limit=BATCH)
            if not found:
                return
            last = found[-1][0]
            after = (last.folder, last.filename)
            yield ScanStep(0, self._reconcile(list(self._missing(found))).findings)

    def _missing(self, known: list[Place]) -> Iterator[Place]:
        """Those that have no file. Of what cannot be looked into nobody knows; whoever walks through the
        folders says so."""
        for inside, those in groupby(known, lambda place: place[1][:-1]):
            with contextlib.suppress(Unreadable), self._folder(inside) as folder:
                for key, path in those:
                    if folder is None or not folder.has_file(path[-1]) or not folder.spells(path[-1]):
                        yield key, path

    @contextlib.contextmanager
    def _folder(self, path: DiskPath) -> Iterator[Folder | None]:
        """The folder that has just this path; None where only another spelling of it, or none, is there."""
        with contextlib.ExitStack() as stack:
            folder = None
            if self._disk.actual_path(path) == path:
                with contextlib.suppress(ReservedFolder):
                    folder = stack.enter_context(self._disk.folder(path))
            yield folder

    def _reconcile(self, differing: list[Place]) -> ScanStep:
        if not differing:
            return ScanStep(0, ())
        findings: list[ScanFinding] = []
        files = 0
        with self._reconciling() as reconciler:
            for key, path in differing:
                before = len(reconciler.changes)
                left: tuple[ScanOutcome, str] | None = None
                try:
                    if reconciler.reconcile(key, path) is not None:
                        files += 1
                    elif self._disk.status(path) is not None:
                        left = ScanOutcome.UNFINISHED, "It is being written, or was until just now."
                except Unfinished as error:
                    left = ScanOutcome.UNFINISHED, str(error)
                except Unreadable as error:
                    left = ScanOutcome.UNREADABLE, str(error)
                except PathConflict as error:
                    left = ScanOutcome.SKIPPED, str(error)
                for change in reconciler.changes[before:]:
                    findings.append(ScanFinding(change.info.key.path, ScanOutcome(change.kind.value)))
                if left is not None:
                    findings.append(ScanFinding("/".join(path[len(root_of(key.library)) :]), *left))
            reconciler.commit()
        return ScanStep(files, tuple(findings))

    def _known(self, library: str, folder: str, names: list[str]) -> dict[str, tuple[str, FileStat]]:
        """Where the rows of these names say that their files are, and what these are."""
        if not names:
            return {}
        # Not whole rows: making them takes most of the time of a scan.
        query = select(Media.filename, Media.disk_path, *STAT_COLUMNS).where(
            Media.library == library, Media.folder == folder, Media.filename.in_(names)
        )
        prefix = f"{folder}/" if folder else ""
        with self._database.reading() as session:
            return {
                name: (path or f"{prefix}{name}", FileStat(size, mtime_ns, inode, ctime_ns))
                for name, path, size, mtime_ns, inode, ctime_ns in session.execute(query)
            }


def _signature(folder: Folder, name: str) -> FileStat | None:
    """Return the status of a file; None if there is none or it is unreadable."""
    with contextlib.suppress(Unreadable):
        return folder.signature(name)
    return None

"""Comparison of folders with their rows, and reconciliation of the differences."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import groupby

from sqlalchemy import func, select

from app.database.filesystem import Limits
from app.database.filesystem.disk import Disk, Entry, Folder
from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.posix import DiskPath, ReservedFolder
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import STAT_COLUMNS, Place, places, root_of
from app.database.sql.engine import Database
from app.database.sql.schema import MediaRow
from app.storage.errors import InvalidName, PathConflict, Unfinished, Unreadable
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep
from app.storage.types import Key

_NOT_A_FILE = {"link": "It is a symbolic link.", "other": "It is neither a file nor a folder."}

Reconciling = Callable[[], AbstractContextManager[Reconciler]]
"""Begins a transaction of a Reconciler."""


class FolderDiff:
    """The differences between folders and their rows, found and reconciled in batches."""

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
        self._reconciling = reconciling
        self._ignored = ignored
        self._limits = limits

    def reconcile_entries(
        self, found: Folder, library: str, path: DiskPath, folder: str, entries: list[Entry]
    ) -> ScanStep:
        """Reconcile one batch of the entries of a folder.

        `files` of the result counts files that have a row afterwards. Ignored files have one if they were
        uploaded, or requested by their address.
        """
        files, findings = self._legal_files(library, path, folder, entries)
        known = self._known(library, folder, [key.filename for key, _ in files.values()])
        depth = len(root_of(library))
        differing = []
        ignored = 0
        for name, (key, where) in files.items():
            if key.filename not in known and self._ignored.matches(key):
                ignored += 1
                continue
            known_path, known_stat = known.get(key.filename, (None, None))
            if known_path != "/".join(where[depth:]) or _stat(found, name) != known_stat:
                differing.append((key, where))
        step = self._reconcile(differing)
        findings += step.findings
        return ScanStep(len(files) - ignored - len(differing) + step.files, tuple(findings))

    def _legal_files(
        self, library: str, path: DiskPath, folder: str, entries: list[Entry]
    ) -> tuple[dict[str, Place], list[ScanFinding]]:
        """Return the files by their names on disk, and findings about entries that cannot be adopted."""
        files: dict[str, Place] = {}
        findings: list[ScanFinding] = []
        depth = len(root_of(library))
        for entry in entries:
            reason = _NOT_A_FILE.get(entry.type)
            if entry.type == "file":
                try:
                    files[entry.name] = Key.of(library, folder, entry.name), (*path, entry.name)
                except InvalidName as error:
                    reason = str(error)
            if reason is not None:
                shown = "/".join((*path[depth:], entry.name))
                findings.append(ScanFinding(shown, ScanOutcome.SKIPPED, reason))
        return files, findings

    def count_rows(self, library: str, folder: str) -> int:
        """Return the number of rows of files directly in the folder."""
        inside = (MediaRow.library == library) & (MediaRow.folder == folder)
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(MediaRow).where(inside)) or 0

    def reconcile_missing(self, library: str, folder: str, *, recursive: bool) -> Iterator[ScanStep]:
        """Reconcile the rows in a folder whose file is missing."""
        after = ("", "")
        while True:
            with self._database.reading() as session:
                found = places(session, library, folder, after, beneath=recursive, limit=self._limits.batch)
            if not found:
                return
            last = found[-1][0]
            after = (last.folder, last.filename)
            yield ScanStep(0, self._reconcile(list(self._missing(found))).findings)

    def _missing(self, known: list[Place]) -> Iterator[Place]:
        """Yield the rows whose file is missing. Skips unreadable folders, which the scan reports."""
        for path, group in groupby(known, lambda place: place[1][:-1]):
            with suppress(Unreadable), self._open_exact_folder(path) as folder:
                for key, file in group:
                    name = file[-1]
                    if folder is None or not folder.has_file(name) or not folder.has_exact_name(name):
                        yield key, file

    @contextmanager
    def _open_exact_folder(self, path: DiskPath) -> Iterator[Folder | None]:
        """Yield the folder of exactly this path; None if only one of an equivalent name exists."""
        with ExitStack() as stack:
            folder = None
            if self._disk.actual_path(path) == path:
                with suppress(ReservedFolder):
                    folder = stack.enter_context(self._disk.open_folder(path))
            yield folder

    def _reconcile(self, differing: list[Place]) -> ScanStep:
        if not differing:
            return ScanStep(0, ())
        findings: list[ScanFinding] = []
        files = 0
        with self._reconciling() as reconciler:
            for key, path in differing:
                before = len(reconciler.changes)
                has_row, problem = self._reconcile_file(reconciler, key, path)
                files += has_row
                for change in reconciler.changes[before:]:
                    findings.append(ScanFinding(change.info.key.path, ScanOutcome(change.kind.value)))
                if problem is not None:
                    findings.append(ScanFinding("/".join(path[len(root_of(key.library)) :]), *problem))
            reconciler.commit()
        return ScanStep(files, tuple(findings))

    def _reconcile_file(
        self, reconciler: Reconciler, key: Key, path: DiskPath
    ) -> tuple[bool, tuple[ScanOutcome, str] | None]:
        """Return whether the file has a row afterwards, and the reason if it could not be reconciled."""
        try:
            if reconciler.reconcile(key, path) is not None:
                return True, None
            if self._disk.status(path) is not None:
                return False, (ScanOutcome.UNFINISHED, "It is being written, or was until just now.")
        except Unfinished as error:
            return False, (ScanOutcome.UNFINISHED, str(error))
        except Unreadable as error:
            return False, (ScanOutcome.UNREADABLE, str(error))
        except PathConflict as error:
            return False, (ScanOutcome.SKIPPED, str(error))
        return False, None

    def _known(self, library: str, folder: str, names: list[str]) -> dict[str, tuple[str, FileStat]]:
        """Return the path and the status that the rows of these names record."""
        if not names:
            return {}
        # Columns only: loading whole rows would take most of the time of a scan.
        query = select(MediaRow.filename, MediaRow.disk_path, *STAT_COLUMNS).where(
            MediaRow.library == library, MediaRow.folder == folder, MediaRow.filename.in_(names)
        )
        prefix = f"{folder}/" if folder else ""
        with self._database.reading() as session:
            return {
                name: (path or f"{prefix}{name}", FileStat(size, mtime_ns, inode, ctime_ns))
                for name, path, size, mtime_ns, inode, ctime_ns in session.execute(query)
            }


def _stat(folder: Folder, name: str) -> FileStat | None:
    """Return the status of a file; None if it is missing or unreadable."""
    with suppress(Unreadable):
        return folder.stat(name)
    return None

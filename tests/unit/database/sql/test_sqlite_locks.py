"""Locks of an open SQLite database: a process loses them when it closes any descriptor of its files."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.database.doctor_checks import probe_databases
from app.storage.errors import AlreadyExists, NotFound
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Expect, Key
from tests.unit.database.foreign_changes import names, scan, verdicts
from tests.unit.database.library import Library

_VISIT = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT id FROM media'); c.close()"


def is_locked(library: Library) -> bool:
    """Return whether another process that leaves the database sees that this one has it open.

    Otherwise it considers itself the last user, and removes the log to which this process appends its
    commits.
    """
    database, log, *_ = library.backend.database.files()
    before = log.stat().st_ino
    subprocess.run([sys.executable, "-c", _VISIT, database], check=True)
    return log.exists() and log.stat().st_ino == before


def open_again(library: Library) -> None:
    other = Library(library.root, library.settings.database_url)
    other.put(b"newer")
    other.close()


def use_everything(library: Library) -> None:
    probe_databases(library.settings)
    library.backend.ping()
    scan(library)
    sum(library.backend.maintenance.hash_unverified())


@pytest.mark.parametrize("use", [open_again, use_everything])
def test_database_stays_locked_when_opened_again(library: Library, use: Callable[[Library], None]) -> None:
    library.put(b"film")
    use(library)
    assert is_locked(library)


def link_all(library: Library) -> str:
    """Link all files of the database, like `cp -al . backup`."""
    shutil.copytree(library.root / ".seekable", library.root / "backup", copy_function=os.link)
    return "backup/seekable.db"


def link(library: Library) -> str:
    os.link(library.backend.database.files()[0], library.root / "film.db")
    return "film.db"


@pytest.mark.parametrize("put", [link_all, link])
def test_links_to_database_are_not_served(library: Library, put: Callable[[Library], str]) -> None:
    library.limits.written_for_s = 0  # so that no open file counts as unfinished
    library.put(b"film")
    path = put(library)
    check_inaccessible(library, Key.at(SHARED, path))


def test_database_inside_library_is_not_served(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    library = Library(root, f"sqlite:///{root / 'films.db'}")
    library.limits.written_for_s = 0
    library.put(b"film")
    check_inaccessible(library, Key.at(SHARED, "films.db"))
    library.close()


def check_inaccessible(library: Library, key: Key) -> None:
    """Check that the database under this name is neither listed, read, replaced nor deleted."""
    scan(library)
    assert not [name for name in names(library, key.folder) if name.startswith(key.filename)]
    sum(library.backend.maintenance.hash_unverified())
    assert set(verdicts(library).values()) == {Integrity.SOUND}
    with pytest.raises(NotFound):
        library.get(key)
    with pytest.raises(AlreadyExists):
        library.put(b"mine", key)
    with pytest.raises(NotFound):
        library.backend.delete(key, Expect.ANY)
    assert is_locked(library)
    assert library.get()[0] == b"film"

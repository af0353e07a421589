"""File permissions of a library: other users cannot read the reserved folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.cli.findings import Level, check_database, check_folder
from app.database.doctor_checks import probe_databases, probe_folder
from app.storage.types import Key
from tests.support import need, need_root, run
from tests.unit.database.library import Library


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.fixture(params=["inside", "elsewhere", "by URI"])
def guarded(request: pytest.FixtureRequest, umask: int, tmp_path: Path) -> Iterator[Library]:
    """Open a library whose database is in the reserved folder, or elsewhere."""
    file = tmp_path / "seekable.db"
    urls = {"elsewhere": f"sqlite:///{file}", "by URI": f"sqlite:///file:{file}?uri=true"}
    library = Library(tmp_path / "files", urls.get(request.param))
    yield library
    library.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def database_files(library: Library) -> list[Path]:
    files = [file for file in library.backend.database.files() if file.exists()]
    assert {"seekable.db", "seekable.db-wal", "seekable.db-shm"} <= {file.name for file in files}
    return files


def exposed(library: Library) -> list[str]:
    """Return the findings of `seekable doctor` about permissions."""
    findings = [*check_folder(library.settings, probe_folder(library.root))]
    for status in probe_databases(library.settings):
        findings += check_database(library.settings, status)
    return [one.sentence for one in findings if one.level is Level.FIX and "Other users" in one.sentence]


def test_new_library_is_private_and_films_follow_umask(guarded: Library, umask: int) -> None:
    staged = guarded.backend.stage(None)
    staged.write(b"film")
    assert mode(guarded.root / ".seekable" / "staging" / staged.name) == 0o600
    staged.discard()
    guarded.put(b"film")
    guarded.put(b"anna's", Key("anna", "", "film.mp4"))
    assert mode(guarded.root / ".seekable") == 0o700
    assert [mode(file) for file in database_files(guarded)] == [0o600] * 3
    assert mode(guarded.path()) == 0o666 & ~umask
    guarded.put(b"newer")
    assert mode(guarded.path()) == 0o666 & ~umask
    assert exposed(guarded) == []


def test_start_repairs_permissions_of_earlier_version(guarded: Library) -> None:
    guarded.put(b"film")
    os.chmod(guarded.root / ".seekable", 0o2775)  # as in a folder shared by a group
    files = database_files(guarded)
    for file in files:
        os.chmod(file, 0o664)
    found = exposed(guarded)
    assert len(found) == 4, "doctor must not change permissions"
    assert sum("chmod 700" in sentence for sentence in found) == 1
    other = Library(guarded.root, guarded.settings.database_url)  # another process, while the first one runs
    try:
        assert (guarded.root / ".seekable").stat().st_mode & 0o7777 == 0o2700
        assert [mode(file) for file in files] == [0o600] * 3
        assert exposed(guarded) == []
        assert other.get()[0] == guarded.get()[0] == b"film"
    finally:
        other.close()


@pytest.fixture
def public_library() -> Iterator[Library]:
    """Open a library in folders that every user may enter."""
    before = os.umask(0o022)
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        library = Library(Path(folder) / "files")
        yield library
        library.close()
    os.umask(before)


def test_other_user_can_read_films_but_no_secrets(public_library: Library) -> None:
    need_root()
    need("setpriv")
    public_library.put(b"film")
    public_library.put(b"anna's", Key("anna", "", "film.mp4"))
    ours = public_library.root / ".seekable"
    secrets = [*database_files(public_library), ours / "id", ours / "libraries" / "anna" / "film.mp4"]
    as_other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat")
    read = [run(*as_other, path, check=False) for path in (public_library.path(), *secrets)]
    assert read[0].stdout == "film"
    assert all(one.returncode == 1 and "Permission denied" in one.stderr for one in read[1:])

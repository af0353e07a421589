"""Fixtures that the tests of the filesystem backend share."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from app.storage.types import Change
from tests.support import postgres
from tests.unit.database import foreign_changes
from tests.unit.database.library import Library

DATABASES: dict[str, Callable[[], str | None]] = {
    "sqlite": lambda: None,
    "postgresql": lambda: postgres.shared().new_library(),
}


OVER_BOTH = {"test_group_commit": False, "test_reconcile": True}
"""Modules whose tests depend on the database, and whether PostgreSQL is left to `make soak`, because the
contract tests include scans on it. Tests of the other modules depend on files only."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = any("library" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "library" in metafunc.fixturenames and not chosen:
        databases: list[object] = ["sqlite"]
        module = metafunc.module.__name__.rpartition(".")[2]
        if module in OVER_BOTH:
            marks = [pytest.mark.campaign] if OVER_BOTH[module] else []
            databases.append(pytest.param("postgresql", marks=marks))
        metafunc.parametrize("library", databases, indirect=True)


@pytest.fixture
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    """Open a library over each database.

    A test of one database selects it: `parametrize(…, indirect=True)`.
    """
    library = Library(tmp_path / "files", DATABASES[request.param]())
    yield library
    library.close()


@pytest.fixture
def changes(library: Library) -> list[Change]:
    """Return the changes that the backend has reported, of files changed by other programs."""
    return library.published


@pytest.fixture
def shorten_waits(library: Library) -> None:
    """Shorten the two seconds for which a file must be unchanged."""
    foreign_changes.shorten_waits(library)


@pytest.fixture
def no_descriptors() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which this process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    @contextmanager
    def exhausted() -> Iterator[None]:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return exhausted


# A COMMIT that fails because of a deferred constraint

_TRAP = "CREATE TABLE trap (x VARCHAR(32) REFERENCES volume (id) DEFERRABLE INITIALLY DEFERRED)"
_VERBS = ("INSERT", "UPDATE", "DELETE")
TRAPS = {
    "sqlite": (
        "PRAGMA foreign_keys = ON",
        [
            _TRAP,
            *(
                f"CREATE TRIGGER trap_{verb} AFTER {verb} ON media BEGIN INSERT INTO trap VALUES ('no'); END"
                for verb in _VERBS
            ),
        ],
        [f"DROP TRIGGER trap_{verb}" for verb in _VERBS],
    ),
    "postgresql": (
        "SELECT 1",  # deferred constraints are always checked
        [
            _TRAP,
            "CREATE FUNCTION fall() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN INSERT INTO trap VALUES ('no'); RETURN NULL; END $$",
            f"CREATE TRIGGER trap AFTER {' OR '.join(_VERBS)} ON media FOR EACH ROW EXECUTE FUNCTION fall()",
        ],
        ["DROP TRIGGER trap ON media"],
    ),
}
"""For each database: a statement for new connections, and statements that set and remove the trap."""


@pytest.fixture
def failing_commit(library: Library) -> Iterator[None]:
    """Let every COMMIT of a change fail."""
    on_connect, set_trap, remove_trap = TRAPS[library.backend.database.engine.dialect.name]
    engine = library.backend.database.engine
    library.backend.database.close()
    event.listen(engine, "connect", lambda connection, _: connection.execute(on_connect))
    library.put(b"film")
    for statement in set_trap:
        library.sql(statement)
    yield
    for statement in remove_trap:
        library.sql(statement)
    assert library.get()[0] == b"film"
    assert library.put(b"works again").info.size == 11

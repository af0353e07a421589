"""Pages, searches and lookups use indexes, read in their order, and do not count. The tests check the plans
on tables with and without statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.orm import Session

from app.database.filesystem.rows import disk_folders, find
from app.database.paging import PageLimits
from app.database.sql.engine import Database
from app.database.sql.list_index import folders
from app.database.sql.opening import migrate
from app.database.sql.postgresql import Postgresql
from app.database.sql.schema import MediaRow, WordRow
from app.database.sql.sqlite import Sqlite
from app.storage.types import SHARED, Expect, FileId, Key, Listing, Sort
from tests.support import postgres
from tests.unit.database.library import Library
from tests.unit.database.list_indexes import IN_INDEX_ORDER, row, sql_page

FILES = 3000
FOLDERS = ("", "a", "a-b", "a/b", "b")

SEARCHES = [
    Listing(SHARED, folder, folder != "b", query, kind, sort)
    for sort in (Sort.NAME, Sort.SIZE)
    for folder, query, kind in (
        ("", "film", ""),
        ("", "film 7", ""),
        ("", "film even", ""),
        ("", "nonesuch", ""),
        ("a", "film", ""),
        ("b", "film", ""),
        ("", "", "video"),
        ("a", "", ""),
    )
]


@cache
def films() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of all files, and of the search words of their names."""
    medias = [
        row(Key(SHARED, FOLDERS[n % 5], f"film {n} {'even' if n % 2 else 'odd'}"), n, n, "video/mp4")
        for n in range(FILES)
    ]
    words = [{"media_id": one.id, "word": w.word, "library": SHARED} for one in medias for w in one.words]
    columns = [
        column.name for column in MediaRow.__table__.columns if getattr(medias[0], column.name) is not None
    ]
    return [{name: getattr(one, name) for name in columns} for one in medias], words


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "postgresql, analysed"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("plans")
        found: Database = Sqlite(make_url(f"sqlite:///{folder}/test.db"))
    else:
        found = Postgresql(make_url(postgres.shared().new_database()))
    migrate(found)
    with found.writing() as session:
        if request.param == "postgresql":
            for table in ("media", "word"):
                session.connection().exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        for table, rows in zip((MediaRow, WordRow), films(), strict=True):
            session.execute(table.__table__.insert(), rows)
        if request.param == "postgresql, analysed":
            session.connection().exec_driver_sql("ANALYZE")
        session.commit()
    yield found
    found.close()


@contextmanager
def recorded(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Yield a list that receives the queries sent inside."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH", "(")):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", record)


def plans(database: Database, call: Callable[[Session], object]) -> list[str]:
    """Return the database's plan for each query of a call. None of the queries may count."""
    explain = "EXPLAIN QUERY PLAN" if isinstance(database, Sqlite) else "EXPLAIN"
    with database.reading() as session:
        with recorded(database) as sent:
            call(session)
        assert sent
        assert not [statement for statement, _ in sent if "count(" in statement.lower()]
        explained = session.connection().exec_driver_sql
        return [
            "\n".join(str(line[-1]) for line in explained(f"{explain} {statement}", parameters))
            for statement, parameters in sent
        ]


def assert_by_index(plan: str) -> None:
    for table in (MediaRow, WordRow):
        assert f"SCAN {table.__tablename__}" not in plan, plan
        assert f"Seq Scan on {table.__tablename__}" not in plan, plan


def is_sorted(plan: str) -> bool:
    return "TEMP B-TREE" in plan or "Sort" in plan


@pytest.mark.parametrize("listing", IN_INDEX_ORDER)
def test_page_is_read_in_index_order(database: Database, listing: Listing) -> None:
    with database.reading() as session:
        _, cursor = sql_page(session, listing, limit=100)
    for at in (None, cursor):
        found = plans(database, lambda session, at=at: sql_page(session, listing, cursor=at, limit=100))
        for plan in found:
            assert_by_index(plan)
            assert not is_sorted(plan), plan


@pytest.mark.parametrize("listing", SEARCHES)
def test_search_uses_indexes_and_sorts_only_few_rows(database: Database, listing: Listing) -> None:
    limits = PageLimits(sort_at_most=(10, 300))
    found = plans(database, lambda session: sql_page(session, listing, limit=20, limits=limits))
    for plan in found:
        assert_by_index(plan)
    assert len(found) <= 12
    for plan in found[:-1]:
        assert not is_sorted(plan), plan
    few = listing.query in ("film 7", "nonesuch")
    assert is_sorted(found[-1]) <= few, found[-1]


# For a small table without statistics, PostgreSQL considers any index good enough.
@pytest.mark.parametrize("database", ["sqlite", "postgresql, analysed"], indirect=True)
def test_file_is_found_by_one_index_lookup(database: Database) -> None:
    key = Key(SHARED, "a", "film 1 even")
    with database.reading() as session:
        media = find(session, key)
    assert media is not None
    for address in (key, FileId(SHARED, media.id)):
        [plan] = plans(database, lambda session, address=address: find(session, address))
        assert_by_index(plan)
        names = ("(library=? AND folder=? AND filename=?)", "(id=?)", "uq_media_path", "media_pkey")
        assert any(name in plan for name in names), plan


# PostgreSQL uses statistics: where few files are ignored, either index is equally good.
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_folders_are_found_by_jumps_in_index_of_visible_files(database: Database) -> None:
    [plan] = plans(database, lambda session: folders(session, SHARED, "a", limit=9))
    assert_by_index(plan)
    assert not is_sorted(plan), plan
    assert plan.count("(library=? AND ignored=? AND folder>?") == 2, plan


def test_disk_folders_uses_partial_index(database: Database) -> None:
    [plan] = plans(database, lambda session: disk_folders(session, SHARED, "a"))
    assert "ix_media_disk_path" in plan, plan


def test_no_change_scans_a_whole_library(tmp_path: Path) -> None:
    library = Library(tmp_path)
    database, backend = library.backend.database, library.backend
    deep, other = Key(SHARED, "a/b/c/d", "film.mp4"), Key(SHARED, "a/b/other", "film.mp4")
    try:
        with recorded(database) as sent:
            library.put(b"film", deep)
            library.put(b"another film", deep)
            backend.move(deep, other, Expect.ANY)
            backend.page(Listing(SHARED, "a"), cursor=None, limit=10, wait=True)
            backend.delete(other, Expect.ANY)
        assert len(sent) > 10
        for statement, parameters in sent:
            with database.reading() as session:
                explained = session.connection().exec_driver_sql(
                    f"EXPLAIN QUERY PLAN {statement}", parameters
                )
                plan = "\n".join(str(line[-1]) for line in explained)
            assert_by_index(plan)
            assert "(library=?)" not in plan, (statement, plan)
    finally:
        library.close()

"""Pages in SQL do no more work than promised."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.orm import Session

from app.database import paging
from app.database.paging import PAGE_LIMITS, PageLimits
from app.database.sql.engine import Database
from app.database.sql.list_index import SqlListIndex, end_of
from app.database.sql.opening import migrate
from app.database.sql.schema import FIELD_COLUMNS, INFO_COLUMNS, parse_info
from app.database.sql.sqlite import Sqlite
from app.storage import cursors
from app.storage.cursors import Position
from app.storage.types import SHARED, FileFields, FileInfo, Key, Listing, Sort
from tests.support import model
from tests.unit.database.list_indexes import FREQUENT_MATCHES, IN_INDEX_ORDER, NEVER_SORT, info, row, sql_page


@contextmanager
def empty(folder: Path) -> Iterator[Database]:
    database = Sqlite(make_url(f"sqlite:///{folder}/test.db"))
    migrate(database)
    yield database
    database.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with empty(tmp_path_factory.mktemp("database")) as database:
        yield database


@pytest.fixture(scope="module")
def infos(database: Database) -> list[FileInfo]:
    """Store the model's files, and the same files in another library; return those of both."""
    with database.writing() as session:
        found = [
            row(Key(library, key.folder, key.filename), 2 * number + index, size, content_type)
            for number, (key, size, content_type) in enumerate(model.FILES)
            for index, library in enumerate((SHARED, "another"))
        ]
        session.add_all(found)
        session.commit()
        return [info(media) for media in found]


def plans(
    database: Database,
    listing: Listing,
    *,
    cursor: str | None = None,
    limit: int = 2,
    limits: PageLimits = PAGE_LIMITS,
) -> list[str]:
    """Return SQLite's plan for each query of a page."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    with database.reading() as session:
        event.listen(database.engine, "before_cursor_execute", record)
        try:
            sql_page(session, listing, cursor=cursor, limit=limit, limits=limits)
        finally:
            event.remove(database.engine, "before_cursor_execute", record)
        explain = session.connection().exec_driver_sql
        return [
            "; ".join(line[-1] for line in explain(f"EXPLAIN QUERY PLAN {statement}", parameters))
            for statement, parameters in sent
        ]


@pytest.mark.parametrize("listing", IN_INDEX_ORDER)
def test_page_is_a_range_of_an_index(database: Database, infos: list[FileInfo], listing: Listing) -> None:
    cursor: str | None = None
    for _ in range(1000):
        for plan in plans(database, listing, cursor=cursor, limit=5):
            assert plan.startswith("SEARCH media USING INDEX"), plan
            assert ";" not in plan, plan
        with database.reading() as session:
            _, cursor = sql_page(session, listing, cursor=cursor, limit=5)
        if cursor is None:
            break
    assert cursor is None


def cost_of_page(session: Session, listing: Listing, cursor: str | None) -> int:
    """Return the cost of a page: the number of instructions of SQLite's virtual machine."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection: Any = session.connection().connection.dbapi_connection
    connection.set_progress_handler(count, 1)
    try:
        found, _ = sql_page(session, listing, cursor=cursor, limit=10)
    finally:
        connection.set_progress_handler(None, 1)
    assert len(found) == 10
    return counted


def test_cost_of_page_does_not_depend_on_position(tmp_path: Path) -> None:
    with empty(tmp_path) as database, database.writing() as session:
        found = [
            row(Key(SHARED, folder, f"{number:04}"), 1000 * index + number, number, "video/mp4")
            for index, folder in enumerate(("", "a", "a-b", "a/b", "b"))
            for number in range(400)
        ]
        session.add_all(found)
        session.commit()
        for listing in IN_INDEX_ORDER:
            infos = model.expected(map(info, found), listing)
            costs = [cost_of_page(session, listing, None)]
            for number in (10, 50, 300, 385, len(infos) // 2, len(infos) - 11):
                last = infos[number - 1]
                value = None if listing.sort is Sort.NAME else getattr(last, listing.sort.value)
                position = Position(value, last.key.folder, last.key.filename)
                costs.append(cost_of_page(session, listing, cursors.encode(listing, position)))
            assert max(costs) < 2 * costs[0], (listing, costs)


@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("listing", FREQUENT_MATCHES)
def test_frequent_matches_are_read_in_index_order(
    database: Database, infos: list[FileInfo], listing: Listing, sort: Sort
) -> None:
    listing = replace(listing, sort=sort)
    *counts, page = plans(database, listing, limits=NEVER_SORT)
    assert counts
    for plan in (*counts, page):
        assert "TEMP B-TREE" not in plan, plan
        assert "SCAN media" not in plan, plan
        assert "SCAN word" not in plan, plan
    assert "ix_media_path" in page or f"_{sort.value} (" in page, page


@pytest.mark.parametrize(
    ("listing", "index"),
    [
        (Listing(SHARED, "", True, query="strasse", sort=Sort.SIZE), "ix_word"),
        (Listing(SHARED, "", False, query="strasse"), "folder=?"),
        (Listing(SHARED, "", True, content_type="audio"), "ix_media_content_type"),
        (Listing(SHARED, "a/b/c", True, sort=Sort.SIZE), "folder>?"),
        (Listing(SHARED, "a/b/c", False, query="e"), "folder=?"),
    ],
)
def test_rare_matches_are_found_by_their_own_index(
    database: Database, infos: list[FileInfo], listing: Listing, index: str
) -> None:
    *_, page = plans(database, listing)
    assert "SEARCH media USING INDEX sqlite_autoindex_media_1 (id=?)" in page, page
    assert index in page, page
    assert "SCAN media" not in page, page


def test_frequent_words_that_rarely_meet_are_not_searched_in_index_order(
    database: Database, infos: list[FileInfo]
) -> None:
    limits = PageLimits(sort_at_most=(2,), with_all_tokens=3)
    *_, page = plans(database, Listing(SHARED, "", True, query="the strasse"), limits=limits)
    assert page.startswith("SEARCH media USING INDEX sqlite_autoindex_media_1 (id=?)"), page
    *_, page = plans(database, Listing(SHARED, "", True, query="the end"), limits=limits)
    assert "(id=?)" not in page, "both words together are frequent"


def test_search_examines_bounded_number_of_files_per_page(database: Database, infos: list[FileInfo]) -> None:
    limits = replace(NEVER_SORT, strides=(3, 4))
    everything = model.expected(infos, Listing(SHARED, "", True))
    listing = Listing(SHARED, "", True, query="the strasse")
    with database.reading() as session:
        cursor = None
        for number in range(7, len(everything), 7):
            found, cursor = sql_page(session, listing, cursor=cursor, limit=2, limits=limits)
            assert found == []
            assert cursor is not None
            assert cursors.decode(listing, cursor).filename == everything[number - 1].key.filename
        assert sql_page(session, listing, cursor=cursor, limit=2, limits=limits) == ([], None)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("abc", "abd"),
        ("a/", "a0"),
        ("\x7f", "\x80"),
        ("\u07ff", "\u0800"),
        ("a\ud7ff", "a\ue000"),
        ("\uffff", "\U00010000"),
        ("a\U0010ffff", "b"),
        ("a\U0010ffff\U0010ffff", "b"),
        ("\U0010fffe", "\U0010ffff"),
        ("\U0010ffff", None),
        ("", None),
    ],
)
def test_end_of_returns_upper_bound_of_prefix(prefix: str, end: str | None) -> None:
    assert end_of(prefix) == end
    if end is not None:
        longest = (prefix + "\U0010ffff" * 9).encode()
        assert prefix.encode() < longest < end.encode()


TIMES = [datetime(2026, 12, 1, 12, 0, 0, microsecond, UTC) for microsecond in (0, 1, 100_000, 999_999)]


def test_fields_of_rows_equal_those_of_file_infos(tmp_path: Path) -> None:
    """The hash of a doubtful file is unknown, and times have no fraction at a whole second."""
    with empty(tmp_path) as database, database.writing() as session:
        for number, time in enumerate(TIMES):
            for doubtful in (False, True):
                media = row(Key(SHARED, "f", f"{number}{doubtful}"), 2 * number + doubtful, 1, "video/mp4")
                media.created_at, media.updated_at, media.sha256 = time, time, "ab" * 32
                media.doubtful = doubtful
                session.add(media)
        session.flush()
        for sort in Sort:
            listing = Listing(SHARED, "f", sort=sort)
            read = [
                paging.page(SqlListIndex(session, listing, columns), cursor=None, limit=7)
                for columns in (FIELD_COLUMNS, INFO_COLUMNS)
            ]
            (fields, cursor), (infos, same_cursor) = read
            assert [*map(tuple, fields)] == [FileFields.of(parse_info(one)) for one in infos]
            assert cursor == same_cursor is not None

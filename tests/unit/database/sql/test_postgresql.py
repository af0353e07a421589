"""Behavior specific to PostgreSQL: schema, plans, locks and refusals."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from psycopg.sql import SQL, Identifier
from sqlalchemy import event, make_url, text

from app.database.filesystem.opening import open_filesystem
from app.database.sql.list_index import folders
from app.database.sql.opening import alembic_config, migrate
from app.database.sql.postgresql import Postgresql
from app.settings import ConfigurationError, Settings
from app.storage import cursors
from app.storage.cursors import Position
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.types import SHARED, FileId, Listing, Sort
from tests.support import postgres
from tests.support.forking import completed
from tests.unit.database.library import FILM, Library
from tests.unit.database.list_indexes import IN_INDEX_ORDER, sql_page

SERVER = postgres.shared

TERMINATE_WRITER = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"

FILES = 20_000
FILL = f"""
    INSERT INTO media (id, library, folder, filename, content_type, etag, created_at, updated_at, size,
        mtime_ns, inode)
    SELECT lpad(n::text, 32, '0'), '', (ARRAY['', 'a', 'a-b', 'a/b', 'b'])[1 + n % 5], lpad(n::text, 8, '0'),
        'video/mp4', 'x', TIMESTAMPTZ '2026-01-01' + n * INTERVAL '1 second',
        TIMESTAMPTZ '2026-01-01' - n * INTERVAL '1 second', n, 0, 0
    FROM generate_series(0, {FILES - 1}) n
"""


@pytest.fixture
def url() -> str:
    return SERVER().new_database()


@pytest.fixture
def database(url: str) -> Iterator[Postgresql]:
    database = Postgresql(make_url(url))
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def library(url: str, tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "files", url)
    yield library
    library.close()


def check(database: Postgresql) -> None:
    scripts = alembic_config()
    with database.writing() as session:
        scripts.attributes["connection"] = session.connection()
        command.check(scripts)


# The schema


def test_tables_match_migrations(database: Postgresql) -> None:
    check(database)


def test_migrations_can_be_reverted_and_applied_again(database: Postgresql) -> None:
    scripts = alembic_config()
    with database.writing() as session:
        scripts.attributes["connection"] = session.connection()
        command.downgrade(scripts, "base")
        command.upgrade(scripts, "head")
        session.commit()
    check(database)


def test_text_columns_compare_by_bytes(database: Postgresql) -> None:
    with database.reading() as session:
        found = session.execute(
            text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND data_type IN ('text', 'character varying') "
                "AND table_name <> 'alembic_version'"
            )
        ).all()
    assert len(found) > 15
    assert [(table, column) for table, column, collation in found if collation != "C"] == []


def test_concurrent_migrations_succeed(url: str, tmp_path: Path) -> None:
    environment = {
        "SEEKABLE_FILES_DIR": str(tmp_path / "files"),
        "SEEKABLE_DATABASE_URL": url,
        "PATH": os.defpath,
    }

    def run(_: int) -> subprocess.CompletedProcess[str]:
        return completed("migrate", folder=tmp_path, environment=environment)

    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(run, range(3)):
            assert result.returncode == 0, result.stderr


# Lists


@pytest.fixture(scope="module")
def many() -> Iterator[Postgresql]:
    """Create a database with many files and statistics."""
    database = Postgresql(make_url(SERVER().new_database()))
    migrate(database)
    with database.writing() as session:
        session.execute(text(FILL))
        session.execute(text("ANALYZE media"))
        session.commit()
    yield database
    database.close()


def costs(database: Postgresql, call: Any) -> list[tuple[str, int]]:
    """Return the plan of each query and the number of blocks that it read."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    try:
        with database.reading() as session:
            call(session)
    finally:
        event.remove(database.engine, "before_cursor_execute", record)
    found = []
    with database.reading() as session:
        for statement, parameters in sent:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
            ((plan,),) = session.connection().exec_driver_sql(explain, parameters).all()
            top = plan[0]["Plan"]
            found.append((str(top), top["Shared Hit Blocks"] + top["Shared Read Blocks"]))
    assert found
    return found


@pytest.mark.parametrize("listing", IN_INDEX_ORDER)
def test_page_is_a_range_of_an_index_at_any_position(many: Postgresql, listing: Listing) -> None:
    for number in (None, FILES // 10, FILES // 2):
        cursor = None
        if number is not None:
            with many.reading() as session:
                [at], _ = sql_page(session, Listing(SHARED, listing.folder), limit=1)
                value = None if listing.sort is Sort.NAME else getattr(at, listing.sort.value)
            value = number if listing.sort is Sort.SIZE else value
            cursor = cursors.encode(listing, Position(value, listing.folder, f"{number:08}"))
        call = lambda session: sql_page(session, listing, cursor=cursor, limit=50)  # noqa: B023, E731
        for plan, blocks in costs(many, call):
            assert "Index" in plan, plan
            assert "Seq Scan" not in plan, plan
            assert "'Sort'" not in plan, plan
            assert blocks < 120, plan


@pytest.mark.parametrize("folder", ["", "a"])
def test_folders_are_found_by_jumps_in_index(many: Postgresql, folder: str) -> None:
    for plan, blocks in costs(many, lambda session: folders(session, SHARED, folder, limit=1000)):
        assert "Seq Scan" not in plan, plan
        assert blocks < 60, plan


def test_unhashed_files_are_found_by_indexes(library: Library) -> None:
    database = library.backend.database
    assert isinstance(database, Postgresql)
    first, unhashed, unjudged = (
        plan for plan, _ in costs(database, lambda _: list(library.backend.maintenance.hash_unverified()))
    )
    assert "ix_media_hash_first" in first
    assert "ix_media_unverified" in unhashed
    assert "ix_media_unjudged" in unjudged


# Locks


def test_writer_sees_commit_of_previous_writer(url: str, database: Postgresql) -> None:
    other = Postgresql(make_url(url))
    insert_next_number = text("INSERT INTO volume SELECT (count(*) + 1)::text FROM volume")

    def write(writer: Postgresql) -> None:
        for _ in range(20):
            with writer.writing() as session:
                session.execute(insert_next_number)  # a duplicate would violate the primary key
                session.commit()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [database, other]))
    other.close()


def test_writer_raises_unavailable_after_busy_timeout(url: str, database: Postgresql) -> None:
    other = Postgresql(make_url(url), busy_timeout_ms=100)
    refused = pytest.raises(StorageUnavailable, match="is overloaded")
    with database.writing(), refused, other.writing():
        pass
    with other.writing() as session:
        assert session.scalar(text("SELECT 1")) == 1
    other.close()


def test_reader_has_a_snapshot(database: Postgresql) -> None:
    count = text("SELECT count(*) FROM volume")
    with database.reading() as session:
        before = session.scalar(count)
        with database.writing() as writer:
            writer.execute(text("INSERT INTO volume VALUES ('one more')"))
            writer.commit()
        assert session.scalar(count) == before


def test_other_writer_waits_when_writer_loses_connection(library: Library, tmp_path: Path) -> None:
    """The process that lost its connection has lost its lock, and may be in the middle of a file step."""
    other = Library(library.root, library.settings.database_url)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(StorageUnavailable), library.backend.reconciling():
            library.sql(TERMINATE_WRITER)
            waiting = pool.submit(other.put, b"of the other")
            has_waited = not wait([waiting], timeout=0.5).done
        assert has_waited
        assert waiting.result(10).created
    other.close()


# Refusals


def settings(tmp_path: Path, url: str) -> Settings:
    return Settings(_env_file=None, files_dir=tmp_path / "files", database_url=url)


def refusal(tmp_path: Path, url: str) -> str:
    with ExitStack() as stack, pytest.raises((ConfigurationError, StorageUnavailable)) as refused:
        open_filesystem(settings(tmp_path, url), stack)
    message = str(refused.value)
    assert "\n" not in message
    assert "secret" not in message
    assert "SEEKABLE_DATABASE_URL" in message
    return message


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres"])
@pytest.mark.parametrize(
    "rest_of_url", ["seekable:secret@127.0.0.1:1/media", "127.0.0.1:1/x?user=me&password=secret"]
)
def test_open_error_names_unreachable_server(tmp_path: Path, scheme: str, rest_of_url: str) -> None:
    assert "refused" in refusal(tmp_path, f"{scheme}://{rest_of_url}")


def test_open_error_names_wrong_password(tmp_path: Path) -> None:
    assert "password authentication failed" in refusal(tmp_path, SERVER().url("postgres", password="secret"))


def test_open_error_names_missing_database(tmp_path: Path) -> None:
    assert '"nowhere" does not exist' in refusal(tmp_path, SERVER().url("nowhere"))


def test_database_in_other_encoding_is_refused(tmp_path: Path) -> None:
    with SERVER().connected() as connection:
        connection.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    assert "is LATIN1. Create it with the encoding UTF8." in refusal(tmp_path, SERVER().url("latin"))


@pytest.mark.parametrize(
    "url", ["mysql://root:secret@localhost/media", "postgresql+asyncpg://localhost/media"]
)
def test_unsupported_database_is_refused(tmp_path: Path, url: str) -> None:
    assert "neither" in refusal(tmp_path, url)


def test_open_error_names_missing_privilege(tmp_path: Path, url: str) -> None:
    user, password = SERVER().new_user()
    with ExitStack() as stack, pytest.raises(StorageUnavailable, match="does not let this user do this"):
        at = SERVER().url(str(make_url(url).database), user=user, password=password)
        open_filesystem(settings(tmp_path, at), stack)


def test_write_error_names_read_only_server(library: Library) -> None:
    library.put(b"film")
    name = Identifier(str(library.backend.database.engine.url.database))
    with SERVER().connected() as connection:
        connection.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    library.backend.database.close()
    with pytest.raises(StorageUnavailable, match="read-only"):
        library.put(b"another")
    assert library.get()[0] == b"film"
    assert library.path().read_bytes() == b"film"


def test_put_raises_out_of_space_when_database_disk_is_full(library: Library) -> None:
    library.put(b"film")
    library.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"
    )
    library.sql("CREATE TRIGGER full_disk BEFORE UPDATE ON media EXECUTE FUNCTION full_disk()")
    with pytest.raises(OutOfSpace):
        library.put(b"another")
    assert library.get()[0] == b"film"
    assert library.staging() == []


def test_nul_character_is_not_found(library: Library) -> None:
    with pytest.raises(NotFound):
        library.backend.open(FileId(SHARED, "\0"), wait=True)
    listing = Listing(SHARED, "", True, content_type="video/\0")
    page = library.backend.page(listing, cursor=None, limit=10, wait=True)
    assert page is not None
    assert page.items == ()


def test_refusal_is_raised_when_connection_is_lost_too(library: Library) -> None:
    with pytest.raises(NotFound), library.backend.reconciling():
        library.sql(TERMINATE_WRITER)
        raise NotFound("There is no such file.")


def test_errors_do_not_reveal_database_address(library: Library) -> None:
    library.put(b"film")
    library.sql("SELECT 1")
    with pytest.raises(StorageUnavailable) as lost, library.backend.database.writing() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert "127.0.0.1" not in str(lost.value)
    assert library.get(FILM)[0] == b"film"

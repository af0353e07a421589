"""What is PostgreSQL's own: its schema, its plans, its locks, and what it says when it refuses."""

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

from app.database.sql import pages, paths
from app.database.sql.opening import config, migrate, open_filesystem
from app.database.sql.postgresql import Postgresql
from app.settings import ConfigurationError, Settings
from app.storage import cursors
from app.storage.cursors import Position
from app.storage.errors import NotFound, OutOfSpace, StorageUnavailable
from app.storage.types import SHARED, FileId, FileInfo, Key, Listing, Sort
from tests.support import model, postgres
from tests.support.forking import completed
from tests.unit.database.library import FILM, Library
from tests.unit.database.test_pages import IN_ORDER, all_pages, info, row

SERVER = postgres.shared

LOSE_WRITER = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"

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
    scripts = config()
    with database.writing() as session:
        scripts.attributes["connection"] = session.connection()
        command.check(scripts)


# The schema


def test_tables_and_migrations_agree(database: Postgresql) -> None:
    check(database)


def test_migrations_go_down_and_up_again(database: Postgresql) -> None:
    scripts = config()
    with database.writing() as session:
        scripts.attributes["connection"] = session.connection()
        command.downgrade(scripts, "base")
        command.upgrade(scripts, "head")
        session.commit()
    check(database)


def test_all_text_is_compared_by_bytes(database: Postgresql) -> None:
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


def test_servers_that_start_at_once_migrate_once(url: str, tmp_path: Path) -> None:
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


def test_every_list_is_what_a_plain_model_says(database: Postgresql) -> None:
    with database.writing() as session:
        found = [
            row(Key(SHARED, key.folder, key.filename), number, size, content_type)
            for number, (key, size, content_type) in enumerate(model.FILES)
        ]
        session.add_all(found)
        session.commit()
        infos: list[FileInfo] = [info(media) for media in found]
    with database.reading() as session:
        for listing, limit in model.sample(model.LISTINGS, 200):
            assert all_pages(session, listing, limit) == model.expected(infos, listing), listing


@pytest.fixture(scope="module")
def many() -> Iterator[Postgresql]:
    """A database of many files, which it has looked through."""
    database = Postgresql(make_url(SERVER().new_database()))
    migrate(database)
    with database.writing() as session:
        session.execute(text(FILL))
        session.execute(text("ANALYZE media"))
        session.commit()
    yield database
    database.close()


def costs(database: Postgresql, asks: Any) -> list[tuple[str, int]]:
    """The plan of each query, and how many blocks it looked at."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.reading() as session:
            asks(session)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    found = []
    with database.reading() as session:
        for statement, parameters in sent:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
            ((plan,),) = session.connection().exec_driver_sql(explain, parameters).all()
            top = plan[0]["Plan"]
            found.append((str(top), top["Shared Hit Blocks"] + top["Shared Read Blocks"]))
    assert found
    return found


@pytest.mark.parametrize("listing", IN_ORDER)
def test_a_page_is_a_range_of_an_index_however_deep_it_is(many: Postgresql, listing: Listing) -> None:
    for number in (None, FILES // 10, FILES // 2):
        cursor = None
        if number is not None:
            with many.reading() as session:
                [at], _ = pages.rows(session, Listing(SHARED, listing.folder), cursor=None, limit=1)
                value = None if listing.sort is Sort.NAME else getattr(at, listing.sort.value)
            value = number if listing.sort is Sort.SIZE else value
            cursor = cursors.encode(listing, Position(value, listing.folder, f"{number:08}"))
        asks = lambda session: pages.rows(session, listing, cursor=cursor, limit=50)  # noqa: B023, E731
        for plan, blocks in costs(many, asks):
            assert "Index" in plan, plan
            assert "Seq Scan" not in plan, plan
            assert "'Sort'" not in plan, plan
            assert blocks < 120, plan


@pytest.mark.parametrize("folder", ["", "a"])
def test_folders_are_found_by_jumping_along_an_index(many: Postgresql, folder: str) -> None:
    for plan, blocks in costs(many, lambda session: paths.folders(session, SHARED, folder, limit=1000)):
        assert "Seq Scan" not in plan, plan
        assert blocks < 60, plan


def test_what_is_to_be_read_is_found_by_indexes_of_its_own(library: Library) -> None:
    database = library.backend._database
    assert isinstance(database, Postgresql)
    first, unhashed, unjudged = (
        plan for plan, _ in costs(database, lambda _: list(library.backend.hash_unverified()))
    )
    assert "ix_media_hash_first" in first
    assert "ix_media_unverified" in unhashed
    assert "ix_media_unjudged" in unjudged


# Locks


def test_a_writer_sees_what_the_one_before_it_committed(url: str, database: Postgresql) -> None:
    other = Postgresql(make_url(url))
    numbers = text("INSERT INTO volume SELECT (count(*) + 1)::text FROM volume")

    def write(writer: Postgresql) -> None:
        for _ in range(20):
            with writer.writing() as session:
                session.execute(numbers)  # the same twice would be refused
                session.commit()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [database, other]))
    other.close()


def test_a_writer_does_not_wait_for_ever(url: str, database: Postgresql) -> None:
    other = Postgresql(make_url(url), busy_timeout_ms=100)
    refused = pytest.raises(StorageUnavailable, match="too much to do")
    with database.writing(), refused, other.writing():
        pass
    with other.writing() as session:
        assert session.scalar(text("SELECT 1")) == 1
    other.close()


def test_a_reader_has_a_snapshot(database: Postgresql) -> None:
    count = text("SELECT count(*) FROM volume")
    with database.reading() as session:
        before = session.scalar(count)
        with database.writing() as writer:
            writer.execute(text("INSERT INTO volume VALUES ('one more')"))
            writer.commit()
        assert session.scalar(count) == before


def test_no_other_process_changes_files_while_a_lost_one_does(library: Library, tmp_path: Path) -> None:
    """Whose connection is gone has lost its lock, and may be in the middle of a file step."""
    other = Library(library.root, library.settings.database_url)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(StorageUnavailable), library.backend._settling():
            library.sql(LOSE_WRITER)
            waiting = pool.submit(other.put, b"of the other")
            has_waited = not wait([waiting], timeout=0.5).done
        assert has_waited
        assert waiting.result(10).created
    other.close()


# What it refuses


def settings(tmp_path: Path, url: str) -> Settings:
    return Settings(_env_file=None, files_dir=tmp_path / "files", database_url=url)


def refusal(tmp_path: Path, url: str) -> str:
    with ExitStack() as stack, pytest.raises(ConfigurationError) as refused:
        open_filesystem(settings(tmp_path, url), str, stack)
    said = str(refused.value)
    assert "\n" not in said
    assert "secret" not in said
    assert "SEEKABLE_DATABASE_URL" in said
    return said


@pytest.mark.parametrize("begin", ["postgresql+psycopg", "postgresql", "postgres"])
@pytest.mark.parametrize(
    "where", ["seekable:secret@127.0.0.1:1/media", "127.0.0.1:1/x?user=me&password=secret"]
)
def test_a_server_that_is_not_there_is_named(tmp_path: Path, begin: str, where: str) -> None:
    assert "refused" in refusal(tmp_path, f"{begin}://{where}")


def test_a_wrong_password_is_named(tmp_path: Path) -> None:
    assert "password authentication failed" in refusal(tmp_path, SERVER().url("postgres", password="secret"))


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    assert '"nowhere" does not exist' in refusal(tmp_path, SERVER().url("nowhere"))


def test_a_database_of_another_encoding_is_refused(tmp_path: Path) -> None:
    with SERVER().connected() as connection:
        connection.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    assert "UTF8, not LATIN1" in refusal(tmp_path, SERVER().url("latin"))


@pytest.mark.parametrize(
    "url", ["mysql://root:secret@localhost/media", "postgresql+asyncpg://localhost/media"]
)
def test_another_kind_of_database_is_refused(tmp_path: Path, url: str) -> None:
    assert "neither" in refusal(tmp_path, url)


def test_a_user_who_may_not_make_tables_is_told(tmp_path: Path, url: str) -> None:
    user, password = SERVER().new_user()
    with ExitStack() as stack, pytest.raises(StorageUnavailable, match="does not let this user"):
        at = SERVER().url(str(make_url(url).database), user=user, password=password)
        open_filesystem(settings(tmp_path, at), str, stack)


def test_a_read_only_server_is_named(library: Library) -> None:
    library.put(b"film")
    name = Identifier(str(library.backend._database.engine.url.database))
    with SERVER().connected() as connection:
        connection.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    library.backend._database.close()
    with pytest.raises(StorageUnavailable, match="read-only"):
        library.put(b"another")
    assert library.get()[0] == b"film"
    assert library.path().read_bytes() == b"film"


def test_a_full_disk_of_the_database_is_out_of_space(library: Library) -> None:
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


def test_what_it_cannot_hold_is_not_found(library: Library) -> None:
    with pytest.raises(NotFound):
        library.backend.open(FileId(SHARED, "\0"), wait=True)
    listing = Listing(SHARED, "", True, content_type="video/\0")
    page = library.backend.page(listing, cursor=None, limit=10, wait=True)
    assert page is not None
    assert page.items == ()


def test_a_lost_connection_does_not_hide_why_a_change_is_refused(library: Library) -> None:
    with pytest.raises(NotFound), library.backend._settling():
        library.sql(LOSE_WRITER)
        raise NotFound("There is no such file.")


def test_its_answers_leave_no_trace_of_where_it_is(library: Library) -> None:
    library.put(b"film")
    library.sql("SELECT 1")
    with pytest.raises(StorageUnavailable) as lost, library.backend._database.writing() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert "127.0.0.1" not in str(lost.value)
    assert library.get(FILM)[0] == b"film"

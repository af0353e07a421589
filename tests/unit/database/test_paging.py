"""Pages equal the reference model on each database, by each strategy of the paging algorithm."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import parse_info
from app.database.paging import PAGE_LIMITS, PageLimits
from app.database.sql.engine import Database
from app.database.sql.opening import migrate
from app.database.sql.postgresql import Postgresql
from app.database.sql.sqlite import Sqlite
from app.storage.types import SHARED, FileInfo, Key, Listing
from tests.support import model, mongo, postgres
from tests.unit.database.list_indexes import GetPage, document, info, mongo_page, pages, row, sql_page

STRATEGIES = [
    PAGE_LIMITS,
    PageLimits(sort_at_most=(0,), with_token=0, strides=(1, 5)),
    PageLimits(sort_at_most=(0,), with_token=0, strides=(1000,)),
    PageLimits(sort_at_most=(2, 5), with_token=1000, strides=(10, 1000)),
    PageLimits(sort_at_most=(10_000,), with_token=0, strides=()),
]
"""PageLimits that select each strategy: search in index order in short parts, and in one; search among few
files that have all tokens; sorting."""

Library = tuple[list[FileInfo], Callable[[PageLimits], GetPage]]
"""The files that are stored, and a function that returns how to get a page within limits."""

FILES = [
    (Key(library, key.folder, key.filename), number, size, content_type)
    for number, (key, size, content_type) in enumerate(model.FILES)
    for library in (SHARED, "another")
]
"""The model's files, twice: those of the other library may not be listed."""


@contextmanager
def sql_library(database: Database) -> Iterator[Library]:
    migrate(database)
    with database.writing() as session:
        rows = [
            row(key, 2 * number + (key.library != SHARED), size, content_type)
            for key, number, size, content_type in FILES
        ]
        session.add_all(rows)
        session.commit()
        infos = [*map(info, rows)]
    with database.reading() as session:

        def within(limits: PageLimits) -> GetPage:
            get_page = partial(sql_page, session, limits=limits)
            return lambda listing, cursor, limit: get_page(listing, cursor=cursor, limit=limit)

        yield infos, within
    database.close()


@contextmanager
def mongo_library() -> Iterator[Library]:
    database = MongoDatabase(str(mongo.gridfs()["mongodb_url"]))
    database.ensure_indexes()
    database.media.insert_many(document(*file) for file in FILES)

    def within(limits: PageLimits) -> GetPage:
        get_page = partial(mongo_page, database.media, limits=limits)
        return lambda listing, cursor, limit: get_page(listing, cursor=cursor, limit=limit)

    yield [*map(parse_info, database.media.find())], within
    database.client.drop_database(database.name)
    database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mongodb"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    if request.param == "mongodb":
        opened = mongo_library()
    elif request.param == "postgresql":
        opened = sql_library(Postgresql(make_url(postgres.shared().new_database())))
    else:
        folder: Path = tmp_path_factory.mktemp("paging")
        opened = sql_library(Sqlite(make_url(f"sqlite:///{folder}/test.db")))
    with opened as library:
        yield library


UNFILTERED = [one for one in model.LISTINGS if not one.query and not one.content_type]


def check_lists(stored: Library, limits: PageLimits, listings: Iterable[tuple[Listing, int]]) -> int:
    """Assert that each listing has the files of the model. Return their number."""
    infos, within = stored
    get_page = within(limits)
    found = 0
    for listing, limit in listings:
        wanted = model.expected(infos, listing)
        assert [one for page in pages(get_page, listing, limit) for one in page] == wanted, listing
        found += len(wanted)
    return found


@pytest.mark.parametrize("limits", STRATEGIES)
def test_every_strategy_finds_the_files_of_the_model(stored: Library, limits: PageLimits) -> None:
    sample = [*((one, 7) for one in UNFILTERED[::3]), *model.sample(model.LISTINGS, 50)]
    assert check_lists(stored, limits, sample) > 300, "most of these lists must have files"


@pytest.mark.campaign
@pytest.mark.parametrize("limits", STRATEGIES)
def test_every_strategy_finds_the_files_of_the_model_in_many_lists(
    stored: Library, limits: PageLimits
) -> None:
    sample = [*((one, 3) for one in UNFILTERED), *model.sample(model.LISTINGS, 1000)]
    assert check_lists(stored, limits, sample) > 900, "most of these lists must have files"

"""Which rows lists leave out: decided when a row gets its name, and again when the patterns change."""

import logging

from sqlalchemy import bindparam, select, update

from app.database.sql.engine import Database
from app.database.sql.tables import Media, Volume
from app.storage.ignored import Ignored

BATCH = 2_000
"""Rows that one query reads."""

_SAME = ("id", "library", "folder", "filename")
_COLUMNS = [getattr(Media, name) for name in _SAME]
_FLAG = (
    update(Media)
    .where(*(column == bindparam(f"same_{column.key}") for column in _COLUMNS))
    .values(ignored=bindparam("is_ignored"))
)
"""Sent by the connection, not the session, many at a time."""

_log = logging.getLogger("seekable")


def ignored_names(database: Database, wanted: Ignored, *, serving: bool) -> Ignored:
    """Return the patterns that decide which files lists leave out.

    A server flags every row by the patterns that it wants, and returns those. A command returns those of
    the last server, because a shell may lack the server's settings.
    """
    with database.reading() as session:
        noted = session.scalar(select(Volume.ignore))
    if not serving:
        return wanted if noted is None else Ignored.of(noted)
    if noted != wanted.text:
        _flag(database, wanted)
    return wanted


def _flag(database: Database, ignored: Ignored) -> None:
    """Decide for every row. Others may write meanwhile: a row is changed only if it still has the name that
    was looked at, and a row that gets its name later was decided by whoever named it.
    """
    after = ""
    while True:
        query = select(*_COLUMNS, Media.ignored).where(Media.id > after).order_by(Media.id).limit(BATCH)
        with database.reading() as session:
            rows = session.execute(query).all()
        if not rows:
            break
        if not after and len(rows) == BATCH:
            _log.info("SEEKABLE_IGNORE is another than the last time: looking at the names of all files.")
        after = rows[-1].id
        changed = [
            {f"same_{name}": getattr(row, name) for name in _SAME} | {"is_ignored": not row.ignored}
            for row in rows
            if row.ignored != ignored.path(row.folder, row.filename)
        ]
        if changed:
            with database.writing() as session:
                session.connection().execute(_FLAG, changed)
                session.commit()
    with database.writing() as session:
        session.execute(update(Volume).values(ignore=ignored.text))
        session.commit()

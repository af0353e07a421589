"""Which rows lists leave out: decided when a row gets its name, and again when the patterns change."""

from sqlalchemy import select, update

from app.database.sql.engine import Database
from app.database.sql.tables import Media, Volume
from app.storage.ignored import Ignored
from app.storage.types import Key

BATCH = 2_000
"""Rows that one query reads."""


def flag_ignored(database: Database, ignored: Ignored) -> None:
    """Decide for every row whether it is ignored, if the patterns are others than the last time.

    Reads every row then. Others may write meanwhile: a row is changed only if it still has the name that was
    looked at, and a row that gets its name later was decided by whoever named it.
    """
    with database.reading() as session:
        if session.scalar(select(Volume.ignore)) == ignored.text:
            return
    after = ""
    columns = Media.id, Media.library, Media.folder, Media.filename, Media.ignored
    while True:
        query = select(*columns).where(Media.id > after).order_by(Media.id).limit(BATCH)
        with database.reading() as session:
            rows = session.execute(query).all()
        if not rows:
            break
        after = rows[-1].id
        changed = [row for row in rows if row.ignored != ignored.file(Key(*row[1:4]))]
        if changed:
            with database.writing() as session:
                for identity, library, folder, filename, was_ignored in changed:
                    same = Media.id == identity, Media.library == library
                    here = Media.folder == folder, Media.filename == filename
                    session.execute(update(Media).where(*same, *here).values(ignored=not was_ignored))
                session.commit()
    with database.writing() as session:
        session.execute(update(Volume).values(ignore=ignored.text))
        session.commit()

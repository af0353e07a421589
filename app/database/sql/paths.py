"""Rows and folders in the order of their paths, along the index behind them."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Integer, case, func, literal, or_, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.database.filesystem.posix import DiskPath
from app.database.filesystem.rows import disk_path, path_at
from app.database.sql.schema import Media
from app.database.stretches import MAX_LOOKED_AT
from app.storage.types import Key


class Position(FunctionElement[int]):
    """Where in a text another one stands, from 1; 0 if nowhere. Every database has its own name for it."""

    type = Integer()
    inherit_cache = True


@compiles(Position, "sqlite")
def _instr(element: Position, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(Position, "postgresql")
def _strpos(element: Position, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


Place = tuple[Key, DiskPath]
"""A file, and where on the disk it is, or may be."""


def places(
    session: Session, library: str, folder: str, after: tuple[str, str], *, beneath: bool, limit: int
) -> list[Place]:
    """What the rows in a folder, or also those beneath it, speak of, behind this folder and filename."""
    query = select(Media.folder, Media.filename, Media.disk_path).where(
        Media.library == library, tuple_(Media.folder, Media.filename) > tuple_(*after)
    )
    if not beneath:
        query = query.where(Media.folder == folder)
    elif folder:
        # "0" comes right after "/". What lies between the folder and its inside is passed over.
        inside = Media.folder >= f"{folder}/"
        query = query.where(
            Media.folder >= folder, Media.folder < f"{folder}0", or_(Media.folder == folder, inside)
        )
    rows = session.execute(query.order_by(Media.folder, Media.filename).limit(limit))
    keys = ((Key(library, folder, name), path) for folder, name, path in rows)
    return [(key, path_at(key) if path is None else disk_path(library, path)) for key, path in keys]


def libraries(session: Session) -> Iterator[str]:
    """The libraries that have rows, by jumping from one to the next along the index."""
    name = session.scalar(select(func.min(Media.library)))
    while name is not None:
        yield name
        name = session.scalar(select(func.min(Media.library)).where(Media.library > name))


def disk_folders(session: Session, library: str, folder: str) -> set[DiskPath]:
    """Where files of a folder are on the disk, if its name is another there."""
    odd = Media.disk_path.is_not(None)
    query = select(Media.disk_path).where(Media.library == library, Media.folder == folder, odd)
    paths = session.scalars(query.limit(10)).all()
    return {tuple(path.split("/")[:-1]) for path in paths if path is not None}


def folders(session: Session, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
    """The first names, by bytes, of the folders directly inside that have files which are not ignored."""
    names = set(islice(folder_names(session, library, folder, ignored=False), MAX_LOOKED_AT))
    return tuple(sorted(names, key=str.encode)[:limit])


def folder_names(
    session: Session, library: str, folder: str, *, ignored: bool | None = None
) -> Iterator[str]:
    """The names of the folders directly inside, by jumping from one to the next along the index. Some come
    twice. `ignored`: those of files that are ignored, of files that are not, or (None) of all."""
    prefix = f"{folder}/" if folder else ""
    rows = select(func.min(Media.folder)).where(Media.library == library)
    if ignored is not None:
        rows = rows.where(Media.ignored == ignored)
    if folder:
        rows = rows.where(Media.folder < f"{folder}0")  # "0" comes right after "/"
    # No legal name holds "\x01", so that it stands right behind a text and before all that go on from it.
    found = select(rows.where(Media.folder >= (prefix or "\x01")).scalar_subquery().label("folder")).cte(
        "found", recursive=True
    )
    rest = func.substr(found.c.folder, len(prefix) + 1)
    slash = Position(rest, "/")
    # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
    passed = case(
        (slash > 0, literal(prefix).concat(func.substr(rest, 1, slash - 1)).concat("0")),
        else_=found.c.folder.concat("\x01"),
    )
    following = rows.where(Media.folder >= passed).correlate(found).scalar_subquery()
    found = found.union_all(select(following).where(found.c.folder.is_not(None)))
    for (path,) in session.execute(select(found.c.folder).where(found.c.folder.is_not(None))):
        yield path[len(prefix) :].partition("/")[0]

"""Rows and folders in the order of their paths, along the index behind them."""

from collections.abc import Iterator, Sequence

from sqlalchemy import or_, select, tuple_
from sqlalchemy.orm import Session

from app.database.sql.tables import Media
from app.storage.folders import Segments
from app.storage.types import Listing

MAX_FOLDERS = 1000
"""That a page names."""


def after(
    session: Session, library: str, folder: str, position: tuple[str, str], *, beneath: bool, limit: int
) -> Sequence[Media]:
    """Rows of a folder, or of all beneath it too, in the order of (folder, filename), behind a position."""
    query = select(Media).where(
        Media.library == library, tuple_(Media.folder, Media.filename) > tuple_(*position)
    )
    if not beneath:
        query = query.where(Media.folder == folder)
    elif folder:
        # "0" comes right after "/". What lies between the folder and its inside is passed over.
        inside = Media.folder >= f"{folder}/"
        query = query.where(
            Media.folder >= folder, Media.folder < f"{folder}0", or_(Media.folder == folder, inside)
        )
    return session.scalars(query.order_by(Media.folder, Media.filename).limit(limit)).all()


def disk_folders(session: Session, library: str, folder: str) -> set[Segments]:
    """Where files of a folder are on the disk, if its name is another there."""
    odd = Media.disk_path.is_not(None)
    query = select(Media.disk_path).where(Media.library == library, Media.folder == folder, odd)
    paths = session.scalars(query.limit(10)).all()
    return {tuple(path.split("/")[:-1]) for path in paths if path is not None}


def folders(session: Session, listing: Listing) -> tuple[str, ...]:
    """The names of the first folders directly inside, as the first page of a listing has them."""
    if listing.recursive or listing.query.strip():
        return ()
    names: set[str] = set()
    for name in folder_names(session, listing.library, listing.folder):
        names.add(name)
        if len(names) == MAX_FOLDERS:
            break
    return tuple(sorted(names, key=str.encode))


def folder_names(session: Session, library: str, folder: str) -> Iterator[str]:
    """The names of the folders directly inside, by jumping from one to the next. Some come twice."""
    prefix = f"{folder}/" if folder else ""
    # No legal name holds "\x01", so that it stands right behind a text and before all that go on from it;
    # and "0" comes right after "/".
    start, end = prefix or "\x01", f"{folder}0" if folder else None
    query = select(Media.folder).where(Media.library == library).order_by(Media.folder).limit(1)
    if end is not None:
        query = query.where(Media.folder < end)
    while True:
        found = session.scalar(query.where(Media.folder >= start))
        if found is None:
            return
        name, slash, _ = found[len(prefix) :].partition("/")
        yield name
        # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
        start = f"{prefix}{name}0" if slash else f"{found}\x01"

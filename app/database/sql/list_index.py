"""Lists of files, folders and libraries in SQL: range queries on the indexes of the table `media`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, reduce
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Integer,
    Row,
    Select,
    SQLColumnExpression,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.database.paging import distinct_names, in_byte_order, is_scattered, order_of
from app.database.sql.schema import INFO_COLUMNS, MediaRow, WordRow
from app.storage import search_tokens
from app.storage.cursors import Position
from app.storage.file_text import url_escapes
from app.storage.types import Listing, Sort

Text = ColumnElement[str] | InstrumentedAttribute[str]


@dataclass(frozen=True, slots=True)
class SqlCandidates:
    """A superset of a listing's files, as queries for ids (one index each) or as ids."""

    queries: Sequence[Select[str]] = ()
    ids: Sequence[str] = ()

    @property
    def condition(self) -> ColumnElement[bool]:
        return MediaRow.id.in_(union_all(*self.queries) if self.queries else self.ids)


class SqlListIndex:
    """`paging.ListIndex` over the table `media`. Its rows have the given columns: INFO_COLUMNS, or others
    with the path and the sort value."""

    def __init__(
        self, session: Session, listing: Listing, columns: Sequence[SQLColumnExpression[Any]] = INFO_COLUMNS
    ) -> None:
        self.listing = listing
        self._columns = columns
        self.tokens: Sequence[str] = search_tokens.query_tokens(listing.query)
        self._session = session
        self._selected = [*_selected(listing, self.tokens)]

    def candidates(self) -> Iterator[SqlCandidates]:
        listing = self.listing
        of_library = select(MediaRow.id).where(MediaRow.library == listing.library)
        if listing.folder or not listing.recursive:
            folders = [of_library.where(MediaRow.folder == listing.folder)]
            if listing.recursive:
                folders.append(of_library.where(_begins_with(MediaRow.folder, f"{listing.folder}/")))
            yield SqlCandidates(folders)
        yield from map(self.with_token, self.tokens)
        if listing.content_type:
            yield SqlCandidates([of_library.where(_begins_with(MediaRow.content_type, listing.content_type))])

    def with_token(self, token: str) -> SqlCandidates:
        return SqlCandidates([self._ids_with(token)])

    def _ids_with(self, token: str) -> Select[str]:
        return select(WordRow.media_id).where(
            WordRow.library == self.listing.library, _begins_with(WordRow.word, token)
        )

    def has_more_than(self, number: int, candidates: SqlCandidates) -> bool:
        entries: CompoundSelect[int] = union_all(
            *(query.with_only_columns(literal_column("1")) for query in candidates.queries)
        )
        return self._session.scalar(entries.offset(number).limit(1)) is not None

    def with_all_tokens(self, first: str, *, limit: int) -> SqlCandidates | None:
        others = (_has_token(WordRow.media_id, token) for token in self.tokens if token != first)
        ids = self._session.scalars(self._ids_with(first).where(*others).limit(limit + 1)).all()
        return SqlCandidates(ids=ids) if len(ids) <= limit else None

    def sorted_rows(
        self, candidates: SqlCandidates, after: Position | None, limit: int
    ) -> Sequence[Row[Any]]:
        among = [candidates.condition, MediaRow.ignored == self.listing.ignored, *_in_tree(self.listing)]
        order = order_of(self.listing, "folder")
        return self._range(among, order, self._selected).after(after).rows(limit)

    def library_range(self) -> "SqlIndexRange":
        listing = self.listing
        shown = [MediaRow.library == listing.library, MediaRow.ignored == listing.ignored]
        filters = [*self._selected, *_in_tree(listing)] if is_scattered(listing) else self._selected
        return self._range(shown, order_of(listing, "folder"), filters)

    def folder_range(self) -> "SqlIndexRange":
        library = self.library_range()
        folder = [*library.equal, MediaRow.folder == self.listing.folder]
        return replace(library, equal=folder, order=order_of(self.listing))

    def subfolders_range(self) -> "SqlIndexRange":
        low = MediaRow.folder >= f"{self.listing.folder}/"
        high = MediaRow.folder < f"{self.listing.folder}0"  # "0" is the character after "/"
        start, stop = (high, low) if self.listing.descending else (low, high)
        return replace(self.library_range(), start=start, stop=stop)

    def position(self, row: Row[Any]) -> Position:
        return _position(self.listing, row)

    def _range(
        self,
        equal: Sequence[ColumnElement[bool]],
        order: Sequence[str],
        filters: Sequence[ColumnElement[bool]],
    ) -> "SqlIndexRange":
        return SqlIndexRange(self._session, self.listing, self._columns, equal, order, filters)


@dataclass(frozen=True, slots=True)
class SqlIndexRange:
    """A `paging.IndexRange`: the `columns` of the rows that meet the conditions `equal`, in the order
    `order`, between two bounds. `filters` are conditions for which the index is not used."""

    session: Session
    listing: Listing
    columns: Sequence[SQLColumnExpression[Any]]
    equal: Sequence[ColumnElement[bool]]
    order: Sequence[str]
    filters: Sequence[ColumnElement[bool]]
    start: ColumnElement[bool] | None = None
    stop: ColumnElement[bool] | None = None

    def after(self, position: Position | None) -> "SqlIndexRange":
        return self if position is None else replace(self, start=self._is_after(position))

    def through(self, position: Position | None) -> "SqlIndexRange":
        return self if position is None else replace(self, stop=not_(self._is_after(position)))

    def rows(self, limit: int) -> Sequence[Row[Any]]:
        # On the connection: the session would pass each row through its identity map's loaders.
        return self.session.connection().execute(self.select(*self.columns, limit=limit)).all()

    def select(self, *columns: SQLColumnExpression[Any], limit: int) -> Select[Any]:
        """Return the query for these columns of the first rows."""
        return self._query().with_only_columns(*columns).where(*self.filters).limit(limit)

    def position_at(self, number: int) -> Position | None:
        columns = {column.key: column for column in (*self._ordered(), MediaRow.folder, MediaRow.filename)}
        entry = self._query().with_only_columns(*columns.values()).offset(number - 1).limit(1)
        row = self.session.execute(entry).first()
        return None if row is None else _position(self.listing, row)

    def _query(self) -> Select[Any]:
        # At most one bound at each end: given two, SQLite may start from the wrong one.
        bounds = [bound for bound in (self.start, self.stop) if bound is not None]
        columns = self._ordered()
        order = (column.desc() for column in columns) if self.listing.descending else columns
        return select(MediaRow.id).where(*self.equal, *bounds).order_by(*order)

    def _is_after(self, position: Position) -> ColumnElement[bool]:
        sort = self.listing.sort.value
        values = {sort: position.value, "folder": position.folder, "filename": position.filename}
        columns = self._ordered()
        row = tuple_(*columns)
        bound = tuple_(*(literal(values[column.key], column.type) for column in columns))
        return row < bound if self.listing.descending else row > bound

    def _ordered(self) -> list[InstrumentedAttribute[Any]]:
        return [getattr(MediaRow, name) for name in self.order]


def _position(listing: Listing, row: Row[Any]) -> Position:
    value = None if listing.sort is Sort.NAME else getattr(row, listing.sort.value)
    if isinstance(value, str):  # a time of FIELD_COLUMNS
        value = datetime.fromisoformat(value)
    return Position(value, row.folder, row.filename)


# Filters. They leave the choice of an index to the rest of the query: no index has an expression with
# `concat`.


def _in_tree(listing: Listing) -> list[ColumnElement[bool]]:
    """Return the condition that a file is in the listing's folder, or, in a recursive listing, below it."""
    if not listing.recursive:
        return [MediaRow.folder == listing.folder]
    return [_begins_with(MediaRow.folder.concat("/"), f"{listing.folder}/")] if listing.folder else []


def _selected(listing: Listing, tokens: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that a file has the listing's media type and all tokens."""
    kind, stored = listing.content_type, MediaRow.content_type.concat("")
    if "/" in kind:
        yield or_(stored == kind, _begins_with(stored, f"{kind};"), _begins_with(stored, f"{kind} "))
    elif kind:
        yield _begins_with(stored, f"{kind}/")
    for token in tokens:
        yield _has_token(MediaRow.id, token)


def _has_token(media_id: InstrumentedAttribute[str], token: str) -> ColumnElement[bool]:
    """Return the condition that the file with this id has a word that begins with the token."""
    other = aliased(WordRow)
    return exists().where(other.media_id == media_id, _begins_with(other.word, token))


def _begins_with(column: Text, prefix: str) -> ColumnElement[bool]:
    """Return the condition as a range. (LIKE has wildcards, and uses no index on SQLite.)"""
    end = end_of(prefix)
    return and_(column >= prefix, column < end) if end is not None else column >= prefix


def end_of(prefix: str) -> str | None:
    """Return the first text, by bytes in UTF-8, after those that begin with the prefix, or None."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # skips the surrogates


# Text

_OTHERS = "id || content_type || etag || coalesce(sha256, '')"
"""The texts beside the filename that the format contains."""

_TIME = "replace(replace({}, ' ', 'T'), '.000000', '') || 'Z'"
"""What `schema.Timestamp` returns. SQLAlchemy stores microseconds always."""


def write_files(files: SqlIndexRange, form: str, limit: int) -> tuple[bytes, Position | None] | None:
    """Return the text of the first files, with commas between them, and the position of the last one if more
    follow. `form` is the format of their folder. SQLite needs two thirds of Python's time, and not the GIL.

    Returns None if `fill` must write it: on other databases than SQLite, and if JSON escapes a character of a
    name. All files of the range must be in one folder.
    """
    connection = files.session.connection()
    if connection.dialect.name != "sqlite":
        return None
    found = files.select(literal_column("filename"), literal_column(f"{_OTHERS} AS others"), limit=limit + 1)
    row: Any = connection.execute(
        select(
            func.count(),
            literal_column("CAST(group_concat(filename, '') AS BLOB)"),
            literal_column("CAST(group_concat(others, '') AS BLOB)"),
        ).select_from(found.subquery())
    ).one()
    count, names, others = row
    if not count:
        return b"", None
    escapes = url_escapes(names, others)
    if escapes is None:
        return None
    item = func.printf(bindparam("form", form, unique=True), *map(literal_column, _values(escapes)))
    items = files.select(item.label("item"), limit=limit).subquery()
    text: Select[Any] = select(literal_column("CAST(group_concat(item, ',') AS BLOB)")).select_from(items)
    last = files.position_at(limit) if count > limit else None
    return connection.execute(text).scalar_one(), last


def _values(escapes: Mapping[str, str]) -> list[str]:
    """Return the expressions for the values of a `FolderFormat`."""
    address = reduce(_replace, escapes.items(), "filename")
    sha256 = "CASE WHEN doubtful OR sha256 IS NULL THEN 'null' ELSE '\"' || sha256 || '\"' END"
    times = (_TIME.format("created_at"), _TIME.format("updated_at"))
    return ["id", "filename", "filename", "size", "content_type", "etag", sha256, *times, address, "id"]


def _replace(expression: str, escape: tuple[str, str]) -> str:
    character, replacement = escape
    return f"replace({expression}, {_quoted(character)}, '{replacement}')"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# Folders and libraries


class TextPosition(FunctionElement[int]):
    """The position of one text in another, from 1; 0 if absent. Each database has its own name for it."""

    type = Integer()
    inherit_cache = True


@compiles(TextPosition, "sqlite")
def _instr(element: TextPosition, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(TextPosition, "postgresql")
def _strpos(element: TextPosition, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


def libraries(session: Session) -> Iterator[str]:
    """Yield the libraries that have rows, by jumps from one to the next in the index."""
    name = session.scalar(select(func.min(MediaRow.library)))
    while name is not None:
        yield name
        name = session.scalar(select(func.min(MediaRow.library)).where(MediaRow.library > name))


def folders(session: Session, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
    """Return the names of the subfolders that have files that are not ignored, in byte order."""
    names = distinct_names(folder_names(session, library, folder, ignored=False))
    return in_byte_order(names)[:limit]


def folder_names(
    session: Session, library: str, folder: str, *, ignored: bool | None = None
) -> Iterator[str]:
    """Yield the names of the folders directly inside, by jumps from one to the next in the index; some occur
    twice. `ignored` selects folders by their files: ignored, not ignored, or (None) all."""
    prefix = f"{folder}/" if folder else ""
    given = {
        "library": library,
        "prefix": prefix,
        "length": len(prefix),
        # No legal name contains "\x01": it sorts after a text and before all legal continuations of it.
        "start": prefix or "\x01",
    }
    if folder:
        given["end"] = f"{folder}0"  # "0" is the character after "/"
    query = _folder_jumps(has_end=bool(folder), ignored=ignored)
    for (path,) in session.connection().execute(query, given):
        yield path[len(prefix) :].partition("/")[0]


@cache
def _folder_jumps(*, has_end: bool, ignored: bool | None) -> Select[str]:
    """Return the query of `folder_names`. Building it takes longer than answering it, in most folders."""
    rows = select(func.min(MediaRow.folder)).where(MediaRow.library == bindparam("library"))
    if ignored is not None:
        rows = rows.where(MediaRow.ignored == ignored)
    if has_end:
        rows = rows.where(MediaRow.folder < bindparam("end"))
    first = rows.where(MediaRow.folder >= bindparam("start")).scalar_subquery()
    found = select(first.label("folder")).cte("found", recursive=True)
    rest = func.substr(found.c.folder, bindparam("length", type_=Integer) + 1)
    slash = TextPosition(rest, "/")
    # `name-2` may sort between `name` and `name/…`, so a jump can only skip the inside of a folder.
    prefix = bindparam("prefix", type_=String)
    skipped = case(
        (slash > 0, prefix.concat(func.substr(rest, 1, slash - 1)).concat("0")),
        else_=found.c.folder.concat("\x01"),
    )
    following = rows.where(MediaRow.folder >= skipped).correlate(found).scalar_subquery()
    found = found.union_all(select(following).where(found.c.folder.is_not(None)))
    return select(found.c.folder).where(found.c.folder.is_not(None))

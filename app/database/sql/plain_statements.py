"""Statements of stored files on the driver's own connection.

Each is compiled once. SQLAlchemy's execution of one takes ten times as long as SQLite's, and its ORM, which
all other changes use, a hundred times.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Dialect, bindparam, insert, select, update
from sqlalchemy import Table as SqlTable
from sqlalchemy.sql import ClauseElement

from app.database.sql.schema import MediaRow, WordRow
from app.storage.types import Key

Convert = Callable[[Any], Any]

_MEDIA, _WORD = (cast(SqlTable, row.__table__) for row in (MediaRow, WordRow))
_COLUMNS = tuple(column.name for column in _MEDIA.columns)
_KEPT = {"id", "library", "folder", "filename", "disk_path", "created_at", "ignored"}
"""The columns that a replacement does not change."""


class PlainStatement:
    """One statement in the SQL and with the parameters of a driver."""

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup
        converters: dict[str, Convert | None] = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in compiled.binds.items()
        }
        self._converters = {name: convert for name, convert in converters.items() if convert is not None}

    def execute(self, cursor: Any, values: Mapping[str, Any]) -> None:
        cursor.execute(self._text, self._parameters(values))

    def execute_many(self, cursor: Any, values: Iterable[Mapping[str, Any]]) -> None:
        cursor.executemany(self._text, [self._parameters(each) for each in values])

    def _parameters(self, values: Mapping[str, Any]) -> Any:
        converted = {**values, **{name: convert(values[name]) for name, convert in self._converters.items()}}
        return converted if self._order is None else [converted[name] for name in self._order]


class FileStatements:
    """Finds, adds and replaces rows of stored files. Raises the errors of the driver."""

    def __init__(self, dialect: Dialect) -> None:
        at = tuple(
            _MEDIA.c[name] == bindparam(f"at_{name}", type_=_MEDIA.c[name].type)
            for name in ("library", "folder", "filename")
        )
        odd = select(_MEDIA.c.id).where(
            _MEDIA.c.library == bindparam("library"), _MEDIA.c.disk_path.is_not(None)
        )
        changed: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _COLUMNS if name not in _KEPT}
        same = _MEDIA.c.id == bindparam("same_id", type_=_MEDIA.c.id.type)
        self._find = PlainStatement(select(_MEDIA).where(*at), dialect)
        self._find_odd_name = PlainStatement(select(odd.exists()), dialect)
        self._insert = PlainStatement(insert(_MEDIA), dialect)
        self._insert_word = PlainStatement(insert(_WORD), dialect)
        self._update = PlainStatement(update(_MEDIA).where(same).values(changed), dialect)
        converters = [
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in _MEDIA.columns
        ]
        self._results: list[tuple[int, Convert]] = [
            (number, convert) for number, convert in enumerate(converters) if convert is not None
        ]

    def cursor(self, connection: Connection) -> Any:
        """Return a cursor of the driver's connection, for the other methods."""
        return connection.connection.cursor()

    def find(self, cursor: Any, key: Key) -> MediaRow | None:
        """Return the row of the file at the key, which belongs to no session; without its words."""
        at = {"at_library": key.library, "at_folder": key.folder, "at_filename": key.filename}
        self._find.execute(cursor, at)
        found = cursor.fetchone()
        if found is None:
            return None
        values = list(found)
        for number, convert in self._results:
            values[number] = convert(values[number])
        return MediaRow(**dict(zip(_COLUMNS, values, strict=True)))

    def has_odd_names(self, cursor: Any, library: str) -> bool:
        """Return whether a file of the library has another path on the disk than its key says."""
        self._find_odd_name.execute(cursor, {"library": library})
        return bool(cursor.fetchone()[0])

    def add(self, cursor: Any, row: MediaRow, words: Iterable[str]) -> None:
        self._insert.execute(cursor, {name: getattr(row, name) for name in _COLUMNS})
        each = [{"media_id": row.id, "word": word, "library": row.library} for word in words]
        if each:
            self._insert_word.execute_many(cursor, each)

    def replace(self, cursor: Any, row: MediaRow) -> None:
        """Update the row to this version of its file."""
        new = {f"new_{name}": getattr(row, name) for name in _COLUMNS if name not in _KEPT}
        self._update.execute(cursor, {"same_id": row.id, **new})

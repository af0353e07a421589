"""The tables, and the FileInfo of a row.

Only Alembic's migrations create the tables; a test proves that both agree.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    String,
    TypeDecorator,
    UniqueConstraint,
    case,
    false,
    text,
    type_coerce,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeEngine

from app.accounts.models import Scope
from app.storage.types import FileInfo, Key, timestamp

HEAD = "0009"
"""The revision of the newest migration in `alembic/versions`."""


def text_by_bytes(length: int | None = None) -> TypeEngine[str]:
    """Return a type of text that is compared by its bytes in UTF-8, as SQLite always does."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A time with time zone UTC, also on SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        return _parse_time if dialect.name == "sqlite" else _in_utc


def _parse_time(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored + "+00:00")


def _in_utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)


class Timestamp(UtcDateTime):
    """The same time as text for FileFields: parsing and formatting it would take a third of a list."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str]:  # type: ignore[override]
        return _stored_timestamp if dialect.name == "sqlite" else _timestamp_in_utc


def _stored_timestamp(stored: str) -> str:
    """Return `timestamp` of a time as SQLAlchemy stores it: always with a space and microseconds."""
    return f"{stored[:10]}T{stored[11:].removesuffix('.000000')}Z"


def _timestamp_in_utc(time: datetime) -> str:
    return timestamp(time.astimezone(UTC))


class Table(DeclarativeBase):
    """The base class of all tables, with their metadata."""


class VolumeRow(Table):
    """One row: the id of the folder that this database belongs to. `Disk.volume` returns the folder's."""

    __tablename__ = "volume"

    id: Mapped[str] = mapped_column(text_by_bytes(32), primary_key=True)
    # The patterns that determined `MediaRow.ignored`.
    ignore: Mapped[str | None] = mapped_column(text_by_bytes())


def partial(name: str, where: str, *columns: str) -> Index:
    """Return an index of the rows that meet the condition.

    Only of the condition on SQLite: an option of PostgreSQL would load its dialect, which takes 3 MiB. The
    migrations create the index in both.
    """
    return Index(name, *columns, sqlite_where=text(where))


UNJUDGED = "is_utf8 IS NULL AND content_type >= 'text/' AND content_type < 'text0'"
"""The condition for texts of unknown encoding: stored by older versions, or not hashed yet."""


class FileColumns:
    """The columns that `media` and `departed` share."""

    id: Mapped[str] = mapped_column(text_by_bytes(32), primary_key=True)
    library: Mapped[str] = mapped_column(text_by_bytes(255))
    filename: Mapped[str] = mapped_column(text_by_bytes(255))
    content_type: Mapped[str] = mapped_column(text_by_bytes(255))
    etag: Mapped[str] = mapped_column(text_by_bytes(64))
    sha256: Mapped[str | None] = mapped_column(text_by_bytes(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # With `ctime_ns` and `device`: which bytes the row describes; see filesystem/file_identity.py.
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    inode: Mapped[int] = mapped_column(BigInteger)
    is_utf8: Mapped[bool | None]
    # None in rows of releases that did not record them. The device is 0 if it is that of the library.
    ctime_ns: Mapped[int | None] = mapped_column(BigInteger)
    device: Mapped[int | None] = mapped_column(BigInteger)

    def shared_values(self) -> dict[str, Any]:
        """Return the values of the columns above, by name."""
        return {name: getattr(self, name) for name in FileColumns.__annotations__}


HASH_FIRST = "doubtful OR other_sha256 IS NOT NULL"
"""The condition for files that are hashed first: clients wait for the result."""


class MediaRow(FileColumns, Table):
    """A stored file."""

    __tablename__ = "media"
    # Lists are ranges of these indexes: one by name, and for each other `Sort` one within a folder and one
    # within a library.
    __table_args__ = (
        UniqueConstraint("library", "folder", "filename", name="uq_media_path"),
        Index("ix_media_path", "library", "ignored", "folder", "filename"),
        *(
            Index(f"ix_media_{scope}_{column}", *columns)
            for column in ("size", "created_at", "updated_at")
            for scope, columns in (
                ("folder", ("library", "ignored", "folder", column, "filename")),
                ("library", ("library", "ignored", column, "folder", "filename")),
            )
        ),
        Index("ix_media_content_type", "library", "content_type"),
        Index("ix_media_inode", "inode", "size", "mtime_ns"),
        partial("ix_media_unverified", "unverified", "id"),
        partial("ix_media_unjudged", UNJUDGED, "id"),
        partial("ix_media_hash_first", HASH_FIRST, "id"),
        partial("ix_media_disk_path", "disk_path IS NOT NULL", "library", "folder", "disk_path"),
    )

    folder: Mapped[str] = mapped_column(text_by_bytes(1024))
    # The path on the disk, if it is another than the path above: names of other programs may not be in NFC.
    disk_path: Mapped[str | None] = mapped_column(text_by_bytes())
    # The hash is unknown, or must be compared with the bytes again.
    unverified: Mapped[bool] = mapped_column(default=False, server_default=false())
    # The bytes may have changed: the ETag and the hash may be those of earlier bytes.
    doubtful: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Another ETag. With `other_sha256`: of the previous version, restored if the hash proves to be the same.
    # With `other_until`: of the same bytes, and accepted until then.
    other_etag: Mapped[str | None] = mapped_column(text_by_bytes(64))
    other_sha256: Mapped[str | None] = mapped_column(text_by_bytes(64))
    other_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # Lists omit the file because of its name; see storage/ignored_names.py.
    ignored: Mapped[bool] = mapped_column(default=False, server_default=false())

    words: Mapped[list["WordRow"]] = relationship(cascade="all, delete-orphan")


def key_of(row: MediaRow) -> Key:
    return Key(row.library, row.folder, row.filename)


INFO_COLUMNS = [
    MediaRow.id,
    MediaRow.library,
    MediaRow.folder,
    MediaRow.filename,
    MediaRow.size,
    MediaRow.content_type,
    MediaRow.etag,
    MediaRow.sha256,
    MediaRow.created_at,
    MediaRow.updated_at,
    MediaRow.is_utf8,
    MediaRow.doubtful,
    MediaRow.other_etag,
    MediaRow.other_sha256,
    MediaRow.other_until,
]
"""The columns of a FileInfo. (Loading whole rows would take most of the time of a list.)"""

FIELD_COLUMNS = [
    MediaRow.id,
    MediaRow.folder,
    MediaRow.filename,
    MediaRow.size,
    MediaRow.content_type,
    MediaRow.etag,
    case((MediaRow.doubtful, None), else_=MediaRow.sha256).label("sha256"),
    type_coerce(MediaRow.created_at, Timestamp).label("created_at"),
    type_coerce(MediaRow.updated_at, Timestamp).label("updated_at"),
]
"""The columns of FileFields."""


def info_of(row: MediaRow) -> FileInfo:
    return parse_info(getattr(row, column.key) for column in INFO_COLUMNS)


def parse_info(values: Iterable[Any]) -> FileInfo:
    """Return the FileInfo of the values of INFO_COLUMNS. (A Row looks up its attributes more slowly.)"""
    (
        identity,
        library,
        folder,
        filename,
        size,
        content_type,
        etag,
        sha256,
        created_at,
        updated_at,
        is_utf8,
        doubtful,
        other_etag,
        other_sha256,
        other_until,
    ) = values
    return FileInfo(
        identity,
        Key(library, folder, filename),
        size,
        content_type,
        etag,
        None if doubtful else sha256,
        created_at,
        updated_at,
        is_utf8=None if doubtful else is_utf8,
        doubtful=doubtful or other_sha256 is not None,
        other_etag=other_etag if _is_accepted(other_until) else None,
    )


def _is_accepted(until: datetime | None) -> bool:
    return until is not None and datetime.now(UTC) < until


class WordRow(Table):
    """A search token of a filename; see storage/search_tokens.py."""

    __tablename__ = "word"
    __table_args__ = (Index("ix_word", "library", "word", "media_id"),)

    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), primary_key=True)
    word: Mapped[str] = mapped_column(text_by_bytes(1024), primary_key=True)
    library: Mapped[str] = mapped_column(text_by_bytes(255))


class DepartedRow(FileColumns, Table):
    """A file that disappeared: another program may have moved it, or its disk may return."""

    __tablename__ = "departed"
    __table_args__ = (
        Index("ix_departed_inode", "inode", "size", "mtime_ns"),
        Index("ix_departed_at", "departed_at"),
    )

    departed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Scopes(TypeDecorator[frozenset[Scope]]):
    """Names of scopes, separated by spaces as in OAuth (RFC 6749 §3.3)."""

    impl = text_by_bytes(255)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return " ".join(sorted(scope.value for scope in value))

    def process_result_value(self, value: Any, dialect: Dialect) -> frozenset[Scope]:
        return frozenset(map(Scope, value.split()))


class AccountRow(Table):
    """An account, with its own library."""

    __tablename__ = "account"
    __table_args__ = (
        Index("uq_account_email", "email", unique=True),
        Index("uq_account_library", "library", unique=True),
        # Finds the last administrator.
        partial("ix_account_administrator", "is_admin", "id"),
        partial("ix_account_leaving", "leaving", "id"),
    )

    id: Mapped[str] = mapped_column(text_by_bytes(32), primary_key=True)
    email: Mapped[str] = mapped_column(text_by_bytes(320))
    password: Mapped[str] = mapped_column(text_by_bytes(255))
    version: Mapped[int] = mapped_column(BigInteger)
    library: Mapped[str] = mapped_column(text_by_bytes(255))
    is_admin: Mapped[bool]
    disabled: Mapped[bool]
    leaving: Mapped[bool]
    quota: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    keep_library: Mapped[str | None] = mapped_column(text_by_bytes(255))
    keep_folder: Mapped[str | None] = mapped_column(text_by_bytes())


class SessionRow(Table):
    """A login of a browser."""

    __tablename__ = "session"
    __table_args__ = (
        Index("ix_session_account", "account_id", "created_at"),
        Index("ix_session_seen_at", "seen_at"),
        Index("ix_session_created_at", "created_at"),
    )

    hash: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(text_by_bytes(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TokenRow(Table):
    """A token for a program."""

    __tablename__ = "token"
    __table_args__ = (
        Index("uq_token_hash", "hash", unique=True),
        Index("ix_token_account", "account_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(text_by_bytes(32))
    name: Mapped[str] = mapped_column(text_by_bytes())
    hash: Mapped[str] = mapped_column(text_by_bytes(64))
    scopes: Mapped[frozenset[Scope]] = mapped_column(Scopes)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class LinkRow(Table):
    """A link to one file, or to the playlist of one folder and its files."""

    __tablename__ = "link"
    __table_args__ = (
        Index("ix_link_account", "account_id", "created_at"),
        Index("ix_link_expires_at", "expires_at"),
        partial("ix_link_automatic", "automatic", "account_id", "path", "recursive", "expires_at"),
    )

    id: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(text_by_bytes(32))
    path: Mapped[str] = mapped_column(text_by_bytes())
    is_playlist: Mapped[bool]
    recursive: Mapped[bool]
    automatic: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class InviteRow(Table):
    """An invite: one person may sign up."""

    __tablename__ = "invite"
    __table_args__ = (Index("ix_invite_expires_at", "expires_at"),)

    hash: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SigningKeyRow(Table):
    """A key that signs links. Newer keys have higher numbers."""

    __tablename__ = "signing_key"
    __table_args__ = (Index("uq_signing_key_number", "number", unique=True),)

    id: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    secret: Mapped[str] = mapped_column(text_by_bytes(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AnnouncementRow(Table):
    """The URL of the server that started last. One row."""

    __tablename__ = "announcement"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    address: Mapped[str] = mapped_column(text_by_bytes())


class LeaseRow(Table):
    """A lease; see storage/leases.py."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(text_by_bytes(), primary_key=True)
    holder: Mapped[str] = mapped_column(text_by_bytes(32))
    expires_at: Mapped[float] = mapped_column(Double)


class LoginLimitRow(Table):
    """The level of a leaky bucket of attempts at a time, or a note of a successful login."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_expires_at", "expires_at"),)

    key: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    level: Mapped[float] = mapped_column(Double)
    at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)

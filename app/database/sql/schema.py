"""The tables. Alembic's migrations are their only source; a test proves that both agree."""

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
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeEngine

from app.accounts.models import Scope


def text_by_bytes(length: int | None = None) -> TypeEngine[str]:
    """Text that is compared and sorted by its bytes in UTF-8, as SQLite does anyway."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A time with time zone UTC. SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value.astimezone(UTC) if isinstance(value, datetime) else None


class Table(DeclarativeBase):
    """The metadata that all tables share."""


class Volume(Table):
    """The one folder of files that this database speaks of: what `Disk.volume` says there."""

    __tablename__ = "volume"

    id: Mapped[str] = mapped_column(text_by_bytes(32), primary_key=True)
    # The patterns by which `Media.ignored` was decided; see ignoring.py.
    ignore: Mapped[str | None] = mapped_column(text_by_bytes())


def partial(name: str, where: str, *columns: str) -> Index:
    """An index of the few rows that this is true of."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


UNJUDGED = "is_utf8 IS NULL AND content_type >= 'text/' AND content_type < 'text0'"
"""Texts not known to be UTF-8 or not: those that older versions stored, and those not hashed yet."""


class Known:
    """What is known of a file, be it there or gone."""

    id: Mapped[str] = mapped_column(text_by_bytes(32), primary_key=True)
    library: Mapped[str] = mapped_column(text_by_bytes(255))
    filename: Mapped[str] = mapped_column(text_by_bytes(255))
    content_type: Mapped[str] = mapped_column(text_by_bytes(255))
    etag: Mapped[str] = mapped_column(text_by_bytes(64))
    sha256: Mapped[str | None] = mapped_column(text_by_bytes(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The signature of the bytes that this row speaks of; see storage.signatures.
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    inode: Mapped[int] = mapped_column(BigInteger)
    is_utf8: Mapped[bool | None]
    # None in rows of releases that recorded neither. The device is 0 for that of the library.
    ctime_ns: Mapped[int | None] = mapped_column(BigInteger)
    device: Mapped[int | None] = mapped_column(BigInteger)

    def known(self) -> dict[str, Any]:
        """All of it, by the names above."""
        return {name: getattr(self, name) for name in Known.__annotations__}


HASH_FIRST = "doubtful OR other_sha256 IS NOT NULL"
"""Which files are hashed before others: clients wait for what the hash proves."""


class Media(Known, Table):
    """What is known of one stored file."""

    __tablename__ = "media"
    # Lists are ranges of these indexes, in their order: one by name, and by each other `Sort` one for a
    # folder and one for all that is in a library.
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
    # Where it is on the disk, if not at the path above: somebody put it there under a name that is not in
    # NFC.
    disk_path: Mapped[str | None] = mapped_column(text_by_bytes())
    # The hash is not known, or has to be held against the bytes again.
    unverified: Mapped[bool] = mapped_column(default=False, server_default=false())
    # The bytes may have changed unseen: the ETag and the hash are those of the bytes before.
    doubtful: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Another ETag. With a hash: that of the version before, which returns if the hash proves to be the same.
    # With a time: of the same bytes, and accepted until then.
    other_etag: Mapped[str | None] = mapped_column(text_by_bytes(64))
    other_sha256: Mapped[str | None] = mapped_column(text_by_bytes(64))
    other_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # Lists leave it out because of its name; see storage.ignored.
    ignored: Mapped[bool] = mapped_column(default=False, server_default=false())

    words: Mapped[list["Word"]] = relationship(cascade="all, delete-orphan")


class Word(Table):
    """A word of a filename, to find it by; see storage.words."""

    __tablename__ = "word"
    __table_args__ = (Index("ix_word", "library", "word", "media_id"),)

    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), primary_key=True)
    word: Mapped[str] = mapped_column(text_by_bytes(1024), primary_key=True)
    library: Mapped[str] = mapped_column(text_by_bytes(255))


class Departed(Known, Table):
    """What was known of a file that is no longer where it was: it may have been moved by hand, or the disk
    that it is on may come back."""

    __tablename__ = "departed"
    __table_args__ = (
        Index("ix_departed_inode", "inode", "size", "mtime_ns"),
        Index("ix_departed_at", "departed_at"),
    )

    departed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Scopes(TypeDecorator[frozenset[Scope]]):
    """Names with spaces between them, as OAuth writes them (RFC 6749 3.3)."""

    impl = text_by_bytes(255)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return " ".join(sorted(scope.value for scope in value))

    def process_result_value(self, value: Any, dialect: Dialect) -> frozenset[Scope]:
        return frozenset(map(Scope, value.split()))


class Account(Table):
    """A person, or whoever else has a library here."""

    __tablename__ = "account"
    __table_args__ = (
        Index("uq_account_email", "email", unique=True),
        Index("uq_account_library", "library", unique=True),
        # What the last administrator is known by.
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


class Session(Table):
    """One browser, from its login on."""

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


class Token(Table):
    """What a person made for a program."""

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


class Link(Table):
    """What opens one file, or the playlist of one folder and the files in it."""

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


class Invite(Table):
    """What lets one person sign up."""

    __tablename__ = "invite"
    __table_args__ = (Index("ix_invite_expires_at", "expires_at"),)

    hash: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SigningKey(Table):
    """What links are signed with. `number` says which is newer."""

    __tablename__ = "signing_key"
    __table_args__ = (Index("uq_signing_key_number", "number", unique=True),)

    id: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    secret: Mapped[str] = mapped_column(text_by_bytes(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Announcement(Table):
    """Where the server that started last is reached; one row."""

    __tablename__ = "announcement"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    address: Mapped[str] = mapped_column(text_by_bytes())


class Lease(Table):
    """A name that somebody holds."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(text_by_bytes(), primary_key=True)
    holder: Mapped[str] = mapped_column(text_by_bytes(32))
    expires_at: Mapped[float] = mapped_column(Double)


class LoginLimit(Table):
    """How full a bucket of attempts was, and when; or that somebody was right."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_expires_at", "expires_at"),)

    key: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    level: Mapped[float] = mapped_column(Double)
    at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)

"""The tables. Alembic's migrations are their only source; a test proves that both agree."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
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

"""The tables. Alembic's migrations are their only source; a test proves that both agree."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, String, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


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

    id: Mapped[str] = mapped_column(String(32), primary_key=True)


class Media(Table):
    """What is known of one stored file."""

    __tablename__ = "media"
    # The index behind it also answers lists: it is in the order that they are given in.
    __table_args__ = (UniqueConstraint("library", "folder", "filename", name="uq_media_path"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    library: Mapped[str] = mapped_column(String(255))
    folder: Mapped[str] = mapped_column(String(1024))
    filename: Mapped[str] = mapped_column(String(255))
    content_type: Mapped[str] = mapped_column(String(255))
    etag: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The signature of the bytes that this row speaks of; see storage.staging.Signature.
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    inode: Mapped[int] = mapped_column(BigInteger)

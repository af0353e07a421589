"""The tables of what processes tell one another; see tables.py. Times are seconds since 1970, by the clock of
the database."""

from sqlalchemy import Double, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database.sql.tables import Table, text_by_bytes


class Lease(Table):
    """A name that somebody holds."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(text_by_bytes(), primary_key=True)
    holder: Mapped[str] = mapped_column(text_by_bytes(32))
    expires_at: Mapped[float] = mapped_column(Double)


class Attempts(Table):
    """How full a bucket of attempts was, and when; or that somebody was right."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_expires_at", "expires_at"),)

    key: Mapped[str] = mapped_column(text_by_bytes(64), primary_key=True)
    level: Mapped[float] = mapped_column(Double)
    at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)

"""The tables of the accounts; see tables.py. Their columns are named like the fields of the models."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Dialect, Index, TypeDecorator
from sqlalchemy.orm import Mapped, mapped_column

from app.accounts.models import Scope
from app.database.sql.tables import Table, UtcDateTime, partial, text_by_bytes


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

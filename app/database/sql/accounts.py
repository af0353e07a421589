"""Accounts in the SQL database of the files, with which they share the one writer at a time."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Select,
    delete,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Delete, Update

from app.accounts import models
from app.accounts.errors import (
    LAST,
    NO_ACCOUNT,
    NO_INVITE,
    TAKEN,
    EmailTaken,
    LastAdministrator,
    SignUpRefused,
    UnknownRecord,
)
from app.accounts.store import MAX_SESSIONS
from app.database.sql.engine import Database
from app.database.sql.schema import (
    AccountRow,
    AnnouncementRow,
    InviteRow,
    LinkRow,
    SessionRow,
    SigningKeyRow,
    Table,
    TokenRow,
)
from app.database.sql.shared_state import SqlLoginLimits, WithReserve
from app.storage.types import is_storable

M = TypeVar("M", bound=models.Record)

_MAX_SURPLUS = 1_000
"""Sessions that one login ends at most. Accounts of old releases, which had no limit, may have more."""

_OWNED = (SessionRow, TokenRow, LinkRow)
_CAN_LOG_IN = (~AccountRow.disabled, ~AccountRow.leaving)

# In the words of the partial indexes, or else SQLite does not use them.
_IS_ADMIN: ColumnElement[bool] = literal_column("account.is_admin")
_LEAVING: ColumnElement[bool] = literal_column("account.leaving")
_AUTOMATIC: ColumnElement[bool] = literal_column("link.automatic")


class _Statements:
    """Statements over rows, each in a transaction of its own."""

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        self._database = database
        self._with_reserve = with_reserve

    def _first(self, model: type[M], query: Select[Any]) -> M | None:
        with self._database.reading() as session:
            row = session.scalars(query).first()
            return None if row is None else _model(model, row)

    def _all(self, model: type[M], query: Select[Any]) -> Sequence[M]:
        with self._database.reading() as session:
            return [_model(model, row) for row in session.scalars(query)]

    def _insert(self, session: Session, row: Table, condition: ColumnElement[bool]) -> None:
        """Insert a row, which fulfils the condition, and commit the transaction."""
        session.add(row)
        session.flush()
        self._commit(session, condition)

    def _commit(self, session: Session, *written: ColumnElement[bool]) -> None:
        """Commit. If the outcome is unknown, a row with these conditions proves the commit."""
        self._database.commit(session, lambda later: _exists(later, *written))

    def _execute(self, statement: Update | Delete, *conditions: ColumnElement[bool]) -> bool:
        """Execute a statement that leaves no row with these conditions. Return whether it changed a row."""

        def step() -> bool:
            with self._database.writing() as session:
                changed = _changed(session, statement)
                self._database.commit(session, lambda later: not _exists(later, *conditions))
                return changed

        return self._with_reserve(step)


class SqlRecords(_Statements, Generic[M]):
    """`accounts.store.Records` over one table."""

    def __init__(
        self,
        database: Database,
        with_reserve: WithReserve,
        model: type[M],
        table: type[Any],
        *,
        record_id: str = "id",
        key: str = "id",
    ) -> None:
        super().__init__(database, with_reserve)
        self._model, self._table = model, table
        self._id, self._key = getattr(table, record_id), getattr(table, key)

    def get(self, key: str) -> M | None:
        if not is_storable(key):
            return None
        return self._first(self._model, select(self._table).where(self._key == key))

    def remove(self, record_id: str) -> bool:
        return self._remove(record_id)

    def existing(self, keys: Collection[str]) -> set[str]:
        with self._database.reading() as session:
            return {*session.scalars(select(self._key).where(self._key.in_(keys)))}

    def _list(self, *conditions: ColumnElement[bool]) -> Sequence[M]:
        newest_first = select(self._table).order_by(self._table.created_at.desc(), self._id)
        return self._all(self._model, newest_first.where(*conditions))

    def _remove(self, record_id: str, *conditions: ColumnElement[bool]) -> bool:
        found = (self._id == record_id, *conditions)
        return is_storable(record_id) and self._execute(delete(self._table).where(*found), *found)


class SqlOwnedRecords(SqlRecords[M]):
    """`accounts.store.OwnedRecords` over one table."""

    def list(self, account_id: str) -> Sequence[M]:
        return self._list(self._table.account_id == account_id)

    def remove(self, record_id: str, *, account_id: str | None = None) -> bool:
        owner = () if account_id is None else (self._table.account_id == account_id,)
        return self._remove(record_id, *owner)

    def remove_all(self, account_id: str) -> None:
        mine = self._table.account_id == account_id
        self._execute(delete(self._table).where(mine), mine)


class SqlRecordStore(SqlOwnedRecords[M]):
    """`accounts.store.RecordStore` over one table."""

    def add(self, record: M) -> None:
        row = self._table(**asdict(record))
        with self._database.writing() as session:
            _check_staying(session, row.account_id)
            self._insert(session, row, self._id == getattr(record, self._id.key))


class SqlInvites(SqlRecords[models.Invite]):
    """`accounts.store.InviteStore`."""

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        super().__init__(database, with_reserve, models.Invite, InviteRow, record_id="hash", key="hash")

    def add(self, invite: models.Invite) -> None:
        with self._database.writing() as session:
            self._insert(session, InviteRow(**asdict(invite)), InviteRow.hash == invite.hash)

    def list(self) -> Sequence[models.Invite]:
        return self._list()


class SqlSessions(SqlOwnedRecords[models.Session]):
    """`accounts.store.SessionStore`."""

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        super().__init__(database, with_reserve, models.Session, SessionRow, record_id="hash", key="hash")

    def add(self, record: models.Session, *, version: int) -> bool:
        return self._with_reserve(lambda: self._add(record, version))

    def _add(self, record: models.Session, version: int) -> bool:
        with self._database.writing() as session:
            current = (AccountRow.id == record.account_id, AccountRow.version == version)
            if not _exists(session, *current, *_CAN_LOG_IN):
                return False
            hashes = select(SessionRow.hash).where(SessionRow.account_id == record.account_id)
            newest_first = hashes.order_by(SessionRow.created_at.desc(), SessionRow.hash)
            surplus = newest_first.offset(MAX_SESSIONS - 1).limit(_MAX_SURPLUS)
            if oldest := session.scalars(surplus).all():
                session.execute(delete(SessionRow).where(SessionRow.hash.in_(oldest)))
            self._insert(session, SessionRow(**asdict(record)), SessionRow.hash == record.hash)
        return True

    def touch(self, secret_hash: str, seen_at: datetime) -> None:
        earlier = (SessionRow.hash == secret_hash, SessionRow.seen_at < seen_at)
        self._execute(update(SessionRow).where(*earlier).values(seen_at=seen_at), *earlier)


class SqlLinks(SqlRecordStore[models.Link]):
    """`accounts.store.LinkStore`."""

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        super().__init__(database, with_reserve, models.Link, LinkRow)

    def find_automatic(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> models.Link | None:
        mine = (_AUTOMATIC, LinkRow.account_id == account_id, LinkRow.path == folder, LinkRow.is_playlist)
        lasting = select(LinkRow).where(*mine, LinkRow.recursive.is_(recursive), LinkRow.expires_at >= until)
        return self._first(models.Link, lasting.order_by(LinkRow.expires_at.desc()).limit(1))


class SqlSigningKeys(_Statements):
    """`accounts.store.SigningKeyStore`."""

    def list(self) -> Sequence[models.SigningKey]:
        return self._all(models.SigningKey, select(SigningKeyRow).order_by(SigningKeyRow.number.desc()))

    def add_first(self, key: models.SigningKey) -> None:
        with self._database.writing() as session:
            if not _exists(session, SigningKeyRow.id.is_not(None)):
                self._insert(session, SigningKeyRow(**asdict(key), number=1), SigningKeyRow.id == key.id)

    def rotate(self, key: models.SigningKey, *, keep: Iterable[str]) -> None:
        with self._database.writing() as session:
            newest = session.scalar(select(func.max(SigningKeyRow.number))) or 0
            session.execute(delete(SigningKeyRow).where(SigningKeyRow.id.not_in([*keep])))
            self._insert(session, SigningKeyRow(**asdict(key), number=newest + 1), SigningKeyRow.id == key.id)


class SqlAccounts(_Statements):
    """`accounts.store.AccountStore` over an SQL database.

    Logins, deletions and the recording of a session's use do not fail on a full disk: people need them to
    free space.
    """

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        super().__init__(database, with_reserve)
        self.sessions = SqlSessions(database, with_reserve)
        self.tokens = SqlRecordStore(database, with_reserve, models.Token, TokenRow, key="hash")
        self.links = SqlLinks(database, with_reserve)
        self.invites = SqlInvites(database, with_reserve)
        self.signing_keys = SqlSigningKeys(database, with_reserve)
        self.login_limits = SqlLoginLimits(database, with_reserve)

    def add(self, account: models.Account, *, invite: str | None = None) -> models.Account:
        with self._database.writing() as session:
            if invite is not None:
                use = delete(InviteRow).where(
                    InviteRow.hash == invite, InviteRow.expires_at > datetime.now(UTC)
                )
                if not _changed(session, use):
                    raise SignUpRefused(NO_INVITE)
            if _exists(session, AccountRow.email == account.email):
                raise EmailTaken(TAKEN)
            if not _exists(session, AccountRow.id.is_not(None)):
                account = replace(account, is_admin=True, library="")
            elif not _exists(session, ~AccountRow.leaving):
                account = replace(account, is_admin=True)
            self._insert(session, AccountRow(**asdict(account)), AccountRow.id == account.id)
        return account

    def get(self, account_id: str) -> models.Account | None:
        return self._first(models.Account, select(AccountRow).where(AccountRow.id == account_id))

    def by_email(self, email: str) -> models.Account | None:
        return self._first(models.Account, select(AccountRow).where(AccountRow.email == email))

    def list(self, *, after: str = "", limit: int) -> Sequence[models.Account]:
        behind = select(AccountRow).where(AccountRow.email > after).order_by(AccountRow.email).limit(limit)
        return self._all(models.Account, behind)

    def count(self) -> int:
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(AccountRow)) or 0

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        mine = (AccountRow.id == account_id, AccountRow.version == version)
        with self._database.writing() as session:
            change = update(AccountRow).where(*mine).values(password=password, version=version + 1)
            if not _changed(session, change):
                return False
            session.execute(delete(SessionRow).where(SessionRow.account_id == account_id))
            written = (AccountRow.id == account_id, AccountRow.password == password)
            self._commit(session, *written)
        return True

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        with self._database.writing() as session:
            self._update(session, account_id, disabled=disabled)
            if disabled:
                session.execute(delete(SessionRow).where(SessionRow.account_id == account_id))
            written = (AccountRow.id == account_id, AccountRow.disabled.is_(disabled))
            self._commit(session, *written)

    def set_quota(self, account_id: str, quota: int | None) -> None:
        with self._database.writing() as session:
            self._update(session, account_id, quota=quota)
            written = (AccountRow.id == account_id, AccountRow.quota.is_not_distinct_from(quota))
            self._commit(session, *written)

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        with self._database.writing() as session:
            _check_staying(session, account_id)
            if not is_admin and _exists(session, _IS_ADMIN, AccountRow.id == account_id):
                _check_not_last(session, account_id)
            self._update(session, account_id, is_admin=is_admin)
            written = (AccountRow.id == account_id, AccountRow.is_admin.is_(is_admin))
            self._commit(session, *written)

    def mark_leaving(self, account_id: str, keep: models.Destination | None = None) -> None:
        self._with_reserve(lambda: self._mark_leaving(account_id, keep))

    def _mark_leaving(self, account_id: str, keep: models.Destination | None) -> None:
        with self._database.writing() as session:
            account = session.get(AccountRow, account_id)
            if account is None:
                raise UnknownRecord(NO_ACCOUNT)
            if account.is_admin and not account.leaving:
                _check_not_last(session, account_id, may_be_alone=True)
            library, folder = (keep.library, keep.folder) if keep else (None, None)
            self._update(session, account_id, leaving=True, keep_library=library, keep_folder=folder)
            _delete_records(session, account_id)
            kept = AccountRow.keep_library.is_not_distinct_from(library)
            written = (AccountRow.id == account_id, AccountRow.leaving.is_(True), kept)
            self._commit(session, *written)

    def list_leaving(self) -> Sequence[models.Account]:
        return self._all(models.Account, select(AccountRow).where(_LEAVING).order_by(AccountRow.id))

    def remove(self, account_id: str) -> None:
        self._with_reserve(lambda: self._remove(account_id))

    def _remove(self, account_id: str) -> None:
        with self._database.writing() as session:
            _delete_records(session, account_id)
            session.execute(delete(AccountRow).where(AccountRow.id == account_id))
            self._database.commit(session, lambda later: not _exists(later, AccountRow.id == account_id))

    def announce(self, address: str) -> None:
        with self._database.writing() as session:
            session.execute(delete(AnnouncementRow))
            self._insert(session, AnnouncementRow(id=1, address=address), AnnouncementRow.address == address)

    def announced(self) -> str | None:
        with self._database.reading() as session:
            return session.scalar(select(AnnouncementRow.address).where(AnnouncementRow.id == 1))

    def active(self, accounts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        stored = select(AccountRow.id, AccountRow.version).where(
            AccountRow.id.in_([one for one, _ in accounts])
        )
        with self._database.reading() as session:
            found = {(one, version) for one, version in session.execute(stored.where(*_CAN_LOG_IN))}
        return found & {*accounts}

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        with self._database.writing() as session:
            session.execute(delete(LinkRow).where(LinkRow.expires_at <= now))
            session.execute(delete(InviteRow).where(InviteRow.expires_at <= now))
            session.execute(delete(SessionRow).where(SessionRow.seen_at < seen_before))
            session.execute(delete(SessionRow).where(SessionRow.created_at < created_before))
            session.commit()

    def _update(self, session: Session, account_id: str, **values: object) -> None:
        if not _changed(session, update(AccountRow).where(AccountRow.id == account_id).values(**values)):
            raise UnknownRecord(NO_ACCOUNT)


def _model(model: type[M], row: Any) -> M:
    return model(**{field.name: getattr(row, field.name) for field in fields(model)})


def _exists(session: Session, *conditions: ColumnElement[bool]) -> bool:
    """Return whether the table of the conditions has a row that fulfils them all."""
    return session.scalar(select(literal(True)).where(*conditions).limit(1)) is not None


def _changed(session: Session, statement: Update | Delete) -> bool:
    """Execute the statement and return whether it changed a row."""
    found: CursorResult[Any] = session.connection().execute(statement)
    return found.rowcount > 0


def _check_staying(session: Session, account_id: str) -> None:
    if not _exists(session, AccountRow.id == account_id, ~AccountRow.leaving):
        raise UnknownRecord(NO_ACCOUNT)


def _check_not_last(session: Session, account_id: str, *, may_be_alone: bool = False) -> None:
    """Raise LastAdministrator unless another administrator can log in.

    With `may_be_alone`, it is enough that all other accounts are leaving.
    """
    if _exists(session, _IS_ADMIN, AccountRow.id != account_id, *_CAN_LOG_IN):
        return
    if not may_be_alone or _exists(session, AccountRow.id != account_id, ~AccountRow.leaving):
        raise LastAdministrator(LAST)


def _delete_records(session: Session, account_id: str) -> None:
    for table in _OWNED:
        session.execute(delete(table).where(table.account_id == account_id))

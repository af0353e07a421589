"""Accounts in an SQL database: beside the rows of the files, and with the same one writer at a time."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

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
    NO_LINK,
    NO_TOKEN,
    TAKEN,
    EmailTaken,
    LastAdministrator,
    SignUpRefused,
    UnknownAccount,
)
from app.accounts.store import MAX_SESSIONS
from app.database.sql.engine import Database
from app.database.sql.schema import Account, Announcement, Invite, Link, SigningKey, Table, Token
from app.database.sql.schema import Session as Login
from app.database.sql.shared_state import SqlLoginLimits, WithReserve
from app.storage.types import is_storable

M = TypeVar("M")

_AT_ONCE = 1_000
"""Sessions that one login ends at most, of an account that has too many from before they were bounded."""

_BELONGINGS = (Login, Token, Link)
_CAN_LOG_IN = (~Account.disabled, ~Account.leaving)

# As the partial indexes say it, or SQLite does not see that they fit.
_IS_ADMIN: ColumnElement[bool] = literal_column("account.is_admin")
_LEAVING: ColumnElement[bool] = literal_column("account.leaving")
_AUTOMATIC: ColumnElement[bool] = literal_column("link.automatic")


class SqlAccounts:
    """`accounts.store.AccountStore` over an SQL database.

    Logging in, deleting, leaving, and noting that a login was used do not fail on a full disk: they are on
    the way to making room.
    """

    def __init__(self, database: Database, with_reserve: WithReserve) -> None:
        self._database = database
        self._with_reserve = with_reserve
        self.login_limits = SqlLoginLimits(database, with_reserve)

    def add(self, account: models.Account, *, invite: str | None = None) -> models.Account:
        with self._database.writing() as session:
            if invite is not None:
                unexpired = delete(Invite).where(Invite.hash == invite, Invite.expires_at > datetime.now(UTC))
                if not _changed(session, unexpired):
                    raise SignUpRefused(NO_INVITE)
            if _there(session, Account.email == account.email):
                raise EmailTaken(TAKEN)
            if not _there(session, Account.id.is_not(None)):
                account = replace(account, is_admin=True, library="")
            elif not _there(session, ~Account.leaving):
                account = replace(account, is_admin=True)
            self._insert(session, Account(**asdict(account)), Account.id == account.id)
        return account

    def account(self, account_id: str) -> models.Account | None:
        return self._first(models.Account, select(Account).where(Account.id == account_id))

    def account_of(self, email: str) -> models.Account | None:
        return self._first(models.Account, select(Account).where(Account.email == email))

    def accounts(self, *, after: str = "", limit: int) -> Sequence[models.Account]:
        behind = select(Account).where(Account.email > after).order_by(Account.email).limit(limit)
        return self._all(models.Account, behind)

    def count(self) -> int:
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(Account)) or 0

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        mine = (Account.id == account_id, Account.version == version)
        with self._database.writing() as session:
            change = update(Account).where(*mine).values(password=password, version=version + 1)
            if not _changed(session, change):
                return False
            session.execute(delete(Login).where(Login.account_id == account_id))
            made = (Account.id == account_id, Account.password == password)
            self._database.commit(session, lambda later: _there(later, *made))
        return True

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        with self._database.writing() as session:
            self._update(session, account_id, disabled=disabled)
            if disabled:
                session.execute(delete(Login).where(Login.account_id == account_id))
            made = (Account.id == account_id, Account.disabled.is_(disabled))
            self._database.commit(session, lambda later: _there(later, *made))

    def set_quota(self, account_id: str, quota: int | None) -> None:
        with self._database.writing() as session:
            self._update(session, account_id, quota=quota)
            made = (Account.id == account_id, Account.quota.is_not_distinct_from(quota))
            self._database.commit(session, lambda later: _there(later, *made))

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        with self._database.writing() as session:
            _check_staying(session, account_id)
            if not is_admin and _there(session, _IS_ADMIN, Account.id == account_id):
                _check_not_last(session, account_id)
            self._update(session, account_id, is_admin=is_admin)
            made = (Account.id == account_id, Account.is_admin.is_(is_admin))
            self._database.commit(session, lambda later: _there(later, *made))

    def leave(self, account_id: str, keep: models.Destination | None = None) -> None:
        self._with_reserve(lambda: self._leave(account_id, keep))

    def _leave(self, account_id: str, keep: models.Destination | None) -> None:
        with self._database.writing() as session:
            account = session.get(Account, account_id)
            if account is None:
                raise UnknownAccount(NO_ACCOUNT)
            if account.is_admin and not account.leaving:
                _check_not_last(session, account_id, may_be_alone=True)
            library, folder = (keep.library, keep.folder) if keep else (None, None)
            self._update(session, account_id, leaving=True, keep_library=library, keep_folder=folder)
            _forget_belongings(session, account_id)
            kept = Account.keep_library.is_not_distinct_from(library)
            made = (Account.id == account_id, Account.leaving.is_(True), kept)
            self._database.commit(session, lambda later: _there(later, *made))

    def leaving(self) -> Sequence[models.Account]:
        return self._all(models.Account, select(Account).where(_LEAVING).order_by(Account.id))

    def remove(self, account_id: str) -> None:
        self._with_reserve(lambda: self._remove(account_id))

    def _remove(self, account_id: str) -> None:
        with self._database.writing() as session:
            _forget_belongings(session, account_id)
            session.execute(delete(Account).where(Account.id == account_id))
            self._database.commit(session, lambda later: not _there(later, Account.id == account_id))

    def add_session(self, session: models.Session, *, version: int) -> bool:
        return self._with_reserve(lambda: self._add_session(session, version))

    def _add_session(self, session: models.Session, version: int) -> bool:
        with self._database.writing() as writer:
            mine = (Account.id == session.account_id, Account.version == version)
            if not _there(writer, *mine, *_CAN_LOG_IN):
                return False
            older = (
                _newest_first(Login, session.account_id)
                .offset(MAX_SESSIONS - 1)
                .with_only_columns(Login.hash)
            )
            if surplus := writer.scalars(older.limit(_AT_ONCE)).all():
                writer.execute(delete(Login).where(Login.hash.in_(surplus)))
            self._insert(writer, Login(**asdict(session)), Login.hash == session.hash)
        return True

    def session(self, secret_hash: str) -> models.Session | None:
        return self._first(models.Session, select(Login).where(Login.hash == secret_hash))

    def sessions(self, account_id: str) -> Sequence[models.Session]:
        return self._all(models.Session, _newest_first(Login, account_id))

    def see_session(self, secret_hash: str, seen_at: datetime) -> None:
        later = update(Login).where(Login.hash == secret_hash, Login.seen_at < seen_at)
        self._execute(later.values(seen_at=seen_at), Login.hash == secret_hash, Login.seen_at < seen_at)

    def remove_session(self, secret_hash: str) -> None:
        self._execute(delete(Login).where(Login.hash == secret_hash), Login.hash == secret_hash)

    def add_token(self, token: models.Token) -> None:
        with self._database.writing() as session:
            _check_staying(session, token.account_id)
            self._insert(session, Token(**asdict(token)), Token.id == token.id)

    def token(self, secret_hash: str) -> models.Token | None:
        return self._first(models.Token, select(Token).where(Token.hash == secret_hash))

    def tokens(self, account_id: str) -> Sequence[models.Token]:
        return self._all(models.Token, _newest_first(Token, account_id))

    def remove_token(self, account_id: str, token_id: str) -> None:
        mine = (Token.id == token_id, Token.account_id == account_id)
        if not is_storable(token_id) or not self._execute(delete(Token).where(*mine), *mine):
            raise UnknownAccount(NO_TOKEN)

    def remove_tokens(self, account_id: str) -> None:
        self._execute(delete(Token).where(Token.account_id == account_id), Token.account_id == account_id)

    def add_link(self, link: models.Link) -> None:
        with self._database.writing() as session:
            _check_staying(session, link.account_id)
            self._insert(session, Link(**asdict(link)), Link.id == link.id)

    def link(self, link_id: str) -> models.Link | None:
        if not is_storable(link_id):
            return None
        return self._first(models.Link, select(Link).where(Link.id == link_id))

    def links(self, account_id: str) -> Sequence[models.Link]:
        return self._all(models.Link, _newest_first(Link, account_id))

    def automatic_link(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> models.Link | None:
        mine = (_AUTOMATIC, Link.account_id == account_id, Link.path == folder, Link.is_playlist)
        lasting = select(Link).where(*mine, Link.recursive.is_(recursive), Link.expires_at >= until)
        return self._first(models.Link, lasting.order_by(Link.expires_at.desc()).limit(1))

    def remove_link(self, account_id: str, link_id: str) -> None:
        mine = (Link.id == link_id, Link.account_id == account_id)
        if not is_storable(link_id) or not self._execute(delete(Link).where(*mine), *mine):
            raise UnknownAccount(NO_LINK)

    def add_invite(self, invite: models.Invite) -> None:
        with self._database.writing() as session:
            self._insert(session, Invite(**asdict(invite)), Invite.hash == invite.hash)

    def invites(self) -> Sequence[models.Invite]:
        newest_first = select(Invite).order_by(Invite.created_at.desc(), Invite.hash)
        return self._all(models.Invite, newest_first)

    def remove_invite(self, secret_hash: str) -> None:
        this = Invite.hash == secret_hash
        if not is_storable(secret_hash) or not self._execute(delete(Invite).where(this), this):
            raise UnknownAccount(NO_INVITE)

    def signing_keys(self) -> Sequence[models.SigningKey]:
        return self._all(models.SigningKey, select(SigningKey).order_by(SigningKey.number.desc()))

    def add_first_signing_key(self, key: models.SigningKey) -> None:
        with self._database.writing() as session:
            if not _there(session, SigningKey.id.is_not(None)):
                self._insert(session, SigningKey(**asdict(key), number=1), SigningKey.id == key.id)

    def add_signing_key(self, key: models.SigningKey, *, keep: Iterable[str]) -> None:
        with self._database.writing() as session:
            newest = session.scalar(select(func.max(SigningKey.number))) or 0
            session.execute(delete(SigningKey).where(SigningKey.id.not_in([*keep])))
            self._insert(session, SigningKey(**asdict(key), number=newest + 1), SigningKey.id == key.id)

    def announce(self, address: str) -> None:
        with self._database.writing() as session:
            session.execute(delete(Announcement))
            self._insert(session, Announcement(id=1, address=address), Announcement.address == address)

    def announced(self) -> str | None:
        with self._database.reading() as session:
            return session.scalar(select(Announcement.address).where(Announcement.id == 1))

    def standing(
        self, *, accounts: Collection[tuple[str, int]], sessions: Collection[str], tokens: Collection[str]
    ) -> tuple[set[tuple[str, int]], set[str], set[str]]:
        versions = select(Account.id, Account.version).where(Account.id.in_([one for one, _ in accounts]))
        with self._database.reading() as session:
            known = {(one, version) for one, version in session.execute(versions.where(*_CAN_LOG_IN))}
            logins = session.scalars(select(Login.hash).where(Login.hash.in_(sessions)))
            found = session.scalars(select(Token.hash).where(Token.hash.in_(tokens)))
            return known & {*accounts}, {*logins}, {*found}

    def standing_links(self, links: Collection[str]) -> set[str]:
        with self._database.reading() as session:
            return {*session.scalars(select(Link.id).where(Link.id.in_(links)))}

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        with self._database.writing() as session:
            session.execute(delete(Link).where(Link.expires_at <= now))
            session.execute(delete(Invite).where(Invite.expires_at <= now))
            session.execute(delete(Login).where(Login.seen_at < seen_before))
            session.execute(delete(Login).where(Login.created_at < created_before))
            session.commit()

    def _first(self, model: type[M], query: Select[Any]) -> M | None:
        with self._database.reading() as session:
            row = session.scalars(query).first()
            return None if row is None else _model(model, row)

    def _all(self, model: type[M], query: Select[Any]) -> Sequence[M]:
        with self._database.reading() as session:
            return [_model(model, row) for row in session.scalars(query)]

    def _insert(self, session: Session, row: Table, this: ColumnElement[bool]) -> None:
        """Store one more row, which can be told by this, with all else that was done."""
        session.add(row)
        session.flush()
        self._database.commit(session, lambda later: _there(later, this))

    def _execute(self, statement: Update | Delete, *gone: ColumnElement[bool]) -> bool:
        """Whether there was anything to change. No row is like this any more when it is done."""

        def step() -> bool:
            with self._database.writing() as session:
                changed = _changed(session, statement)
                self._database.commit(session, lambda later: not _there(later, *gone))
                return changed

        return self._with_reserve(step)

    def _update(self, session: Session, account_id: str, **values: object) -> None:
        if not _changed(session, update(Account).where(Account.id == account_id).values(**values)):
            raise UnknownAccount(NO_ACCOUNT)


def _model(model: type[M], row: Any) -> M:
    return model(**{field.name: getattr(row, field.name) for field in fields(model)})  # type: ignore[arg-type]


def _there(session: Session, *conditions: ColumnElement[bool]) -> bool:
    """Whether a row of one table is like that."""
    return session.scalar(select(literal(True)).where(*conditions).limit(1)) is not None


def _changed(session: Session, statement: Update | Delete) -> bool:
    found: CursorResult[Any] = session.connection().execute(statement)
    return found.rowcount > 0


def _newest_first(table: type[Login | Token | Link], account_id: str) -> Select[Any]:
    return select(table).where(table.account_id == account_id).order_by(table.created_at.desc())


def _check_staying(session: Session, account_id: str) -> None:
    if not _there(session, Account.id == account_id, ~Account.leaving):
        raise UnknownAccount(NO_ACCOUNT)


def _check_not_last(session: Session, account_id: str, *, may_be_alone: bool = False) -> None:
    """Raise LastAdministrator unless another one can log in, or, if it may be alone, all others leave."""
    if _there(session, _IS_ADMIN, Account.id != account_id, *_CAN_LOG_IN):
        return
    if not may_be_alone or _there(session, Account.id != account_id, ~Account.leaving):
        raise LastAdministrator(LAST)


def _forget_belongings(session: Session, account_id: str) -> None:
    for table in _BELONGINGS:
        session.execute(delete(table).where(table.account_id == account_id))

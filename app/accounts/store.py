"""The contract of an account store: accounts, the records that belong to them, invites and signing keys."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from app.accounts.login_limits import LoginLimitStore
from app.accounts.models import Account, Destination, Invite, Link, Session, SigningKey, Token

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MAX_SESSIONS = 100
"""Sessions that an account may have at the same time; the next login ends the oldest."""

MAX_KEYS_PER_QUERY = 500


class Records(Protocol[R_co]):
    """Stored records of one model. Each has an id, and a key that `get` finds it by: the hash of its secret
    if it has one, or else the id."""

    def get(self, key: str) -> R_co | None: ...

    def remove(self, record_id: str) -> bool:
        """Remove a record. Return False if there is no such record."""

    def existing(self, keys: Collection[str]) -> set[str]:
        """Return those of at most MAX_KEYS_PER_QUERY keys that have a record."""


class OwnedRecords(Records[R_co], Protocol[R_co]):
    """Records that belong to accounts: sessions, tokens and links."""

    def list(self, account_id: str) -> Sequence[R_co]:
        """Return the records of an account, the newest first, then in byte order of their ids."""

    def remove(self, record_id: str, *, account_id: str | None = None) -> bool:
        """Remove a record, if it belongs to this account. Return False if there is no such record."""

    def remove_all(self, account_id: str) -> None:
        """Remove the records of an account."""


class RecordStore(OwnedRecords[R], Protocol[R]):
    """Records that are added without a further condition: tokens and links."""

    def add(self, record: R) -> None:
        """Store a record. Raises UnknownRecord if its account is leaving or gone."""


class InviteStore(Records[Invite], Protocol):
    """All invites. They belong to no account."""

    def add(self, invite: Invite) -> None: ...

    def list(self) -> Sequence[Invite]:
        """Return all invites, the newest first, then in byte order of their hashes."""


class SessionStore(OwnedRecords[Session], Protocol):
    """The sessions of all accounts."""

    def add(self, session: Session, *, version: int) -> bool:
        """Store a session, and keep the newest MAX_SESSIONS of its account, this one included.

        Of sessions with the same time, the last in byte order of their hashes are removed.

        Returns False, and stores nothing, if the password has another version, or the account is disabled or
        leaving. No session remains of a login that races with such a change.
        """

    def touch(self, secret_hash: str, seen_at: datetime) -> None:
        """Record when a session was last used, if it still exists and was not used later."""


class LinkStore(RecordStore[Link], Protocol):
    """The links of all accounts."""

    def find_automatic(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> Link | None:
        """Return an automatic link to the playlist of this folder that does not expire before `until`."""


class SigningKeyStore(Protocol):
    """The keys that links are signed with."""

    def list(self) -> Sequence[SigningKey]:
        """Return the keys, the newest first."""

    def add_first(self, key: SigningKey) -> None:
        """Store a key unless there is one. Of several processes that start together, one succeeds."""

    def rotate(self, key: SigningKey, *, keep: Iterable[str]) -> None:
        """Store a key and remove all others but those with these ids."""


class AccountStore(Protocol):
    """Accounts with their sessions, tokens, links and invites. Blocking; thread-safe.

    A change is durable when its call returns, and every later call sees it. Each call may raise the
    database's StorageUnavailable or OutOfSpace; then the change has been made completely or not at all.
    """

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def tokens(self) -> RecordStore[Token]: ...

    @property
    def links(self) -> LinkStore: ...

    @property
    def invites(self) -> InviteStore: ...

    @property
    def signing_keys(self) -> SigningKeyStore: ...

    @property
    def login_limits(self) -> LoginLimitStore: ...

    def add(self, account: Account, *, invite: str | None = None) -> Account:
        """Store a new account and return it as stored.

        The very first account becomes an administrator, and the shared library, "", becomes its library.
        While all other accounts are leaving, the next account becomes an administrator too. If several
        accounts race for either, one wins.

        `invite` is the hash of an invite, which a successful call uses up. Raises SignUpRefused if it does
        not exist or has expired, and EmailTaken.
        """

    def get(self, account_id: str) -> Account | None: ...

    def by_email(self, email: str) -> Account | None: ...

    def list(self, *, after: str = "", limit: int) -> Sequence[Account]:
        """Return accounts in byte order of their email addresses, from the first one after `after`."""

    def count(self) -> int:
        """Return the number of accounts, including those that are leaving."""

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        """Store another hash, increment the version and end all sessions of the account.

        Returns False, and changes nothing, if the stored version is another.
        """

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        """Disable or enable an account; to disable it ends its sessions. Raises UnknownRecord."""

    def set_quota(self, account_id: str, quota: int | None) -> None:
        """Set the quota of an account in bytes; None for that of the settings. Raises UnknownRecord."""

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        """Promote or demote an account.

        Raises UnknownRecord if the account is leaving or gone, and LastAdministrator if no other
        administrator who can log in would remain.
        """

    def mark_leaving(self, account_id: str, keep: Destination | None = None) -> None:
        """Mark an account for deletion, with the destination of its files if they are kept, and remove the
        records that belong to it.

        A repeated call completes an interrupted one, and its destination replaces the former. Raises
        UnknownRecord, and LastAdministrator if other accounts are staying, but no administrator among them
        can log in.
        """

    def list_leaving(self) -> Sequence[Account]:
        """Return the accounts that are marked for deletion."""

    def remove(self, account_id: str) -> None:
        """Remove an account, if it exists, and the records that belong to it."""

    def active(self, accounts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Return those of at most MAX_KEYS_PER_QUERY accounts, each with the version of its password, that
        still have this version and are neither disabled nor leaving."""

    def announce(self, address: str) -> None:
        """Record the base URL of the server that started last."""

    def announced(self) -> str | None:
        """Return the base URL that was recorded last."""

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        """Remove links and invites that have expired, and sessions that were last seen, or created, before
        these times."""

"""What the accounts ask of a database."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from app.accounts.login_limits import LoginLimitStore
from app.accounts.models import Account, Destination, Invite, Link, Session, SigningKey, Token

MAX_SESSIONS = 100
"""Logins of one account that count at the same time: an older one ends with the next one."""


class AccountStore(Protocol):
    """Accounts and what belongs to them. Plain blocking calls, from any thread.

    What a call has written is durable when it returns, and every call that begins later sees it. Each may
    raise the database's StorageUnavailable or OutOfSpace; then nothing has changed, or all of it has.
    """

    # Accounts.

    def add(self, account: Account, *, invite: str | None = None) -> Account:
        """Store a new account. The very first one of all becomes the administrator, and its library the
        shared one, "": of several that race for it one does. While all other accounts are leaving, the next
        one becomes an administrator, too: of several that race for it one does. EmailTaken.

        With the hash of an `invite` only if that is there and has not expired when the account is made,
        SignUpRefused otherwise; it is used up by it, and by nothing that fails."""
        ...

    def account(self, account_id: str) -> Account | None: ...

    def account_of(self, email: str) -> Account | None: ...

    def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        """By their addresses in byte order, from behind one."""
        ...

    def count(self) -> int:
        """How many accounts there are, leaving ones too."""
        ...

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        """Store another hash, and one more than the version. False, and nothing has changed, if the version
        is another meanwhile. All sessions of the account are gone with it."""
        ...

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        """Its sessions are gone, too, when it is disabled. UnknownAccount."""
        ...

    def set_quota(self, account_id: str, quota: int | None) -> None:
        """UnknownAccount."""
        ...

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        """Let the account look after the others, or no longer. UnknownAccount, if it is leaving or gone;
        LastAdministrator, if no other administrator would be left that can log in."""
        ...

    def leave(self, account_id: str, keep: Destination | None = None) -> None:
        """Note that the account is being deleted, and where its files go if they are kept; what belongs to it
        is gone, but not itself. Again, it ends what was begun, and the last destination counts.
        UnknownAccount; LastAdministrator, if no other administrator that can log in is left,
        but other accounts are, leaving ones aside."""
        ...

    def leaving(self) -> Sequence[Account]:
        """Those that were noted so."""
        ...

    def remove(self, account_id: str) -> None:
        """Forget an account and what belongs to it, if it is there."""
        ...

    # What belongs to an account, and is gone with it.

    def add_session(self, session: Session, *, version: int) -> bool:
        """Store one, and keep the newest MAX_SESSIONS of the account, of which this is one. False, and
        nothing is stored, if the account's password has another version meanwhile, or it is disabled or
        leaving: of a login that races with these, no session stays."""
        ...

    def session(self, secret_hash: str) -> Session | None: ...

    def sessions(self, account_id: str) -> Sequence[Session]:
        """The newest first."""
        ...

    def see_session(self, secret_hash: str, seen_at: datetime) -> None:
        """Note when it was last used, if it is still there."""
        ...

    def remove_session(self, secret_hash: str) -> None: ...

    def add_token(self, token: Token) -> None:
        """UnknownAccount, if the account is leaving or gone."""
        ...

    def token(self, secret_hash: str) -> Token | None: ...

    def tokens(self, account_id: str) -> Sequence[Token]:
        """The newest first."""
        ...

    def remove_token(self, account_id: str, token_id: str) -> None:
        """UnknownAccount, if the account has no such token."""
        ...

    def remove_tokens(self, account_id: str) -> None: ...

    def add_link(self, link: Link) -> None:
        """UnknownAccount, if the account is leaving or gone."""
        ...

    def link(self, link_id: str) -> Link | None: ...

    def links(self, account_id: str) -> Sequence[Link]:
        """The newest first."""
        ...

    def automatic_link(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> Link | None:
        """An automatic link to the playlist of this folder that lasts until then, or longer."""
        ...

    def remove_link(self, account_id: str, link_id: str) -> None:
        """UnknownAccount, if the account has no such link."""
        ...

    # What belongs to nobody.

    def add_invite(self, invite: Invite) -> None: ...

    def invites(self) -> Sequence[Invite]:
        """The newest first."""
        ...

    def remove_invite(self, secret_hash: str) -> None:
        """UnknownAccount, if there is none."""
        ...

    def signing_keys(self) -> Sequence[SigningKey]:
        """The newest first."""
        ...

    def add_first_signing_key(self, key: SigningKey) -> None:
        """Store one, unless there is one: of several processes that start, one does."""
        ...

    def add_signing_key(self, key: SigningKey, *, keep: Iterable[str]) -> None:
        """Store one, and forget all others but these ids."""
        ...

    @property
    def login_limits(self) -> LoginLimitStore:
        """What anybody tried, beside it."""
        ...

    # Where people find the server.

    def announce(self, address: str) -> None:
        """Note where the server that started last is reached, as far as it knows."""
        ...

    def announced(self) -> str | None:
        """What was noted so."""
        ...

    # Looking after it.

    def standing(
        self, *, accounts: Collection[tuple[str, int]], sessions: Collection[str], tokens: Collection[str]
    ) -> tuple[set[tuple[str, int]], set[str], set[str]]:
        """Which of these are still there: accounts by id and the password's version, not disabled or leaving;
        sessions and tokens by their hashes. At most 500 of each."""
        ...

    def standing_links(self, links: Collection[str]) -> set[str]:
        """Which of these links are still there, by their ids. At most 500."""
        ...

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        """Forget links and invites that have expired, and sessions that were last seen or were made before
        these times."""
        ...

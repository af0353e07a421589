"""The use cases of accounts: sign up, log in, tokens, links, invites, deletion."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from functools import partial
from uuid import uuid4

from app.accounts.errors import (
    BadCredentials,
    NotPermitted,
    SignUpRefused,
    UnknownRecord,
    WrongCredentials,
)
from app.accounts.links import LinkKind
from app.accounts.models import (
    Account,
    Destination,
    Invite,
    Link,
    Scope,
    Session,
    Token,
    check_email,
    hash_secret,
    new_account,
    new_invite,
    now,
)
from app.accounts.passwords import Passwords
from app.accounts.principals import TOKEN_PREFIX, Authenticator, Principal, RunInThread
from app.accounts.store import AccountStore

MAX_TOKENS = 100
"""Tokens of one account."""

MAX_LINKS = 10_000
"""Links of one account."""

MAX_NAME_LENGTH = 100

LINK_LASTS = timedelta(days=7)
"""The default time to live of a link."""

MAX_LINK_LASTS = timedelta(days=365)

PLAYLIST_LASTS = timedelta(days=1)
"""Lifetime of automatic links. A fetched playlist uses one that has at least half of it left."""

SWEEP_EVERY_S = 3600

NO_TOKEN = "This token does not exist, or was already revoked."
NO_LINK = "This link does not exist, or was already revoked."
UNKNOWN_INVITE = "This invite does not exist, or was already used or revoked."

log = logging.getLogger(__name__)


class SignUp(Enum):
    """The condition on which people may sign up."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


class AccountService:
    """Creates, changes and removes accounts and their records. A change takes effect in this process at once,
    and in other processes within seconds.

    Raises AccountError, and the database's StorageUnavailable.
    """

    def __init__(
        self,
        store: AccountStore,
        authenticator: Authenticator,
        *,
        sign_up: SignUp,
        passwords: Passwords,
        run_hash: RunInThread,
    ) -> None:
        self._policy = sign_up
        self.authenticator = authenticator
        self._store, self._call = store, authenticator.call
        self._passwords, self._run_hash = passwords, run_hash

    @property
    def is_open(self) -> bool:
        """Whether people may sign up without an invite."""
        return self._policy is SignUp.OPEN

    async def ping(self) -> None:
        """Return when the database responds. Raises StorageUnavailable."""
        await self._call(self._store.get, "")

    async def sign_up(self, email: str, password: str, *, invite: str | None, address: str) -> Account:
        """Create an account. Raises BadCredentials, EmailTaken, SignUpRefused, TooManyAttempts."""
        if self._policy is SignUp.CLOSED:
            raise SignUpRefused("Sign-up is closed. Ask the administrator for an account.")
        if self._policy is SignUp.INVITE and not invite:
            raise SignUpRefused("You need an invite to sign up. Ask the administrator for one.")
        email = check_email(email)
        await self.authenticator.login_limits.count_sign_up(address)
        account = new_account(email, await self._run_hash(self._passwords.hash, password))
        invite_hash = hash_secret(invite) if invite and self._policy is SignUp.INVITE else None
        return await self._call(lambda: self._store.add(account, invite=invite_hash))

    async def start_session(self, account: Account, *, previous: str | None) -> str:
        """Start a session and return its secret, for the browser's cookie.

        The browser's previous session ends, against session fixation. Raises WrongCredentials if the account
        changed meanwhile.
        """
        if previous:
            await self.end_session(previous)
        secret = secrets.token_urlsafe(32)
        at = now()
        session = Session(hash_secret(secret), account.id, at, at)
        add = partial(self._store.sessions.add, session, version=account.version)
        if not await self._call(add):
            raise WrongCredentials("Your account was changed at the same moment. Log in again.")
        return secret

    async def end_session(self, secret: str) -> None:
        """End the session with this secret, if there is one."""
        await self._change(self._store.sessions.remove, hash_secret(secret))

    async def change_password(self, principal: Principal, old: str, new: str, *, address: str) -> Account:
        """Change the password and return the account. All its sessions and fetched playlists end.

        Raises WrongCredentials, BadCredentials.
        """
        account = await self._confirmed(principal, old, address)
        password = await self._run_hash(self._passwords.hash, new)
        changed = await self._call(
            lambda: self._store.set_password(account.id, password, version=account.version)
        )
        self.authenticator.invalidate()
        if not changed:
            raise WrongCredentials("Your account was changed at the same moment. Log in again.")
        await self._revoke_automatic_links(account.id)
        return replace(account, password=password, version=account.version + 1)

    async def delete_account(
        self, principal: Principal, password: str, *, address: str, keep: Destination | None = None
    ) -> None:
        """Mark the account for deletion: logins fail from now on, and its files will be deleted or moved.

        Raises WrongCredentials, LastAdministrator.
        """
        account = await self._confirmed(principal, password, address)
        await self._change(self._store.mark_leaving, account.id, keep)

    async def _confirmed(self, principal: Principal, password: str, address: str) -> Account:
        found = await self.authenticator.by_password(principal.account.email, password, address)
        return found.account

    async def create_token(
        self, principal: Principal, name: str, scopes: frozenset[Scope]
    ) -> tuple[Token, str]:
        """Create a token for a program. Return it with its secret, which is not stored."""
        name = name.strip()
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise BadCredentials(
                f"The name of a token has 1 to {MAX_NAME_LENGTH} printable characters. Enter another."
            )
        if not scopes:
            raise BadCredentials("A token needs a scope. Choose read, write, or both.")
        if len(await self.tokens(principal)) >= MAX_TOKENS:
            raise NotPermitted(f"You have {MAX_TOKENS} tokens, the maximum. Revoke one that you do not use.")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token = Token(uuid4().hex, principal.account.id, name, hash_secret(secret), scopes, now())
        await self._call(self._store.tokens.add, token)
        return token, secret

    async def tokens(self, principal: Principal) -> Sequence[Token]:
        return await self._call(self._store.tokens.list, principal.account.id)

    async def revoke_token(self, principal: Principal, token_id: str) -> None:
        """Revoke a token. Raises UnknownRecord if the account has none with this id."""
        await self._remove(
            partial(self._store.tokens.remove, token_id, account_id=principal.account.id), NO_TOKEN
        )
        await self._revoke_automatic_links(principal.account.id)

    async def _revoke_automatic_links(self, account_id: str) -> None:
        """Revoke the links in fetched playlists: a credential that is now invalid may have fetched them."""
        for link in await self._call(self._store.links.list, account_id):
            if link.automatic:
                await self._call(self._store.links.remove, link.id)
        self.authenticator.invalidate()

    async def create_link(
        self, principal: Principal, path: str, *, playlist: bool, recursive: bool, lasts: timedelta
    ) -> Link:
        """Create a link to a file, or to the playlist of a folder. Raises BadCredentials, NotPermitted."""
        if not timedelta(0) < lasts <= MAX_LINK_LASTS:
            raise BadCredentials(f"A link lasts at most {MAX_LINK_LASTS.days} days. Choose a shorter time.")
        if len(await self.links(principal)) >= MAX_LINKS:
            raise NotPermitted(f"You have {MAX_LINKS:,} links, the maximum. Revoke some that you do not use.")
        account_id = principal.account.id
        return await self._add_link(
            account_id, path, lasts, playlist=playlist, recursive=recursive, automatic=False
        )

    async def playlist_link(self, principal: Principal, folder: str, *, recursive: bool) -> Link:
        """Return the link by which a player opens the entries of a playlist.

        It is the link of the request itself, or else an automatic one, which later requests for this playlist
        and account share for a while.
        """
        if link := principal.link:
            return link
        account_id, until = principal.account.id, now() + PLAYLIST_LASTS / 2
        find = partial(self._store.links.find_automatic, account_id, folder, recursive=recursive, until=until)
        return await self._call(find) or await self._add_link(
            account_id, folder, PLAYLIST_LASTS, playlist=True, recursive=recursive, automatic=True
        )

    async def _add_link(
        self,
        account_id: str,
        path: str,
        lasts: timedelta,
        *,
        playlist: bool,
        recursive: bool,
        automatic: bool,
    ) -> Link:
        at = now()
        link = Link(uuid4().hex, account_id, path, playlist, recursive, automatic, at, at + lasts)
        await self._call(self._store.links.add, link)
        return link

    async def links(self, principal: Principal) -> Sequence[Link]:
        found = await self._call(self._store.links.list, principal.account.id)
        at = now()
        return [link for link in found if link.expires_at > at]

    async def sign(self, link: Link) -> str:
        """Return the signed form of a link, for its URL."""
        kind = LinkKind.PLAYLIST if link.is_playlist else LinkKind.FILE
        return (await self.authenticator.link_signer()).sign(link.id, kind, link.path)

    async def revoke_link(self, principal: Principal, link_id: str) -> None:
        """Revoke a link. Raises UnknownRecord if the account has none with this id."""
        await self._remove(
            partial(self._store.links.remove, link_id, account_id=principal.account.id), NO_LINK
        )

    async def create_invite(self, principal: Principal, lasts: timedelta) -> tuple[Invite, str]:
        """Create an invite for one person. Return it with its secret. Raises NotPermitted."""
        _check_admin(principal)
        if not timedelta(0) < lasts <= MAX_LINK_LASTS:
            raise BadCredentials(f"An invite lasts at most {MAX_LINK_LASTS.days} days. Choose a shorter one.")
        invite, secret = new_invite(lasts)
        await self._call(self._store.invites.add, invite)
        return invite, secret

    async def invites(self, principal: Principal) -> Sequence[Invite]:
        _check_admin(principal)
        found = await self._call(self._store.invites.list)
        at = now()
        return [invite for invite in found if invite.expires_at > at]

    async def revoke_invite(self, principal: Principal, invite: str) -> None:
        """Revoke an invite, by its hash. Raises NotPermitted, UnknownRecord."""
        _check_admin(principal)
        await self._remove(partial(self._store.invites.remove, invite), UNKNOWN_INVITE)

    async def is_active(self, account_id: str) -> bool:
        """Return whether an account exists and is neither disabled nor leaving; not cached."""
        account = await self._call(self._store.get, account_id)
        return account is not None and not account.leaving and not account.disabled

    async def is_staying(self, account_id: str) -> bool:
        """Return whether an account exists and is not leaving; not cached."""
        account = await self._call(self._store.get, account_id)
        return account is not None and not account.leaving

    async def leaving(self) -> Sequence[Account]:
        """Return the accounts that are marked for deletion."""
        return await self._call(self._store.list_leaving)

    async def remove(self, account_id: str) -> None:
        """Remove an account whose files were deleted or moved."""
        await self._change(self._store.remove, account_id)

    async def run_sweeps(self) -> None:
        """Remove expired records from the database, now and every hour until cancelled."""
        while True:
            try:
                await self.authenticator.sweep()
            except Exception as error:
                log.error("Expired records of accounts could not be removed: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _remove(self, remove: Callable[[], bool], missing: str) -> None:
        """Remove a record. Raises UnknownRecord with the message `missing` if there is none."""
        if not await self._call(remove):
            raise UnknownRecord(missing)
        self.authenticator.invalidate()

    async def _change(self, call: Callable[..., object], *arguments: object) -> None:
        """Call a method of the store that changes accounts or records, and clear the caches."""
        await self._call(call, *arguments)
        self.authenticator.invalidate()


def _check_admin(principal: Principal) -> None:
    if not principal.account.is_admin:
        raise NotPermitted("Only an administrator may manage invites. Ask one to do it.")

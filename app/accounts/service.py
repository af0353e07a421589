"""What people do with their accounts."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from uuid import uuid4

from app.accounts.errors import (
    BadCredentials,
    NotPermitted,
    SignUpRefused,
    UnknownAccount,
    WrongCredentials,
)
from app.accounts.factories import hash_secret, new_account, new_invite, now
from app.accounts.links import LinkKind
from app.accounts.models import Account, Destination, Invite, Link, Scope, Session, Token, check_email
from app.accounts.passwords import Passwords
from app.accounts.principals import TOKEN_PREFIX, Authenticator, Principal, RunInThread
from app.accounts.store import AccountStore

MAX_TOKENS = 100
MAX_LINKS = 10_000
"""Of one account."""

MAX_NAME_LENGTH = 100

LINK_LASTS = timedelta(days=7)
"""Unless somebody says otherwise."""
LINK_LASTS_AT_MOST = timedelta(days=365)

PLAYLIST_LASTS = timedelta(days=1)
"""The entries of a playlist that a player has fetched; at least half of that."""

SWEEP_EVERY_S = 3600

_log = logging.getLogger("seekable")


class SignUp(Enum):
    """Who may make an account."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


class Accounts:
    """Makes, changes and removes accounts and what belongs to them. What is changed counts at once here, and
    within seconds in other processes.

    Raises AccountError, and the database's StorageUnavailable.
    """

    def __init__(
        self,
        store: AccountStore,
        authenticator: Authenticator,
        *,
        sign_up: SignUp,
        passwords: Passwords,
        hashing: RunInThread,
    ) -> None:
        self._policy = sign_up
        self.authenticator = authenticator
        self._store = store
        self._passwords, self._hashing = passwords, hashing

    @property
    def is_open(self) -> bool:
        """Whether everybody may sign up."""
        return self._policy is SignUp.OPEN

    async def ping(self) -> None:
        """Return when their database answers; StorageUnavailable."""
        await self.authenticator.ask(self._store.account, "")

    async def sign_up(self, email: str, password: str, *, invite: str | None, address: str) -> Account:
        """A new account. BadCredentials, EmailTaken, SignUpRefused, TooManyAttempts."""
        if self._policy is SignUp.CLOSED:
            raise SignUpRefused("Nobody can sign up here; ask the administrator for an account.")
        if self._policy is SignUp.INVITE and not invite:
            raise SignUpRefused("To sign up here takes an invite; ask the administrator for one.")
        email = check_email(email)
        await self.authenticator.login_limits.sign_up(address)
        account = new_account(email, await self._hashing(self._passwords.hash, password))
        taken = hash_secret(invite) if invite and self._policy is SignUp.INVITE else None
        return await self.authenticator.ask(lambda: self._store.add(account, invite=taken))

    async def start_session(self, account: Account, *, previous: str | None) -> str:
        """The secret of a new login, for the browser's cookie. What the browser showed before is over, so
        that nobody else can have chosen the secret (session fixation)."""
        if previous:
            await self.end_session(previous)
        secret = secrets.token_urlsafe(32)
        at = now()
        session = Session(hash_secret(secret), account.id, at, at)
        if not await self.authenticator.ask(
            lambda: self._store.add_session(session, version=account.version)
        ):
            raise WrongCredentials("The account has just changed.")
        return secret

    async def end_session(self, secret: str) -> None:
        """Log out."""
        await self._change(self._store.remove_session, hash_secret(secret))

    async def change_password(self, principal: Principal, old: str, new: str, *, address: str) -> Account:
        """The account with its new password. Every login of it is over, and every playlist that a player has
        fetched. WrongCredentials, BadCredentials."""
        account = await self._confirmed(principal, old, address)
        password = await self._hashing(self._passwords.hash, new)
        changed = await self.authenticator.ask(
            lambda: self._store.set_password(account.id, password, version=account.version)
        )
        self.authenticator.forget()
        if not changed:
            raise WrongCredentials("The account has just changed.")
        await self._end_playlists(account.id)
        return replace(account, password=password, version=account.version + 1)

    async def delete_account(
        self, principal: Principal, password: str, *, address: str, keep: Destination | None = None
    ) -> None:
        """Delete the account. Nobody can log in to it any more, and its files will be deleted, or moved to
        where they are kept. LastAdministrator."""
        account = await self._confirmed(principal, password, address)
        await self._change(self._store.leave, account.id, keep)

    async def _confirmed(self, principal: Principal, password: str, address: str) -> Account:
        found = await self.authenticator.by_password(principal.account.email, password, address)
        return found.account

    async def create_token(
        self, principal: Principal, name: str, scopes: frozenset[Scope]
    ) -> tuple[Token, str]:
        """A token for a program, and its secret, which is told only now."""
        name = name.strip()
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise BadCredentials(f"The name of a token has up to {MAX_NAME_LENGTH} printable characters.")
        if not scopes:
            raise BadCredentials("A token is for reading, for writing, or for both.")
        if len(await self.tokens(principal)) >= MAX_TOKENS:
            raise NotPermitted(f"An account has at most {MAX_TOKENS} tokens; revoke one that is not used.")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token = Token(uuid4().hex, principal.account.id, name, hash_secret(secret), scopes, now())
        await self.authenticator.ask(self._store.add_token, token)
        return token, secret

    async def tokens(self, principal: Principal) -> Sequence[Token]:
        return await self.authenticator.ask(self._store.tokens, principal.account.id)

    async def revoke_token(self, principal: Principal, token_id: str) -> None:
        """UnknownAccount, if there is none."""
        await self._change(self._store.remove_token, principal.account.id, token_id)
        await self._end_playlists(principal.account.id)

    async def _end_playlists(self, account_id: str) -> None:
        """Let no entry of a playlist count that a player has fetched: perhaps with what no longer counts."""
        for link in await self.authenticator.ask(self._store.links, account_id):
            if link.automatic:
                with suppress(UnknownAccount):  # somebody else was faster
                    await self._change(self._store.remove_link, account_id, link.id)

    async def create_link(
        self, principal: Principal, path: str, *, playlist: bool, recursive: bool, lasts: timedelta
    ) -> Link:
        """A link to a file, or to the playlist of a folder."""
        if not timedelta(0) < lasts <= LINK_LASTS_AT_MOST:
            raise BadCredentials(f"A link lasts up to {LINK_LASTS_AT_MOST.days} days.")
        if len(await self.links(principal)) >= MAX_LINKS:
            raise NotPermitted(f"An account has at most {MAX_LINKS:,} links; revoke some.")
        return await self._add_link(
            principal, path, playlist=playlist, recursive=recursive, automatic=False, lasts=lasts
        )

    async def playlist_link(self, principal: Principal, folder: str, *, recursive: bool) -> Link:
        """What the entries of a playlist are signed for that is fetched now: the link that it was fetched by,
        or one that serves all who fetch this playlist on behalf of the account for a while."""
        if link := principal.link:
            return link
        until = now() + PLAYLIST_LASTS / 2
        found = await self.authenticator.ask(
            lambda: self._store.automatic_link(principal.account.id, folder, recursive=recursive, until=until)
        )
        return found or await self._add_link(
            principal, folder, playlist=True, recursive=recursive, automatic=True, lasts=PLAYLIST_LASTS
        )

    async def _add_link(
        self,
        principal: Principal,
        path: str,
        *,
        playlist: bool,
        recursive: bool,
        automatic: bool,
        lasts: timedelta,
    ) -> Link:
        at = now()
        link = Link(uuid4().hex, principal.account.id, path, playlist, recursive, automatic, at, at + lasts)
        await self.authenticator.ask(self._store.add_link, link)
        return link

    async def links(self, principal: Principal) -> Sequence[Link]:
        found = await self.authenticator.ask(self._store.links, principal.account.id)
        at = now()
        return [link for link in found if link.expires_at > at]

    async def signed(self, link: Link) -> str:
        """What is shown to open what the link is for."""
        kind = LinkKind.PLAYLIST if link.is_playlist else LinkKind.FILE
        return (await self.authenticator.link_signer()).sign(link.id, kind, link.path)

    async def revoke_link(self, principal: Principal, link_id: str) -> None:
        """UnknownAccount, if there is none."""
        await self._change(self._store.remove_link, principal.account.id, link_id)

    async def create_invite(self, principal: Principal, lasts: timedelta) -> tuple[Invite, str]:
        """An invite for one person, and its secret. NotPermitted, unless the caller is an administrator."""
        _need_admin(principal)
        if not timedelta(0) < lasts <= LINK_LASTS_AT_MOST:
            raise BadCredentials(f"An invite lasts up to {LINK_LASTS_AT_MOST.days} days.")
        invite, secret = new_invite(lasts)
        await self.authenticator.ask(self._store.add_invite, invite)
        return invite, secret

    async def invites(self, principal: Principal) -> Sequence[Invite]:
        _need_admin(principal)
        at = now()
        return [
            invite for invite in await self.authenticator.ask(self._store.invites) if invite.expires_at > at
        ]

    async def revoke_invite(self, principal: Principal, invite: str) -> None:
        """UnknownAccount, if there is none."""
        _need_admin(principal)
        await self.authenticator.ask(self._store.remove_invite, invite)

    async def is_active(self, account_id: str) -> bool:
        """Whether the account is neither gone, leaving nor disabled, looking anew."""
        account = await self.authenticator.ask(self._store.account, account_id)
        return account is not None and not account.leaving and not account.disabled

    async def is_staying(self, account_id: str) -> bool:
        """Whether the account is neither gone nor leaving, looking anew."""
        account = await self.authenticator.ask(self._store.account, account_id)
        return account is not None and not account.leaving

    async def leaving(self) -> Sequence[Account]:
        """The accounts that are being deleted."""
        return await self.authenticator.ask(self._store.leaving)

    async def remove(self, account_id: str) -> None:
        """Forget an account, of which nothing is left."""
        await self._change(self._store.remove, account_id)

    async def run_sweeps(self) -> None:
        """Forget what has expired, now and every hour until cancelled."""
        while True:
            try:
                await self.authenticator.sweep()
            except Exception as error:
                _log.error("What has expired of the accounts could not be removed: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _change(self, call: Callable[..., None], *arguments: object) -> None:
        await self.authenticator.ask(call, *arguments)
        self.authenticator.forget()


def _need_admin(principal: Principal) -> None:
    if not principal.account.is_admin:
        raise NotPermitted("Only an administrator may do that.")

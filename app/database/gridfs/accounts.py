"""Accounts in a MongoDB database, which need not have transactions.

Every promise is kept by one write to one document, and what goes along with it comes after, in an order in
which a crash leaves nothing but documents that nobody can use. A session counts while its era is that of its
account; a token or link is looked after again when it is there, since its account may have begun to leave.
"""

import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pymongo
from pymongo import DESCENDING
from pymongo.collection import Collection as Documents
from pymongo.errors import DuplicateKeyError

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
from app.accounts.models import Account, Destination, Invite, Link, Session, SigningKey, Token
from app.accounts.store import MAX_SESSIONS
from app.database.gridfs import account_documents
from app.database.gridfs.account_documents import model, stored
from app.database.gridfs.connection import Users
from app.database.gridfs.documents import RawDocument
from app.database.gridfs.shared_state import MongoLoginLimits
from app.storage.errors import StorageUnavailable

COUNTS_FOR_MS = 10_000
TRIES = 8

_PARTING: RawDocument = {"$gt": ["$parting.until", "$$NOW"]}
LEAVE: RawDocument = {"$set": {"leaving": True}, "$inc": {"era": 1}, "$unset": {"heir": True}}
"""The one write that ends an account's sessions, too."""

DEMOTE: RawDocument = {"$set": {"is_admin": False}, "$unset": {"heir": True, "parting": True}}


def resign(users: Users, account_id: str, change: RawDocument, *, may_be_alone: bool) -> None:
    """Apply the change, by which an account stops being an administrator that stays. Raises LastAdministrator
    unless another one can log in, or, where that will do, all other accounts are leaving."""
    for attempt in range(TRIES):
        with users.operation():
            if _resigned(users.accounts, account_id, change, may_be_alone):
                return
        time.sleep(random.uniform(0, 0.02 * 2**attempt))
    raise StorageUnavailable("Several administrators are leaving just now.")


def _resigned(
    accounts: Documents[RawDocument], account_id: str, change: RawDocument, may_be_alone: bool
) -> bool:
    """Return False if the attempt has to be repeated."""
    said = uuid4().hex  # by this call: another one may be about the same account
    until = {"$add": ["$$NOW", COUNTS_FOR_MS]}
    accounts.update_one({"_id": account_id}, [{"$set": {"parting": {"by": said, "until": until}}}])
    others: RawDocument = {"_id": {"$ne": account_id}, "leaving": False}
    able = others | {"is_admin": True, "disabled": False}
    mine: RawDocument = {"_id": account_id, "parting.by": said}
    is_alone = may_be_alone and not accounts.find_one(others)
    if is_alone or accounts.find_one(able | {"$expr": {"$not": _PARTING}}):
        return accounts.update_one(mine | {"$expr": _PARTING}, change).matched_count == 1
    accounts.update_one(mine, {"$unset": {"parting": True}})
    if accounts.find_one(able) is None:
        raise LastAdministrator(LAST)
    return False


def succeed(users: Users) -> None:
    """Make the oldest account that stays an administrator, if none that stays is one."""
    with users.operation():
        while users.accounts.find_one({"is_admin": True, "leaving": False}, {"_id": True}) is None:
            staying: RawDocument = {"_id": {"$gt": ""}, "leaving": False}
            heir = users.accounts.find_one(staying, {"_id": True}, sort=[("created_at", 1), ("_id", 1)])
            if heir is None:
                return
            appoint: RawDocument = {"$set": {"is_admin": True, "heir": True}}
            try:
                users.accounts.update_one({"_id": heir["_id"], "leaving": False}, appoint)
            except DuplicateKeyError:
                return  # another process appointed one at the same time


M = TypeVar("M")

_CAN_LOG_IN = {"disabled": False, "leaving": False}
_AFTER = pymongo.ReturnDocument.AFTER


class MongoAccounts:
    """`accounts.store.AccountStore` over a MongoDB database."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self.login_limits = MongoLoginLimits(users)

    def add(self, account: Account, *, invite: str | None = None) -> Account:
        users = self._users
        with users.operation():
            if invite is not None:
                unexpired = {"_id": invite, "expires_at": {"$gt": datetime.now(UTC)}}
                if users.invites.find_one(unexpired) is None:
                    raise SignUpRefused(NO_INVITE)
            account = self._inserted(account, invite)
            revoked = invite is not None and not users.invites.delete_one({"_id": invite}).deleted_count
            if revoked:  # meanwhile
                users.accounts.delete_one({"_id": account.id})
        succeed(users)
        if revoked:
            raise SignUpRefused(NO_INVITE)
        return account if account.is_admin else self.account(account.id) or account

    def _inserted(self, account: Account, invite: str | None) -> Account:
        more = {"era": 1, "invite": invite}
        if self._users.accounts.find_one({}, {"_id": True}) is None:
            first = replace(account, is_admin=True, library="")
            try:
                self._users.accounts.insert_one(stored(account_documents.Account, first, **more))
                return first
            except DuplicateKeyError:
                pass  # another one was the first
        try:
            self._users.accounts.insert_one(stored(account_documents.Account, account, **more))
        except DuplicateKeyError as error:
            taken = (error.details or {}).get("keyPattern", {})
            if "email" in taken:
                raise EmailTaken(TAKEN) from None
            if "invite" in taken:
                raise SignUpRefused(NO_INVITE) from None
            raise
        return account

    def account(self, account_id: str) -> Account | None:
        return self._first(Account, self._users.accounts, {"_id": account_id})

    def account_of(self, email: str) -> Account | None:
        return self._first(Account, self._users.accounts, {"email": email})

    def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        with self._users.operation():
            found = self._users.accounts.find({"email": {"$gt": after}}).sort("email").limit(limit)
            return [model(Account, one) for one in found]

    def count(self) -> int:
        with self._users.operation():
            return self._users.accounts.count_documents({})

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        change = {"$set": {"password": password}, "$inc": {"version": 1, "era": 1}}
        return self._changed({"_id": account_id, "version": version}, change)

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        change: RawDocument = {"$set": {"disabled": disabled}} | ({"$inc": {"era": 1}} if disabled else {})
        if not self._changed({"_id": account_id}, change):
            raise UnknownAccount(NO_ACCOUNT)

    def set_quota(self, account_id: str, quota: int | None) -> None:
        if not self._changed({"_id": account_id}, {"$set": {"quota": quota}}):
            raise UnknownAccount(NO_ACCOUNT)

    def _changed(self, which: RawDocument, change: RawDocument) -> bool:
        """Whether there was such an account. Sessions of its former eras are gone."""
        with self._users.operation():
            found = self._users.accounts.find_one_and_update(which, change, return_document=_AFTER)
            if found is not None and "$inc" in change:
                former = {"account_id": found["_id"], "era": {"$lt": found["era"]}}
                self._users.sessions.delete_many(former)
        return found is not None

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        account = self.account(account_id)
        if account is None or account.leaving:
            raise UnknownAccount(NO_ACCOUNT)
        if is_admin:
            if not self._changed({"_id": account_id, "leaving": False}, {"$set": {"is_admin": True}}):
                raise UnknownAccount(NO_ACCOUNT)
        elif account.is_admin:
            resign(self._users, account_id, DEMOTE, may_be_alone=False)

    def leave(self, account_id: str, keep: Destination | None = None) -> None:
        library, folder = (keep.library, keep.folder) if keep else (None, None)
        kept: RawDocument = {"keep_library": library, "keep_folder": folder}
        leave = LEAVE | {"$set": LEAVE["$set"] | kept}
        while not self._left(account_id, leave):
            pass  # its rights have just changed
        succeed(self._users)
        with self._users.operation():
            self._forget_belongings(account_id)

    def _left(self, account_id: str, leave: RawDocument) -> bool:
        """Mark the account as leaving. Return False if it became an administrator meanwhile."""
        account = self.account(account_id)
        if account is None:
            raise UnknownAccount(NO_ACCOUNT)
        if account.is_admin and not account.leaving:
            resign(self._users, account_id, leave, may_be_alone=True)
            return True
        same = {"_id": account_id, "leaving": account.leaving, "is_admin": account.is_admin}
        with self._users.operation():
            return self._users.accounts.update_one(same, leave).matched_count == 1

    def leaving(self) -> Sequence[Account]:
        with self._users.operation():
            return [model(Account, one) for one in self._users.accounts.find({"leaving": True})]

    def remove(self, account_id: str) -> None:
        users = self._users
        with users.operation():
            # First nothing more can come to belong to it.
            found = users.accounts.find_one_and_update({"_id": account_id}, LEAVE)
            self._forget_belongings(account_id)
        succeed(users)
        with users.operation():
            if found is not None:
                # Of a crash before it was: it must not be used again when the account is no longer there.
                users.invites.delete_one({"_id": found.get("invite")})
                users.accounts.delete_one({"_id": account_id})

    def _forget_belongings(self, account_id: str) -> None:
        for documents in (self._users.sessions, self._users.tokens, self._users.links):
            documents.delete_many({"account_id": account_id})

    def add_session(self, session: Session, *, version: int) -> bool:
        mine = {"_id": session.account_id, "version": version, **_CAN_LOG_IN}
        with self._users.operation():
            account = self._users.accounts.find_one(mine, {"era": True})
            if account is None:
                return False
            document = stored(account_documents.Session, session, era=account["era"])
            self._users.sessions.insert_one(document)
            others = {"account_id": session.account_id, "_id": {"$ne": session.hash}}
            newest_first = self._users.sessions.find(others, {"_id": True}).sort("created_at", DESCENDING)
            surplus = [one["_id"] for one in newest_first.skip(MAX_SESSIONS - 1)]
            if surplus:
                self._users.sessions.delete_many({"_id": {"$in": surplus}})
            return True

    def session(self, secret_hash: str) -> Session | None:
        with self._users.operation():
            found = self._current([secret_hash])
        return model(Session, found[0]) if found else None

    def _current(self, hashes: Collection[str]) -> list[RawDocument]:
        """Of these sessions those that count."""
        found = list(self._users.sessions.find({"_id": {"$in": [*hashes]}}))
        ids = list({one["account_id"] for one in found})
        eras = {
            one["_id"]: one["era"] for one in self._users.accounts.find({"_id": {"$in": ids}}, {"era": True})
        }
        return [one for one in found if eras.get(one["account_id"]) == one["era"]]

    def sessions(self, account_id: str) -> Sequence[Session]:
        with self._users.operation():
            account = self._users.accounts.find_one({"_id": account_id}, {"era": True})
            if account is None:
                return []
            mine = {"account_id": account_id, "era": account["era"]}
            return _newest_first(Session, self._users.sessions, mine)

    def see_session(self, secret_hash: str, seen_at: datetime) -> None:
        with self._users.operation():
            self._users.sessions.update_one({"_id": secret_hash}, {"$max": {"seen_at": seen_at}})

    def remove_session(self, secret_hash: str) -> None:
        with self._users.operation():
            self._users.sessions.delete_one({"_id": secret_hash})

    def add_token(self, token: Token) -> None:
        self._add(self._users.tokens, stored(account_documents.Token, token))

    def token(self, secret_hash: str) -> Token | None:
        return self._first(Token, self._users.tokens, {"hash": secret_hash})

    def tokens(self, account_id: str) -> Sequence[Token]:
        with self._users.operation():
            return _newest_first(Token, self._users.tokens, {"account_id": account_id})

    def remove_token(self, account_id: str, token_id: str) -> None:
        self._remove(self._users.tokens, {"_id": token_id, "account_id": account_id}, NO_TOKEN)

    def remove_tokens(self, account_id: str) -> None:
        with self._users.operation():
            self._users.tokens.delete_many({"account_id": account_id})

    def add_link(self, link: Link) -> None:
        self._add(self._users.links, stored(account_documents.Link, link))

    def link(self, link_id: str) -> Link | None:
        return self._first(Link, self._users.links, {"_id": link_id})

    def links(self, account_id: str) -> Sequence[Link]:
        with self._users.operation():
            return _newest_first(Link, self._users.links, {"account_id": account_id})

    def automatic_link(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> Link | None:
        mine = {"account_id": account_id, "path": folder, "automatic": True, "is_playlist": True}
        lasting = mine | {"recursive": recursive, "expires_at": {"$gte": until}}
        return self._first(Link, self._users.links, lasting, sort=[("expires_at", DESCENDING)])

    def remove_link(self, account_id: str, link_id: str) -> None:
        self._remove(self._users.links, {"_id": link_id, "account_id": account_id}, NO_LINK)

    def _add(self, documents: Documents[RawDocument], document: RawDocument) -> None:
        """Store what belongs to an account. Who leaves says so first, and then deletes what there is."""
        with self._users.operation():
            documents.insert_one(document)
            if self._users.accounts.find_one({"_id": document["account_id"], "leaving": False}) is None:
                documents.delete_one({"_id": document["_id"]})
                raise UnknownAccount(NO_ACCOUNT)

    def _remove(self, documents: Documents[RawDocument], which: RawDocument, missing: str) -> None:
        with self._users.operation():
            if not documents.delete_one(which).deleted_count:
                raise UnknownAccount(missing)

    def add_invite(self, invite: Invite) -> None:
        with self._users.operation():
            self._users.invites.insert_one(stored(account_documents.Invite, invite))

    def invites(self) -> Sequence[Invite]:
        with self._users.operation():
            found = _newest_first(Invite, self._users.invites, {})
            hashes: RawDocument = {"$in": [one.hash for one in found]}
            # Those that a crash has left when they had been used.
            used = {one["invite"] for one in self._users.accounts.find({"invite": hashes}, {"invite": True})}
        return [one for one in found if one.hash not in used]

    def remove_invite(self, secret_hash: str) -> None:
        self._remove(self._users.invites, {"_id": secret_hash}, NO_INVITE)

    def signing_keys(self) -> Sequence[SigningKey]:
        with self._users.operation():
            return [model(SigningKey, one) for one in self._keys()]

    def _keys(self) -> list[RawDocument]:
        return list(self._users.signing_keys.find().sort("number", DESCENDING))

    def add_first_signing_key(self, key: SigningKey) -> None:
        with self._users.operation():
            if not self._keys():
                self._insert_key(key, 1)

    def add_signing_key(self, key: SigningKey, *, keep: Iterable[str]) -> None:
        with self._users.operation():
            while True:
                known = self._keys()
                if self._insert_key(key, known[0]["number"] + 1 if known else 1):
                    break
            # Not those that came after it, or of two that do this at once each would forget the other's.
            others = [one["_id"] for one in known if one["_id"] not in {*keep}]
            self._users.signing_keys.delete_many({"_id": {"$in": others}})

    def _insert_key(self, key: SigningKey, number: int) -> bool:
        """False if another key has the number."""
        try:
            self._users.signing_keys.insert_one(stored(account_documents.SigningKey, key, number=number))
        except DuplicateKeyError as error:
            if "number" not in (error.details or {}).get("keyPattern", {}):
                raise
            return False
        return True

    def announce(self, address: str) -> None:
        with self._users.operation():
            change = {"$set": {"address": address}}
            self._users.announcements.update_one({"_id": "server"}, change, upsert=True)

    def announced(self) -> str | None:
        with self._users.operation():
            found = self._users.announcements.find_one({"_id": "server"})
        return found["address"] if found else None

    def standing(
        self, *, accounts: Collection[tuple[str, int]], sessions: Collection[str], tokens: Collection[str]
    ) -> tuple[set[tuple[str, int]], set[str], set[str]]:
        ids = {"$in": [one for one, _ in accounts]}
        with self._users.operation():
            found = self._users.accounts.find({"_id": ids, **_CAN_LOG_IN}, {"version": True})
            known = {(one["_id"], one["version"]) for one in found}
            logins = {one["_id"] for one in self._current(sessions)}
            hashes = {"$in": [*tokens]}
            left = {one["hash"] for one in self._users.tokens.find({"hash": hashes}, {"hash": True})}
        return known & {*accounts}, logins, left

    def standing_links(self, links: Collection[str]) -> set[str]:
        with self._users.operation():
            return {one["_id"] for one in self._users.links.find({"_id": {"$in": [*links]}}, {"_id": True})}

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        users = self._users
        with users.operation():
            users.links.delete_many({"expires_at": {"$lte": now}})
            users.invites.delete_many({"expires_at": {"$lte": now}})
            users.sessions.delete_many({"seen_at": {"$lt": seen_before}})
            users.sessions.delete_many({"created_at": {"$lt": created_before}})

    def _first(
        self, kind: type[M], documents: Documents[RawDocument], which: RawDocument, **order: Any
    ) -> M | None:
        with self._users.operation():
            found = documents.find_one(which, **order)
        return None if found is None else model(kind, found)


def _newest_first(kind: type[M], documents: Documents[RawDocument], which: RawDocument) -> list[M]:
    return [model(kind, one) for one in documents.find(which).sort("created_at", DESCENDING)]

"""Accounts in a MongoDB database, which need not have transactions.

Each change takes effect by one write to one document. Further writes follow in an order in which a crash
leaves only documents without effect. A session is valid while it has the sessions version of its account. A
token or link is removed again if its account was marked as leaving while it was added.
"""

import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import uuid4

from mongoengine import Document
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.collection import Collection as Documents
from pymongo.errors import DuplicateKeyError

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
from app.accounts.models import Account, Destination, Invite, Link, Record, Session, SigningKey, Token
from app.accounts.store import MAX_SESSIONS
from app.database.gridfs import account_documents as documents
from app.database.gridfs.account_documents import SESSIONS_VERSION, WAS_PROMOTED, from_document, to_document
from app.database.gridfs.connection import Users
from app.database.gridfs.documents import RawDocument
from app.database.gridfs.shared_state import MongoLoginLimits
from app.storage.errors import StorageUnavailable

RESIGNATION_LASTS_MS = 10_000
"""Time after which a resignation is void: the process that announced it may have crashed."""

MAX_RESIGN_ATTEMPTS = 8
_RESIGNATION = "parting"  # the stored name of the field

_IS_RESIGNING: RawDocument = {"$gt": [f"${_RESIGNATION}.until", "$$NOW"]}
_END_SESSIONS: RawDocument = {"$inc": {SESSIONS_VERSION: 1}}
_LEAVE: RawDocument = {"$set": {"leaving": True}, "$unset": {WAS_PROMOTED: True}} | _END_SESSIONS
_DEMOTE: RawDocument = {"$set": {"is_admin": False}, "$unset": {WAS_PROMOTED: True, _RESIGNATION: True}}
_CAN_LOG_IN = {"disabled": False, "leaving": False}

M = TypeVar("M", bound=Record)


class _Administrators:
    """Ensures that an administrator remains, without a transaction over several accounts.

    An administrator that resigns first announces it in its own document, and then requires another one that
    has announced nothing. Of two at the same time, at least one finds the other's announcement and retries.
    """

    def __init__(self, users: Users, resignation_lasts_ms: int) -> None:
        self._users = users
        self._resignation_lasts_ms = resignation_lasts_ms

    def resign(self, account_id: str, change: RawDocument, *, may_be_alone: bool) -> None:
        """Apply a change that ends the rights of an administrator.

        Raises LastAdministrator unless another administrator can log in. With `may_be_alone`, it is enough
        that all other accounts are leaving. Blocks while other administrators resign.
        """
        for attempt in range(MAX_RESIGN_ATTEMPTS):
            with self._users.operation():
                if self._try_resign(account_id, change, may_be_alone):
                    return
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
        raise StorageUnavailable("Several administrators are leaving at the same time. Try again.")

    def _try_resign(self, account_id: str, change: RawDocument, may_be_alone: bool) -> bool:
        """Return False if others are resigning at the same time, or this took too long."""
        accounts = self._users.accounts
        call_id = uuid4().hex  # another call may be about the same account
        announcement = {"by": call_id, "until": {"$add": ["$$NOW", self._resignation_lasts_ms]}}
        accounts.update_one({"_id": account_id}, [{"$set": {_RESIGNATION: announcement}}])
        others: RawDocument = {"_id": {"$ne": account_id}, "leaving": False}
        administrators = others | {"is_admin": True, "disabled": False}
        mine: RawDocument = {"_id": account_id, f"{_RESIGNATION}.by": call_id}
        is_alone = may_be_alone and not accounts.find_one(others)
        if is_alone or accounts.find_one(administrators | {"$expr": {"$not": _IS_RESIGNING}}):
            return accounts.update_one(mine | {"$expr": _IS_RESIGNING}, change).matched_count == 1
        accounts.update_one(mine, {"$unset": {_RESIGNATION: True}})
        if accounts.find_one(administrators) is None:
            raise LastAdministrator(LAST)
        return False

    def ensure_one(self) -> None:
        """Promote the oldest account that is not leaving, if no such account is an administrator."""
        accounts = self._users.accounts
        with self._users.operation():
            while accounts.find_one({"is_admin": True, "leaving": False}, {"_id": True}) is None:
                staying: RawDocument = {"_id": {"$gt": ""}, "leaving": False}
                successor = accounts.find_one(staying, {"_id": True}, sort=[("created_at", 1), ("_id", 1)])
                if successor is None:
                    return
                promotion: RawDocument = {"$set": {"is_admin": True, WAS_PROMOTED: True}}
                try:
                    accounts.update_one({"_id": successor["_id"], "leaving": False}, promotion)
                except DuplicateKeyError:
                    return  # another process promoted one at the same time


class MongoRecords(Generic[M]):
    """`accounts.store.Records` over one collection."""

    def __init__(
        self,
        users: Users,
        collection: Documents[RawDocument],
        model: type[M],
        document: type[Document],
        *,
        key: str = "_id",
    ) -> None:
        self._users, self._collection = users, collection
        self._model, self._document, self._key = model, document, key

    def get(self, key: str) -> M | None:
        with self._users.operation():
            found = self._valid([*self._collection.find({self._key: key})])
        return from_document(self._model, found[0]) if found else None

    def remove(self, record_id: str) -> bool:
        return self._remove({"_id": record_id})

    def existing(self, keys: Collection[str]) -> set[str]:
        with self._users.operation():
            found = self._valid([*self._collection.find({self._key: {"$in": [*keys]}})])
        return {one[self._key] for one in found}

    def _list(self, selected: RawDocument) -> Sequence[M]:
        with self._users.operation():
            newest_first = self._collection.find(selected).sort(
                [("created_at", DESCENDING), ("_id", ASCENDING)]
            )
            return [from_document(self._model, one) for one in self._valid([*newest_first])]

    def _remove(self, selected: RawDocument) -> bool:
        with self._users.operation():
            return self._collection.delete_one(selected).deleted_count == 1

    def _valid(self, found: Sequence[RawDocument]) -> Sequence[RawDocument]:
        """Return the valid documents: a crash may have left others."""
        return found


class MongoOwnedRecords(MongoRecords[M]):
    """`accounts.store.OwnedRecords` over one collection."""

    def list(self, account_id: str) -> Sequence[M]:
        return self._list({"account_id": account_id})

    def remove(self, record_id: str, *, account_id: str | None = None) -> bool:
        owner = {} if account_id is None else {"account_id": account_id}
        return self._remove({"_id": record_id, **owner})

    def remove_all(self, account_id: str) -> None:
        with self._users.operation():
            self._collection.delete_many({"account_id": account_id})


class MongoRecordStore(MongoOwnedRecords[M]):
    """`accounts.store.RecordStore` over one collection."""

    def add(self, record: M) -> None:
        document = to_document(self._document, record)
        with self._users.operation():
            self._collection.insert_one(document)
            # `mark_leaving` first marks an account, then deletes its records. So either it deletes this one,
            # or this check, after the insert, finds the mark.
            owner = {"_id": document["account_id"], "leaving": False}
            if self._users.accounts.find_one(owner, {"_id": True}) is None:
                self._collection.delete_one({"_id": document["_id"]})
                raise UnknownRecord(NO_ACCOUNT)


class MongoSessions(MongoOwnedRecords[Session]):
    """`accounts.store.SessionStore`."""

    def __init__(self, users: Users) -> None:
        super().__init__(users, users.sessions, Session, documents.SessionDocument)

    def add(self, session: Session, *, version: int) -> bool:
        current = {"_id": session.account_id, "version": version, **_CAN_LOG_IN}
        with self._users.operation():
            account = self._users.accounts.find_one(current, {SESSIONS_VERSION: True})
            if account is None:
                return False
            valid_for = account[SESSIONS_VERSION]
            self._collection.insert_one(to_document(self._document, session, sessions_version=valid_for))
            self._remove_surplus(session)
            return True

    def _remove_surplus(self, newest: Session) -> None:
        others = {"account_id": newest.account_id, "_id": {"$ne": newest.hash}}
        found = self._collection.find(others, {"_id": True})
        newest_first = found.sort([("created_at", DESCENDING), ("_id", ASCENDING)])
        surplus = [one["_id"] for one in newest_first.skip(MAX_SESSIONS - 1)]
        if surplus:
            self._collection.delete_many({"_id": {"$in": surplus}})

    def touch(self, secret_hash: str, seen_at: datetime) -> None:
        with self._users.operation():
            self._collection.update_one({"_id": secret_hash}, {"$max": {"seen_at": seen_at}})

    def _valid(self, found: Sequence[RawDocument]) -> Sequence[RawDocument]:
        """Return the sessions that have the sessions version of their account."""
        ids = [*{one["account_id"] for one in found}]
        accounts = self._users.accounts.find({"_id": {"$in": ids}}, {SESSIONS_VERSION: True}) if ids else ()
        versions = {one["_id"]: one[SESSIONS_VERSION] for one in accounts}
        return [one for one in found if versions.get(one["account_id"]) == one[SESSIONS_VERSION]]


class MongoLinks(MongoRecordStore[Link]):
    """`accounts.store.LinkStore`."""

    def __init__(self, users: Users) -> None:
        super().__init__(users, users.links, Link, documents.LinkDocument)

    def find_automatic(
        self, account_id: str, folder: str, *, recursive: bool, until: datetime
    ) -> Link | None:
        mine = {"account_id": account_id, "path": folder, "automatic": True, "is_playlist": True}
        lasting = mine | {"recursive": recursive, "expires_at": {"$gte": until}}
        with self._users.operation():
            found = self._collection.find_one(lasting, sort=[("expires_at", DESCENDING)])
        return None if found is None else from_document(Link, found)


class MongoInvites(MongoRecords[Invite]):
    """`accounts.store.InviteStore`."""

    def __init__(self, users: Users) -> None:
        super().__init__(users, users.invites, Invite, documents.InviteDocument)

    def add(self, invite: Invite) -> None:
        with self._users.operation():
            self._collection.insert_one(to_document(self._document, invite))

    def list(self) -> Sequence[Invite]:
        return self._list({})

    def _valid(self, found: Sequence[RawDocument]) -> Sequence[RawDocument]:
        """Return the invites that no account has used."""
        by_invite: RawDocument = {"invite": {"$in": [one["_id"] for one in found]}}
        used = {one["invite"] for one in self._users.accounts.find(by_invite, {"invite": True})}
        return [one for one in found if one["_id"] not in used]


class MongoSigningKeys:
    """`accounts.store.SigningKeyStore`."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def list(self) -> Sequence[SigningKey]:
        with self._users.operation():
            return [from_document(SigningKey, one) for one in self._newest_first()]

    def add_first(self, key: SigningKey) -> None:
        with self._users.operation():
            if not self._newest_first():
                self._try_insert(key, 1)

    def rotate(self, key: SigningKey, *, keep: Iterable[str]) -> None:
        with self._users.operation():
            while True:
                known = self._newest_first()
                if self._try_insert(key, known[0]["number"] + 1 if known else 1):
                    break
            # Only older keys, so that concurrent calls do not remove each other's new ones.
            others = [one["_id"] for one in known if one["_id"] not in {*keep}]
            self._users.signing_keys.delete_many({"_id": {"$in": others}})

    def _newest_first(self) -> Sequence[RawDocument]:
        return [*self._users.signing_keys.find().sort("number", DESCENDING)]

    def _try_insert(self, key: SigningKey, number: int) -> bool:
        """Return False if another key has the number."""
        try:
            self._users.signing_keys.insert_one(to_document(documents.SigningKeyDocument, key, number=number))
        except DuplicateKeyError as error:
            if "number" not in (error.details or {}).get("keyPattern", {}):
                raise
            return False
        return True


class MongoAccounts:
    """`accounts.store.AccountStore` over a MongoDB database."""

    def __init__(self, users: Users, *, resignation_lasts_ms: int = RESIGNATION_LASTS_MS) -> None:
        self._users = users
        self._administrators = _Administrators(users, resignation_lasts_ms)
        self.sessions = MongoSessions(users)
        self.tokens = MongoRecordStore(users, users.tokens, Token, documents.TokenDocument, key="hash")
        self.links = MongoLinks(users)
        self.invites = MongoInvites(users)
        self.signing_keys = MongoSigningKeys(users)
        self.login_limits = MongoLoginLimits(users)

    def add(self, account: Account, *, invite: str | None = None) -> Account:
        users = self._users
        with users.operation():
            if invite is not None:
                unexpired = {"_id": invite, "expires_at": {"$gt": datetime.now(UTC)}}
                if users.invites.find_one(unexpired) is None:
                    raise SignUpRefused(NO_INVITE)
            account = self._insert(account, invite)
            revoked = invite is not None and not users.invites.delete_one({"_id": invite}).deleted_count
            if revoked:  # since the check above
                users.accounts.delete_one({"_id": account.id})
        self._administrators.ensure_one()
        if revoked:
            raise SignUpRefused(NO_INVITE)
        return account if account.is_admin else self.get(account.id) or account

    def _insert(self, account: Account, invite: str | None) -> Account:
        more = {"sessions_version": 1, "invite": invite}
        if self._users.accounts.find_one({}, {"_id": True}) is None:
            first = replace(account, is_admin=True, library="")
            try:
                self._users.accounts.insert_one(to_document(documents.AccountDocument, first, **more))
                return first
            except DuplicateKeyError:
                pass  # another account was first
        try:
            self._users.accounts.insert_one(to_document(documents.AccountDocument, account, **more))
        except DuplicateKeyError as error:
            taken = (error.details or {}).get("keyPattern", {})
            if "email" in taken:
                raise EmailTaken(TAKEN) from None
            if "invite" in taken:
                raise SignUpRefused(NO_INVITE) from None
            raise
        return account

    def get(self, account_id: str) -> Account | None:
        return self._find({"_id": account_id})

    def by_email(self, email: str) -> Account | None:
        return self._find({"email": email})

    def list(self, *, after: str = "", limit: int) -> Sequence[Account]:
        with self._users.operation():
            found = self._users.accounts.find({"email": {"$gt": after}}).sort("email").limit(limit)
            return [from_document(Account, one) for one in found]

    def count(self) -> int:
        with self._users.operation():
            return self._users.accounts.count_documents({})

    def set_password(self, account_id: str, password: str, *, version: int) -> bool:
        change = {"$set": {"password": password}, "$inc": {"version": 1, SESSIONS_VERSION: 1}}
        return self._change({"_id": account_id, "version": version}, change)

    def set_disabled(self, account_id: str, disabled: bool) -> None:
        change: RawDocument = {"$set": {"disabled": disabled}} | (_END_SESSIONS if disabled else {})
        if not self._change({"_id": account_id}, change):
            raise UnknownRecord(NO_ACCOUNT)

    def set_quota(self, account_id: str, quota: int | None) -> None:
        if not self._change({"_id": account_id}, {"$set": {"quota": quota}}):
            raise UnknownRecord(NO_ACCOUNT)

    def _change(self, selected: RawDocument, change: RawDocument) -> bool:
        """Update an account and delete the sessions that the change ends. Return whether it was found."""
        with self._users.operation():
            found = self._users.accounts.find_one_and_update(
                selected, change, return_document=ReturnDocument.AFTER
            )
            if found is not None and "$inc" in change:
                former = {"account_id": found["_id"], SESSIONS_VERSION: {"$lt": found[SESSIONS_VERSION]}}
                self._users.sessions.delete_many(former)
        return found is not None

    def set_admin(self, account_id: str, is_admin: bool) -> None:
        account = self.get(account_id)
        if account is None or account.leaving:
            raise UnknownRecord(NO_ACCOUNT)
        if is_admin:
            if not self._change({"_id": account_id, "leaving": False}, {"$set": {"is_admin": True}}):
                raise UnknownRecord(NO_ACCOUNT)
        elif account.is_admin:
            self._administrators.resign(account_id, _DEMOTE, may_be_alone=False)

    def mark_leaving(self, account_id: str, keep: Destination | None = None) -> None:
        library, folder = (keep.library, keep.folder) if keep else (None, None)
        kept: RawDocument = {"keep_library": library, "keep_folder": folder}
        leave = _LEAVE | {"$set": _LEAVE["$set"] | kept}
        while not self._try_mark_leaving(account_id, leave):
            pass  # the account was promoted or demoted meanwhile
        self._administrators.ensure_one()
        with self._users.operation():
            self._delete_records(account_id)

    def _try_mark_leaving(self, account_id: str, leave: RawDocument) -> bool:
        """Return False if the account was promoted or demoted meanwhile."""
        account = self.get(account_id)
        if account is None:
            raise UnknownRecord(NO_ACCOUNT)
        if account.is_admin and not account.leaving:
            self._administrators.resign(account_id, leave, may_be_alone=True)
            return True
        unchanged = {"_id": account_id, "leaving": account.leaving, "is_admin": account.is_admin}
        with self._users.operation():
            return self._users.accounts.update_one(unchanged, leave).matched_count == 1

    def list_leaving(self) -> Sequence[Account]:
        with self._users.operation():
            return [from_document(Account, one) for one in self._users.accounts.find({"leaving": True})]

    def remove(self, account_id: str) -> None:
        users = self._users
        with users.operation():
            # Marked first, so that no record can be added after they are deleted.
            found = users.accounts.find_one_and_update({"_id": account_id}, _LEAVE)
            self._delete_records(account_id)
        self._administrators.ensure_one()
        with users.operation():
            if found is not None:
                # A crash in `add` may have left the used invite; only the account prevents its reuse.
                users.invites.delete_one({"_id": found.get("invite")})
                users.accounts.delete_one({"_id": account_id})

    def _delete_records(self, account_id: str) -> None:
        for collection in (self._users.sessions, self._users.tokens, self._users.links):
            collection.delete_many({"account_id": account_id})

    def announce(self, address: str) -> None:
        with self._users.operation():
            change = {"$set": {"address": address}}
            self._users.announcements.update_one({"_id": "server"}, change, upsert=True)

    def announced(self) -> str | None:
        with self._users.operation():
            found = self._users.announcements.find_one({"_id": "server"})
        return found["address"] if found else None

    def active(self, accounts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        ids = {"$in": [one for one, _ in accounts]}
        with self._users.operation():
            found = self._users.accounts.find({"_id": ids, **_CAN_LOG_IN}, {"version": True})
            return {(one["_id"], one["version"]) for one in found} & {*accounts}

    def sweep(self, *, now: datetime, seen_before: datetime, created_before: datetime) -> None:
        users = self._users
        with users.operation():
            users.links.delete_many({"expires_at": {"$lte": now}})
            users.invites.delete_many({"expires_at": {"$lte": now}})
            users.sessions.delete_many({"seen_at": {"$lt": seen_before}})
            users.sessions.delete_many({"created_at": {"$lt": created_before}})

    def _find(self, selected: RawDocument) -> Account | None:
        with self._users.operation():
            found = self._users.accounts.find_one(selected)
        return None if found is None else from_document(Account, found)

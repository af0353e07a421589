"""How the last administrator is kept, though two may leave at the same time and nothing locks both.

Who wants to leave says so first, in its document and for some seconds, then looks whether another one stays,
and only then leaves: while what it said still counts. So of two that leave at once the later to look sees the
other go. If each sees the other, both stay, and try again after a while, not the same for both.

An account that signs up just then may have been seen by neither. So `succeed` appoints an administrator
whenever accounts stay and none of them is one: after each account that is added, leaves or is removed. A
unique index lets one account at a time become an administrator in that way.
"""

import random
import time
from uuid import uuid4

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from app.accounts.errors import LastAdministrator
from app.database.mongo.documents import Stored
from app.database.mongo.users import Users
from app.database.rules import LAST
from app.storage.errors import StorageUnavailable

COUNTS_FOR_MS = 10_000
TRIES = 8

_PARTING: Stored = {"$gt": ["$parting.until", "$$NOW"]}
LEAVE: Stored = {"$set": {"leaving": True}, "$inc": {"era": 1}, "$unset": {"heir": True}}
"""The one write that ends an account's sessions, too."""

DEMOTE: Stored = {"$set": {"is_admin": False}, "$unset": {"heir": True, "parting": True}}


def resign(users: Users, account_id: str, change: Stored, *, may_be_alone: bool) -> None:
    """Apply the change, by which an account stops being an administrator that stays. Raises LastAdministrator
    unless another one can log in, or, where that will do, all other accounts are leaving."""
    for attempt in range(TRIES):
        with users.asked():
            if _resigned(users.accounts, account_id, change, may_be_alone):
                return
        time.sleep(random.uniform(0, 0.02 * 2**attempt))
    raise StorageUnavailable("Several administrators are leaving just now.")


def _resigned(accounts: Collection[Stored], account_id: str, change: Stored, may_be_alone: bool) -> bool:
    """Return False if the attempt has to be repeated."""
    said = uuid4().hex  # by this call: another one may be about the same account
    until = {"$add": ["$$NOW", COUNTS_FOR_MS]}
    accounts.update_one({"_id": account_id}, [{"$set": {"parting": {"by": said, "until": until}}}])
    others: Stored = {"_id": {"$ne": account_id}, "leaving": False}
    able = others | {"is_admin": True, "disabled": False}
    mine: Stored = {"_id": account_id, "parting.by": said}
    is_alone = may_be_alone and not accounts.find_one(others)
    if is_alone or accounts.find_one(able | {"$expr": {"$not": _PARTING}}):
        return accounts.update_one(mine | {"$expr": _PARTING}, change).matched_count == 1
    accounts.update_one(mine, {"$unset": {"parting": True}})
    if accounts.find_one(able) is None:
        raise LastAdministrator(LAST)
    return False


def succeed(users: Users) -> None:
    """Make the oldest account that stays an administrator, if none that stays is one."""
    with users.asked():
        while users.accounts.find_one({"is_admin": True, "leaving": False}, {"_id": True}) is None:
            staying: Stored = {"_id": {"$gt": ""}, "leaving": False}
            heir = users.accounts.find_one(staying, {"_id": True}, sort=[("created_at", 1), ("_id", 1)])
            if heir is None:
                return
            appoint: Stored = {"$set": {"is_admin": True, "heir": True}}
            try:
                users.accounts.update_one({"_id": heir["_id"], "leaving": False}, appoint)
            except DuplicateKeyError:
                return  # another process appointed one at the same time

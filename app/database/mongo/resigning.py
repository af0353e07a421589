"""How the last administrator is kept, though two may leave at the same time and nothing locks both.

Who wants to leave says so first, in its document and for some seconds, then looks whether another one stays,
and only then leaves: while what it said still counts. So of two that leave at once the later to look sees the
other go. If each sees the other, both stay, and try again after a while, not the same for both.
"""

import random
import time
from uuid import uuid4

from pymongo.collection import Collection

from app.accounts.errors import LastAdministrator
from app.database.mongo.documents import Stored
from app.database.mongo.users import Users
from app.database.rules import LAST
from app.storage.errors import StorageUnavailable

COUNTS_FOR_MS = 10_000
TRIES = 8

_PARTING: Stored = {"$gt": ["$parting.until", "$$NOW"]}
LEAVE: Stored = {"$set": {"leaving": True}, "$inc": {"era": 1}}
"""The one write that ends an account's sessions, too."""


def resign(users: Users, account_id: str) -> None:
    """Note that an administrator is leaving. LastAdministrator."""
    for attempt in range(TRIES):
        with users.asked():
            if _resigned(users.accounts, account_id):
                return
        time.sleep(random.uniform(0, 0.02 * 2**attempt))
    raise StorageUnavailable("Several administrators are leaving just now.")


def _resigned(accounts: Collection[Stored], account_id: str) -> bool:
    """False if it is to be tried again."""
    said = uuid4().hex  # by this call: another one may be about the same account
    until = {"$add": ["$$NOW", COUNTS_FOR_MS]}
    accounts.update_one({"_id": account_id}, [{"$set": {"parting": {"by": said, "until": until}}}])
    others: Stored = {"_id": {"$ne": account_id}, "leaving": False}
    able = others | {"is_admin": True, "disabled": False}
    mine: Stored = {"_id": account_id, "parting.by": said}
    if accounts.find_one(able | {"$expr": {"$not": _PARTING}}) or not accounts.find_one(others):
        return accounts.update_one(mine | {"$expr": _PARTING}, LEAVE).matched_count == 1
    accounts.update_one(mine, {"$unset": {"parting": True}})
    if accounts.find_one(able) is None:
        raise LastAdministrator(LAST)
    return False

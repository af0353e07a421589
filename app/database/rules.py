"""What every backend decides in the same way."""

from datetime import datetime, timedelta

from app.http.media_types import UNKNOWN, media_type
from app.storage.errors import AlreadyExists, VersionMismatch
from app.storage.maintenance import Integrity
from app.storage.types import Expect, Expectation

FEW = 5_000
"""How many files are sorted for a page rather than met along the order. (Of a million files, 30 that are
among so many are found by looking at 6,000 along the order.)"""

HOW_FEW = (100, 1_000)
"""Of so many it is asked first, so that of several conditions the one counts that few files fulfil."""

STRIDES = (1_000, 5_000)
"""How many files are looked at along the order for a page of those that are looked for: so many first, which
is enough where many are; then, if the page is not full, so many more. What is found by then is the page."""

RARELY_TOGETHER = 1_000
"""Of how many files at most it is noted that they have all of several common words."""

MAX_TOGETHER = 20_000
"""How many files with one word are looked at for whether they have the others, too."""

MAX_LOOKED_AT = 200_000
"""Names of folders that are in memory at once, at most; some are there twice."""

_LATER = timedelta(milliseconds=1)
"""The least by which dates differ on all databases."""

NEWER = "The database was made by a newer Seekable. Install that version, or a later one."
"""The refusal of a database whose schema this version does not know."""

TAKEN = "There is an account with this email address."
LAST = "Nobody would be left who may look after the accounts: there is no other administrator."
NO_ACCOUNT = "There is no such account."
NO_TOKEN = "There is no such token."
NO_LINK = "There is no such link."
NO_INVITE = "This invite is not valid, or not any longer."
"""What the errors of the accounts say."""


def check(etag: str | None, expect: Expectation) -> None:
    """Hold what is stored, None if nothing is, against what is expected. AlreadyExists, VersionMismatch."""
    if expect is Expect.ABSENT:
        if etag is not None:
            raise AlreadyExists("A file of this name exists.")
    elif isinstance(expect, str) and etag != expect:
        raise VersionMismatch("The stored file is another version, or gone.")


def can_be_stored(text: str) -> bool:
    """Whether all databases take the text. PostgreSQL and patterns of MongoDB refuse NUL, even to find it."""
    return "\0" not in text


def type_after_move(content_type: str, old_name: str, new_name: str) -> str:
    """The media type of a file that gets another name. One that its old name suggested gives way to that of
    the new one: programs that fetch a film give it its name when it is whole."""
    suggested = media_type(None, new_name)
    if suggested != UNKNOWN and content_type == media_type(None, old_name):
        return suggested
    return content_type


def modified_at(date: datetime, previous: datetime | None, now: datetime) -> datetime:
    """Return when a version of this date was modified, if it replaces one of the date `previous`.

    The result is in a later second than any Last-Modified that was sent of the one before: HTTP-dates have
    whole seconds, so If-Modified-Since could not tell the two apart otherwise. It may be up to a second in
    the future; answers send the present instead (RFC 9110 8.8.2.1).
    """
    date = min(date, now)
    if previous is None:
        return date
    for candidate in (date, now):
        if candidate.replace(microsecond=0) > previous.replace(microsecond=0):
            return candidate
    return max(previous + _LATER, now.replace(microsecond=0) + timedelta(seconds=1))


def verdict_of(recorded: str | None, found: str) -> Integrity:
    """What the hash of a file's bytes says of them."""
    if recorded is None:
        return Integrity.UNKNOWN
    return Integrity.SOUND if found == recorded else Integrity.DAMAGED

"""Which documents lists leave out: decided when one gets its name, and again when the patterns change."""

import logging

from pymongo import UpdateOne

from app.database.mongo.connection import Database
from app.database.mongo.documents import Stored, behind
from app.storage.errors import InvalidName
from app.storage.ignored import Ignored
from app.storage.types import Key

BATCH = 2_000
"""Documents that one query reads."""

_log = logging.getLogger("seekable")

_PATTERNS = "patterns"
_FIELDS = dict.fromkeys(("library", "folder", "filename", "ignored"), True)


def ignored_names(database: Database, wanted: Ignored, *, serving: bool) -> Ignored:
    """Return the patterns that decide which files lists leave out.

    A server flags every document by the patterns that it wants, and returns those. A command returns those of
    the last server, because a shell may lack the server's settings.
    """
    with database.asked():
        noted = (database.ignore.find_one({"_id": _PATTERNS}) or {}).get("text")
    if not serving:
        return Ignored.of(noted) if isinstance(noted, str) else wanted
    if noted != wanted.text:
        _flag(database, wanted)
    return wanted


def _flag(database: Database, ignored: Ignored) -> None:
    """Decide for every document. Others may write meanwhile: one is changed only if it still has the name
    that was looked at, and one that gets its name later was decided by whoever named it.
    """
    last: Stored = {}
    while True:
        with database.asked():
            batch = list(database.media.find(last, _FIELDS).sort("_id").limit(BATCH))
        if not batch:
            break
        if not last and len(batch) == BATCH:
            _log.info("SEEKABLE_IGNORE is another than the last time: looking at the names of all files.")
        last = behind(batch[-1]["_id"])
        updates = [_flagged(media) for media in batch if _is_ignored(media, ignored) != _was_ignored(media)]
        if updates:
            with database.asked():
                database.media.bulk_write(updates, ordered=False)
    with database.asked():
        database.ignore.replace_one({"_id": _PATTERNS}, {"text": ignored.text}, upsert=True)


def _was_ignored(media: Stored) -> bool:
    return media.get("ignored") is True


def _is_ignored(media: Stored, ignored: Ignored) -> bool:
    try:
        return ignored.file(Key(media["library"], media["folder"], media["filename"]))
    except (InvalidName, KeyError, TypeError):  # another program wrote it
        return _was_ignored(media)


def _flagged(media: Stored) -> UpdateOne:
    same = {name: media[name] for name in ("_id", "library", "folder", "filename")}
    change = {"$unset": {"ignored": ""}} if _was_ignored(media) else {"$set": {"ignored": True}}
    return UpdateOne(same, change)

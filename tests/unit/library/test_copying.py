"""What is done about each file when a library is copied: a table of cases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.library.copying import Action, decide
from app.storage.copy_notes import Copy
from app.storage.types import SHARED, FileInfo, Key

SOURCE = FileInfo(
    id="1" * 32,
    key=Key(SHARED, "films", "film.mp4"),
    size=9,
    content_type="video/mp4",
    etag="a" * 64,
    sha256="a" * 64,
    created_at=datetime(2020, 1, 1, tzinfo=UTC),
    updated_at=datetime(2021, 1, 1, 0, 0, 0, 123_456, UTC),
)
UNHASHED = replace(SOURCE, etag="1-2-3", sha256=None)
COPY = replace(SOURCE, updated_at=SOURCE.updated_at.replace(microsecond=123_000))
BEFORE, AFTER = SOURCE.updated_at - timedelta(days=1), SOURCE.updated_at + timedelta(days=1)
OTHER_BYTES = {"etag": "b" * 64, "sha256": "b" * 64}

OLD_COPY = replace(COPY, updated_at=BEFORE, **OTHER_BYTES)
LONGER_OLD_COPY = replace(OLD_COPY, size=10)
CHANGED_COPY = replace(COPY, updated_at=AFTER, **OTHER_BYTES)
UNHASHED_COPY = replace(COPY, updated_at=AFTER, sha256=None)
TWIN = replace(COPY, id="2" * 32, updated_at=AFTER)
OTHER = replace(TWIN, **OTHER_BYTES)
OLD_OTHER = replace(OTHER, updated_at=BEFORE)
UNHASHED_OTHER = replace(OTHER, sha256=None)
LONGER_OTHER = replace(UNHASHED_OTHER, size=10)


@pytest.mark.parametrize(
    ("source", "there", "known", "action"),
    [
        # Nothing has its name or its id.
        (SOURCE, None, None, Action.COPY),
        (UNHASHED, None, None, Action.COPY),
        # The same bytes are there, from wherever.
        (SOURCE, COPY, COPY, Action.SKIP),
        (SOURCE, TWIN, None, Action.SKIP),
        (SOURCE, TWIN, OLD_COPY, Action.SKIP),
        (SOURCE, replace(COPY, updated_at=AFTER), COPY, Action.SKIP),
        # A hash is missing: a copy is known by its time, all else only by reading.
        (UNHASHED, COPY, COPY, Action.SKIP),
        (UNHASHED, replace(COPY, updated_at=BEFORE), None, Action.HASH),
        (UNHASHED, CHANGED_COPY, CHANGED_COPY, Action.HASH),
        (UNHASHED, TWIN, None, Action.HASH),
        (UNHASHED, OTHER, None, Action.HASH),
        (SOURCE, UNHASHED_OTHER, None, Action.HASH),
        (SOURCE, UNHASHED_COPY, UNHASHED_COPY, Action.HASH),
        (UNHASHED, replace(UNHASHED_OTHER, updated_at=COPY.updated_at), None, Action.HASH),
        # Another length is another file, whatever is not known.
        (SOURCE, LONGER_OTHER, None, Action.CONFLICT),
        (UNHASHED, LONGER_OTHER, None, Action.CONFLICT),
        (UNHASHED, LONGER_OLD_COPY, LONGER_OLD_COPY, Action.REPLACE),
        # An earlier copy of an older version gives way; one that changed since does not.
        (SOURCE, OLD_COPY, OLD_COPY, Action.REPLACE),
        (SOURCE, LONGER_OLD_COPY, LONGER_OLD_COPY, Action.REPLACE),
        (SOURCE, CHANGED_COPY, CHANGED_COPY, Action.CONFLICT),
        (SOURCE, replace(OLD_COPY, updated_at=SOURCE.updated_at), None, Action.CONFLICT),
        # Another file has the name, older or newer.
        (SOURCE, OTHER, None, Action.CONFLICT),
        (SOURCE, OLD_OTHER, None, Action.CONFLICT),
        (SOURCE, OTHER, COPY, Action.CONFLICT),
        # An earlier copy has another name; an older version of it is then replaced in its new place.
        (SOURCE, None, COPY, Action.MOVE),
        (UNHASHED, None, COPY, Action.MOVE),
        (SOURCE, None, OLD_COPY, Action.MOVE),
        (SOURCE, None, CHANGED_COPY, Action.CONFLICT),
        (SOURCE, None, UNHASHED_COPY, Action.HASH),
    ],
)
def test_what_is_done(
    source: FileInfo, there: FileInfo | None, known: FileInfo | None, action: Action
) -> None:
    assert decide(source, there, known) is action


def noted(info: FileInfo) -> Copy:
    return Copy.of(info, "source", info.id)


@pytest.mark.parametrize(
    ("there", "known", "copied", "action"),
    [
        # Another file has the name: it goes only if it is a copy, and just as it was copied.
        (OLD_OTHER, None, noted(OLD_OTHER), Action.SUPERSEDE),
        (OTHER, None, noted(OTHER), Action.SUPERSEDE),
        (OLD_OTHER, None, noted(replace(OLD_OTHER, etag="c" * 64)), Action.CONFLICT),
        (OLD_OTHER, None, noted(replace(OLD_OTHER, updated_at=AFTER)), Action.CONFLICT),
        (OLD_OTHER, None, noted(replace(OLD_OTHER, key=Key(SHARED, "", "b.mp4"))), Action.CONFLICT),
        (OLD_OTHER, None, noted(replace(OLD_OTHER, id="3" * 32)), Action.CONFLICT),
        # The same bytes are there, whatever is known of them.
        (TWIN, None, noted(TWIN), Action.SKIP),
        # An older version of the file itself is no copy any more if it was changed there.
        (OLD_COPY, OLD_COPY, noted(OLD_COPY), Action.REPLACE),
        (OLD_COPY, OLD_COPY, noted(replace(OLD_COPY, key=Key(SHARED, "", "b.mp4"))), Action.REPLACE),
        (OLD_COPY, OLD_COPY, noted(replace(OLD_COPY, etag="c" * 64)), Action.CONFLICT),
        (None, OLD_COPY, noted(replace(OLD_COPY, etag="c" * 64)), Action.CONFLICT),
        (None, OLD_COPY, noted(OLD_COPY), Action.MOVE),
        (CHANGED_COPY, CHANGED_COPY, noted(CHANGED_COPY), Action.CONFLICT),
        # A doubtful one may have been changed, with its time put back.
        (replace(LONGER_OLD_COPY, doubtful=True), None, noted(LONGER_OLD_COPY), Action.CONFLICT),
        (replace(LONGER_OTHER, doubtful=True), None, noted(LONGER_OTHER), Action.CONFLICT),
    ],
)
def test_earlier_copies_give_way_when_they_are_untouched(
    there: FileInfo | None, known: FileInfo | None, copied: Copy, action: Action
) -> None:
    assert decide(SOURCE, there, known, copied) is action

"""The decision for each file when a library is copied: a table of cases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.library.copying import Action, decide
from app.storage.contract import CopyRecord
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
    ("source", "existing", "known", "action"),
    [
        # No file has its name or its id.
        (SOURCE, None, None, Action.COPY),
        (UNHASHED, None, None, Action.COPY),
        # The target has the same bytes, whatever their origin.
        (SOURCE, COPY, COPY, Action.SKIP),
        (SOURCE, TWIN, None, Action.SKIP),
        (SOURCE, TWIN, OLD_COPY, Action.SKIP),
        (SOURCE, replace(COPY, updated_at=AFTER), COPY, Action.SKIP),
        # A hash is missing: the time identifies an unchanged copy; other files have to be read.
        (UNHASHED, COPY, COPY, Action.SKIP),
        (UNHASHED, replace(COPY, updated_at=BEFORE), None, Action.HASH),
        (UNHASHED, CHANGED_COPY, CHANGED_COPY, Action.HASH),
        (UNHASHED, TWIN, None, Action.HASH),
        (UNHASHED, OTHER, None, Action.HASH),
        (SOURCE, UNHASHED_OTHER, None, Action.HASH),
        (SOURCE, UNHASHED_COPY, UNHASHED_COPY, Action.HASH),
        (UNHASHED, replace(UNHASHED_OTHER, updated_at=COPY.updated_at), None, Action.HASH),
        # Another length means another file, even when hashes are missing.
        (SOURCE, LONGER_OTHER, None, Action.CONFLICT),
        (UNHASHED, LONGER_OTHER, None, Action.CONFLICT),
        (UNHASHED, LONGER_OLD_COPY, LONGER_OLD_COPY, Action.REPLACE),
        # An earlier copy of an older version is replaced; one that was changed since then is not.
        (SOURCE, OLD_COPY, OLD_COPY, Action.REPLACE),
        (SOURCE, LONGER_OLD_COPY, LONGER_OLD_COPY, Action.REPLACE),
        (SOURCE, CHANGED_COPY, CHANGED_COPY, Action.CONFLICT),
        (SOURCE, replace(OLD_COPY, updated_at=SOURCE.updated_at), None, Action.CONFLICT),
        # Another file has the name, older or newer.
        (SOURCE, OTHER, None, Action.CONFLICT),
        (SOURCE, OLD_OTHER, None, Action.CONFLICT),
        (SOURCE, OTHER, COPY, Action.CONFLICT),
        # An earlier copy has another name; if it is an older version, it is moved first and then replaced.
        (SOURCE, None, COPY, Action.MOVE),
        (UNHASHED, None, COPY, Action.MOVE),
        (SOURCE, None, OLD_COPY, Action.MOVE),
        (SOURCE, None, CHANGED_COPY, Action.CONFLICT),
        (SOURCE, None, UNHASHED_COPY, Action.HASH),
    ],
)
def test_decide_returns_action(
    source: FileInfo, existing: FileInfo | None, known: FileInfo | None, action: Action
) -> None:
    assert decide(source, existing, known) is action


def recorded(info: FileInfo) -> CopyRecord:
    return CopyRecord.of(info, "source", info.id)


@pytest.mark.parametrize(
    ("existing", "known", "copied", "action"),
    [
        # Another file has the name: it is superseded only if it is an unchanged copy.
        (OLD_OTHER, None, recorded(OLD_OTHER), Action.SUPERSEDE),
        (OTHER, None, recorded(OTHER), Action.SUPERSEDE),
        (OLD_OTHER, None, recorded(replace(OLD_OTHER, etag="c" * 64)), Action.CONFLICT),
        (OLD_OTHER, None, recorded(replace(OLD_OTHER, updated_at=AFTER)), Action.CONFLICT),
        (OLD_OTHER, None, recorded(replace(OLD_OTHER, key=Key(SHARED, "", "b.mp4"))), Action.CONFLICT),
        (OLD_OTHER, None, recorded(replace(OLD_OTHER, id="3" * 32)), Action.CONFLICT),
        # The target has the same bytes, whatever the records contain.
        (TWIN, None, recorded(TWIN), Action.SKIP),
        # An older version of the same file is not a copy any more if it was changed in the target.
        (OLD_COPY, OLD_COPY, recorded(OLD_COPY), Action.REPLACE),
        (OLD_COPY, OLD_COPY, recorded(replace(OLD_COPY, key=Key(SHARED, "", "b.mp4"))), Action.REPLACE),
        (OLD_COPY, OLD_COPY, recorded(replace(OLD_COPY, etag="c" * 64)), Action.CONFLICT),
        (None, OLD_COPY, recorded(replace(OLD_COPY, etag="c" * 64)), Action.CONFLICT),
        (None, OLD_COPY, recorded(OLD_COPY), Action.MOVE),
        (CHANGED_COPY, CHANGED_COPY, recorded(CHANGED_COPY), Action.CONFLICT),
        # A doubtful file may have been changed and had its time set back.
        (replace(LONGER_OLD_COPY, doubtful=True), None, recorded(LONGER_OLD_COPY), Action.CONFLICT),
        (replace(LONGER_OTHER, doubtful=True), None, recorded(LONGER_OTHER), Action.CONFLICT),
    ],
)
def test_decide_supersedes_earlier_copy_only_when_unchanged(
    existing: FileInfo | None, known: FileInfo | None, copied: CopyRecord, action: Action
) -> None:
    assert decide(SOURCE, existing, known, copied) is action

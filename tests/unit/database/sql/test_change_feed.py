"""Notifications on PostgreSQL: each carries its change, or else names its library."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.database.sql import change_feed
from app.events.feed import Message
from app.storage.types import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, Change, ChangeKind, FileInfo, Key
from tests.support.recording_feed import RecordingFeed

DAY = datetime(2026, 11, 22, 12, 30, 15, 123000, UTC)
INFO = FileInfo("id", Key("lib", "a", "b.mp4"), 5, "video/mp4", "one", "one", DAY, DAY)
MOVED = replace(INFO, key=Key("lib", "a", "c.mp4"))


def received(*payloads: str, origin: str = "here") -> list[object]:
    feed = RecordingFeed()
    for payload in payloads:
        change_feed.receive_payload(payload, origin, feed)
    return feed.all


LONGEST = '"' * MAX_SEGMENT_BYTES
LONGEST_PATH = "/".join(['"' * 204] * 5)


@pytest.mark.parametrize(
    "change",
    [
        Change(ChangeKind.CREATED, INFO),
        Change(ChangeKind.REPLACED, replace(INFO, sha256=None)),
        Change(ChangeKind.MOVED, MOVED, INFO.key),
        Change(ChangeKind.DELETED, replace(INFO, key=Key.at("", "é\u2028😀.mp4"))),
        Change(
            ChangeKind.MOVED,
            replace(INFO, key=Key.at(LONGEST, LONGEST_PATH), content_type='"' * 255),
            Key.at(LONGEST, LONGEST_PATH),
        ),
    ],
    ids=lambda change: change.kind.value,
)
def test_notification_carries_change_within_8000_bytes(change: Change) -> None:
    texts = change_feed.change_payloads("there", [change])
    assert received(*texts) == [change]
    assert received(*texts, origin="there") == []
    assert all(len(text.encode()) < 8000 for text in texts)


def test_longest_path_has_maximum_length() -> None:
    assert len(LONGEST_PATH) == MAX_PATH_BYTES


def test_notification_names_only_libraries_when_changes_do_not_fit() -> None:
    missed = [("missed", "lib"), ("missed", "other")]
    many = [
        Change(ChangeKind.CREATED, replace(INFO, id=str(number))) for number in range(change_feed.MAX_CHANGES)
    ]
    assert received(*change_feed.change_payloads("there", many)) == many
    other = Change(ChangeKind.CREATED, replace(INFO, key=Key.at("other", "x")))
    assert received(*change_feed.change_payloads("there", [*many, other])) == missed
    long = Change(ChangeKind.CREATED, replace(INFO, content_type="x" * 8000))
    assert received(*change_feed.change_payloads("there", [other, long])) == missed


def test_progress_is_sent_when_it_fits() -> None:
    message = Message("lib", "sid", '{"é":1}')
    assert received(*change_feed.message_payloads("there", message)) == [message]
    assert change_feed.message_payloads("there", message._replace(text="x" * 8000)) == []


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", '{"origin":"there"}', '{"origin":"there","changed":{"kind":"melted"}}',
     '{"origin":"there","changed":[]}', '{"origin":"there","progressed":["a"]}', '{"changed":{}}'],
)  # fmt: skip
def test_invalid_notification_counts_as_missed_change(text: str) -> None:
    assert received(text) == ["missed"]

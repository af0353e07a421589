"""Preconditions of reads and writes: If-Match and its relatives (RFC 9110 §13). Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from app.http.dates import parse_date
from app.http.grammar import RawHeaders, field, lines, single

# One element of a list of entity tags with its delimiter. Unambiguous, so that a mismatch takes linear time.
# (Possessive quantifiers would express that, but Python before 3.11.5 matches them wrongly.)
_ELEMENT = re.compile(r'[ \t]*(?:(?P<weak>W/)?"(?P<tag>[!\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')


class Representation(Protocol):
    """The stored file, as far as validators are concerned (RFC 9110 §8.8)."""

    @property
    def etag(self) -> str: ...
    @property
    def other_etag(self) -> str | None: ...
    @property
    def updated_at(self) -> datetime: ...
    @property
    def doubtful(self) -> bool: ...


class Verdict(Enum):
    """The outcome of evaluating the preconditions of a request (RFC 9110 §13.2.2)."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ETags:
    """The value of If-Match or If-None-Match (RFC 9110 §13.1.1, §13.1.2), tags without their quotes."""

    star: bool = False
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    def match_strongly(self, etag: str) -> bool:
        """Return whether a strong tag matches by strong comparison (RFC 9110 §8.8.3.2)."""
        return self.star or etag in self.strong

    def match_weakly(self, etag: str) -> bool:
        """Return whether a tag matches by weak comparison (RFC 9110 §8.8.3.2)."""
        return self.star or etag in self.strong or etag in self.weak


def parse_etags(value: str) -> ETags:
    """Parse `*` or a list of entity tags (RFC 9110 §8.8.3). A malformed value matches no tag."""
    if value.strip(" \t") == "*":
        return ETags(star=True)
    strong: set[str] = set()
    weak: set[str] = set()
    position = 0
    while position < len(value):
        match = _ELEMENT.match(value, position)
        if match is None:
            return ETags()
        if match["tag"] is not None:
            (weak if match["weak"] else strong).add(match["tag"])
        position = match.end()
    return ETags(strong=frozenset(strong), weak=frozenset(weak))


def evaluate(method: str, headers: RawHeaders, current: Representation) -> Verdict:
    """Evaluate the preconditions of a request for a stored file, in the order of RFC 9110 §13.2.2."""
    last_modified = current.updated_at
    if_match = field(headers, b"if-match")
    if if_match is not None:
        if not any(map(parse_etags(if_match).match_strongly, _etags(current))):
            return Verdict.FAILED
    else:
        unmodified_since = _date(headers, b"if-unmodified-since")
        if unmodified_since is not None and current.doubtful:
            return Verdict.FAILED
        if _is_modified_since(unmodified_since, last_modified):
            return Verdict.FAILED

    is_read = method in ("GET", "HEAD")
    if_none_match = field(headers, b"if-none-match")
    if if_none_match is not None:
        if parse_etags(if_none_match).match_weakly(current.etag):
            if not is_read:
                return Verdict.FAILED
            return Verdict.PROCEED if current.doubtful else Verdict.NOT_MODIFIED
    elif is_read and not current.doubtful:
        since = _date(headers, b"if-modified-since")
        if since is not None and not _is_modified_since(since, last_modified):
            return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def range_applies(headers: RawHeaders, current: Representation) -> bool:
    """Return whether the Range header applies: If-Range is absent or matches (RFC 9110 §13.1.5)."""
    values = lines(headers, b"if-range")
    if not values:
        return True
    if len(values) > 1:
        return False
    # The text of a weak tag differs, so this is the strong comparison.
    if values[0] in [f'"{etag}"' for etag in _etags(current)]:
        return True
    return not current.doubtful and parse_date(values[0]) == current.updated_at.replace(microsecond=0)


def _etags(info: Representation) -> tuple[str, ...]:
    return (info.etag,) if info.other_etag is None else (info.etag, info.other_etag)


def has_write_condition(headers: RawHeaders) -> bool:
    """Return whether the request has a precondition for changing a stored file (RFC 9110 §13.1)."""
    return (
        field(headers, b"if-match") is not None
        or field(headers, b"if-none-match") is not None
        or _date(headers, b"if-unmodified-since") is not None
    )


def _date(headers: RawHeaders, name: bytes) -> datetime | None:
    """Return the date of a field; None if it is absent, malformed or repeated (RFC 9110 §13.1.3, §13.1.4)."""
    value = single(headers, name)
    return None if value is None else parse_date(value)


def _is_modified_since(date: datetime | None, last_modified: datetime) -> bool:
    # An HTTP-date has no fraction of a second.
    return date is not None and last_modified.replace(microsecond=0) > date

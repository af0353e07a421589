"""The Range header (RFC 9110 §14.1, §14.2). Every function is linear in the length of the header. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_RANGES = 64
"""A set of more ranges is ignored, as RFC 9110 §14.2 allows."""

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` (inclusive) to `stop` (exclusive)."""

    start: int
    stop: int


class RangeNotSatisfiable(Exception):
    """The requested ranges contain no byte of the file (RFC 9110 §15.5.17)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"None of the ranges holds a byte of this file of {size} bytes.")
        self.size = size


def parse_ranges(value: str, size: int) -> tuple[Span, ...] | None:
    """Return the selected spans, or None to ignore Range (RFC 9110 §14.2). Raises RangeNotSatisfiable."""
    # A suffix of an empty file is satisfiable (RFC 9110 §14.1.2), and a 416 breaks proxies that cache slices.
    specs = _specs(value) if size else None
    if specs is None:
        return None
    spans = [span for first, last in specs if (span := _span(first, last, size)) is not None]
    if not spans:
        raise RangeNotSatisfiable(size)
    return _coalesce(spans) if len(spans) > 1 else tuple(spans)


def _specs(value: str) -> list[tuple[str, str]] | None:
    """Return the digits before and after each hyphen; None if the set is malformed (RFC 9110 §14.1.1)."""
    unit, _, text = value.partition("=")
    if unit.lower() != "bytes":
        return None
    specs: list[tuple[str, str]] = []
    for element in (padded.strip(" \t") for padded in text.split(",")):
        if not element:  # a recipient accepts empty list elements (RFC 9110 §5.6.1.2)
            continue
        spec = _spec(element)
        if spec is None or len(specs) == MAX_RANGES:
            return None
        specs.append(spec)
    return specs or None


def _spec(element: str) -> tuple[str, str] | None:
    """Return the digits around the hyphen of an int-range or suffix-range; None if malformed (§14.1.2)."""
    match = _SPEC.fullmatch(element)
    if match is None or element == "-":
        return None
    first, last = match.groups()
    if first and last and _magnitude(last) < _magnitude(first):
        return None
    return first, last


def _magnitude(digits: str) -> tuple[int, str]:
    """Return a key that orders like the number. int() is slower than linear and has a limit of digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _at_most(digits: str, limit: int) -> int:
    length, significant = _magnitude(digits)
    if length > len(str(limit)):
        return limit
    return min(int(significant or "0"), limit)


def _span(first: str, last: str, size: int) -> Span | None:
    """Return the span of one range in a file of this size; None if unsatisfiable (RFC 9110 §14.1.2)."""
    if first:
        start = _at_most(first, size)
        stop = min(_at_most(last, size) + 1, size) if last else size
    else:
        start = size - _at_most(last, size)
        stop = size
    return Span(start, stop) if start < stop else None


def _coalesce(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Merge overlapping and adjacent spans, in the order of the request (RFC 9110 §15.3.7.2)."""
    merged: list[tuple[int, Span]] = []
    for order, span in sorted(enumerate(spans), key=lambda entry: entry[1].start):
        if merged and span.start <= merged[-1][1].stop:
            first, before = merged[-1]
            merged[-1] = (min(first, order), Span(before.start, max(before.stop, span.stop)))
        else:
            merged.append((order, span))
    return tuple(span for _, span in sorted(merged, key=lambda entry: entry[0]))

"""The Range header: tables from RFC 9110 §14 and §15.3.7, and any text against an oracle."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.http.ranges import MAX_RANGES, RangeNotSatisfiable, Span, parse_ranges

HUGE = "9" * 5000

SATISFIABLE = [
    # RFC 9110 §14.1.2, the examples, for 10,000 bytes
    ("bytes=0-499", [(0, 500)]),
    ("bytes=500-999", [(500, 1000)]),
    ("bytes=-500", [(9500, 10000)]),
    ("bytes=9500-", [(9500, 10000)]),
    ("bytes=0-0,-1", [(0, 1), (9999, 10000)]),
    ("bytes= 0-999, 4500-5499, -1000", [(0, 1000), (4500, 5500), (9000, 10000)]),
    ("bytes=500-600,601-999", [(500, 1000)]),
    ("bytes=500-700,601-999", [(500, 1000)]),
    # 14.1: the unit in any case
    ("BYTES=0-0", [(0, 1)]),
    ("Bytes=0-0", [(0, 1)]),
    # the edges
    ("bytes=0-", [(0, 10000)]),
    ("bytes=0-0", [(0, 1)]),
    ("bytes=9999-9999", [(9999, 10000)]),
    ("bytes=9999-", [(9999, 10000)]),
    ("bytes=-1", [(9999, 10000)]),
    # 14.1.2: over-long ends and suffixes are clamped
    ("bytes=0-9999", [(0, 10000)]),
    ("bytes=0-10000", [(0, 10000)]),
    ("bytes=9999-10000", [(9999, 10000)]),
    ("bytes=-9999", [(1, 10000)]),
    ("bytes=-10000", [(0, 10000)]),
    ("bytes=-10001", [(0, 10000)]),
    (f"bytes=5-{HUGE}", [(5, 10000)]),
    (f"bytes=-{HUGE}", [(0, 10000)]),
    # leading zeros are ignored, however many
    (f"bytes={'0' * 5000}7-{'0' * 4000}8", [(7, 9)]),
    (f"bytes=-{'0' * 5000}8", [(9992, 10000)]),
    ("bytes=00000000000000000000000-", [(0, 10000)]),
    # 14.2, 15.5.17: the satisfiable ranges are served, the rest is ignored
    ("bytes=0-1,10000-", [(0, 2)]),
    ("bytes=-0,5-5", [(5, 6)]),
    (f"bytes={HUGE}-,3-3", [(3, 4)]),
    # 5.6.1.2: empty elements; 5.6.3: OWS
    ("bytes=,,0-0,,", [(0, 1)]),
    ("bytes= \t0-0\t ,\t, 5-5 ", [(0, 1), (5, 6)]),
    # 15.3.7.2: coalesced, in the order of the first range of each group
    ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
    ("bytes=10-11,0-1,9-9", [(9, 12), (0, 2)]),
    ("bytes=0-1,10-11,2-2", [(0, 3), (10, 12)]),
    ("bytes=20-29,0-9,10-19,40-49", [(0, 30), (40, 50)]),
    ("bytes=0-9,0-9,0-9", [(0, 10)]),
    ("bytes=0-99,10-19,50-60", [(0, 100)]),
    ("bytes=0-1,3-4", [(0, 2), (3, 5)]),
    ("bytes=0-,-1", [(0, 10000)]),
]


@pytest.mark.parametrize(("value", "spans"), SATISFIABLE, ids=lambda value: str(value)[:40])
def test_satisfiable_ranges_become_spans(value: str, spans: list[tuple[int, int]]) -> None:
    assert parse_ranges(value, 10000) == tuple(Span(*span) for span in spans)


IGNORED = [
    # 14.2: another unit
    *("items=0-5", "byte=0-5", "bytes2=0-5", "none=0-5", " bytes=0-5", "bytes =0-5", "=0-5"),
    # 14.1.1: not a ranges-specifier
    *(
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ",
        "bytes 0-5",
        "bytes:0-5",
        "bytes==0-5",
        "bytes=bytes=0-5",
    ),
    *("bytes=-", "bytes=5", "bytes=--5", "bytes=5--", "bytes=1-2-3", "bytes=a-b", "bytes=0x0-5", "bytes=*"),
    *(
        "bytes=0 -5",
        "bytes=0- 5",
        "bytes=- 5",
        "bytes=0-5;q=1",
        "bytes=0-5 6-7",
        "bytes=0-5\n",
        "bytes=\x0b0-5",
    ),
    # accepted by int() or str.isdigit()
    *("bytes=+0-5", "bytes=0-+5", "bytes=1_0-20", "bytes=0-1_0", "bytes=-1_0", "bytes=0.0-5", "bytes=0-5e1"),
    *("bytes=٠-٥", "bytes=0-²", "bytes=０-５", "bytes=\xa00-5", "bytes=0–5"),
    # one malformed element invalidates the set
    *("bytes=0-5,x", "bytes=x,0-5", "bytes=0-5,-", "bytes=0-5,7", "bytes=0-5, bytes=7-8"),
    # 14.1.2: last before first, beyond the end as well
    *(
        "bytes=5-4",
        "bytes=0-5,8-7",
        "bytes=20000-19999",
        f"bytes={HUGE}-{HUGE[:-1]}",
        f"bytes={HUGE}-{HUGE[:-1]}8",
    ),
]


@pytest.mark.parametrize("value", IGNORED, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("size", [0, 10000])
def test_invalid_ranges_are_ignored(value: str, size: int) -> None:
    assert parse_ranges(value, size) is None


# 14.1.2: a suffix of an empty file is satisfiable, and a 416 breaks proxies that slice.
EMPTY_FILE = [
    *("bytes=0-", "bytes=0-0", "bytes=5-", "bytes=-1", "bytes=-5", "bytes=-0", "bytes=0-0,-5"),
    *(f"bytes=-{HUGE}", f"bytes={HUGE}-"),
]


@pytest.mark.parametrize("value", EMPTY_FILE, ids=lambda value: repr(value)[:40])
def test_every_range_of_an_empty_file_is_ignored(value: str) -> None:
    assert parse_ranges(value, 0) is None


UNSATISFIABLE = [
    # 14.1.2, 15.5.17
    *[("bytes=-0", 10000), ("bytes=-000", 10000), ("bytes=10000-", 10000), ("bytes=10000-10000", 10000)],
    *[("bytes=10000-20000,-0", 10000), (f"bytes={HUGE}-{HUGE}", 10000), (f"bytes={HUGE}-", 10000)],
    ("bytes=1-", 1),
]


@pytest.mark.parametrize(("value", "size"), UNSATISFIABLE, ids=lambda value: str(value)[:40])
def test_unsatisfiable_ranges_raise_with_file_size(value: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_ranges(value, size)
    assert caught.value.size == size


def test_ranges_beyond_the_maximum_are_ignored() -> None:
    def ranges(count: int, separator: str = ",") -> str:
        return "bytes=" + separator.join(f"{2 * n}-{2 * n}" for n in range(count))

    spans = parse_ranges(ranges(MAX_RANGES), 10000)
    assert spans is not None
    assert len(spans) == MAX_RANGES
    assert parse_ranges(ranges(MAX_RANGES, ",,,"), 10000) == spans, "empty elements were counted"
    assert parse_ranges(ranges(MAX_RANGES + 1), 10000) is None
    assert parse_ranges(ranges(MAX_RANGES + 1), 0) is None, "too many ranges must be ignored, not refused"
    assert parse_ranges("bytes=" + "0-0," * (MAX_RANGES + 1), 10000) is None, (
        "ranges must be counted before they are coalesced"
    )


@pytest.mark.parametrize("size", [2**63 - 1, 10**18, 10**18 - 1, 10**19])
def test_ranges_are_exact_at_the_largest_file_sizes(size: int) -> None:
    assert parse_ranges(f"bytes={size - 1}-{size - 1}", size) == (Span(size - 1, size),)
    assert parse_ranges(f"bytes={size - 1}-{size * 10}", size) == (Span(size - 1, size),)
    assert parse_ranges(f"bytes=-{size - 1}", size) == (Span(1, size),)
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges(f"bytes={size}-", size)


# The oracle is deliberately another algorithm: it compares characters instead of regular expressions and
# exact integers instead of texts, and joins neighbours until none is left instead of sorting.


def number(digits: str) -> int | None:
    if set(digits) - set("0123456789"):
        return None
    total = 0
    for start in range(0, len(digits), 1000):  # int() alone refuses more than 4,300
        chunk = digits[start : start + 1000]
        total = total * 10 ** len(chunk) + int(chunk)
    return total


def oracle_span(element: str, size: int) -> tuple[int, int] | None:
    """Return the range of one element, None if it is unsatisfiable. Raises ValueError if it is malformed."""
    before, after = element.split("-")
    first, last = number(before), number(after)
    if first is None or last is None or (not before and not after):
        raise ValueError(element)
    if not before:
        return (max(size - last, 0), size) if last and size else None
    if after and last < first:
        raise ValueError(element)
    return (first, min(last + 1, size) if after else size) if first < size else None


UNITS = {"".join(letters) for letters in itertools.product("bB", "yY", "tT", "eE", "sS", "=")}


def oracle(value: str, size: int) -> tuple[Span, ...] | str:
    if value[:6] not in UNITS or size == 0:
        return "ignored"
    elements = [e for e in (part.strip(" \t") for part in value[6:].split(",")) if e]
    if not 1 <= len(elements) <= 64:
        return "ignored"
    try:
        found = [oracle_span(element, size) for element in elements]
    except ValueError:
        return "ignored"
    groups = [span for span in found if span]
    if not groups:
        return "unsatisfiable"
    i = 0
    while i < len(groups):
        for j in range(i + 1, len(groups)):
            (a, b), (c, d) = groups[i], groups[j]
            if max(a, c) <= min(b, d):
                groups[i] = (min(a, c), max(b, d))
                del groups[j]
                i = -1
                break
        i += 1
    return tuple(Span(*group) for group in groups)


def outcome(value: str, size: int) -> tuple[Span, ...] | str:
    try:
        spans = parse_ranges(value, size)
    except RangeNotSatisfiable:
        return "unsatisfiable"
    return "ignored" if spans is None else spans


# Most elements are valid, or nearly every set would be ignored; one odd element in some sets is enough.
digits = st.one_of(
    st.integers(0, 60).map(str),
    st.builds(lambda zeros, value: "0" * zeros + str(value), st.integers(0, 25), st.integers(0, 60)),
    st.integers(-3, 3).map(lambda offset: str(2**63 + offset)),
    st.builds(lambda digit, count: digit * count, st.sampled_from("0159"), st.integers(15, 5000)),
)
valid = st.one_of(
    st.builds(lambda first, more: f"{first}-{first + more}", st.integers(0, 60), st.integers(0, 9)),
    st.builds(lambda first, more: f"{first}-{first + more}", st.integers(0, 60), st.integers(0, 9)),
    st.builds("{}-".format, st.integers(40, 60)),
    st.builds("{}-".format, digits),
    st.builds("-{}".format, digits),
    st.builds(lambda first, more: first + "-" + first + more, digits, st.sampled_from(["", "0", "77"])),
)
odd_number = st.one_of(digits, st.just(""), st.sampled_from(["+1", "1_0", "²", "٣", " 1", "-"]))
odd = st.one_of(st.builds("{}-{}".format, odd_number, odd_number), st.text(max_size=4))
ows = st.sampled_from(["", "", "", " ", "\t", " \t "])
element = st.builds("{}{}{}".format, ows, st.one_of(valid, valid, valid, st.just("")), ows)
units = st.sampled_from(["bytes=", "BYTES=", "bYtEs=", "bytes= "])
sets = st.one_of(
    st.lists(valid, min_size=1, max_size=10),
    st.lists(element, max_size=10),
    st.builds(lambda *parts: [*parts[0], parts[1], *parts[2]], st.lists(element), odd, st.lists(element)),
    st.integers(60, 68).map(lambda count: [f"{3 * n}-{3 * n + 1}" for n in range(count)]),
)
grammar_shaped = st.builds(lambda unit, elements: unit + ",".join(elements), units, sets)
random_bytes = st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))
mangled = st.builds(
    lambda text, at, character: text[:at] + character + text[at + 1 :],
    grammar_shaped,
    st.integers(0, 20),
    st.characters(max_codepoint=0xFF),
)
anything = st.one_of(mangled, random_bytes, random_bytes.map("bytes=".__add__), st.text())
sizes = st.one_of(st.integers(0, 65), st.integers(2**63 - 3, 2**63 + 3), st.sampled_from([0, 1, 10**18]))


@settings(max_examples=400, deadline=None)
@given(value=grammar_shaped, size=sizes)
@example(value="bytes=2-3,0-0,1-1", size=9)
def test_parse_ranges_agrees_with_oracle_on_range_sets(value: str, size: int) -> None:
    assert outcome(value, size) == oracle(value, size)


@settings(max_examples=250, deadline=None)
@given(value=anything, size=sizes)
def test_parse_ranges_agrees_with_oracle_on_any_text(value: str, size: int) -> None:
    assert outcome(value, size) == oracle(value, size)


@pytest.mark.campaign
@settings(max_examples=5000, deadline=None)
@given(value=st.one_of(grammar_shaped, anything), size=sizes)
def test_parse_ranges_agrees_with_oracle_on_thousands_of_texts(value: str, size: int) -> None:
    assert outcome(value, size) == oracle(value, size)


@settings(max_examples=300, deadline=None)
@given(value=st.lists(valid, min_size=1, max_size=12).map(lambda specs: "bytes=" + ",".join(specs)))
def test_every_requested_byte_is_sent_once(value: str) -> None:
    size = 45
    spans = outcome(value, size)
    if isinstance(spans, str):
        return
    sent = [position for span in spans for position in range(span.start, span.stop)]
    requested = [oracle_span(element, size) for element in value[6:].split(",")]
    assert len(sent) == len(set(sent))
    assert set(sent) == {position for span in requested if span for position in range(*span)}


HOSTILE = [
    "bytes=" + "0-0," * 16384,
    "bytes=" + "," * 65536,
    "bytes=" + " " * 65536,
    "bytes=" + " ," * 32768 + "0-0",
    "bytes=0-0" + " " * 65536 + "x",
    "bytes=" + "0-," * 21845,
    "bytes=" + "-" * 65536,
    "bytes=" + "9" * 65536,
    "bytes=" + "9" * 65536 + "-",
    "bytes=-" + "9" * 65536,
    "bytes=" + "0" * 65536 + "-",
    "bytes=" + "9" * 32768 + "-" + "9" * 32767 + "8",
    "bytes=" + ",".join(f"{n}-" for n in range(9000, 0, -1)),
    "bytes=" + ",".join([f"{'9' * 1000}-{'9' * 1000}"] * 32),
]


@pytest.mark.timeout(6)
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:12] + "..." + value[-6:])
def test_hostile_ranges_are_parsed_in_linear_time(value: str) -> None:
    # Promise 12. 20 passes take well under a second in linear time; one takes longer in quadratic time.
    assert len({outcome(value, 10**12) for _ in range(20)}) == 1

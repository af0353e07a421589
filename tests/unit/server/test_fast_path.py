"""Which requests have the same answer but for the range, and which answers may be repeated."""

import random
import re
import tracemalloc

import pytest

from app.server.fast_path import MAX_HEAD, HeadDivider, divide, ends_of, template_of, weight_of
from app.server.http1 import RequestHead, RequestParser

ENDS = ends_of("127.0.0.1", ("127.0.0.1", 8000))
KEY = b"GET /files/a HTTP/1.1\r\nHost: a\r\nRange: bytes=\r\n\r\n"


def head(*lines: str) -> bytes:
    return "\r\n".join(["GET /files/a HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("line", "first", "last"),
    [
        ("Range: bytes=0-0", 0, 0),
        ("Range: bytes=5-", 5, -1),
        ("Range: bytes=007-12", 7, 12),
        ("Range: bytes=99999999999999999999-", 99999999999999999999, -1),
        ("Range: bytes=9-3", 9, 3),  # invalid, which the size of the file decides
    ],
)
def test_digits_of_usual_range_are_cut_out(line: str, first: int, last: int) -> None:
    assert divide(ENDS, head(line)) == (ENDS + KEY, first, last, b"")


@pytest.mark.parametrize(
    "line",
    [
        "Range: bytes=-5",
        "Range: bytes=0-5,7-8",
        "Range: bytes=0-5 ",
        "Range: bytes=0 - 5",
        "Range: bytes=+0-5",
        "Range: bytes=0-5-7",
        "Range: bytes=",
        "Range: bytes=5",
        "Range:bytes=0-5",
        "RANGE: bytes=0-5",
        "X-Range: bytes=0-5",
        "Range: Bytes=0-5",
        "Range: bytes=0-" + 40 * "1",
        "Range: bytes=٣-٥",
    ],
)
def test_other_range_is_part_of_key(line: str) -> None:
    assert divide(ENDS, head(line)) == (ENDS + head(line), -1, -1, b"")


def test_only_first_of_repeated_fields_is_cut() -> None:
    key, first, last, _ = divide(ENDS, head("Range: bytes=0-5", "Range: bytes=7-8"))
    assert (first, last) == (0, 5)
    assert b"Range: bytes=7-8" in key
    key, *_, client_id = divide(ENDS, head("X-Request-ID: one", "X-Request-ID: two"))
    assert client_id == b"one"
    assert b"X-Request-ID: two" in key


@pytest.mark.parametrize("value", ["two words", "", "é", "a" * 129, 'a"b'])
def test_unsafe_request_id_is_part_of_key(value: str) -> None:
    data = head(f"X-Request-ID: {value}")
    assert divide(ENDS, data) == (ENDS + data, -1, -1, b"")


def test_safe_request_id_is_cut_out() -> None:
    expected = ENDS + head("x-request-id: ")
    assert divide(ENDS, head("x-request-id: 4f-1.a/b")) == (expected, -1, -1, b"4f-1.a/b")


def test_heads_with_one_key_differ_only_in_the_digits() -> None:
    """Each head can be restored from its key, its numbers and its id: no byte of it is lost or moved."""
    pieces = ["\r\n", "Range: bytes=", "range: bytes=1-2", "1", "-", "7-", "X-Request-ID: ", "ab", " ", "\n"]
    numbers = random.Random(16)
    for _ in range(20_000):
        data = "".join(numbers.choices(pieces, k=numbers.randrange(12))).encode()
        key, first, last, client_id = divide(ENDS, data)
        assert key.startswith(ENDS)
        restored = key[len(ENDS) :]
        assert len(data) - len(restored) == (
            len(client_id) + (len(f"{first}-{'' if last < 0 else last}") if first >= 0 else 0)
        )
        if first >= 0:
            digits = b"%d-%b" % (first, b"" if last < 0 else b"%d" % last)
            restored = re.sub(rb"(?<=ange: bytes=)(?=\r\n)", digits, restored, count=1)
        if client_id and restored.count(b"X-Request-ID: \r\n") > 1:
            continue  # which field was cut does not matter: an answer to a repeated id is never kept
        if client_id:
            restored = re.sub(rb"(?<=X-Request-ID: )(?=\r\n)", client_id, restored, count=1)
        assert restored == data


def test_head_is_divided_alike_after_any_other() -> None:
    pieces = ["\r\n", "\r\nRange: bytes=", "1", "23-", "-", "4", "X-Request-ID: ", "ab", "bytes=5-", "9" * 39]
    numbers = random.Random(17)
    divider = HeadDivider(ENDS)
    beginning = "GET /a HTTP/1.1\r\nRange: bytes="
    for _ in range(20_000):
        data = "".join(numbers.choices(pieces, k=numbers.randrange(6)))
        data = numbers.choice(["", beginning]) + data + numbers.choice(["", "\r\n", "\r\nHost: b\r\n\r\n"])
        assert divider.divide(data.encode()) == divide(ENDS, data.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("127.0.0.1", ("127.0.0.1", 8000)), ("127.0.0.2", ("127.0.0.1", 8000))),
        (("127.0.0.1", ("127.0.0.1", 8000)), ("127.0.0.1", ("127.0.0.2", 8000))),
        (("127.0.0.1", ("127.0.0.1", 8000)), ("127.0.0.1", ("127.0.0.1", 8001))),
        (("", None), ("127.0.0.1", None)),
    ],
)
def test_key_contains_both_addresses(one: tuple[str, None], other: tuple[str, None]) -> None:
    assert divide(ends_of(*one), KEY)[0] != divide(ends_of(*other), KEY)[0]


DATE = b"Tue, 01 Dec 2026 13:00:00 GMT"
PARTIAL = (
    b'HTTP/1.1 206 Partial Content\r\ndate: %b\r\netag: "100%%"\r\ncontent-length: 6\r\n'
    b"content-range: bytes 4-9/20\r\n\r\n"
) % DATE
WHOLE = b"HTTP/1.1 200 OK\r\ndate: %b\r\ncontent-length: 20\r\n\r\n" % DATE
WITH_ID = b"HTTP/1.1 304 Not Modified\r\ndate: %b\r\nx-request-id: ab\r\n\r\n" % DATE


def test_template_has_placeholders_for_what_differs() -> None:
    template = template_of(PARTIAL, [DATE, 6, 4, 9], 20)
    assert template is not None
    assert template % (DATE, 6, 4, 9) == PARTIAL
    other = template % (b"now", 1, 19, 19)
    assert other == PARTIAL.replace(DATE, b"now").replace(b": 6", b": 1").replace(b"4-9", b"19-19")


def test_template_of_whole_file_keeps_its_length() -> None:
    template = template_of(WHOLE, [DATE], None)
    assert template is not None
    assert template % b"now" == WHOLE.replace(DATE, b"now")


def test_template_has_placeholder_for_request_id() -> None:
    template = template_of(WITH_ID, [DATE, b"ab"], None)
    assert template is not None
    assert template % (DATE, b"cd") == WITH_ID.replace(b"ab", b"cd")


@pytest.mark.parametrize(
    ("data", "values", "size"),
    [
        (WITH_ID, [DATE, b"another"], None),
        (WITH_ID, [DATE], None),
        (WHOLE, [DATE, b"id"], None),
        (PARTIAL, [DATE, 6, 4, 9], 21),
        (PARTIAL, [DATE, 6, 4, 8], 20),
        (PARTIAL, [DATE, 7, 4, 9], 20),
        (WHOLE, [DATE, 20, 0, 19], 20),
        (WHOLE.replace(b"\r\n\r\n", b"\r\nset-cookie: a=b\r\n\r\n"), [DATE], None),
        (WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), [DATE], None),
        (WHOLE.replace(b"\r\n\r\n", b"\r\ndate: twice\r\n\r\n"), [DATE], None),
    ],
)
def test_head_that_differs_otherwise_has_no_template(
    data: bytes, values: list[object], size: int | None
) -> None:
    assert template_of(data, values, size) is None


@pytest.mark.parametrize("line", ["Range: bytes=0-5", "ab:c", "a:", "a: " + "b" * 500])
def test_weight_of_answer_is_at_least_the_memory_of_its_request(line: str) -> None:
    lines = [line] * ((MAX_HEAD - len(head())) // len(f"{line}\r\n"))
    parser = RequestParser(1 << 20)
    tracemalloc.start()
    try:
        request = parser.feed(head(*lines))[0]
        parser.close()
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(request, RequestHead)
    assert memory <= weight_of(b"", request, b"")

"""The body length that request headers declare."""

import pytest

from app.server.http1 import body_length

LENGTH, CHUNKED = (b"content-length", b"12"), (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"host", b"7")], 0),
        ([LENGTH], 12),
        ([(b"host", b"7"), (b"content-length", b"12 ")], 12),
        ([(b"content-length", b"")], 0),
        ([(b"content-length", b"+12")], 0),
        ([(b"content-length", b"1_2")], 0),
        ([CHUNKED], 0),
        ([LENGTH, CHUNKED], 0),
        ([CHUNKED, LENGTH], 0),
    ],
)
def test_length_is_zero_unless_content_length_is_plain_digits(
    headers: list[tuple[bytes, bytes]], length: int
) -> None:
    assert body_length(headers) == length

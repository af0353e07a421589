"""Request identifiers."""

import pytest

from app.server.exchange import request_id

VALID = ["1", "b4c0a7f2-5f7b-4a55-8b1c-0d6d0a2d7a11", "Root=1-67891233-abcdef", "a" * 128, "x/y:z@w+1._-"]
INVALID = [
    b"",
    b" ",
    b"a b",
    b"a\tb",
    b'a"b',
    b"a" * 129,
    b"\xc3\xa9",
    b"a;b",
    b"a\\b",
    b"%0a",
    b"a,b",
    b"{}",
]


@pytest.mark.parametrize("sent", VALID)
def test_request_id_keeps_valid_request_id(sent: str) -> None:
    assert request_id([(b"host", b"x"), (b"x-request-id", sent.encode())]) == sent


@pytest.mark.parametrize("sent", INVALID)
def test_request_id_replaces_invalid_request_id(sent: bytes) -> None:
    assert request_id([(b"x-request-id", sent)]).encode() != sent


def test_request_id_replaces_repeated_request_ids() -> None:
    generated = request_id([(b"x-request-id", b"one"), (b"x-request-id", b"two")])
    assert generated not in ("one", "two")


def test_generated_request_ids_are_unique() -> None:
    assert len({request_id(()) for _ in range(1000)}) == 1000
    assert request_id([(b"x-request-id", request_id(()).encode())]), "a generated identity is invalid"

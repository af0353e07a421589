"""Request identifiers."""

import pytest

from app.server.request_id import identity

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


@pytest.mark.parametrize("request_id", VALID)
def test_identity_keeps_valid_request_id(request_id: str) -> None:
    assert identity([(b"host", b"x"), (b"x-request-id", request_id.encode())]) == request_id


@pytest.mark.parametrize("request_id", INVALID)
def test_identity_replaces_invalid_request_id(request_id: bytes) -> None:
    assert identity([(b"x-request-id", request_id)]).encode() != request_id


def test_identity_replaces_repeated_request_ids() -> None:
    generated = identity([(b"x-request-id", b"one"), (b"x-request-id", b"two")])
    assert generated not in ("one", "two")


def test_generated_identities_are_unique() -> None:
    assert len({identity(()) for _ in range(1000)}) == 1000
    assert identity([(b"x-request-id", identity(()).encode())]), "a generated identity is invalid"

"""What a request is called."""

import pytest

from app.server.identity import identity

SANE = ["1", "b4c0a7f2-5f7b-4a55-8b1c-0d6d0a2d7a11", "Root=1-67891233-abcdef", "a" * 128, "x/y:z@w+1._-"]
ODD = [b"", b" ", b"a b", b"a\tb", b'a"b', b"a" * 129, b"\xc3\xa9", b"a;b", b"a\\b", b"%0a", b"a,b", b"{}"]


@pytest.mark.parametrize("name", SANE)
def test_a_sane_name_is_taken(name: str) -> None:
    assert identity([(b"host", b"x"), (b"x-request-id", name.encode())]) == name


@pytest.mark.parametrize("name", ODD)
def test_an_odd_one_is_not(name: bytes) -> None:
    assert identity([(b"x-request-id", name)]).encode() != name


def test_two_names_are_none() -> None:
    made = identity([(b"x-request-id", b"one"), (b"x-request-id", b"two")])
    assert made not in ("one", "two")


def test_no_two_requests_have_one_name() -> None:
    assert len({identity(()) for _ in range(1000)}) == 1000
    assert identity([(b"x-request-id", identity(()).encode())]), "our own names are sane"

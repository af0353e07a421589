"""Digests declared by Content-Digest (RFC 9530), Digest (RFC 3230) and Content-MD5 (RFC 1864)."""

import base64
import contextlib
import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.digest_fields import declared_digests, verify
from app.http.errors import BadDigest

ONE = hashlib.sha256(b"one")
TWO = hashlib.sha256(b"two")


def member(digest: bytes, key: str = "sha-256") -> str:
    return f"{key}=:{base64.b64encode(digest).decode()}:"


ONE_MEMBER = member(ONE.digest())
TWO_MEMBER = member(TWO.digest())


@pytest.mark.parametrize(
    "values",
    [
        [ONE_MEMBER],
        [f" {ONE_MEMBER}\t"],
        [ONE_MEMBER, ONE_MEMBER],
        ["", ONE_MEMBER],
        [f"{ONE_MEMBER}, {ONE_MEMBER}"],
        [f"sha-384=:YQ==:,{ONE_MEMBER} ,\tmd5=:YQ==:"],
        [ONE_MEMBER.replace("=:", ":").replace("sha-256:", "sha-256=:")],  # without padding
        [f"{ONE_MEMBER};a;b=1; c=tok/en:x;d=:YQ==:"],
        # Other members of a structured dictionary, which are ignored.
        [f'a, b;c, d=?1, e=-1.5, f=42, g=@-1, h="a\\", b\\\\", i=*t, j=%"f%c3%bc", {ONE_MEMBER}'],
        [f'a=(), b=( ), c=(1 "a;b"  :YQ==:;x=1 tok;y ), d=(a b);q=1, {ONE_MEMBER}'],
    ],
)
def test_declared_digests_finds_sha256(values: list[str]) -> None:
    assert declared_digests(values) == {"sha256": ONE.digest()}


@pytest.mark.parametrize(
    "values", [[], [""], [" "], ["sha-384=:YQ==:"], ["md5=:YQ==:", "sha=1"], ["sha-256x=?0"]]
)
def test_declared_digests_ignores_unsupported_algorithms(values: list[str]) -> None:
    assert declared_digests(values) == {}


@pytest.mark.parametrize(
    "values",
    [
        [ONE_MEMBER, TWO_MEMBER],
        [f"{ONE_MEMBER}, {TWO_MEMBER}"],
        [ONE_MEMBER, "sha-256=:AAAA:"],
        [ONE_MEMBER, "sha-512=:YQ==:"],
        [f"{ONE_MEMBER}, {member(hashlib.sha512(b'').digest(), 'sha-512')[:-2]}"],
        ["sha-256"],
        ["sha-256="],
        ["sha-256=::"],
        ["sha-256=10"],
        ["sha-256=" + ONE.hexdigest()],
        ["sha-256=:" + ONE.hexdigest() + ":"],
        [f"sha-256=({ONE_MEMBER.removeprefix('sha-256=')})"],
        [f'sha-256="{ONE_MEMBER.removeprefix("sha-256=")}"'],
        [member(ONE.digest()[:-1])],
        [member(ONE.digest() + b"\0")],
        [member(hashlib.sha512(b"").digest())],
        [ONE_MEMBER[:-2] + "==:"],
        [ONE_MEMBER[:-1]],
        ["sha-256=:" + "A" * 42 + ":"],
        ["sha-256=:" + "A" * 42 + "=:"],
        ["sha-256=:" + "A" * 44 + ":"],
        [ONE_MEMBER.replace("=:", "=")],
        [ONE_MEMBER.upper()],
        [ONE_MEMBER.replace("sha-256=", "sha-256 = ")],
        ["sha-256=:" + base64.urlsafe_b64encode(b"\xff" * 32).decode() + ":"],
        ["sha-256=:" + "é" * 43 + "=:"],
        ["sha-256=:" + " " * 43 + "=:"],
        [ONE_MEMBER + "\n"],
        [ONE_MEMBER + ","],
        ["," + ONE_MEMBER],
        [ONE_MEMBER + ",," + ONE_MEMBER],
        [ONE_MEMBER + " " + ONE_MEMBER],
        [ONE_MEMBER + "; "],
        [ONE_MEMBER + ";=1"],
        ['a="', ONE_MEMBER],
        ["a=1.", ONE_MEMBER],
        ["a=1.2345", ONE_MEMBER],
        ["a=1234567890123456", ONE_MEMBER],
        ["a=(1", ONE_MEMBER],
        ["a=(1,2)", ONE_MEMBER],
        ['a=("b""c")', ONE_MEMBER],
        ["a=?2", ONE_MEMBER],
        ['a="ä"', ONE_MEMBER],
        ['a=%"%FF"', ONE_MEMBER],
        ["A=1", ONE_MEMBER],
        ["a=@1.5", ONE_MEMBER],
        ["md5=:a b:", ONE_MEMBER],
    ],
)
def test_malformed_or_conflicting_digest_raises(values: list[str]) -> None:
    with pytest.raises(BadDigest):
        declared_digests(values)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.text(), st.text('sha-256=:;,()"\\ A1.?%@*').map(ONE_MEMBER.__add__)), max_size=3)
)
def test_any_text_raises_bad_digest_or_is_parsed(values: list[str]) -> None:
    with contextlib.suppress(BadDigest):
        assert declared_digests(values).get("sha256") in (None, ONE.digest())


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_every_sha256_is_parsed_and_verified(digest: bytes) -> None:
    assert declared_digests([member(digest)]) == {"sha256": digest}
    verify({"sha256": digest}, {"sha256": digest}.__getitem__)


@pytest.mark.parametrize(
    "value",
    [
        "a=(" + "a " * 50_000,
        "a" + ";a" * 50_000 + ";",
        'a="' + "\\\\" * 50_000,
        "a=:" + "A" * 100_000,
        "a, " * 50_000,
        "a" * 100_000 + "=",
        "a=(" + " " * 100_000,
        "a=1" + "; " * 50_000,
        "a" + " " * 100_000 + "b",
    ],
    ids=lambda value: value[:8],
)
def test_hostile_digest_is_refused_in_linear_time(value: str) -> None:
    began = time.process_time()
    with pytest.raises(BadDigest):
        declared_digests([value])
    assert time.process_time() - began < 0.5


def base64_of(algorithm: str, data: bytes = b"one") -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


LEGACY = [
    (f"SHA-256={base64_of('sha256')}", {"sha256"}),
    (f"sha-256={base64_of('sha256')}", {"sha256"}),
    (
        f"MD5={base64_of('md5')}, SHA={base64_of('sha1')},SHA-512={base64_of('sha512')}",
        {"md5", "sha1", "sha512"},
    ),
    (f"UNIXsum=30637, crc32c=x, md5={base64_of('md5')}", {"md5"}),
    (f"md5={base64_of('md5').rstrip('=')}", {"md5"}),
    ("id-sha-256=x", set()),
    ("", set()),
]


@pytest.mark.parametrize(("value", "algorithms"), LEGACY)
def test_digest_field_declares_its_algorithms(value: str, algorithms: set[str]) -> None:
    expected = {name: hashlib.new(name, b"one").digest() for name in algorithms}
    assert declared_digests([], [value]) == expected
    assert declared_digests([], [value, value]) == expected


def test_content_md5_declares_an_md5() -> None:
    assert declared_digests([], [], [f" {base64_of('md5')} "]) == {"md5": hashlib.md5(b"one").digest()}


def test_digests_of_all_fields_are_merged_and_each_verified() -> None:
    sha512 = member(hashlib.sha512(b"one").digest(), "sha-512")
    found = declared_digests([ONE_MEMBER, sha512], [f"sha={base64_of('sha1')}"], [base64_of("md5")])
    assert set(found) == {"sha256", "sha512", "sha1", "md5"}
    verify(found, lambda algorithm: hashlib.new(algorithm, b"one").digest())
    for wrong in found:
        with pytest.raises(BadDigest, match=wrong.upper()):
            verify(
                found,
                lambda name, wrong=wrong: hashlib.new(name, b"two" if name == wrong else b"one").digest(),
            )


@pytest.mark.parametrize(
    ("digest", "content_md5"),
    [
        (["md5"], []),
        (["md5="], []),
        (["md5=YQ=="], []),
        ([f"md5={base64_of('sha1')}"], []),
        ([f"SHA-256=:{base64_of('sha256')}:"], []),
        ([f"SHA-256={ONE.hexdigest()}"], []),
        ([f"md5={base64_of('md5')}", f"md5={base64_of('md5', b'two')}"], []),
        ([f"md5={base64_of('md5')}"], [base64_of("md5", b"two")]),
        ([], [""]),
        ([], [base64_of("md5"), base64_of("md5", b"two")]),
        ([], [hashlib.md5(b"one").hexdigest()]),
        ([], [base64_of("md5")[:-1]]),
    ],
)
def test_malformed_or_conflicting_legacy_digest_raises(digest: list[str], content_md5: list[str]) -> None:
    with pytest.raises(BadDigest):
        declared_digests([], digest, content_md5)

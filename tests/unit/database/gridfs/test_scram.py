"""SCRAM: the examples of the RFCs, and messages that a client must refuse."""

import base64

import pytest

from app.database.gridfs.scram import (
    SHA_1,
    SHA_256,
    ScramError,
    check_server_final,
    client_final,
    client_first,
    derive_keys,
    parse_challenge,
    prepare_password,
)

# mechanism, nonce of the client, server's first message, client's last message, server's last message
EXAMPLES = {
    "RFC 5802 §5": (
        SHA_1,
        "fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "RFC 7677 §3": (
        SHA_256,
        "rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_login_is_that_of_the_rfc(name: str) -> None:
    mechanism, nonce, challenge, final, server_final = EXAMPLES[name]
    first = client_first("user", nonce)
    assert first == f"n=user,r={nonce}"
    parsed = parse_challenge(challenge.encode(), nonce)
    keys = derive_keys(mechanism, b"pencil", parsed)
    sent, signature = client_final(mechanism, keys, first, challenge.encode(), parsed.nonce)
    assert sent == final
    check_server_final(server_final.encode(), signature)
    with pytest.raises(ScramError):
        check_server_final(b"v=" + base64.b64encode(b"\0" * len(signature)), signature)


def test_user_name_is_escaped() -> None:
    assert client_first("a=b,c", "n") == "n=a=3Db=2Cc,r=n"


@pytest.mark.parametrize(
    ("mechanism", "password", "prepared"),
    [
        (SHA_1, "pencil", b"1c33006ec1ffd90f9cadcbcc0e118200"),
        (SHA_256, "pencil", b"pencil"),
        (SHA_256, "I\u00adX", b"IX"),  # RFC 4013 §3
        (SHA_256, "\u2168", b"IX"),
        (SHA_256, "a\u00a0b", b"a b"),
    ],
)
def test_password_is_prepared(mechanism: str, password: str, prepared: bytes) -> None:
    assert prepare_password(mechanism, "user", password) == prepared


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=client-and-server",
        b"s=QSXCR+Q6sek8bf92,i=4096",
        b"r=another,s=QSXCR+Q6sek8bf92,i=4096",
        b"r=client,s=QSXCR+Q6sek8bf92,i=4096",  # the server added nothing
        b"r=client-and-server,s=QSXCR+Q6sek8bf92,i=1",
        b"r=client-and-server,s=QSXCR+Q6sek8bf92,i=99999999999",
        b"r=client-and-server,s=QSXCR+Q6sek8bf92,i=many",
        b"r=client-and-server,s=?,i=4096",
        b"e=other-error",
        b"\xff=\xff",
    ],
)
def test_challenge_is_refused(message: bytes) -> None:
    with pytest.raises(ScramError):
        parse_challenge(message, "client")


@pytest.mark.parametrize("message", [b"", b"e=invalid-proof", b"v=?", b"v=AAAA"])
def test_last_message_is_refused(message: bytes) -> None:
    with pytest.raises(ScramError):
        check_server_final(message, b"signature")

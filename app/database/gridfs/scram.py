"""The client's side of SCRAM (RFC 5802, RFC 7677) as MongoDB uses it: pure, without channel binding."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from pymongo.saslprep import saslprep

MIN_ITERATIONS = 4096
"""RFC 5802 §5.1; a server that asks for fewer wants a hash that is easy to reverse."""

MAX_ITERATIONS = 10_000_000
"""More would take many seconds. MongoDB's default is 15,000."""

SHA_1, SHA_256 = "SCRAM-SHA-1", "SCRAM-SHA-256"

_HASHES = {SHA_1: "sha1", SHA_256: "sha256"}


class ScramError(Exception):
    """The server's message is malformed, or it does not know the password."""


@dataclass(frozen=True)
class Keys:
    """Keys derived from a password and a salt: expensive to compute, and the same at every login."""

    client: bytes
    server: bytes


@dataclass(frozen=True)
class Challenge:
    """The server's first message."""

    nonce: str
    salt: bytes
    iterations: int


def prepare_password(mechanism: str, user: str, password: str) -> bytes:
    """Return the password as the mechanism hashes it: SCRAM-SHA-1 is given an MD5 of name and password."""
    if mechanism == SHA_1:
        return hashlib.md5(f"{user}:mongo:{password}".encode()).hexdigest().encode()
    return str(saslprep(password)).encode()


def client_first(user: str, nonce: str) -> str:
    """Return the first message, without the header `n,,` for no channel binding (RFC 5802 §5.1)."""
    name = user.replace("=", "=3D").replace(",", "=2C")
    return f"n={name},r={nonce}"


def parse_challenge(message: bytes, nonce: str) -> Challenge:
    """Return the server's first message. Raises ScramError; also if `nonce`, the client's, is not in it."""
    fields = _fields(message)
    try:
        salt = base64.b64decode(fields["s"], validate=True)
        challenge = Challenge(fields["r"], salt, int(fields["i"]))
    except (KeyError, ValueError) as error:
        raise ScramError(f"a malformed challenge: {error!r}") from error
    if not challenge.nonce.startswith(nonce) or challenge.nonce == nonce:
        raise ScramError("the nonce of another login")
    if not MIN_ITERATIONS <= challenge.iterations <= MAX_ITERATIONS:
        raise ScramError(f"{challenge.iterations} iterations")
    return challenge


def derive_keys(mechanism: str, password: bytes, challenge: Challenge) -> Keys:
    """Return the keys of a prepared password. Takes milliseconds."""
    name = _HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(name, password, challenge.salt, challenge.iterations)
    return Keys(hmac.digest(salted, b"Client Key", name), hmac.digest(salted, b"Server Key", name))


def client_final(mechanism: str, keys: Keys, first: str, challenge: bytes, nonce: str) -> tuple[str, bytes]:
    """Return the last message, and the signature by which the server has to prove that it knows the password.

    `first` is the message of `client_first`, `challenge` the server's reply, with its `nonce`.
    """
    name = _HASHES[mechanism]
    without_proof = f"c=biws,r={nonce}"  # biws: "n,," in Base64
    signed = first.encode() + b"," + challenge + b"," + without_proof.encode()
    signature = hmac.digest(hashlib.new(name, keys.client).digest(), signed, name)
    proof = bytes(one ^ two for one, two in zip(keys.client, signature, strict=True))
    return f"{without_proof},p={base64.b64encode(proof).decode()}", hmac.digest(keys.server, signed, name)


def check_server_final(message: bytes, signature: bytes) -> None:
    """Raise ScramError unless the server's last message proves that it knows the password."""
    try:
        received = base64.b64decode(_fields(message)["v"], validate=True)
    except (KeyError, ValueError) as error:
        raise ScramError(f"a malformed last message: {error!r}") from error
    if not hmac.compare_digest(received, signature):
        raise ScramError("a server that does not know the password")


def _fields(message: bytes) -> Mapping[str, str]:
    """Return the attributes of a message by their letters. Raises ScramError."""
    try:
        return dict(part.split("=", 1) for part in message.decode().split(","))
    except ValueError as error:
        raise ScramError("a malformed message") from error

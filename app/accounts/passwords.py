"""Hashes of passwords: Argon2id (RFC 9106)."""

import unicodedata

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from app.accounts.errors import BadCredentials

MIN_LENGTH = 8
"""Characters of a password, as NIST SP 800-63B §3.1.1.2 requires of passwords that people choose."""

MAX_LENGTH = 1024

_MEMORY_KIB = 19 << 10
"""OWASP's minimum for Argon2id with two passes. `main.HASHING` passwords are hashed at the same time."""


class Passwords:
    """Hashes passwords and compares them with hashes. Each call blocks for some hundredths of a second."""

    def __init__(self, new_hasher: type[argon2.PasswordHasher] = argon2.PasswordHasher) -> None:
        self._hasher = new_hasher(time_cost=2, memory_cost=_MEMORY_KIB, parallelism=1)
        self._decoy = self._hasher.hash("the password of no account")

    def hash(self, password: str) -> str:
        """Return the hash of a password. Raises BadCredentials if it is too short or too long."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise BadCredentials(
                f"A password has at least {MIN_LENGTH} characters, and at most {MAX_LENGTH:,}. "
                "Choose another one."
            )
        return self._hasher.hash(_encode(password))

    def match(self, known: str | None, password: str) -> bool:
        """Return whether the hash is that of the password; False without a hash.

        Takes as long for an unknown account as for a wrong password, so that timing reveals no accounts.
        """
        if len(password) > MAX_LENGTH:
            password = ""
        try:
            return self._hasher.verify(known or self._decoy, _encode(password)) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def _encode(password: str) -> bytes:
    # Keyboards compose characters differently (RFC 8265 §4.2.2).
    password = unicodedata.normalize("NFC", password)
    # JSON can contain lone surrogates, which UTF-8 cannot encode.
    return password.encode(errors="surrogatepass")

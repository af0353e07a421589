"""Passwords, and what is kept of them: Argon2id (RFC 9106)."""

import unicodedata

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from app.accounts.errors import BadCredentials

MIN_LENGTH = 8
"""As NIST SP 800-63B 3.1.1.2 has it for passwords that people choose."""

MAX_LENGTH = 1024

_MEMORY_KIB = 19 << 10
"""OWASP's least memory for Argon2id, with its two passes. `main.HASHING` are hashed at once."""


class Passwords:
    """Hashes passwords and holds them against hashes. Each call blocks for some hundredths of a second."""

    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=_MEMORY_KIB, parallelism=1)
        self._nobodys = self._hasher.hash("the password of nobody")

    def hash(self, password: str) -> str:
        """What is kept of a password. Raises BadCredentials for one that nobody should have."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise BadCredentials(
                f"A password has at least {MIN_LENGTH} characters, and at most {MAX_LENGTH:,}."
            )
        return self._hasher.hash(_bytes(password))

    def match(self, known: str | None, password: str) -> bool:
        """Whether this is the password that was hashed. With no hash it takes as long: who asks does not
        learn that there is no such account."""
        if len(password) > MAX_LENGTH:
            password = ""
        try:
            return self._hasher.verify(known or self._nobodys, _bytes(password)) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def _bytes(password: str) -> bytes:
    password = unicodedata.normalize("NFC", password)  # RFC 8265 4.2.2: keyboards differ
    # JSON can hold lone surrogates, which UTF-8 cannot.
    return password.encode(errors="surrogatepass")

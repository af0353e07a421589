"""The names that people log in with: email addresses, though nothing is ever sent there."""

import re
import unicodedata

from app.accounts.errors import BadCredentials

MAX_LENGTH = 254  # RFC 5321 4.5.3.1.3, without the angle brackets

# No more than tells an address from a name: of a network at home, `anna@nas` is as good as any.
_ADDRESS = re.compile(r"[^\s@,;:<>\"]+@[^\s@,;:<>\"]+")


def check_email(text: str) -> str:
    """The address in lower case and NFC, so that twins cannot exist. Raises BadCredentials."""
    email = unicodedata.normalize("NFC", text[: 4 * MAX_LENGTH]).strip().lower()
    if not _ADDRESS.fullmatch(email) or not email.isprintable():
        raise BadCredentials("An email address is like anna@example.org.")
    if len(email) > MAX_LENGTH:
        raise BadCredentials(f"An email address has at most {MAX_LENGTH} characters.")
    return email

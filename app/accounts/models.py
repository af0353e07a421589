"""The models of accounts, and new instances of them. Times are whole seconds in UTC.

Passwords and the secrets of sessions, tokens and invites are stored as hashes only.
"""

import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from uuid import uuid4

from app.accounts.errors import BadCredentials


class Scope(Enum):
    """A right that a token includes."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Destination:
    """The library and folder to which the files of a deleted account are moved."""

    library: str
    folder: str
    """If it is "" and the account has the shared library, the files stay in place."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person or program with a library."""

    id: str
    email: str
    """In lower case and unique. The server sends no mail."""
    password: str
    """The hash, in the encoded form of Argon2."""
    version: int
    """The version of the password: each change increments it."""
    library: str
    """The library with all files of the account: see `storage.types.Key.library`."""
    is_admin: bool
    disabled: bool
    leaving: bool
    """Marked for deletion: no login succeeds; first its files are removed, then the account."""
    quota: int | None
    """Maximum total size of its files, in bytes; None for the quota of the settings."""
    created_at: datetime
    keep_library: str | None = None
    keep_folder: str | None = None
    """With `keep_library` the destination of a leaving account: see `keep`."""

    @property
    def keep(self) -> Destination | None:
        """The destination of its files while it is leaving; None if they are deleted."""
        if self.keep_library is None or self.keep_folder is None:
            return None
        return Destination(self.keep_library, self.keep_folder)


@dataclass(frozen=True, slots=True)
class Session:
    """A login of one browser."""

    hash: str
    """The SHA-256 of the secret in the browser's cookie, in hexadecimal, like each `hash` below."""
    account_id: str
    created_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """An access token that a person created for a program."""

    id: str
    account_id: str
    name: str
    hash: str
    scopes: frozenset[Scope]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """A capability URL: its holder can open one file, or the playlist of a folder and the files in it."""

    id: str
    account_id: str
    path: str
    """The path of the file, or of the folder; "" is the top folder."""
    is_playlist: bool
    recursive: bool
    """Whether a playlist includes the files in subfolders."""
    automatic: bool
    """Whether the server created the link, to sign the entries of a playlist that a player fetched."""
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Invite:
    """The right of one person to sign up."""

    hash: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that links are signed with."""

    id: str
    secret: str
    created_at: datetime


Record = Account | Session | Token | Link | Invite | SigningKey
"""The models that an account store stores."""

MAX_EMAIL_LENGTH = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets

# Only distinguishes addresses from names: in a home network, `anna@nas` is a valid address.
_ADDRESS = re.compile(r"[^\s@,;:<>\"]+@[^\s@,;:<>\"]+")


def check_email(text: str) -> str:
    """Return the address in lower case and NFC, so that it is unique. Raises BadCredentials."""
    email = unicodedata.normalize("NFC", text[: 4 * MAX_EMAIL_LENGTH]).strip().lower()
    if not _ADDRESS.fullmatch(email) or not email.isprintable():
        raise BadCredentials("This is not an email address. Enter one like anna@example.org.")
    if len(email) > MAX_EMAIL_LENGTH:
        raise BadCredentials(
            f"An email address has at most {MAX_EMAIL_LENGTH} characters. Enter a shorter one."
        )
    return email


INVITE_LASTS = timedelta(days=7)
"""The default time to live of an invite."""


def now() -> datetime:
    """Return the time in whole seconds, which every database stores exactly."""
    return datetime.now(UTC).replace(microsecond=0)


def hash_secret(secret: str) -> str:
    """Return the SHA-256 under which a secret is stored. Only for secrets that are too long to guess."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_account(email: str, password: str, *, is_admin: bool = False, quota: int | None = None) -> Account:
    """Return an account with a library of its own, for a checked email address and the hash of a password."""
    account_id = uuid4().hex
    return Account(
        id=account_id,
        email=email,
        password=password,
        version=1,
        library=account_id,
        is_admin=is_admin,
        disabled=False,
        leaving=False,
        quota=quota,
        created_at=now(),
    )


def new_invite(lasts: timedelta) -> tuple[Invite, str]:
    """Return an invite for one person, and its secret, which is not stored."""
    secret, at = secrets.token_urlsafe(32), now()
    return Invite(hash_secret(secret), at, at + lasts), secret


def new_signing_key() -> SigningKey:
    return SigningKey(secrets.token_hex(8), secrets.token_urlsafe(32), now())

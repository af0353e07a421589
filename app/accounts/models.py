"""The nouns of the accounts. Times are whole seconds with time zone UTC; secrets are kept as hashes only."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from app.accounts.errors import BadCredentials


class Scope(Enum):
    """What a token may do."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the files of an account go that is deleted, and whose files are not."""

    library: str
    folder: str
    """With library "" and the account's own the same, "" too: the files stay where they are."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person, or whoever else has a library here."""

    id: str
    email: str
    """In lower case; no two accounts share one. No mail is ever sent there."""
    password: str
    """The hash, as argon2 writes it."""
    version: int
    """Of the password: one more with each change of it."""
    library: str
    """Where all files of the account are: see `storage.types.Key.library`."""
    is_admin: bool
    disabled: bool
    leaving: bool
    """It is being deleted: nobody can log in, and its files go, then itself."""
    quota: int | None
    """Bytes that its files may have together; None for as many as the settings say."""
    created_at: datetime
    keep_library: str | None = None
    keep_folder: str | None = None
    """Of a leaving account: see `keep`."""

    @property
    def keep(self) -> Destination | None:
        """Where its files go while it is leaving; None if they are deleted."""
        if self.keep_library is None or self.keep_folder is None:
            return None
        return Destination(self.keep_library, self.keep_folder)


@dataclass(frozen=True, slots=True)
class Session:
    """One browser, from its login on."""

    hash: str
    """Of the secret that the browser's cookie holds: SHA-256, in hexadecimal. So are those below."""
    account_id: str
    created_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What a person made for a program."""

    id: str
    account_id: str
    name: str
    hash: str
    scopes: frozenset[Scope]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """What opens one file, or the playlist of one folder and the files in it, to whoever has it."""

    id: str
    account_id: str
    path: str
    """Of the file; or the folder, which may be "" for the top."""
    is_playlist: bool
    recursive: bool
    """With a playlist: that it is of all that is in the folders inside, too."""
    automatic: bool
    """A player asked for the playlist, and its entries had to be signed: nobody made this link."""
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Invite:
    """What lets one person sign up."""

    hash: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What links are signed with."""

    id: str
    secret: str
    created_at: datetime


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

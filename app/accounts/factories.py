"""What accounts, and what belongs to them, are when they begin."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from app.accounts.models import Account, Invite, SigningKey

INVITE_LASTS = timedelta(days=7)


def now() -> datetime:
    """In whole seconds, which every database keeps."""
    return datetime.now(UTC).replace(microsecond=0)


def hash_secret(secret: str) -> str:
    """What is kept of a secret that is too long to be guessed."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_account(email: str, password: str, *, is_admin: bool = False, quota: int | None = None) -> Account:
    """One with a library of its own, an address that was checked, and this hash of a password."""
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
    """An invite for one person, and its secret, which is kept nowhere."""
    secret, at = secrets.token_urlsafe(32), now()
    return Invite(hash_secret(secret), at, at + lasts), secret


def new_signing_key() -> SigningKey:
    """What links are signed with from now on."""
    return SigningKey(secrets.token_hex(8), secrets.token_urlsafe(32), now())

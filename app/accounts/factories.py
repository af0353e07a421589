"""New accounts, invites and signing keys, and the hashes and times that all records share."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from app.accounts.models import Account, Invite, SigningKey

INVITE_LASTS = timedelta(days=7)


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

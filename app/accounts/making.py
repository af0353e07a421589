"""What an account is when it begins."""

from datetime import UTC, datetime
from uuid import uuid4

from app.accounts.models import Account


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
        created_at=datetime.now(UTC).replace(microsecond=0),
    )

"""Errors of accounts. The text of each is shown to the person who made the request."""


class AccountError(Exception):
    """The base class of all errors of accounts."""


class BadCredentials(AccountError):
    """An email address, a password, a name or a duration that no account can have."""


class WrongCredentials(AccountError):
    """A wrong email address or password, or a token or session that is not valid."""


class NotSignedIn(AccountError):
    """A request without credentials."""


class NotPermitted(AccountError):
    """A request that the rights of the principal do not include."""


class ScopeTooSmall(NotPermitted):
    """A request that the scopes of the token do not include."""


class LinkRefused(AccountError):
    """A link that was altered, has expired, was revoked, or is for another file."""


class EmailTaken(AccountError):
    """An email address that another account has."""


class SignUpRefused(AccountError):
    """A sign-up while sign-up is closed, or without a valid invite."""


class LastAdministrator(AccountError):
    """A change after which no administrator would remain who can log in."""


class UnknownRecord(AccountError):
    """An account, token, link or invite that does not exist."""


class TooManyAttempts(AccountError):
    """More attempts than a limit allows, until `retry_after` seconds have passed."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


TAKEN = "An account with this email address already exists. Log in, or choose another address."
LAST = "This is the last administrator who can log in. Make another account an administrator first."
NO_ACCOUNT = "This account does not exist, or is being deleted."
NO_INVITE = "This invite was used or revoked, or has expired. Ask the administrator for a new one."
"""Messages of the errors that every account store raises."""

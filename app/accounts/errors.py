"""What may go wrong with accounts. Each message is a sentence that may be shown to the person who asked."""


class AccountError(Exception):
    """The base of them all."""


class BadCredentials(AccountError):
    """What was given as an email address, a password, a name or the like can be none."""


class WrongCredentials(AccountError):
    """Nobody has this address and this password together; or this token, or session."""


class NotSignedIn(AccountError):
    """The request is nobody's."""


class NotPermitted(AccountError):
    """The caller is known, and may not do that."""


class ScopeTooSmall(NotPermitted):
    """The token was made for less than that."""


class LinkRefused(AccountError):
    """The link was altered, has expired or was revoked, or is none for this."""


class EmailTaken(AccountError):
    """Another account has the address."""


class SignUpRefused(AccountError):
    """Nobody may sign up here, or not without an invite that counts."""


class LastAdministrator(AccountError):
    """Nobody would be left who may look after the accounts."""


class UnknownAccount(AccountError):
    """There is no such account, or no such thing of it."""


class TooManyAttempts(AccountError):
    """Somebody seems to be guessing. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


TAKEN = "There is an account with this email address."
LAST = "Nobody would be left who may look after the accounts: there is no other administrator."
NO_ACCOUNT = "There is no such account."
NO_TOKEN = "There is no such token."
NO_LINK = "There is no such link."
NO_INVITE = "This invite is not valid, or not any longer."
"""Messages of the errors that the account stores raise."""

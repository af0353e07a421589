"""Errors in the body of a request, or in the headers that describe it."""


class BodyError(Exception):
    """Base class. The message is a sentence for the client's user."""


class BadForm(BodyError):
    """The form is malformed, truncated, or lacks what this server needs."""


class UnsupportedForm(BodyError):
    """The body is not multipart/form-data, or has an encoding that this server does not decode."""


class BadPatch(BodyError):
    """The merge patch is no JSON object, or changes something that cannot be changed."""


class UnsupportedPatch(BodyError):
    """The body of a PATCH is not a merge patch."""


class IncompleteBody(BodyError):
    """The body is shorter or longer than announced, or holds only a part of a file."""


class TooLarge(BodyError):
    """The body is longer than the limit."""


class BadDigest(BodyError):
    """A declared digest is malformed, or differs from the digest of the received bytes."""

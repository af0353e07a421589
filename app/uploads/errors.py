"""What can go wrong with an upload on its way in."""


class UploadError(Exception):
    """The message is a sentence that may be shown to the person who asked."""


class BadForm(UploadError):
    """The form is malformed, truncated, or not the one that this program takes."""


class UnsupportedForm(UploadError):
    """The body is not multipart/form-data, or it is encoded in a way that is not decoded here."""


class IncompleteBody(UploadError):
    """Fewer or more bytes came than were announced, or only a part of a file is meant."""


class TooLarge(UploadError):
    """The upload is longer than what is taken."""


class BadDigest(UploadError):
    """A declared digest is malformed, or not that of the bytes that came."""

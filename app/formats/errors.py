"""Errors of the formats. Each message is a sentence for the person whose program sent the bytes."""

ACCEPTED = "H.264, HEVC, VP9 or AV1 pictures, and AAC, Opus, MP3 or FLAC sound"


class FormatError(Exception):
    """Bytes that cannot become samples."""


class Malformed(FormatError):
    """Bytes that contradict their own format, or exceed a limit."""


class UnsupportedFormat(FormatError):
    """A valid stream that a recording cannot contain."""


def unsupported(what: str) -> UnsupportedFormat:
    """Return the error for a codec by its name, such as "AC-3 sound"."""
    return UnsupportedFormat(f"The stream contains {what}, which cannot be recorded. Send {ACCEPTED}.")

"""What a browser may show in place, and what it is told to save, and under which name."""

import re
import unicodedata
from urllib.parse import quote

from anyascii import anyascii

_RASTER_IMAGES = frozenset(
    (
        "image/apng",
        "image/avif",
        "image/bmp",
        "image/gif",
        "image/heic",
        "image/heif",
        "image/jpeg",
        "image/jxl",
        "image/png",
        "image/tiff",
        "image/vnd.microsoft.icon",
        "image/webp",
        "image/x-icon",
    )
)
_TEXTS = frozenset(
    (
        "application/x-subrip",
        "text/plain",
        "text/srt",
        "text/vtt",
        "text/x-ass",
        "text/x-microdvd",
        "text/x-ssa",
    )
)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Backslashes are legal in a quoted string, but who splits values at commas may read them otherwise.
_QUOTED = r'"[\t !#-\[\]-~]*"'
_MEDIA_TYPE = re.compile(rf"({_TOKEN}/{_TOKEN})(?:[ \t]*;(?:[ \t]*{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?)*[ \t]*")

_UNSAFE = re.compile(r'[^ -~]|["\\%]')
_UNSAFE_IN_NAMES = re.compile(r'[/:*?<>|"\\%]')
"""What a file system may refuse in a name, or a client take for a path: no transliteration brings it in."""
_ATTR_CHAR = "!#$&+-.^_`|~"
"""What RFC 8187 3.2.1 lets stand besides letters and digits."""


def is_inline(content_type: str) -> bool:
    """Whether a browser may show this in our origin: nothing that can run a script (RFC 9110 8.3.1).

    The whole value has to be well formed: of `video/mp4, text/html` a browser takes the last.
    """
    match = _MEDIA_TYPE.fullmatch(content_type)
    if match is None:
        return False
    media_type = match[1].lower()
    if media_type.startswith(("audio/", "video/")):
        # Any `+xml` is an XML document to a browser, and that may hold scripts.
        return not media_type.endswith("+xml")
    return media_type in _RASTER_IMAGES or media_type in _TEXTS


def content_disposition(filename: str, *, attachment: bool) -> str:
    """The Content-Disposition of a file of any name, in ASCII (RFC 6266 4.1 and appendix D).

    A name that some clients would misread is sent encoded (RFC 8187), with a plain one for the oldest.
    """
    disposition = "attachment" if attachment else "inline"
    fallback = _UNSAFE.sub("_", "".join(map(_in_ascii, unicodedata.normalize("NFC", filename))))
    if fallback != filename and not fallback.strip(". "):  # nothing is left, as of a mark without its letter
        fallback = "_"
    plain = f'{disposition}; filename="{fallback}"'
    if fallback == filename:
        return plain
    return f"{plain}; filename*=UTF-8''{quote(filename, safe=_ATTR_CHAR, errors='replace')}"


def _in_ascii(character: str) -> str:
    """A character as people write it without other letters: `ß` is `ss`, `中` is `Zhong`."""
    if character.isascii():
        return character
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return ""  # a mark of the letter before it, or one that is not seen
    # An emoji becomes its name between colons.
    return _UNSAFE_IN_NAMES.sub("_", anyascii(character).strip(":")) or "_"

"""Content-Disposition (RFC 6266): whether a browser shows or saves a file, and under which name. Pure."""

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
# Backslashes are legal in a quoted string, but a reader that splits values at commas may misread them.
_QUOTED = r'"[\t !#-\[\]-~]*"'
_MEDIA_TYPE = re.compile(rf"({_TOKEN}/{_TOKEN})(?:[ \t]*;(?:[ \t]*{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?)*[ \t]*")

_UNSAFE = re.compile(r'[^ -~]|["\\%]')
_UNSAFE_IN_NAMES = re.compile(r'[/:*?<>|"\\%]')
"""Characters that a file system may refuse in a name, or that a client may take for a path. A transliteration
must not introduce them."""
_ATTR_CHAR = "!#$&+-.^_`|~"
"""The characters of attr-char besides letters and digits (RFC 8187 §3.2.1)."""


def is_inline(content_type: str) -> bool:
    """Return whether a browser may show this type in our origin. False for types that can run scripts.

    The whole value has to be well formed: given `video/mp4, text/html`, a browser uses the last.
    """
    match = _MEDIA_TYPE.fullmatch(content_type)
    if match is None:
        return False
    media_type = match[1].lower()
    if media_type.startswith(("audio/", "video/")):
        # A browser treats any `+xml` type as an XML document, which may contain scripts.
        return not media_type.endswith("+xml")
    return media_type in _RASTER_IMAGES or media_type in _TEXTS


def content_disposition(filename: str, *, attachment: bool) -> str:
    """Return the Content-Disposition for a file of any name, in ASCII (RFC 6266 §4.1 and appendix D).

    A name that some clients would misread is sent encoded (RFC 8187), beside an ASCII name for old clients.
    """
    disposition = "attachment" if attachment else "inline"
    fallback = _UNSAFE.sub("_", "".join(map(_in_ascii, unicodedata.normalize("NFC", filename))))
    if fallback != filename and not fallback.strip(". "):  # a lone combining mark, for example
        fallback = "_"
    plain = f'{disposition}; filename="{fallback}"'
    if fallback == filename:
        return plain
    return f"{plain}; filename*=UTF-8''{quote(filename, safe=_ATTR_CHAR, errors='replace')}"


def _in_ascii(character: str) -> str:
    """Transliterate a character: `ß` becomes `ss`, `中` becomes `Zhong`."""
    if character.isascii():
        return character
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return ""  # a combining or an invisible character
    # anyascii returns the name of an emoji between colons.
    return _UNSAFE_IN_NAMES.sub("_", anyascii(character).strip(":")) or "_"

"""The grammar that header fields share: lines, lists, parameters (RFC 9110 §5, RFC 2183 §2). Pure."""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from quopri import decodestring
from urllib.parse import unquote_to_bytes

# Unambiguous, so that a mismatch takes linear time. An unquoted value may contain more than a token,
# because clients forget to quote boundaries like `==a==`.
_PARAMETER = re.compile(
    r"""
    [ \t]* ; [ \t]*
    (?:
        ( [!#$%&'*+.^_`|~0-9A-Za-z-]+ )
        =
        ( " [^"\\]* (?: \\. [^"\\]* )* " | [!#-:<-\[\]-~]+ )
    )?
    """,
    re.VERBOSE,
)
_QUOTED_PAIR = re.compile(r"\\(.)")
_EXTENDED = re.compile(
    r"(?i:(utf-8|iso-8859-1))'[A-Za-z0-9-]*'((?:[!#$&+.^_`|~0-9A-Za-z-]|%[0-9A-Fa-f]{2})*)"
)
_ENCODED_WORD = re.compile(r"=\?(?i:(utf-8|iso-8859-1))\?([BbQq])\?([!->@-~]*)\?=")
_FORM_ESCAPE = re.compile(r'\\(["\\])|%(22|0D|0A)')


def value_without_parameters(value: str) -> str:
    """Return the value without its parameters, in lower case."""
    return value.partition(";")[0].strip(" \t").lower()


def parameters_of(value: str) -> dict[str, str]:
    """Return the parameters by lower-case name, with unchanged values, quotes included.

    Raises ValueError if they are malformed or one is repeated: two parsers of such a header might disagree.
    Extended ones (`filename*`) are left out, because RFC 7578 §4.2 forbids them; see `extended_of`.
    """
    parameters: dict[str, str] = {}
    for name, given in _pairs(value):
        if name in parameters:
            raise ValueError("repeated parameter")
        if "*" not in name:
            parameters[name] = given
    return parameters


def extended_of(value: str, name: str) -> str | None:
    """Return the decoded value of an extended parameter (RFC 8187 §3.2.1), such as `filename*`.

    Returns None if it is absent, malformed or repeated. Raises ValueError if the parameters are malformed.
    """
    given = [unquote(encoded) for found, encoded in _pairs(value) if found == f"{name}*"]
    match = _EXTENDED.fullmatch(given[0]) if len(given) == 1 else None
    return None if match is None else _decoded(unquote_to_bytes(match[2]), match[1])


def decode_encoded_word(value: str) -> str | None:
    """Decode an encoded-word (RFC 2047 §2), which .NET sends in forms; None if the value is not one."""
    match = _ENCODED_WORD.fullmatch(value)
    if match is None:
        return None
    try:
        data = b64decode(match[3], validate=True) if match[2] in "Bb" else decodestring(match[3], header=True)
    except binascii.Error:
        return None
    return _decoded(data, match[1])


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters: names in lower case, values unchanged. Raises ValueError."""
    value = value.rstrip(" \t")
    position = len(value.partition(";")[0])
    while position < len(value):
        match = _PARAMETER.match(value, position)
        if match is None:
            raise ValueError("malformed parameters")
        position = match.end()
        if match[1]:
            yield match[1].lower(), match[2]


def _decoded(data: bytes, charset: str) -> str | None:
    try:
        return data.decode(charset)
    except UnicodeDecodeError:
        return None


def unquote(value: str) -> str:
    """Return the value of a parameter without its quotes and backslashes (RFC 9110 §5.6.4)."""
    return _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def unquote_form(value: str) -> str:
    r"""Unescape the name or filename of a form's part (RFC 7578 §4.2).

    Clients escape a quote in two ways: `\"` (older curl, Go) and `%22` (the HTML standard, hence browsers,
    newer curl and httpx). A backslash before any other character is literal, since HTML does not escape it.
    """
    if not value.startswith('"'):
        return value
    return _FORM_ESCAPE.sub(_unescape, value[1:-1])


def _unescape(match: re.Match[str]) -> str:
    return match[1] or chr(int(match[2], 16))


RawHeaders = Sequence[tuple[bytes, bytes]]
"""Header lines: names in lower case, values unchanged."""


def lines(headers: RawHeaders, name: bytes) -> list[str]:
    """Return the value of each line of this name, stripped of whitespace (RFC 9110 §5.5)."""
    return [value.decode("latin-1").strip(" \t") for key, value in headers if key == name]


def field(headers: RawHeaders, name: bytes) -> str | None:
    """Return the value of a list field, its lines joined by commas (RFC 9110 §5.3); None if absent."""
    values = lines(headers, name)
    return ", ".join(values) if values else None


def single(headers: RawHeaders, name: bytes) -> str | None:
    """Return the value of a singleton field (RFC 9110 §5.5); None if it is absent or repeated."""
    values = lines(headers, name)
    return values[0] if len(values) == 1 else None

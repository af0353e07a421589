"""The parameters of Content-Type and Content-Disposition, read strictly (RFC 9110 5.6.6, RFC 2183 2)."""

import re

# No two ways lead through it, so that a refusal takes linear time. An unquoted value may hold more than a
# token does, because clients forget to quote boundaries like `==a==`.
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
_FORM_ESCAPE = re.compile(r'\\(["\\])|%(22|0D|0A)')


def word_of(value: str) -> str:
    """What stands before the first parameter, in lower case."""
    return value.partition(";")[0].strip(" \t").lower()


def parameters_of(value: str) -> dict[str, str]:
    """The parameters by lower-case name, each value as it was sent, with its quotes.

    Raises ValueError when they are malformed or one is given twice: two readers of such a header may
    disagree. Extended ones (`filename*`) are left out, because RFC 7578 4.2 forbids them.
    """
    value = value.rstrip(" \t")
    parameters: dict[str, str] = {}
    position = len(value.partition(";")[0])
    while position < len(value):
        match = _PARAMETER.match(value, position)
        if match is None:
            raise ValueError("malformed parameters")
        position = match.end()
        name = (match[1] or "").lower()
        if name in parameters:
            raise ValueError("a parameter given twice")
        if name and "*" not in name:
            parameters[name] = match[2]
    return parameters


def unquote(value: str) -> str:
    """A parameter's value without its quotes and backslashes (RFC 9110 5.6.4)."""
    return _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def unquote_form(value: str) -> str:
    r"""The name or filename that a form's client meant (RFC 7578 4.2).

    There are two customs for a quote in a name: `\"` (older curl, Go) and `%22` (the HTML standard,
    hence browsers, newer curl and httpx). A backslash before anything else is a backslash: the HTML
    standard does not escape it.
    """
    if not value.startswith('"'):
        return value
    return _FORM_ESCAPE.sub(_unescape, value[1:-1])


def _unescape(match: re.Match[str]) -> str:
    return match[1] or chr(int(match[2], 16))

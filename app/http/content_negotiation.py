"""Content negotiation (RFC 9110 §12): whether a browser asks for a page. Pure."""

import re

from app.http.grammar import RawHeaders, field, lines, parameters_of, value_without_parameters

PAGE_VARIES_BY = "accept, sec-fetch-dest"
"""The request headers that `asks_for_page` reads (Vary, RFC 9110 §12.5.5)."""

_HTML = "text/html"
_FOR_PROGRAMS = ("application/problem+json", "application/json")
_ANY = "*/*"

_MAX_LENGTH = 4096
"""Characters of Accept; browsers send 200. Parsing the longest header would block the event loop."""

# RFC 9110 §12.4.2
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def asks_for_page(headers: RawHeaders) -> bool:
    """Return whether a browser shows the response: of a link, a bookmark, a form or the address bar.

    A browser then prefers HTML to any other type. Its scripts, media and images do not, nor do programs.
    Newer browsers name the destination of the response as well (Fetch Metadata: Sec-Fetch-Dest).
    """
    if lines(headers, b"sec-fetch-dest") not in ([], ["document"]):
        return False
    accept = field(headers, b"accept") or ""
    if len(accept) > _MAX_LENGTH:
        return False
    accepted = _media_ranges(accept)
    html = _weight(accepted, _HTML)
    return html > max(accepted.get(_ANY, 0), *(_weight(accepted, one) for one in _FOR_PROGRAMS))


def _media_ranges(accept: str) -> dict[str, float]:
    """Return the weights of an Accept header by media range, without malformed ones and those of a variant.

    A range with a parameter, such as `text/html;level=1`, selects a variant that this server does not have.
    """
    weights = {}
    for each in accept.split(","):
        try:
            parameters = parameters_of(each)
        except ValueError:
            continue
        weight = parameters.pop("q", "1")
        if not parameters and _WEIGHT.fullmatch(weight):
            weights[value_without_parameters(each)] = float(weight)
    return weights


def _weight(accepted: dict[str, float], media_type: str) -> float:
    """Return the weight of a media type; the most specific range decides (RFC 9110 §12.5.1)."""
    for name in (media_type, f"{media_type.partition('/')[0]}/*", _ANY):
        if name in accepted:
            return accepted[name]
    return 0

"""Request ids, for the log and for error responses."""

import re
import secrets
from collections.abc import Iterable
from functools import cache
from itertools import count

HEADER = b"x-request-id"

# Covers UUIDs, trace ids and the ids of proxies; excludes characters that would be unsafe in a log or header.
_SAFE = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

_numbers = count(1)


@cache
def _process() -> str:
    return secrets.token_hex(6)


def has_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the request carries an id, so that its sender may expect it in the response."""
    for name, _ in headers:  # noqa: SIM110 - thousands of times a second, and any() takes twice as long
        if name == HEADER:
            return True
    return False


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the client or a proxy sent, if it is single and safe; otherwise a new unique id."""
    given = [value for name, value in headers if name == HEADER]
    if len(given) == 1 and _SAFE.fullmatch(given[0]):
        return given[0].decode("ascii")
    return f"{_process()}-{next(_numbers)}"

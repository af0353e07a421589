"""What a request is called: in the log, and in answers that say that something went wrong."""

import re
import secrets
from collections.abc import Iterable
from functools import cache
from itertools import count

HEADER = b"x-request-id"

# Enough for UUIDs, trace ids and what proxies make, and nothing that a log or a header could stumble over.
_SANE = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

_numbers = count(1)


@cache
def _process() -> str:
    return secrets.token_hex(6)


def is_named(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether somebody before us named the request, and so may look for that in the answer."""
    for name, _ in headers:  # noqa: SIM110 - thousands of times a second, and any() takes twice as long
        if name == HEADER:
            return True
    return False


def identity(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the client, or a proxy before us, calls this request, if it says so once and in a sane way; else a
    name that no other request has."""
    given = [value for name, value in headers if name == HEADER]
    if len(given) == 1 and _SANE.fullmatch(given[0]):
        return given[0].decode("ascii")
    return f"{_process()}-{next(_numbers)}"

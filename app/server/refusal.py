"""The answer to what the program never sees."""

import json
import logging
import time
from collections import OrderedDict
from email.utils import formatdate
from http import HTTPStatus

MALFORMED_EVERY_S = 1.0
"""Seconds between two records of one peer's malformed requests."""

MAX_PEERS = 1024
"""Peers whose last record is remembered; a flood from more of them logs the earliest again."""

MAX_REASON = 200
"""Characters of a reason that the log shows: some quote the request."""

_RETRY = "retry-after: 5\r\n"

_log = logging.getLogger("seekable")


def refusal(status: HTTPStatus, detail: str, request_id: str) -> bytes:
    """A whole answer that says why, as resources/problems.py would (RFC 9457), after which the connection is
    closed."""
    body = json.dumps({"title": status.phrase, "status": status, "detail": detail}).encode()
    head = (
        f"HTTP/1.1 {status:d} {status.phrase}\r\n"
        f"date: {formatdate(usegmt=True)}\r\n"
        "content-type: application/problem+json\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        f"{_RETRY if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else ''}"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


class Recently:
    """The peers that had a record within the last second."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, float] = OrderedDict()

    def has(self, peer: str, now: float) -> bool:
        """Return whether the peer has had its record; if it has not, this is the one."""
        last = self._records.get(peer)
        if last is not None and now - last < MALFORMED_EVERY_S:
            return True
        self._records[peer] = now
        self._records.move_to_end(peer)
        if len(self._records) > MAX_PEERS:
            self._records.popitem(last=False)
        return False


_malformed, _crowded = Recently(), Recently()


def log_crowded(client: tuple[str, int] | None, reason: str) -> None:
    """Log that a peer's connection was refused, at most once a second for each peer."""
    peer = _name_of(client)
    if not _crowded.has(peer, time.monotonic()):
        _log.warning("A connection from %s was refused: %s", peer, reason)


def log_malformed(client: tuple[str, int] | None, reason: str) -> None:
    """Log that a peer sent a request that cannot be parsed, at most once a second for each peer."""
    peer = _name_of(client)
    if not _malformed.has(peer, time.monotonic()):
        _log.warning("A request from %s could not be parsed: %s", peer, reason[:MAX_REASON])


def _name_of(client: tuple[str, int] | None) -> str:
    # The system names no address of a peer that left before its connection was accepted.
    return client[0] if client else "an unknown address"

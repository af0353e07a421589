"""Responses to requests that the application never receives, and their log records."""

import json
import logging
import time
from email.utils import formatdate
from http import HTTPStatus

from cachetools import LRUCache

MALFORMED_EVERY_S = 1.0
"""Seconds between two log records about one peer."""

MAX_PEERS = 1024
"""Maximum number of peers in the memory of a LogThrottle."""

MAX_REASON = 200
"""Maximum length of a logged reason: some quote the request."""

_RETRY = "retry-after: 5\r\n"

log = logging.getLogger(__name__)


def encode_problem_response(status: HTTPStatus, detail: str, request_id: str) -> bytes:
    """Return a complete response with a problem document (RFC 9457) and `Connection: close`."""
    body = json.dumps({"title": status.phrase, "status": status, "detail": detail}).encode() + b"\n"
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


class LogThrottle:
    """A limit of one log record per peer and second, so that a peer cannot flood the log."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._records: LRUCache[str, float] = LRUCache(max_peers)

    def is_recent(self, peer: str, now: float) -> bool:
        """Return whether the peer was logged within the last second; if not, remember this record."""
        last = self._records.get(peer)
        if last is not None and now - last < MALFORMED_EVERY_S:
            return True
        self._records[peer] = now
        return False


_malformed, _refused = LogThrottle(), LogThrottle()


def log_refused_connection(client: tuple[str, int] | None, reason: str) -> None:
    """Log a refused connection, at most once a second for each peer."""
    peer = _name_of(client)
    if not _refused.is_recent(peer, time.monotonic()):
        log.warning("A connection from %s was refused: %s", peer, reason)


def log_malformed_request(client: tuple[str, int] | None, reason: str) -> None:
    """Log a malformed request, at most once a second for each peer."""
    peer = _name_of(client)
    if not _malformed.is_recent(peer, time.monotonic()):
        log.warning("A request from %s could not be parsed: %s", peer, reason[:MAX_REASON])


def _name_of(client: tuple[str, int] | None) -> str:
    # accept(2) reports no address if the peer has already left.
    return client[0] if client else "an unknown address"

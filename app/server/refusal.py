"""The answer to what the program never sees."""

import json
from email.utils import formatdate
from http import HTTPStatus


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
        "connection: close\r\n\r\n"
    )
    return head.encode() + body

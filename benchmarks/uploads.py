"""A client that uploads a file with sendfile."""

import os
import time
from pathlib import Path

from benchmarks.wire import Target, Unexpected, receive_head

_BOUNDARY = "-" * 24 + os.urandom(8).hex()
"""As long as curl's: the time to search for a boundary depends on its length."""


def put(target: Target, *, file: str) -> dict[str, float]:
    """Upload the file as the body of a PUT."""
    return _send(target, "PUT", "application/octet-stream", b"", Path(file), b"")


def form(target: Target, *, file: str, name: str) -> dict[str, float]:
    """Upload the file in a form, as `curl -F file=@…` does."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    return _send(target, "POST", kind, head.encode(), Path(file), f"\r\n--{_BOUNDARY}--\r\n".encode())


def _send(
    target: Target, method: str, kind: str, before: bytes, file: Path, after: bytes
) -> dict[str, float]:
    length = len(before) + file.stat().st_size + len(after)
    head = (
        f"{method} {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    busy, begun = time.process_time(), time.perf_counter()
    with file.open("rb") as source, target.connect() as connection:
        connection.settimeout(120)
        connection.sendall(head.encode() + before)
        connection.sendfile(source)
        connection.sendall(after)
        answer, _ = receive_head(connection)
        elapsed, busy = time.perf_counter() - begun, time.process_time() - busy
    if answer.split(b" ", 2)[1] not in (b"200", b"201", b"204"):
        raise Unexpected(answer[:200].decode("latin-1"))
    return {"seconds": elapsed, "busy": busy / elapsed}

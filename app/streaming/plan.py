"""The range-request helper: plans the response to a GET or HEAD of a stored file. Pure."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from app.http.conditions import Verdict, evaluate, range_applies
from app.http.content_disposition import content_disposition, is_inline
from app.http.dates import format_date
from app.http.grammar import RawHeaders, field, single
from app.http.ranges import Span, parse_ranges
from app.storage.errors import VersionMismatch
from app.storage.types import FileInfo

Part = bytes | Span
"""Literal bytes, or a span of the file."""

Headers = list[tuple[bytes, bytes]]

_CONDITIONS = frozenset((b"if-match", b"if-modified-since", b"if-none-match", b"if-unmodified-since"))
_READ = _CONDITIONS | {b"if-range", b"range", b"want-digest"}
"""The request fields that affect the response: browsers send twenty others."""

_WANTS_SHA256 = re.compile(r"sha-256[ \t]*(?:;[ \t]*q=(?P<q>.*))?", re.IGNORECASE)
_ZERO = re.compile(r"0(?:\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class Plan:
    """A response: its status, its headers, and the parts of its body in order."""

    status: int
    headers: Headers
    parts: tuple[Part, ...]


def plan(
    method: str,
    headers: RawHeaders,
    info: FileInfo,
    *,
    cache_control: str,
    boundary: Callable[[], str],
    download: bool = False,
    now: datetime | None = None,
) -> Plan:
    """Plan the response to a GET or HEAD: 200, 206 or 304 (RFC 9110 §13.2.2).

    `boundary` returns a delimiter for multipart/byteranges that is unpredictable, so that no stored file can
    contain it. `now` defaults to the present moment. Raises VersionMismatch for a 412, RangeNotSatisfiable
    for a 416.
    """
    headers = [line for line in headers if line[0] in _READ]
    # Not later than the response itself (RFC 9110 §8.8.2.1).
    last_modified = min(info.updated_at, now or datetime.now(UTC))
    validators, description = _representation_headers(info, last_modified, cache_control, download)
    if not _CONDITIONS.isdisjoint(name for name, _ in headers):
        verdict = evaluate(method, headers, info)
        if verdict is Verdict.FAILED:
            raise VersionMismatch(
                "The file is not the version that the request's conditions require. Reload it and try again."
            )
        if verdict is Verdict.NOT_MODIFIED:
            return Plan(304, [*validators], ())

    common = [*validators, *description]
    if info.sha256 is not None and _wants_sha256(headers):
        common.append((b"digest", f"SHA-256={_base64(info.sha256)}".encode()))
    spans = _selected(headers, info) if method == "GET" else None
    if spans is None:
        return _whole(common, info, has_body=method == "GET")
    return (
        _one_part(common, info, spans[0]) if len(spans) == 1 else _many_parts(common, info, spans, boundary())
    )


def repr_digest(sha256: str) -> str:
    """Return the value of Repr-Digest for a hash in hexadecimal (RFC 9530 §3)."""
    return f"sha-256=:{_base64(sha256)}:"


def content_type(info: FileInfo) -> str:
    """Return the Content-Type of a file. UTF-8 texts get a charset, which browsers would guess wrong."""
    declared = info.content_type
    if info.is_utf8 and declared.startswith("text/") and "charset=" not in declared.lower():
        return f"{declared.rstrip('; ')}; charset=utf-8"
    return declared


@lru_cache(1024)
def _representation_headers(
    info: FileInfo, last_modified: datetime, cache_control: str, download: bool
) -> tuple[Headers, Headers]:
    """Return the headers that do not depend on the range: cached, since players ask for thousands."""
    return _validators(info, last_modified, cache_control), _description(info, download)


def _validators(info: FileInfo, last_modified: datetime, cache_control: str) -> Headers:
    """Return the headers of every response, 304 included (RFC 9110 §15.4.5)."""
    return [
        (b"etag", f'"{info.etag}"'.encode("latin-1")),
        (b"last-modified", format_date(last_modified).encode()),
        (b"cache-control", cache_control.encode("latin-1")),
    ]


def _description(info: FileInfo, download: bool) -> Headers:
    """Return the other headers of a 200 and a 206 (RFC 9110 §8, RFC 6266, RFC 9530)."""
    inline = is_inline(info.content_type)
    disposition = content_disposition(info.key.filename, attachment=download or not inline)
    described = [
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", disposition.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if not inline:
        described.append((b"content-security-policy", b"sandbox; default-src 'none'"))
    if info.sha256 is not None:
        described.append((b"repr-digest", repr_digest(info.sha256).encode()))
    return described


def _wants_sha256(headers: RawHeaders) -> bool:
    """Return whether Want-Digest lists SHA-256 with a weight other than 0 (RFC 3230 §4.3.1)."""
    wanted = field(headers, b"want-digest")
    if wanted is None:
        return False
    matches = (_WANTS_SHA256.fullmatch(element.strip(" \t")) for element in wanted.split(","))
    return any(match is not None and not _ZERO.fullmatch(match["q"] or "1") for match in matches)


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _selected(headers: RawHeaders, info: FileInfo) -> tuple[Span, ...] | None:
    """Return the spans that Range and If-Range select; None for the whole file (RFC 9110 §13.2.2, §14.2)."""
    value = single(headers, b"range")
    if value is None or not range_applies(headers, info):
        return None
    return parse_ranges(value, info.size)


def _whole(common: Headers, info: FileInfo, *, has_body: bool) -> Plan:
    """Plan a 200 with the whole file (RFC 9110 §15.3.1)."""
    parts = (Span(0, info.size),) if has_body and info.size else ()
    return Plan(200, [*common, *_content(content_type(info), info.size)], parts)


def _one_part(common: Headers, info: FileInfo, span: Span) -> Plan:
    """Plan a 206 with a single range (RFC 9110 §15.3.7.1)."""
    content_range = (b"content-range", _content_range(info, span).encode())
    content = _content(content_type(info), span.stop - span.start)
    return Plan(206, [*common, *content, content_range], (span,))


def _many_parts(common: Headers, info: FileInfo, spans: tuple[Span, ...], boundary: str) -> Plan:
    """Plan a 206 with multipart/byteranges (RFC 9110 §14.6, §15.3.7.2)."""
    parts: list[Part] = []
    delimiter = f"--{boundary}"
    for span in spans:
        head = (
            f"{delimiter}\r\nContent-Type: {content_type(info)}\r\n"
            f"Content-Range: {_content_range(info, span)}\r\n\r\n"
        )
        parts += [head.encode("latin-1"), span]
        delimiter = f"\r\n--{boundary}"
    parts.append(f"{delimiter}--\r\n".encode())
    length = sum(len(part) if isinstance(part, bytes) else part.stop - part.start for part in parts)
    return Plan(206, [*common, *_content(f"multipart/byteranges; boundary={boundary}", length)], tuple(parts))


def _content(content_type: str, length: int) -> Headers:
    return [(b"content-type", content_type.encode("latin-1")), (b"content-length", str(length).encode())]


def _content_range(info: FileInfo, span: Span) -> str:
    return f"bytes {span.start}-{span.stop - 1}/{info.size}"

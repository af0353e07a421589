"""The text of files, such as their JSON in lists: a format for each folder, filled here or by a database."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

from app.storage.types import FileFields

FolderFormat = Callable[[str], str]
"""Returns the format of the files in a folder, in which `%s` stands for these values, in this order, and `%%`
for `%`: the id, the filename twice, the size, the content type, the ETag, the SHA-256, the times of creation
and update, the filename in a URL, the id. Texts are escaped for JSON and have no quotes around them; the
SHA-256 has, or is null."""

MAX_ESCAPED = 16
"""Maximum number of different characters in the names of a page that a database escapes one by one."""

json_string = json.encoder.encode_basestring
"""Returns a text as JSON, in quotes. Non-ASCII characters stay as they are, as pydantic writes them."""

_ESCAPED = tuple(quote(bytes((byte,))) for byte in range(256))
_UNRESERVED = re.compile(r"[A-Za-z0-9._~/-]*").fullmatch
_UNRESERVED_BYTES = bytes(byte for byte in range(128) if _UNRESERVED(chr(byte)))
_PLAIN_BYTES = bytes(byte for byte in range(0x20, 0x7F) if chr(byte) not in '"\\')


def quote_path(path: str) -> str:
    """Return what `urllib.parse.quote` returns for a path (RFC 3986 §2), in a third of its time."""
    return path if _UNRESERVED(path) else "".join(map(_ESCAPED.__getitem__, path.encode()))


def fill(format_of: FolderFormat, files: Iterable[FileFields]) -> bytes:
    """Return the text of each file, with commas between them."""
    at = None
    form = ""
    found = []
    for identity, folder, filename, size, content_type, etag, sha256, created_at, updated_at in files:
        if folder != at:  # most files have the folder of the one before
            at = folder
            form = format_of(folder)
        id_json, name = json_string(identity)[1:-1], json_string(filename)[1:-1]
        found.append(
            form
            % (
                id_json,
                name,
                name,
                size,
                json_string(content_type)[1:-1],
                json_string(etag)[1:-1],
                "null" if sha256 is None else json_string(sha256),
                created_at,
                updated_at,
                quote_path(filename),
                id_json,
            )
        )
    return ",".join(found).encode()


def url_escapes(names: bytes, others: bytes) -> Mapping[str, str] | None:
    """Return the characters of the names that URLs escape, and what replaces each, in an order in which one
    after the other can be replaced.

    Returns None if a database should leave the text to `fill`: if JSON escapes any character of the names or
    of the other texts, or if there are more than MAX_ESCAPED.
    """
    if others.translate(None, _PLAIN_BYTES):
        return None
    found = set(names.translate(None, _UNRESERVED_BYTES).decode())
    if len(found) > MAX_ESCAPED or any(json_string(one) != f'"{one}"' for one in found):
        return None
    # "%" first: it is in the replacements of all others.
    return {one: quote(one) for one in sorted(found, key=lambda one: (one != "%", one))}

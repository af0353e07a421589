"""Digests that a client declares for a body: the fields of RFC 9530, Digest (RFC 3230), Content-MD5. Pure."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from app.http.errors import BadDigest

# These patterns are unambiguous, so that a mismatch takes linear time.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_ITEM = r"""(?:
    -?[0-9]{1,12}\.[0-9]{1,3}                # decimal
    | @?-?[0-9]{1,15}                        # integer, date
    | "(?:[ !#-\[\]-~]|\\["\\])*"            # string
    | %"(?:[ !\#$&-~]|%[0-9a-f]{2})*"        # display string
    | [A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]* # token
    | :[A-Za-z0-9+/]*={0,2}:                 # byte sequence
    | \?[01]                                 # boolean
)"""
_PARAMETERS = rf"(?:;[ ]*{_KEY}(?:={_ITEM})?)*"
_LIST = rf"\([ ]*(?:{_ITEM}{_PARAMETERS}(?:[ ]+|(?=\))))*\)"
_MEMBER = re.compile(rf"({_KEY})(?:=({_ITEM}|{_LIST}))?{_PARAMETERS}", re.VERBOSE)
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)(={0,2})")
_MALFORMED = "A Content-Digest or Repr-Digest is a dictionary of digests, like sha-256=:…:."

_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
"""The secure algorithms of RFC 9530 §5, and their names in hashlib."""

_OLD_ALGORITHMS = {"md5": "md5", "sha": "sha1", **_ALGORITHMS}
"""Algorithms of RFC 3230 §4.1.1 and RFC 5843; others (UNIXsum, CRC32c …) are ignored."""

Digests = Mapping[str, bytes]
"""Digests by hashlib's name of the algorithm."""


def declared_digests(
    structured: Iterable[str], digest: Iterable[str] = (), content_md5: Iterable[str] = ()
) -> Digests:
    """Return the digests that a request declares for its body; unknown algorithms are ignored.

    `structured` holds the values of Content-Digest and Repr-Digest (RFC 9530 §2, §3), `digest` those of
    Digest (RFC 3230 §4.3.2), `content_md5` those of Content-MD5 (RFC 1864). Raises BadDigest if a digest is
    malformed, or two of one algorithm disagree.
    """
    found: dict[str, bytes] = {}
    for value in structured:
        for key, item in _members(value.strip(" \t")):
            if key in _ALGORITHMS:
                _declare(found, _ALGORITHMS[key], key.upper(), _structured(item))
    for value in digest:
        for element in value.split(","):
            name, _, encoded = element.strip(" \t").partition("=")
            if name.lower() in _OLD_ALGORITHMS:
                _declare(found, _OLD_ALGORITHMS[name.lower()], name.upper(), encoded)
    for value in content_md5:
        _declare(found, "md5", "MD5", value.strip(" \t"))
    return found


def verify(declared: Digests, actual: Callable[[str], bytes]) -> None:
    """Raise BadDigest if a declared digest differs from that of the received bytes."""
    for algorithm, digest in declared.items():
        if actual(algorithm) != digest:
            raise BadDigest(
                f"The bytes do not have the {algorithm.upper()} digest that was declared for them. "
                "Send them again."
            )


def _declare(found: dict[str, bytes], algorithm: str, name: str, encoded: str) -> None:
    digest = _decoded(encoded)
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if digest is None or len(digest) != size:
        raise BadDigest(f"A declared {name} digest is not {size} bytes in base64.")
    if found.setdefault(algorithm, digest) != digest:
        raise BadDigest(f"The declared {name} digests disagree.")


def _structured(item: str | None) -> str:
    """Return the base64 of a byte sequence (RFC 9651 §3.3.5); for any other item, invalid base64."""
    match = _BYTES.fullmatch(item or "")
    return match[1] if match is not None else ":"


def _decoded(encoded: str) -> bytes | None:
    """Decode base64, padded or not; None if it is malformed."""
    match = _BASE64.fullmatch(encoded)
    missing = -len(match[1]) % 4 if match is not None else 3
    if match is None or missing == 3 or len(match[2]) not in (0, missing):
        return None
    return base64.b64decode(match[1] + "=" * missing)


def _members(dictionary: str) -> Iterator[tuple[str, str | None]]:
    """Yield keys and unparsed values of a dictionary (RFC 9651 §4.2.2), overridden members included."""
    position = 0
    while position < len(dictionary):
        member = _MEMBER.match(dictionary, position)
        if member is None:
            raise BadDigest(_MALFORMED)
        yield member[1], member[2]
        position = member.end()
        if position < len(dictionary):
            comma = _COMMA.match(dictionary, position)
            if comma is None or comma.end() == len(dictionary):
                raise BadDigest(_MALFORMED)
            position = comma.end()

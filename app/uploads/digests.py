"""The digests that a client declares for what it sends (RFC 9530): dictionaries of RFC 9651."""

import base64
import re
from collections.abc import Iterable, Iterator

from app.uploads.errors import BadDigest

# No two ways lead through any of these, so that a refusal takes linear time.
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
_SHA256 = re.compile(r":([A-Za-z0-9+/]{43})=?:")
_MALFORMED = "A Content-Digest or Repr-Digest is a dictionary of digests, like sha-256=:…:."


def declared_sha256(values: Iterable[str]) -> bytes | None:
    """The SHA-256 that the values of Content-Digest and Repr-Digest name (RFC 9530 2, 3); None without one.

    Other algorithms are ignored. Raises BadDigest.
    """
    digests = {
        _sha256(item) for value in values for key, item in _members(value.strip(" \t")) if key == "sha-256"
    }
    if len(digests) > 1:
        raise BadDigest("The declared SHA-256 digests disagree.")
    return digests.pop() if digests else None


def verify(declared: bytes | None, sha256_hex: str) -> None:
    """Raise BadDigest when what was declared is not the digest of what came."""
    if declared is not None and declared != bytes.fromhex(sha256_hex):
        raise BadDigest("The bytes do not have the SHA-256 digest that was declared for them.")


def _members(dictionary: str) -> Iterator[tuple[str, str | None]]:
    """Keys and unparsed values of a dictionary (RFC 9651 4.2.2), also where a later one overrides."""
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


def _sha256(item: str | None) -> bytes:
    """The digest in a byte sequence, padded or not (RFC 9651 4.2.7)."""
    match = _SHA256.fullmatch(item or "")
    if match is None:
        raise BadDigest("A declared SHA-256 digest is not 32 bytes in base64 between colons.")
    return base64.b64decode(f"{match[1]}=")

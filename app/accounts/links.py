"""Signatures of links. A signature covers the path, so that the URL of one file does not open another."""

import hashlib
import re
from collections.abc import Sequence
from enum import Enum

from itsdangerous import Signer

from app.accounts.models import SigningKey

# An id, and 32 bytes in base64url without padding. The last character holds only four bits: only the spelling
# with zeros in the other two is accepted, so that a link has one spelling.
_SIGNED = re.compile(r"([0-9A-Za-z-]{1,64})\.([0-9A-Za-z_-]{42}[AEIMQUYcgkosw048])")


class LinkKind(Enum):
    """The target of a link: one file, or the playlist of a folder and the files in it."""

    FILE = "file"
    PLAYLIST = "playlist"


class LinkSigner:
    """A signer with the newest of `keys`, which come first; signatures of all of them are accepted."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._signer = Signer(
            [key.secret for key in reversed(keys)],
            salt=b"seekable.link",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    def sign(self, link_id: str, kind: LinkKind, path: str) -> str:
        """Return `ID.SIGNATURE`, which opens this path on behalf of a link."""
        return f"{link_id}.{self._signer.get_signature(_message(link_id, kind, path)).decode()}"

    def check(self, signed: str, kind: LinkKind, path: str) -> str | None:
        """Return the id of the link. Returns None if the signature is wrong, or of another kind or path."""
        match = _SIGNED.fullmatch(signed)
        if match and self._signer.verify_signature(_message(match[1], kind, path), match[2].encode()):
            return match[1]
        return None


def looks_signed(text: str) -> bool:
    """Return whether a text has the form of a signed link, whichever key signed it."""
    return _SIGNED.fullmatch(text) is not None


def _message(link_id: str, kind: LinkKind, path: str) -> bytes:
    # Ids and kinds contain no line break.
    return f"{link_id}\n{kind.value}\n{path}".encode()

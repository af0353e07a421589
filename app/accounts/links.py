"""Signing links, so that the address of one file does not become that of another."""

import hashlib
import re
from collections.abc import Sequence
from enum import Enum

from itsdangerous import Signer

from app.accounts.models import SigningKey

# An id, and 32 bytes as base64url without padding, whose last character holds but four bits: what decodes to
# the same bytes is no second spelling of a link.
_TOKEN = re.compile(r"([0-9A-Za-z-]{1,64})\.([0-9A-Za-z_-]{42}[AEIMQUYcgkosw048])")


class LinkKind(Enum):
    """What a link is for."""

    FILE = "file"
    PLAYLIST = "playlist"


class LinkSigner:
    """Signs with the newest key, and takes what any of them signed. `keys` begin with the newest."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._signer = Signer(
            [key.secret for key in reversed(keys)],
            salt=b"seekable.link",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    def sign(self, link_id: str, kind: LinkKind, path: str) -> str:
        """What opens a file, or the playlist of a folder, on behalf of a link: `ID.SIGNATURE`."""
        return f"{link_id}.{self._signer.get_signature(_said(link_id, kind, path)).decode()}"

    def check(self, token: str, kind: LinkKind, path: str) -> str | None:
        """The id of the link that it was signed for; None if it was not, or for something else."""
        match = _TOKEN.fullmatch(token)
        if match and self._signer.verify_signature(_said(match[1], kind, path), match[2].encode()):
            return match[1]
        return None


def looks_signed(token: str) -> bool:
    """Whether it looks like what is signed, by whatever key."""
    return _TOKEN.fullmatch(token) is not None


def _said(link_id: str, kind: LinkKind, path: str) -> bytes:
    # No id and no kind holds a line break.
    return f"{link_id}\n{kind.value}\n{path}".encode()

"""The hash and the encoding of bytes, computed while they are read or written."""

import codecs
import hashlib
from collections.abc import Collection

_STEP = 64 << 10
"""Bytes to decode in one go: their characters take up to four times as much memory."""

_decoder = codecs.getincrementaldecoder("utf-8")


class ContentHash:
    """The SHA-256 of bytes, and whether they are UTF-8. Used by one thread at a time."""

    def __init__(self, algorithms: Collection[str] = ()) -> None:
        """`algorithms` are names of hashlib, to be computed in addition to SHA-256."""
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", *algorithms}}
        self._text: codecs.IncrementalDecoder | None = _decoder()
        """None once the bytes cannot be text: in most files, within the first few."""

    def update(self, data: bytes) -> None:
        for each in self._hashes.values():
            each.update(data)
        if self._text is not None and not self._is_text(self._text, data):
            self._text = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._hashes["sha256"].hexdigest()

    def digest(self, algorithm: str) -> bytes:
        """Return the hash of the bytes so far, by SHA-256 or one of the `algorithms`."""
        return self._hashes[algorithm].digest()

    @property
    def is_utf8(self) -> bool:
        """Whether the bytes so far are valid UTF-8 (RFC 3629) without NUL, which UTF-16 text contains."""
        return self._text is not None and not self._text.getstate()[0]

    def _is_text(self, decoder: codecs.IncrementalDecoder, data: bytes) -> bool:
        if b"\0" in data:
            return False
        try:
            for start in range(0, len(data), _STEP):
                decoder.decode(data[start : start + _STEP])
        except UnicodeDecodeError:
            return False
        return True

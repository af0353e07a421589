"""The SHA-256 of bytes, and whether they are text in UTF-8, computed while the bytes pass."""

import codecs
import hashlib

_STEP = 64 << 10
"""Bytes that are decoded at once: their characters take up to four times as much memory."""

_decoder = codecs.getincrementaldecoder("utf-8")


class Fingerprint:
    """What is known of bytes that were read or written once. Used by one thread at a time."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._text: codecs.IncrementalDecoder | None = _decoder()
        """None once the bytes have turned out to be no text, which most files do within their first bytes."""

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._text is not None and not self._is_text(self._text, data):
            self._text = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def is_utf8(self) -> bool:
        """Whether the bytes so far are valid UTF-8 (RFC 3629) without NUL, which UTF-16 is full of."""
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

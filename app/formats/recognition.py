"""Recognises a container by its first bytes, whatever its Content-Type is. Pure."""

from collections.abc import Callable
from typing import Protocol

from app.formats.errors import UnsupportedFormat
from app.formats.flv import FlvParser
from app.formats.fragments import FragmentParser
from app.formats.matroska import MatroskaParser
from app.formats.samples import Event
from app.formats.transport import PACKET, TransportParser

ENOUGH = 3 * PACKET
"""Bytes that are enough to recognise every container."""

CONTAINERS = "MPEG-TS, fragmented MP4, Matroska, WebM or FLV"


class Parser(Protocol):
    """A push parser of one container."""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes. Raises Malformed, UnsupportedFormat."""

    def close(self, *, is_torn: bool = False) -> list[Event]:
        """Return the last events. Raises Malformed, UnsupportedFormat.

        `is_torn` states that the stream broke off: a picture that may lack its end is dropped.
        """


_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx"})
_REFUSED = {
    b"RIFF": "an AVI or WAV file",
    b"OggS": "an Ogg stream",
    b"ID3": "a bare sound stream",
    b"fLaC": "a bare sound stream",
    b"\xff\xf1": "a bare sound stream",
    b"\xff\xf9": "a bare sound stream",
    b"\xff\xfb": "a bare sound stream",
    b"\x00\x00\x01\xba": "an MPEG program stream",
    b"\x00\x00\x00\x01": "a bare H.264 or HEVC stream",
    b"0&\xb2u": "an ASF stream",
    b"#EXTM3U": "a playlist",
    b"<": "text",
}


def recognise(head: bytes, *, is_whole: bool = False) -> Callable[[], Parser] | None:
    """Return the parser for a stream with these first bytes; None if more are needed.

    `is_whole` states that no more will come. Raises UnsupportedFormat.
    """
    for start, parser in ((b"\x1a\x45\xdf\xa3", MatroskaParser), (b"FLV", FlvParser)):
        if head.startswith(start):
            return parser
    if head[4:8] in _MP4_BOXES:
        return FragmentParser
    for start, name in _REFUSED.items():
        if head.startswith(start):
            raise UnsupportedFormat(f"The body is {name}. Send {CONTAINERS}.")
    if len(head) >= ENOUGH or is_whole:
        if _is_transport_stream(head):
            return TransportParser
        raise UnsupportedFormat(f"The format of the body is unknown. Send {CONTAINERS}.")
    return None


def _is_transport_stream(head: bytes) -> bool:
    """Return whether packets follow one another, perhaps after the end of a packet."""
    return any(
        all(mark == 0x47 for mark in head[at::PACKET]) and len(head) > at
        for at in range(min(PACKET, len(head)))
    )

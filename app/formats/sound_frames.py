"""Opus packets (RFC 6716 §3.1), MP3 frames (ISO/IEC 11172-3 §2.4.1.3) and FLAC frames (RFC 9639 §9.1).

Pure.
"""

from typing import NamedTuple

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed, unsupported

OPUS_RATE = 48_000
"""Times of Opus are in samples of this rate, whatever the rate of its input."""

MPEG_HEADER = 4
"""Bytes of the header of a frame of MPEG audio."""

_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)

# RFC 7845 §5.1.1.2: streams, coupled streams and mapping of family 1, by the number of channels.
_VORBIS_LAYOUTS = {
    3: (2, 1, b"\x00\x02\x01"),
    4: (2, 2, b"\x00\x01\x02\x03"),
    5: (3, 2, b"\x00\x04\x01\x02\x03"),
    6: (4, 2, b"\x00\x04\x01\x02\x03\x05"),
    7: (4, 3, b"\x00\x04\x01\x02\x03\x05\x06"),
    8: (5, 3, b"\x00\x06\x01\x02\x03\x04\x05\x07"),
}


def opus_samples(packet: bytes) -> int:
    """Return the duration of an Opus packet, in samples of 48 kHz. Raises Malformed."""
    if not packet:
        raise Malformed("An Opus packet is empty.")
    kind = packet[0] >> 3
    if kind < 12:
        samples = _SILK[kind & 3]
    elif kind < 16:
        samples = _HYBRID[kind & 1]
    else:
        samples = _CELT[kind & 3]
    code = packet[0] & 3
    if code == 3:
        if len(packet) < 2:
            raise Malformed("An Opus packet is too short.")
        count = packet[1] & 0x3F
    else:
        count = 1 if code == 0 else 2
    if not 0 < count * samples <= 5760:
        raise Malformed("An Opus packet is longer than 120 ms.")
    return count * samples


def opus_configuration(head: bytes) -> bytes:
    """Return the content of dOps for an OpusHead packet (Opus in ISO BMFF §4.3.2). Raises Malformed."""
    reader = ByteReader(head)
    if reader.take(8) != b"OpusHead" or reader.unsigned(1) & 0xF0:
        raise Malformed("An Opus track has no OpusHead.")
    channels = reader.take(1)
    little = [reader.take(size)[::-1] for size in (2, 4, 2)]
    family = reader.take(1)
    layout = reader.take(2 + channels[0]) if family != b"\x00" else b""
    return b"".join([b"\x00", channels, *little, family, layout])


def opus_for_channels(channels: int) -> bytes:
    """Return the content of dOps for a number of channels in their standard order.

    Raises UnsupportedFormat.
    """
    head = b"\x00" + bytes([channels]) + b"\x00\x00" + OPUS_RATE.to_bytes(4, "big") + b"\x00\x00"
    if 1 <= channels <= 2:
        return head + b"\x00"
    if channels not in _VORBIS_LAYOUTS:
        raise unsupported("Opus sound with an unknown channel layout")
    streams, coupled, mapping = _VORBIS_LAYOUTS[channels]
    return head + bytes([1, streams, coupled]) + mapping


def opus_channels(configuration: bytes) -> int:
    return ByteReader(configuration, 1).unsigned(1)


class MpegFrame(NamedTuple):
    """The fields of the header of a frame of MPEG audio layer III."""

    size: int
    samples: int
    rate: int
    channels: int


_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MP3_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def parse_mpeg_frame(data: bytes, at: int) -> MpegFrame | None:
    """Parse the header at `at`, followed by at least MPEG_HEADER bytes; None if there is no valid one.

    Raises UnsupportedFormat for layers I and II, and for free format.
    """
    if data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    bit_rate, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 0 or bit_rate == 15 or rate == 3:
        return None
    if layer > 1:
        raise unsupported("MP2 sound" if layer == 2 else "MP1 sound")
    if bit_rate == 0:
        raise unsupported("MP3 sound in free format")
    is_first = version == 3
    hertz = _MP3_RATES[version][rate]
    samples = 1152 if is_first else 576
    padding = data[at + 2] >> 1 & 1
    size = samples // 8 * 1000 * _MP3_KBITS[is_first][bit_rate] // hertz + padding
    return MpegFrame(size, samples, hertz, 1 if data[at + 3] >> 6 == 3 else 2)


_FLAC_MARKER = b"fLaC"
_STREAMINFO_BYTES = 34


class StreamInfo(NamedTuple):
    """The fields of STREAMINFO (RFC 9639 §8.2)."""

    rate: int
    channels: int
    depth: int


def flac_configuration(private: bytes) -> bytes:
    """Return the content of dfLa for the head of a FLAC stream, `fLaC` and its metadata. Raises Malformed."""
    reader = ByteReader(private)
    if reader.take(4) != _FLAC_MARKER:
        raise Malformed("A FLAC track has no marker.")
    if reader.unsigned(1) & 0x7F or reader.unsigned(3) != _STREAMINFO_BYTES:
        raise Malformed("The first metadata block of a FLAC track is not STREAMINFO.")
    return bytes(4) + b"\x80\x00\x00\x22" + reader.take(_STREAMINFO_BYTES)


def parse_flac_configuration(configuration: bytes) -> StreamInfo:
    """Parse the content of dfLa. Raises Malformed."""
    reader = BitReader(ByteReader(configuration, 8).take(_STREAMINFO_BYTES))
    reader.skip(80)
    rate, channels, depth = reader.bits(20), reader.bits(3) + 1, reader.bits(5) + 1
    if not rate:
        raise Malformed("The STREAMINFO of a FLAC track has no rate.")
    return StreamInfo(rate, channels, depth)


def flac_samples(frame: bytes) -> int:
    """Return the samples of each channel in a frame. Raises Malformed."""
    reader = ByteReader(frame)
    if reader.unsigned(2) & 0xFFFC != 0xFFF8:
        raise Malformed("A FLAC frame has no sync code.")
    code = reader.unsigned(2) >> 12
    if code == 1:
        return 192
    if 2 <= code <= 5:
        return 144 << code
    if code >= 8:
        return 1 << code
    first = reader.unsigned(1)  # of the frame's number, coded like UTF-8
    reader.take(max(8 - (~first & 0xFF).bit_length() - 1, 0))
    if not code:
        raise Malformed("A FLAC frame has an unknown block size.")
    return reader.unsigned(code - 5) + 1

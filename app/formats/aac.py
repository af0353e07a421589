"""AAC: AudioSpecificConfig (ISO/IEC 14496-3 §1.6.2.1), ADTS (§1.A.3.2), and esds (ISO/IEC 14496-1 §7.2.6).

Pure.
"""

from typing import NamedTuple

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed, unsupported

RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)

ADTS_HEADER = 7
"""Bytes that decide the length of a frame."""

_SPECTRAL_BAND_REPLICATION = 5
_PARAMETRIC_STEREO = 29
_ESCAPE = 31

_ES_DESCRIPTOR, _DECODER_CONFIG, _DECODER_SPECIFIC, _SYNC_LAYER = 3, 4, 5, 6
_AUDIO_STREAM = 0x15
AAC_OBJECT = 0x40
_MPEG2_AAC_OBJECTS = frozenset({0x66, 0x67, 0x68})
MP3_OBJECT = 0x6B
_MP3_OBJECTS = frozenset({0x69, MP3_OBJECT})


class AacConfiguration(NamedTuple):
    """The fields of an AudioSpecificConfig."""

    object_type: int
    rate: int
    """Samples per second of the core: half of those that are heard with spectral band replication."""
    channels: int
    """0 if a program config element describes them."""
    frame_samples: int


def parse_configuration(data: bytes) -> AacConfiguration:
    """Parse an AudioSpecificConfig. Raises Malformed."""
    reader = BitReader(data[:64])
    object_type = declared = _object_type(reader)
    rate = _rate(reader)
    channels = reader.bits(4)
    if object_type in {_SPECTRAL_BAND_REPLICATION, _PARAMETRIC_STEREO}:
        _rate(reader)
        object_type = _object_type(reader)
    is_short = object_type <= 4 and reader.flag()
    if not rate or channels >= len(_CHANNELS):
        raise Malformed("An AAC configuration has an unknown rate or channel layout.")
    return AacConfiguration(declared, rate, _CHANNELS[channels], 960 if is_short else 1024)


def _object_type(reader: BitReader) -> int:
    value = reader.bits(5)
    return 32 + reader.bits(6) if value == _ESCAPE else value


def _rate(reader: BitReader) -> int:
    index = reader.bits(4)
    if index == 15:
        return reader.bits(24)
    return RATES[index] if index < len(RATES) else 0


def configuration_for(rate: int, channels: int) -> bytes:
    """Return the AudioSpecificConfig of AAC-LC. Raises Malformed."""
    if rate not in RATES or channels not in _CHANNELS[1:]:
        raise Malformed("An AAC track has no configuration.")
    return (2 << 11 | RATES.index(rate) << 7 | _CHANNELS.index(channels) << 3).to_bytes(2, "big")


def codec_string(data: bytes) -> str:
    """Return the RFC 6381 string for an AudioSpecificConfig: `mp4a.40.2`."""
    return f"mp4a.40.{_object_type(BitReader(data))}"


class AdtsHeader(NamedTuple):
    """The fields of the header of one frame."""

    header_size: int
    size: int
    """Bytes of the frame, with its header."""
    configuration: bytes
    """The AudioSpecificConfig that the header stands for."""


def parse_adts(data: bytes, at: int) -> AdtsHeader | None:
    """Parse the ADTS header at `at`, followed by at least ADTS_HEADER bytes; None if there is no valid one.

    Raises UnsupportedFormat for what an AudioSpecificConfig of two bytes cannot describe.
    """
    if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return None
    header_size = 7 if data[at + 1] & 1 else 9
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    rate = data[at + 2] >> 2 & 15
    if size <= header_size or rate >= len(RATES):
        return None
    if data[at + 6] & 3:
        raise unsupported("AAC with several blocks in one ADTS frame")
    channels = (data[at + 2] & 1) << 2 | data[at + 3] >> 6
    if not channels:
        raise unsupported("AAC with a channel layout of its own")
    object_type = (data[at + 2] >> 6) + 1
    packed = object_type << 11 | rate << 7 | channels << 3
    return AdtsHeader(header_size, size, packed.to_bytes(2, "big"))


def elementary_stream(object_type: int, configuration: bytes) -> bytes:
    """Return the content of esds, with its version and flags."""
    specific = _descriptor(_DECODER_SPECIFIC, configuration) if configuration else b""
    # The size of the decoder's buffer and the bit rates are not known.
    decoder = bytes([object_type, _AUDIO_STREAM]) + bytes(11) + specific
    content = b"\x00\x00\x00" + _descriptor(_DECODER_CONFIG, decoder) + _descriptor(_SYNC_LAYER, b"\x02")
    return bytes(4) + _descriptor(_ES_DESCRIPTOR, content)


def _descriptor(tag: int, content: bytes) -> bytes:
    size = len(content)
    return (
        bytes([tag, 0x80 | size >> 21 & 0x7F, 0x80 | size >> 14 & 0x7F, 0x80 | size >> 7 & 0x7F, size & 0x7F])
        + content
    )


def parse_elementary_stream(data: bytes) -> tuple[bool, bytes]:
    """Return whether esds describes MP3, and its AudioSpecificConfig, which may be missing.

    Raises Malformed, UnsupportedFormat.
    """
    tag, content = _next_descriptor(ByteReader(data, 4))
    if tag != _ES_DESCRIPTOR:
        raise Malformed("The description of a sound track (esds) is not one.")
    reader = ByteReader(content, 2)
    flags = reader.unsigned(1)
    reader.take(2 * (flags >> 7 & 1))
    if flags & 0x40:
        reader.take(reader.unsigned(1))
    reader.take(2 * (flags >> 5 & 1))
    tag, content = _next_descriptor(reader)
    decoder = ByteReader(content)
    object_type = decoder.unsigned(1)
    if object_type in _MP3_OBJECTS:
        return True, b""
    if object_type not in {AAC_OBJECT} | _MPEG2_AAC_OBJECTS:
        raise unsupported(f"sound of MPEG-4 object type 0x{object_type:02X}")
    decoder.take(12)
    if not decoder.left:
        return False, b""
    tag, configuration = _next_descriptor(decoder)
    return False, configuration if tag == _DECODER_SPECIFIC else b""


def _next_descriptor(reader: ByteReader) -> tuple[int, bytes]:
    """Return the tag and the content of a descriptor (ISO/IEC 14496-1 §8.3.3)."""
    tag = reader.unsigned(1)
    size = 0
    for _ in range(4):
        byte = reader.unsigned(1)
        size = size << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return tag, reader.take(min(size, reader.left))

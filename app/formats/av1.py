"""AV1: the sequence header (AV1 §5.5) and av1C (AV1 in ISO BMFF §2.3). Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed

_SEQUENCE_HEADER = 1
_MAX_OBUS = 256
_SELECT = 2
_SRGB, _SRGB_TRANSFER, _IDENTITY = 1, 13, 0
_UNSPECIFIED = 2


@dataclass
class SequenceHeader:
    """The fields of a sequence header OBU that a configuration and a track need."""

    profile: int = 0
    level: int = 0
    tier: int = 0
    width: int = 0
    height: int = 0
    is_high_depth: bool = False
    is_twelve_bit: bool = False
    is_monochrome: bool = False
    subsampling: tuple[int, int] = (1, 1)
    chroma_position: int = 0


def sequence_header_of(sample: bytes) -> bytes | None:
    """Return the whole sequence header OBU of a sample, None if it contains none. Raises Malformed."""
    return next((obu for kind, obu, _ in _obus(sample) if kind == _SEQUENCE_HEADER), None)


def _obus(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the type, the bytes and the payload of each OBU (§5.3)."""
    reader = ByteReader(data)
    for _ in range(_MAX_OBUS):
        if not reader.left:
            return
        start = reader.position
        head = reader.unsigned(1)
        if head & 4:
            reader.take(1)
        size = _leb128(reader) if head & 2 else reader.left
        payload = reader.take(size)
        yield head >> 3 & 15, data[start : reader.position], payload


def _leb128(reader: ByteReader) -> int:
    value = 0
    for index in range(8):
        byte = reader.unsigned(1)
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value
    raise Malformed("The size of an OBU is too long.")


def parse_sequence_header(obu: bytes) -> SequenceHeader:
    """Parse a sequence header OBU (§5.5.1). Raises Malformed."""
    payload = next((payload for kind, _, payload in _obus(obu) if kind == _SEQUENCE_HEADER), b"")
    reader = BitReader(payload)
    header = SequenceHeader(profile=reader.bits(3))
    reader.flag()  # still_picture
    if reader.flag():  # reduced_still_picture_header
        header.level = reader.bits(5)
        is_reduced = True
    else:
        _operating_points(reader, header)
        is_reduced = False
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    header.width, header.height = reader.bits(width_bits) + 1, reader.bits(height_bits) + 1
    if not is_reduced and reader.flag():
        reader.skip(7)
    reader.skip(3)
    if not is_reduced:
        _skip_tools(reader)
    reader.skip(3)
    _color_config(reader, header)
    return header


def _operating_points(reader: BitReader, header: SequenceHeader) -> None:
    has_decoder_model = False
    delay_bits = 0
    if reader.flag():  # timing_info_present_flag
        reader.skip(64)
        if reader.flag():
            reader.ue()
        has_decoder_model = reader.flag()
        if has_decoder_model:
            delay_bits = reader.bits(5) + 1
            reader.skip(42)
    has_display_delay = reader.flag()
    for index in range(reader.bits(5) + 1):
        reader.skip(12)
        level = reader.bits(5)
        tier = reader.bits(1) if level > 7 else 0
        if index == 0:
            header.level, header.tier = level, tier
        if has_decoder_model and reader.flag():
            reader.skip(2 * delay_bits + 1)
        if has_display_delay and reader.flag():
            reader.skip(4)


def _skip_tools(reader: BitReader) -> None:
    """Skip enable_interintra_compound to seq_choose_integer_mv."""
    reader.skip(4)
    has_order_hint = reader.flag()
    if has_order_hint:
        reader.skip(2)
    screen_content = _SELECT if reader.flag() else reader.bits(1)
    if screen_content > 0 and not reader.flag():
        reader.skip(1)
    if has_order_hint:
        reader.skip(3)


def _color_config(reader: BitReader, header: SequenceHeader) -> None:
    """Read color_config() (§5.5.2)."""
    header.is_high_depth = reader.flag()
    if header.profile == 2 and header.is_high_depth:
        header.is_twelve_bit = reader.flag()
    header.is_monochrome = header.profile != 1 and reader.flag()
    colors = (_UNSPECIFIED, _UNSPECIFIED, _UNSPECIFIED)
    if reader.flag():
        colors = (reader.bits(8), reader.bits(8), reader.bits(8))
    if header.is_monochrome:
        return
    if colors == (_SRGB, _SRGB_TRANSFER, _IDENTITY):
        header.subsampling = (0, 0)
        return
    reader.flag()  # color_range
    if header.profile == 0:
        header.subsampling = (1, 1)
    elif header.profile == 1:
        header.subsampling = (0, 0)
    elif header.is_twelve_bit:
        horizontal = reader.bits(1)
        header.subsampling = (horizontal, reader.bits(1) if horizontal else 0)
    else:
        header.subsampling = (1, 0)
    if header.subsampling == (1, 1):
        header.chroma_position = reader.bits(2)


def configuration(obu: bytes) -> bytes:
    """Return the content of av1C for a sequence header OBU. Raises Malformed."""
    header = parse_sequence_header(obu)
    flags = (
        header.tier << 7 | header.is_high_depth << 6 | header.is_twelve_bit << 5 | header.is_monochrome << 4
    )
    flags |= header.subsampling[0] << 3 | header.subsampling[1] << 2 | header.chroma_position
    return bytes([0x81, header.profile << 5 | header.level, flags, 0]) + obu


def codec_string(data: bytes) -> str:
    """Return the string for the content of av1C: `av01.0.04M.08` (AV1 in ISO BMFF §5)."""
    reader = ByteReader(data, 1)
    profile_level, flags = reader.unsigned(1), reader.unsigned(1)
    tier = "H" if flags & 0x80 else "M"
    depth = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return f"av01.{profile_level >> 5}.{profile_level & 31:02d}{tier}.{depth:02d}"

"""H.264: the sequence parameter set (ITU-T H.264 §7.3.2.1.1) and avcC (ISO/IEC 14496-15 §5.3.3.1). Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed

SPS = 7
PPS = 8
PARAMETER_SETS = frozenset({SPS, PPS})
DISCARDED = frozenset({9, 10, 11, 12})
"""Access unit delimiters, ends of sequence and stream, filler data."""

_IDR_SLICE = 5
_SLICE = 1
_SEI = 6
_RECOVERY_POINT = 6
_I_SLICES = frozenset({2, 7})

_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_EXTENDED_SAR = 255
_MAX_PICTURE = 1 << 16
_MAX_REORDERED = 16


class SequenceParameterSet(NamedTuple):
    """The fields that a configuration and a track need."""

    profile: int
    constraints: int
    level: int
    chroma_format: int
    luma_depth: int
    chroma_depth: int
    width: int
    height: int
    reordered: int
    """Frames that may precede a frame in decoding order and follow it in output order."""


def unit_type(unit: bytes) -> int:
    return unit[0] & 0x1F


def set_id(unit: bytes) -> int:
    """Return the id of a parameter set."""
    reader = BitReader(unit[1:16])
    if unit_type(unit) == SPS:
        reader.skip(24)
    return reader.ue()


def is_key(kinds: Sequence[int], units: Sequence[bytes]) -> bool:
    """Return whether decoding can begin here: at an IDR picture, or an I picture with a recovery point."""
    if _IDR_SLICE in kinds:
        return True
    has_recovery_point = any(
        kind == _SEI and _RECOVERY_POINT in _sei_types(unit) for kind, unit in zip(kinds, units, strict=True)
    )
    return has_recovery_point and all(
        _slice_type(unit) in _I_SLICES for kind, unit in zip(kinds, units, strict=True) if kind == _SLICE
    )


def _slice_type(unit: bytes) -> int:
    reader = BitReader(unit[1:16])
    reader.ue()
    return reader.ue()


def _sei_types(unit: bytes) -> list[int]:
    """Return the types of the messages (§7.3.2.3.1)."""
    types = []
    at = 1
    while at + 2 < len(unit):
        values = []
        for _ in range(2):
            value = 0
            while at < len(unit) and unit[at] == 0xFF:
                value += 0xFF
                at += 1
            if at < len(unit):
                value += unit[at]
                at += 1
            values.append(value)
        types.append(values[0])
        at += values[1]
    return types


def unescape(unit: bytes) -> bytes:
    """Remove the emulation prevention bytes (§7.4.1)."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def parse_sps(unit: bytes) -> SequenceParameterSet:
    """Parse a sequence parameter set. Raises Malformed."""
    reader = BitReader(unescape(unit)[1:])
    profile, constraints, level = reader.bits(8), reader.bits(8), reader.bits(8)
    reader.ue()
    chroma_format, luma_depth, chroma_depth = _chroma(reader) if profile in _WITH_CHROMA_FORMAT else (1, 8, 8)
    reader.ue()  # log2_max_frame_num_minus4
    order_type = reader.ue()
    _skip_picture_order(reader, order_type)
    references = reader.ue()
    reader.flag()  # gaps_in_frame_num_value_allowed_flag
    width = 16 * (reader.ue() + 1)
    map_units = reader.ue() + 1
    frames_only = reader.flag()
    height = 16 * map_units * (1 if frames_only else 2)
    if not frames_only:
        reader.flag()
    reader.flag()  # direct_8x8_inference_flag
    if reader.flag():
        left, right, top, bottom = (reader.ue() for _ in range(4))
        unit_x = 2 if chroma_format in {1, 2} else 1
        unit_y = (2 if chroma_format == 1 else 1) * (1 if frames_only else 2)
        width -= unit_x * (left + right)
        height -= unit_y * (top + bottom)
    if not (0 < width < _MAX_PICTURE and 0 < height < _MAX_PICTURE):
        raise Malformed("The picture of an H.264 stream has an impossible size.")
    # Without a limit in the stream, no more frames than are kept for reference, but for types that keep the
    # order.
    in_order = order_type == 2 or profile == 66
    limit = _reorder_limit(reader) if reader.flag() else None
    reordered = (0 if in_order else max(references, 1)) if limit is None else limit
    return SequenceParameterSet(
        profile, constraints, level, chroma_format, luma_depth, chroma_depth, width, height,
        min(reordered, _MAX_REORDERED),
    )  # fmt: skip


def _chroma(reader: BitReader) -> tuple[int, int, int]:
    """Return chroma_format_idc and the bit depths of luma and chroma."""
    chroma_format = reader.ue()
    if chroma_format == 3:
        reader.flag()
    luma, chroma = reader.ue() + 8, reader.ue() + 8
    if chroma_format > 3 or luma > 14 or chroma > 14:
        raise Malformed("An H.264 stream has an impossible pixel format.")
    reader.flag()
    if reader.flag():
        for index in range(12 if chroma_format == 3 else 8):
            if reader.flag():
                _skip_scaling_list(reader, 16 if index < 6 else 64)
    return chroma_format, luma, chroma


def _skip_scaling_list(reader: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.se()) % 256
        last = following or last


def _skip_picture_order(reader: BitReader, order_type: int) -> None:
    if order_type == 0:
        reader.ue()
    elif order_type == 1:
        reader.flag()
        reader.se()
        reader.se()
        for _ in range(min(reader.ue(), 255)):
            reader.se()


def _reorder_limit(reader: BitReader) -> int | None:
    """Return max_num_reorder_frames of the VUI parameters, None if they lack it (§E.1.1)."""
    if reader.flag() and reader.bits(8) == _EXTENDED_SAR:
        reader.skip(32)
    if reader.flag():
        reader.flag()
    if reader.flag():
        reader.skip(4)
        if reader.flag():
            reader.skip(24)
    if reader.flag():
        reader.ue()
        reader.ue()
    if reader.flag():
        reader.skip(65)
    hrd = [_skip_hrd(reader) for _ in range(2)]
    if any(hrd):
        reader.flag()
    reader.flag()
    if not reader.flag():
        return None
    reader.flag()
    for _ in range(4):
        reader.ue()
    return reader.ue()


def _skip_hrd(reader: BitReader) -> bool:
    """Skip hrd_parameters() if they are present, and return whether they are (§E.1.2)."""
    if not reader.flag():
        return False
    count = min(reader.ue(), 31) + 1
    reader.skip(8)
    for _ in range(count):
        reader.ue()
        reader.ue()
        reader.flag()
    reader.skip(20)
    return True


def configuration(sequence_sets: Sequence[bytes], picture_sets: Sequence[bytes]) -> bytes:
    """Return the content of avcC, with lengths of four bytes. Raises Malformed."""
    first = parse_sps(sequence_sets[0])
    parts = [
        bytes([1, first.profile, first.constraints, first.level, 0xFF, 0xE0 | len(sequence_sets) & 0x1F])
    ]
    parts += [part for unit in sequence_sets for part in (len(unit).to_bytes(2, "big"), unit)]
    parts.append(bytes([len(picture_sets) & 0xFF]))
    parts += [part for unit in picture_sets for part in (len(unit).to_bytes(2, "big"), unit)]
    if first.profile in {100, 110, 122, 144, 244}:
        depths = first.luma_depth - 8, first.chroma_depth - 8
        parts.append(bytes([0xFC | first.chroma_format, 0xF8 | depths[0], 0xF8 | depths[1], 0]))
    return b"".join(parts)


class AvcConfiguration(NamedTuple):
    """The fields of avcC."""

    length_size: int
    """Bytes of the length before each NAL unit."""
    sequence_sets: tuple[bytes, ...]
    picture_sets: tuple[bytes, ...]


def parse_configuration(data: bytes) -> AvcConfiguration:
    """Parse the content of avcC. Raises Malformed."""
    reader = ByteReader(data)
    reader.take(4)
    length_size = (reader.unsigned(1) & 3) + 1
    sequence_sets = tuple(reader.take(reader.unsigned(2)) for _ in range(reader.unsigned(1) & 0x1F))
    picture_sets = tuple(reader.take(reader.unsigned(2)) for _ in range(reader.unsigned(1)))
    return AvcConfiguration(length_size, sequence_sets, picture_sets)


def codec_string(data: bytes) -> str:
    """Return the RFC 6381 string for the content of avcC: `avc1.64001f`."""
    return f"avc1.{ByteReader(data, 1).take(3).hex()}"

"""HEVC: the sequence parameter set (ITU-T H.265 §7.3.2.2) and hvcC (ISO/IEC 14496-15 §8.3.3.1). Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed
from app.formats.h264 import unescape

VPS = 32
SPS = 33
PPS = 34
PARAMETER_SETS = frozenset({VPS, SPS, PPS})
DISCARDED = frozenset({35, 36, 37, 38})
"""Access unit delimiters, ends of sequence and bitstream, filler data."""

_INTRA_RANDOM_ACCESS = frozenset(range(16, 22))
_MAX_PICTURE = 1 << 16


class HevcSequence(NamedTuple):
    """The fields of a sequence parameter set that a configuration and a track need."""

    profile_tier_level: bytes
    """The twelve bytes of general_profile_space to general_level_idc, as in hvcC."""
    sub_layers: int
    is_nested: bool
    chroma_format: int
    luma_depth: int
    chroma_depth: int
    width: int
    height: int
    reordered: int
    """Pictures that may precede a picture in decoding order and follow it in output order."""


def unit_type(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def set_id(unit: bytes) -> int:
    """Return the id of a parameter set."""
    kind = unit_type(unit)
    if kind == VPS:
        return BitReader(unit[2:3]).bits(4)
    if kind == SPS:
        reader = BitReader(unescape(unit)[2:])
        _profile_tier_level(reader)
        return reader.ue()
    return BitReader(unit[2:16]).ue()


def is_key(kinds: Sequence[int], units: Sequence[bytes]) -> bool:
    """Return whether the access unit is an intra random access point (§7.4.2.2)."""
    return not _INTRA_RANDOM_ACCESS.isdisjoint(kinds)


def _profile_tier_level(reader: BitReader) -> tuple[bytes, int, bool]:
    """Return the general fields, the number of sub-layers, and whether these are nested (§7.3.3)."""
    reader.skip(4)
    sub_layers = reader.bits(3) + 1
    is_nested = reader.flag()
    general = reader.bits(96).to_bytes(12, "big")
    present = [(reader.flag(), reader.flag()) for _ in range(sub_layers - 1)]
    if sub_layers > 1:
        reader.skip(2 * (9 - sub_layers))
    for has_profile, has_level in present:
        reader.skip(88 * has_profile + 8 * has_level)
    return general, sub_layers, is_nested


def parse_sps(unit: bytes) -> HevcSequence:
    """Parse a sequence parameter set. Raises Malformed."""
    reader = BitReader(unescape(unit)[2:])
    general, sub_layers, is_nested = _profile_tier_level(reader)
    reader.ue()
    chroma_format = reader.ue()
    if chroma_format == 3:
        reader.flag()
    width, height = reader.ue(), reader.ue()
    if reader.flag():
        left, right, top, bottom = (reader.ue() for _ in range(4))
        width -= (2 if chroma_format in {1, 2} else 1) * (left + right)
        height -= (2 if chroma_format == 1 else 1) * (top + bottom)
    luma, chroma = reader.ue() + 8, reader.ue() + 8
    if (
        not (0 < width < _MAX_PICTURE and 0 < height < _MAX_PICTURE)
        or max(luma, chroma) > 15
        or chroma_format > 3
    ):
        raise Malformed("The picture of an HEVC stream has an impossible size or pixel format.")
    reader.ue()
    reordered = 0
    for _ in range(sub_layers if reader.flag() else 1):
        reader.ue()
        reordered = reader.ue()
        reader.ue()
    return HevcSequence(
        general, sub_layers, is_nested, chroma_format, luma, chroma, width, height, min(reordered, 16)
    )


def configuration(sets: Mapping[int, Sequence[bytes]]) -> bytes:
    """Return the content of hvcC for parameter sets by type, with lengths of four bytes. Raises Malformed."""
    sps = parse_sps(sets[SPS][0])
    parts = [
        b"\x01",
        sps.profile_tier_level,
        b"\xf0\x00\xfc",  # neither spatial segmentation nor parallelism is known
        bytes([0xFC | sps.chroma_format, 0xF8 | sps.luma_depth - 8, 0xF8 | sps.chroma_depth - 8]),
        b"\x00\x00",  # the frame rate is not known
        bytes([sps.sub_layers << 3 | sps.is_nested << 2 | 3, len(sets)]),
    ]
    for kind in sorted(sets):
        parts += [bytes([0x80 | kind]), len(sets[kind]).to_bytes(2, "big")]
        parts += [part for unit in sets[kind] for part in (len(unit).to_bytes(2, "big"), unit)]
    return b"".join(parts)


class HevcConfiguration(NamedTuple):
    """The fields of hvcC."""

    length_size: int
    sets: Mapping[int, tuple[bytes, ...]]
    """By type of NAL unit."""


def parse_configuration(data: bytes) -> HevcConfiguration:
    """Parse the content of hvcC. Raises Malformed."""
    reader = ByteReader(data)
    reader.take(21)
    length_size = (reader.unsigned(1) & 3) + 1
    sets = {}
    for _ in range(reader.unsigned(1)):
        kind = reader.unsigned(1) & 0x3F
        sets[kind] = tuple(reader.take(reader.unsigned(2)) for _ in range(reader.unsigned(2)))
    return HevcConfiguration(length_size, sets)


def codec_string(data: bytes) -> str:
    """Return the string for the content of hvcC: `hvc1.1.6.L93.90` (ISO/IEC 14496-15 §E.3)."""
    reader = ByteReader(data, 1)
    profile = reader.unsigned(1)
    compatibility = int(f"{reader.unsigned(4):032b}"[::-1], 2)
    constraints = reader.take(6).rstrip(b"\x00")
    level = reader.unsigned(1)
    space = ("", "A", "B", "C")[profile >> 6]
    tier = "H" if profile & 0x20 else "L"
    parts = [f"hvc1.{space}{profile & 0x1F}", f"{compatibility:X}", f"{tier}{level}"]
    return ".".join([*parts, *(f"{byte:X}" for byte in constraints)])

"""VP9: the header of a key frame (VP9 §6.2) and vpcC (VP Codec ISO Media File Format Binding). Pure."""

from typing import NamedTuple

from app.formats.bits import BitReader, ByteReader
from app.formats.errors import Malformed

_SYNC_CODE = 0x498342
_RGB = 7
_CHROMA_420, _CHROMA_422, _CHROMA_444, _CHROMA_440 = 1, 2, 3, 0
_MATRIX = {1: 6, 2: 1, 3: 6, 4: 7, 5: 9, 7: 0}
"""From color_space of VP9 to matrixCoefficients of ISO/IEC 23091-2."""

# The levels by the largest picture, in luma samples. The rate, which may require a higher one, is not known.
_LEVELS = [
    (36_864, 10), (73_728, 11), (122_880, 20), (245_760, 21), (552_960, 30), (983_040, 31), (2_228_224, 40),
    (8_912_896, 50), (35_651_584, 60),
]  # fmt: skip


class KeyFrame(NamedTuple):
    """The fields of the header of a key frame."""

    profile: int
    depth: int
    color_space: int
    is_full_range: bool
    chroma: int
    width: int
    height: int


def is_key(frame: bytes) -> bool:
    """Return whether a frame is a key frame. Raises Malformed."""
    reader = BitReader(frame[:4])
    _profile(reader)
    return not reader.flag() and not reader.flag()


def _profile(reader: BitReader) -> int:
    if reader.bits(2) != 2:
        raise Malformed("A VP9 frame has no frame marker.")
    profile = reader.bits(1) | reader.bits(1) << 1
    if profile == 3:
        reader.skip(1)
    return profile


def parse_key_frame(frame: bytes) -> KeyFrame:
    """Parse the uncompressed header of a key frame. Raises Malformed."""
    reader = BitReader(frame[:32])
    profile = _profile(reader)
    if reader.flag() or reader.flag():
        raise Malformed("The first VP9 frame is not a key frame.")
    reader.skip(2)
    if reader.bits(24) != _SYNC_CODE:
        raise Malformed("A VP9 key frame has no sync code.")
    depth = 8 if profile < 2 else (12 if reader.flag() else 10)
    color_space = reader.bits(3)
    chroma, is_full_range = _CHROMA_420, color_space == _RGB
    if color_space == _RGB:
        chroma = _CHROMA_444
        reader.skip(profile & 1)
    else:
        is_full_range = reader.flag()
        if profile & 1:
            horizontal, vertical = reader.bits(1), reader.bits(1)
            chroma = {(1, 0): _CHROMA_422, (0, 0): _CHROMA_444}.get((horizontal, vertical), _CHROMA_440)
            reader.skip(1)
    return KeyFrame(
        profile, depth, color_space, is_full_range, chroma, reader.bits(16) + 1, reader.bits(16) + 1
    )


def configuration(frame: KeyFrame) -> bytes:
    """Return the content of vpcC, with its version and flags."""
    level = _level(frame.width, frame.height)
    colors = bytes([2, 2, _MATRIX.get(frame.color_space, 2)])
    formats = frame.depth << 4 | frame.chroma << 1 | frame.is_full_range
    return b"\x01\x00\x00\x00" + bytes([frame.profile, level, formats]) + colors + b"\x00\x00"


def _level(width: int, height: int) -> int:
    return next((level for size, level in _LEVELS if width * height <= size), 62)


def with_level(configuration: bytes, width: int, height: int) -> bytes:
    """Return the content of vpcC with a level: Chromium's recorder writes 0, which no player accepts."""
    if len(configuration) < 12 or configuration[5]:
        return configuration
    return configuration[:5] + bytes([_level(width, height)]) + configuration[6:]


def codec_string(data: bytes) -> str:
    """Return the string for the content of vpcC: `vp09.00.30.08`."""
    profile, level, formats = ByteReader(data, 4).take(3)
    return f"vp09.{profile:02d}.{level:02d}.{formats >> 4:02d}"

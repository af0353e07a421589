"""Rare fields of parameter sets, written bit by bit, and parameter sets within the stream."""

from dataclasses import replace

import pytest

from app.formats import aac, av1, h264, hevc, vp9
from app.formats.codecs import described_by, is_described
from app.formats.errors import Malformed
from app.formats.nal_units import AccessUnits, join_lengths, split_annex_b, split_lengths
from app.formats.samples import Codec, Sample, Track
from tests.support.films import decoded, finished, make_film, parsed, recorded

SPS = bytes.fromhex("6742c00bda0b13b021000003000100000300320f142aa0")
OTHER_SPS = bytes.fromhex("674d401ef405a126ffc0040003c4000003000400000300c87c50aa80")
PPS = bytes.fromhex("68ce0fc8")
OTHER_PPS = bytes.fromhex("68de0fc8")
IDR, SLICE = b"\x65\x88\x84", b"\x41\x9a\x02"


def ue(value: int) -> str:
    """Return an unsigned Exp-Golomb code."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def packed(*fields: str) -> bytes:
    bits = "".join(fields).replace(" ", "") + "1"
    return int(bits.ljust((len(bits) + 7) // 8 * 8, "0"), 2).to_bytes((len(bits) + 7) // 8, "big")


def escaped(data: bytes) -> bytes:
    """Insert the emulation prevention bytes (H.264 §7.4.1)."""
    result = bytearray()
    for byte in data:
        if result.endswith(b"\x00\x00") and byte <= 3:
            result.append(3)
        result.append(byte)
    return bytes(result)


def h264_sps(
    *,
    profile: int = 100,
    chroma: str = "",
    order: str = ue(0) + ue(0),
    references: int = 4,
    vui: str = "0",
    frames_only: bool = True,
) -> bytes:
    """Return the SPS of a picture of 320 by 160 (or 320) pixels."""
    high = (chroma or ue(1) + ue(0) + ue(0) + "0" + "0") if profile == 100 else ""
    size = ue(19) + ue(9) + ("1" if frames_only else "0 1")
    head = bytes([0x67, profile, 0, 30])
    fields = packed(ue(0), high, ue(0), order, ue(references), "0", size, "1", "0", vui)
    return head + escaped(fields)


FLAT_LIST = "1" + ue(0) * 16
HRD = "1" + ue(0) + "0000 0000" + ue(10) + ue(10) + "1" + "0" * 20
RESTRICTION = "1 1" + ue(0) * 4 + ue(3) + ue(4)
ASPECT_AND_COLORS = "1 11111111" + "0" * 32 + "1 1" + "1 000 0 1" + "0" * 24 + "1" + ue(0) + ue(0)
TIMING = "1" + "0" * 65


@pytest.mark.parametrize(
    ("sps", "height", "reordered"),
    [
        (h264_sps(), 160, 4),
        (h264_sps(references=0), 160, 1),
        (h264_sps(profile=66), 160, 0),
        (h264_sps(order=ue(2)), 160, 0),
        (h264_sps(order=ue(1) + "0" + ue(0) + ue(0) + ue(2) + ue(0) + ue(0)), 160, 4),
        (h264_sps(frames_only=False), 320, 4),
        (h264_sps(chroma=ue(3) + "0" + ue(2) + ue(2) + "0" + "1" + FLAT_LIST * 6 + "0" * 6), 160, 4),
        (h264_sps(vui="1" + "0 0 0 0 0" + "0 0" + "0" + "0"), 160, 4),
        (h264_sps(vui="1" + "0 0 0 0 0" + "0 0" + "0" + RESTRICTION), 160, 3),
        (h264_sps(vui="1" + ASPECT_AND_COLORS + TIMING + HRD + HRD + "0" + "1" + RESTRICTION), 160, 3),
    ],
)  # fmt: skip
def test_fields_of_h264_are_parsed(sps: bytes, height: int, reordered: int) -> None:
    found = h264.parse_sps(sps)
    assert (found.width, found.height, found.reordered) == (320, height, reordered)


def test_chroma_format_is_part_of_the_configuration() -> None:
    sps = h264_sps(chroma=ue(3) + "0" + ue(2) + ue(2) + "0" + "0")
    assert h264.configuration([sps], [PPS])[-4:] == bytes([0xFF, 0xFA, 0xFA, 0])


@pytest.mark.parametrize(
    "sps",
    [h264_sps(chroma=ue(9) + ue(0) + ue(0) + "0 0"), b"\x67\x64\x00\x1e" + bytes(30), b"\x67\x42", b"\x67"],
)
def test_impossible_sequence_parameter_set_is_malformed(sps: bytes) -> None:
    with pytest.raises(Malformed):
        h264.parse_sps(sps)


DECODER_MODEL = "1" + "0" * 64 + "1" + ue(3) + "1" + "01001" + "0" * 42
OPERATING_POINT = "00000" + "0" * 12 + "01000 1" + "1" + "0" * 21 + "1 0000"


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("000 0 0" + "0 0" + "00000" + "0" * 12 + "00101" + "1001 1001", (640, 360)),
        ("000 0 0" + DECODER_MODEL + "1" + OPERATING_POINT + "1001 1001", (640, 360)),
        ("000 1 1" + "00101" + "1001 1001", (640, 360)),
    ],
)  # fmt: skip
def test_fields_of_av1_are_parsed(fields: str, size: tuple[int, int]) -> None:
    """Operating points, a decoder model, and the short header of a still picture."""
    dimensions = f"{size[0] - 1:010b}" + f"{size[1] - 1:010b}"
    is_still = fields.startswith("000 1")
    tools = "" if is_still else "0" + "000" + "0000" + "1 11" + "0 1 0" + "1" + "000"
    frame_ids = "000" if is_still else ""
    color = "1 0 1" + "00000001 00001101 00000110" + "0 01" + "0"
    payload = packed(fields, dimensions, frame_ids or tools, "000", color)
    header = av1.parse_sequence_header(b"\x0a" + bytes([len(payload)]) + payload)
    assert (header.width, header.height, header.is_high_depth, header.is_monochrome) == (*size, True, False)


@pytest.mark.parametrize("obu", [b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x05\x00", b"\x12\x00"])
def test_impossible_av1_header_is_malformed(obu: bytes) -> None:
    with pytest.raises(Malformed):
        av1.parse_sequence_header(obu)


@pytest.mark.parametrize(
    ("profile", "colors", "chroma", "depth"),
    [
        ("0 0", "001 0", 1, 8),
        ("1 0", "111 0", 3, 8),
        ("1 0", "001 0 10 0", 2, 8),
        ("1 0", "001 0 00 0", 3, 8),
        ("0 1", "1 001 0", 1, 12),
    ],
)
def test_colors_of_vp9_are_parsed(profile: str, colors: str, chroma: int, depth: int) -> None:
    frame = packed("10", profile, "0 0 1 0", f"{0x498342:024b}", colors, f"{639:016b}", f"{359:016b}")
    found = vp9.parse_key_frame(frame)
    assert (found.chroma, found.depth, found.width, found.height) == (chroma, depth, 640, 360)


@pytest.mark.parametrize("frame", [b"", b"\x00\x00", b"\x86" + bytes(20), b"\x82" + bytes(20)])
def test_frame_that_is_no_key_frame_of_vp9_is_malformed(frame: bytes) -> None:
    with pytest.raises(Malformed):
        vp9.parse_key_frame(frame)


def test_aac_configuration_of_rate_and_channels() -> None:
    assert aac.configuration_for(48_000, 2).hex() == "1190"
    assert aac.configuration_for(44_100, 8).hex() == "1238"
    for rate, channels in ((47_999, 2), (48_000, 0), (48_000, 7)):
        with pytest.raises(Malformed):
            aac.configuration_for(rate, channels)


def test_aac_configuration_with_a_rate_of_its_own() -> None:
    data = int("00010" + "1111" + f"{50_000:024b}" + "0010" + "000", 2).to_bytes(5, "big")
    assert aac.parse_configuration(data) == (2, 50_000, 2, 1024)


# Parameter sets within the stream


def sample_of(*units: bytes) -> bytes:
    return join_lengths(units)


def test_start_codes_become_lengths() -> None:
    data = b"\x00\x00\x00\x01\x09\xf0\x00\x00\x01\x65\x00\x00\x03\x01\x00\x00\x00\x01\x41\x9a\x00\x00"
    units = split_annex_b(data)
    assert units == [b"\x09\xf0", b"\x65\x00\x00\x03\x01", b"\x41\x9a"]
    assert list(split_lengths(join_lengths(units), 4)) == units
    with pytest.raises(Malformed):
        list(split_lengths(b"\x00\x00\x00\x09ab", 4))


def test_parameter_sets_leave_the_samples() -> None:
    units = AccessUnits(Codec.H264, 1, 90_000)
    assert units.convert([SLICE]) == (sample_of(SLICE), False)
    assert units.track is None
    assert units.convert([b"\x09\xf0", SPS, PPS, IDR]) == (sample_of(IDR), True)
    first = units.track
    assert first is not None
    assert (first.width, first.height) == (176, 144)
    assert units.convert([SPS, PPS, IDR]) == (sample_of(IDR), True)
    assert units.track is first
    assert units.convert([OTHER_SPS, PPS, IDR]) == (sample_of(IDR), True)
    assert units.track is not first


def test_parameter_set_that_changes_between_key_frames_stays_in_the_samples() -> None:
    units = AccessUnits(Codec.H264, 1, 90_000)
    units.convert([SPS, PPS, IDR])
    track = units.track
    assert units.convert([OTHER_PPS, SLICE]) == (sample_of(OTHER_PPS, SLICE), False)
    assert units.convert([SPS, PPS, IDR]) == (sample_of(SPS, PPS, IDR), True)
    assert units.track is track


def test_countless_parameter_sets_are_malformed() -> None:
    units = AccessUnits(Codec.H264, 1, 90_000)
    with pytest.raises(Malformed, match="too many"):
        units.convert([b"\x68" + packed(ue(index), "1010") for index in range(100)])
    with pytest.raises(Malformed, match="too long"):
        units.convert([b"\x68" + bytes([255]) * 5000])


def test_countless_units_are_malformed() -> None:
    with pytest.raises(Malformed, match="too many NAL units"):
        split_annex_b(b"\x00\x00\x01\x41" * 5000)


def test_recovery_point_begins_decoding() -> None:
    recovery, other = b"\x06\x06\x01\xc4\x80", b"\x06\x05\xff\x01" + bytes(256) + b"\x80"
    intra = b"\x41" + packed(ue(0), ue(7), ue(0))
    inter = b"\x41" + packed(ue(0), ue(5), ue(0))
    cases = [
        ([recovery, intra], True),
        ([other, recovery, intra], True),
        ([other, intra], False),
        ([recovery, inter], False),
    ]
    for units, is_key in cases:
        assert h264.is_key([h264.unit_type(unit) for unit in units], units) is is_key


def test_open_groups_of_pictures_have_key_frames() -> None:
    """As broadcasters send them: after the first one, no picture is an IDR."""
    groups = "-bf 2 -b_strategy 0 -x264-params open-gop=1:keyint=10:min-keyint=10:scenecut=0"
    data = make_film(48_000, f"-c:v libx264 -preset ultrafast {groups} -c:a aac -f mpegts")
    pictures = [one for one in parsed(data) if isinstance(one, Sample) and not one.duration]
    assert sum(one.is_key for one in pictures) == 3
    assert decoded(finished(recorded(data)))["video"] == decoded(data)["video"]


def test_configuration_is_found_in_the_first_key_frame() -> None:
    empty = h264.configuration([SPS], [PPS])[:5] + b"\xe0\x00"
    track = Track(3, Codec.H264, 600, empty, 16, 16)
    assert not is_described(track)
    found = described_by(track, sample_of(SPS, PPS, IDR))
    assert is_described(found)
    assert (found.id, found.timescale, found.width) == (3, 600, 176)
    with pytest.raises(Malformed, match="no parameter sets"):
        described_by(track, sample_of(IDR))
    for codec in (Codec.H264, Codec.HEVC, Codec.AV1):
        assert not is_described(replace(track, codec=codec, configuration=b""))
    with pytest.raises(Malformed, match="no sequence header"):
        described_by(replace(track, codec=Codec.AV1), b"\x12\x00")
    assert is_described(replace(track, codec=Codec.VP9))


def test_hevc_with_sub_layers_is_parsed() -> None:
    general = f"{1:08b}" + f"{0x60000000:032b}" + "1001" + "0" * 44 + f"{93:08b}"
    layers = "11 01" + "0" * 12 + "0" * 96 + "0" * 8
    fields = packed(
        "0000 010 1",
        general,
        layers,
        ue(0),
        ue(1),
        ue(639),
        ue(361),
        "1",
        ue(0) * 3 + ue(1),
        ue(0) * 2,
        ue(4),
        "1",
        (ue(4) + ue(2) + ue(0)) * 3,
    )
    unit = b"\x42\x01" + escaped(fields)
    found = hevc.parse_sps(unit)
    assert (found.sub_layers, found.is_nested, found.reordered) == (3, True, 2)

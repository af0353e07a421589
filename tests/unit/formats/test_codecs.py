"""Configurations of codecs, from streams of real encoders: strings, sizes, and the order of frames."""

import pytest

from app.formats import aac, av1, h264, hevc, vp9
from app.formats.bits import BitReader
from app.formats.codecs import codec_string, frame_samples, picture_size, reordered_frames, sound_track
from app.formats.errors import FormatError, Malformed, UnsupportedFormat
from app.formats.samples import Codec, Track
from app.formats.sound_frames import (
    flac_samples,
    opus_configuration,
    opus_for_channels,
    opus_samples,
    parse_mpeg_frame,
)

H264_CROPPED = "014d4028ffe1001e674d4028eca03c0113f2ffe000600082000003000200000300641e30632c01000468ce0fc8"
H264_INTERLACED = "014d401effe1001c674d401ef405a126ffc0040003c4000003000400000300c87c50aa8001000468de0fc8"
H264_422 = (
    "017a000dffe1001e677a000db6cb40a8cf1117ff801a0022880000030008000003019078a15501000468ce0fc8fefafa00"
)
H264_BASELINE = "0142c00bffe100176742c00bda0b13b021000003000100000300320f142aa001000468ce0fc8"
HEVC_MAIN10 = (
    "0102200000009000000000003cf000fcfdfafa00000f03a00001001840010c01ffff02200000030090000003000003003c959409a10001002f"
    "42010102200000030090000003000003003ca00a880c1c44cd965654a4c2fff0034004568080000003008000000c84a2000100064401c073c1"
    "89"
)
HEVC_MAIN = (
    "01016000000090000000000078f000fcfdf8f800000f03a00001001840010c01ffff016000000300900000030000030078959009a10001002f"
    "420101016000000300900000030000030078a003c0801107cb965644a4c2fff0003000468080000003008000000c84a2000100064401c073c1"
    "89"
)
AV1_8 = "81010c000a0b0000000cc4ff6736be4010"
AV1_10 = "81004c000a0b000000043cfeccdaf94040"
FLAC = "0000000080000022120012000001060004ff0bb800f0000038407044de84a8b56e9e558a37d978aff114"


@pytest.mark.parametrize(
    ("codec", "configuration", "string", "size", "reordered"),
    [
        (Codec.H264, H264_CROPPED, "avc1.4d4028", (1920, 1080), 2),
        (Codec.H264, H264_INTERLACED, "avc1.4d401e", (720, 576), 0),
        (Codec.H264, H264_422, "avc1.7a000d", (322, 182), 0),
        (Codec.H264, H264_BASELINE, "avc1.42c00b", (176, 144), 0),
        (Codec.HEVC, HEVC_MAIN10, "hvc1.2.4.L60.90", (322, 182), 2),
        (Codec.HEVC, HEVC_MAIN, "hvc1.1.6.L120.90", (1920, 1080), 2),
        (Codec.AV1, AV1_8, "av01.0.01M.08", (640, 360), 0),
        (Codec.AV1, AV1_10, "av01.0.00M.10", (320, 180), 0),
    ],
)
def test_configuration_of_pictures_is_parsed(
    codec: Codec, configuration: str, string: str, size: tuple[int, int], reordered: int
) -> None:
    data = bytes.fromhex(configuration)
    assert codec_string(Track(1, codec, 1, data)) == string
    assert picture_size(codec, data) == size
    assert reordered_frames(codec, data) == reordered


@pytest.mark.parametrize("configuration", [H264_CROPPED, H264_INTERLACED, H264_422, H264_BASELINE])
def test_avc_configuration_is_made_of_parameter_sets(configuration: str) -> None:
    data = bytes.fromhex(configuration)
    parsed = h264.parse_configuration(data)
    assert parsed.length_size == 4
    assert h264.configuration(parsed.sequence_sets, parsed.picture_sets) == data


@pytest.mark.parametrize("configuration", [HEVC_MAIN10, HEVC_MAIN])
def test_hevc_configuration_is_made_of_parameter_sets(configuration: str) -> None:
    data = bytes.fromhex(configuration)
    assert hevc.configuration(hevc.parse_configuration(data).sets) == data


@pytest.mark.parametrize("configuration", [AV1_8, AV1_10])
def test_av1_configuration_is_made_of_sequence_header(configuration: str) -> None:
    data = bytes.fromhex(configuration)
    sample = b"\x12\x00" + data[4:] + b"\x32\x01\x00"
    obu = av1.sequence_header_of(sample)
    assert obu == data[4:]
    assert av1.configuration(obu) == data


def test_vp9_key_frame_is_described() -> None:
    frame = bytes.fromhex("824983420007f004760638241c18")
    found = vp9.parse_key_frame(frame)
    assert (found.width, found.height, found.depth) == (128, 72, 8)
    assert vp9.codec_string(vp9.configuration(found)) == "vp09.00.10.08"
    assert vp9.with_level(bytes.fromhex("010000000000820202020000"), 640, 360)[5] == 21
    assert vp9.with_level(bytes.fromhex("010000000032820202020000"), 640, 360)[5] == 50
    assert vp9.is_key(frame)
    assert not vp9.is_key(b"\x86" + bytes(8))


@pytest.mark.parametrize(
    ("codec", "configuration", "string", "rate", "channels"),
    [
        (Codec.AAC, "1188", "mp4a.40.2", 48000, 1),
        (Codec.AAC, "11b0", "mp4a.40.2", 48000, 6),
        (Codec.AAC, "2b8a0800", "mp4a.40.5", 22050, 1),
        (Codec.OPUS, "000201380000bb80000000", "opus", 48000, 2),
        (Codec.FLAC, FLAC, "flac", 48000, 1),
    ],
)
def test_configuration_of_sound_is_parsed(
    codec: Codec, configuration: str, string: str, rate: int, channels: int
) -> None:
    track = sound_track(1, codec, bytes.fromhex(configuration))
    assert (codec_string(track), track.rate, track.channels) == (string, rate, channels)


def test_esds_contains_its_configuration() -> None:
    asc = bytes.fromhex("1190")
    assert aac.parse_elementary_stream(aac.elementary_stream(aac.AAC_OBJECT, asc)) == (False, asc)
    assert aac.parse_elementary_stream(aac.elementary_stream(aac.MP3_OBJECT, b"")) == (True, b"")
    with pytest.raises(UnsupportedFormat, match="0xA9"):
        aac.parse_elementary_stream(aac.elementary_stream(0xA9, b""))


def test_adts_header_stands_for_a_configuration() -> None:
    header = aac.parse_adts(bytes.fromhex("fff14c80021ffc"), 0)
    assert header is not None
    assert (header.header_size, header.size, header.configuration.hex()) == (7, 16, "1190")
    assert aac.parse_adts(bytes.fromhex("fff04c80021ffc0000"), 0) is not None
    assert aac.parse_adts(bytes.fromhex("fff17c80021ffc"), 0) is None
    with pytest.raises(UnsupportedFormat, match="channel layout"):
        aac.parse_adts(bytes.fromhex("fff14c00021ffc"), 0)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [("08", 960), ("78ff", 960), ("fc", 960), ("fd", 1920), ("ff03", 2880), ("80", 120)],
)
def test_duration_of_opus_packet_is_in_its_first_bytes(packet: str, samples: int) -> None:
    assert opus_samples(bytes.fromhex(packet)) == samples


@pytest.mark.parametrize("packet", ["", "03", "1b06", "0300"])
def test_impossible_opus_packet_is_malformed(packet: str) -> None:
    with pytest.raises(Malformed):
        opus_samples(bytes.fromhex(packet))


def test_opus_head_becomes_dops() -> None:
    head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00"
    assert opus_configuration(head).hex() == "000201380000bb80000000"
    assert opus_for_channels(6).hex() == "000600000000bb800000" + "010402000401020305"
    with pytest.raises(UnsupportedFormat):
        opus_for_channels(9)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("fffb9064", (417, 1152, 44100, 2)),
        ("fffbe264", (1045, 1152, 44100, 2)),
        ("fff384c4", (192, 576, 24000, 1)),
        ("ffffffff", None),
        ("0000fffb", None),
    ],
)
def test_mp3_header_is_parsed(header: str, expected: tuple[int, int, int, int] | None) -> None:
    found = parse_mpeg_frame(bytes.fromhex(header), 0)
    assert (tuple(found) if found else None) == expected


def test_mp2_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormat, match="MP2 sound"):
        parse_mpeg_frame(bytes.fromhex("fffd9064"), 0)


@pytest.mark.parametrize(
    ("frame", "samples"),
    [
        ("fff8c90800", 4096),
        ("fff819080000", 192),
        ("fff86908001f", 32),
        ("fff87908000fff", 4096),
        ("fff87908c2800fff", 4096),
    ],
)
def test_flac_frame_contains_its_duration(frame: str, samples: int) -> None:
    assert flac_samples(bytes.fromhex(frame)) == samples


def test_duration_of_aac_frame_is_in_its_configuration() -> None:
    assert frame_samples(sound_track(1, Codec.AAC, bytes.fromhex("1190")), b"") == 1024
    assert frame_samples(sound_track(1, Codec.AAC, bytes.fromhex("1194")), b"") == 960


@pytest.mark.parametrize(("bits", "value"), [("1", 0), ("010", 1), ("011", 2), ("00100", 3), ("0001000", 7)])
def test_exp_golomb_code_is_decoded(bits: str, value: int) -> None:
    data = int(bits.ljust(8, "0"), 2).to_bytes(1, "big")
    assert BitReader(data).ue() == value
    assert BitReader(data).se() == (value + 1) // 2 * (1 if value & 1 else -1)


@pytest.mark.parametrize(
    "configuration", [H264_CROPPED, H264_422, HEVC_MAIN, AV1_8, FLAC, "1190", "000201380000bb80000000"]
)
def test_cut_configuration_is_malformed(configuration: str) -> None:
    """Every prefix is parsed, or refused by an error of ours."""
    data = bytes.fromhex(configuration)
    for size in range(len(data)):
        for codec in Codec:
            try:
                codec_string(Track(1, codec, 1, data[:size]))
                picture_size(codec, data[:size])
                reordered_frames(codec, data[:size])
                sound_track(1, codec, data[:size])
            except FormatError:
                continue

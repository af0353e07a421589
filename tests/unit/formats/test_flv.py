"""FLV and AMF: tags, the FourCC of enhanced RTMP, and clocks that wrap."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats.amf import encode_values, parse_values
from app.formats.errors import FormatError, Malformed, UnsupportedFormat
from app.formats.flv import AUDIO, VIDEO, FlvParser, FlvTags
from app.formats.samples import Codec, Event, Sample, Tracks
from tests.support.films import decoded, film, finished, parsed, written

AVC = bytes.fromhex("0142c00bffe100176742c00bda0b13b021000003000100000300320f142aa001000468ce0fc8")


def tags_of(events: list[Event]) -> FlvTags:
    """Send samples as an encoder does that speaks enhanced RTMP."""
    tags = FlvTags()
    first = events[0]
    assert isinstance(first, Tracks)
    names = {
        Codec.HEVC: b"hvc1",
        Codec.AV1: b"av01",
        Codec.VP9: b"vp09",
        Codec.OPUS: b"Opus",
        Codec.FLAC: b"fLaC",
    }
    names |= {Codec.MP3: b".mp3"}
    tracks = {track.id: track for track in first.tracks}
    for track in first.tracks:
        if track.codec.is_video:
            tags.add(VIDEO, 0, b"\x90" + names[track.codec] + track.configuration)
        elif track.codec is Codec.OPUS:
            tags.add(AUDIO, 0, b"\x90Opus" + b"OpusHead\x01\x01\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
        elif track.codec is Codec.FLAC:
            tags.add(AUDIO, 0, b"\x90fLaC" + b"fLaC" + track.configuration[4:])
    for event in events:
        if isinstance(event, Sample):
            track = tracks[event.track]
            time = event.dts * 1000 // track.timescale + 100
            shift = ((event.pts - event.dts) * 1000 // track.timescale).to_bytes(3, "big", signed=True)
            head = 0x91 if event.is_key else 0xA1
            if track.codec is Codec.HEVC:
                tags.add(VIDEO, time, bytes([head]) + b"hvc1" + shift + event.data)
            elif track.codec.is_video:
                tags.add(VIDEO, time, bytes([head]) + names[track.codec] + event.data)
            else:
                tags.add(AUDIO, time, b"\x91" + names[track.codec] + event.data)
    return tags


@pytest.mark.parametrize(
    "name",
    [
        "HEVC and MP3 in MPEG-TS",
        "HEVC and FLAC in fragmented MP4",
        "VP9 and Opus in WebM",
        "AV1 and Opus in WebM",
    ],
)
def test_enhanced_rtmp_has_every_frame(name: str) -> None:
    tags = tags_of(parsed(film(name)))
    whole = finished(b"".join(one.data for one in written([*tags.take(), *tags.close()])))
    options = ["-c:a", "copy"] if "WebM" in name else []
    assert decoded(whole, "-an")["video"] == decoded(film(name), *options)["video"]


def configured() -> FlvTags:
    tags = FlvTags(frozenset({VIDEO}))
    tags.add(VIDEO, 0, b"\x17\x00\x00\x00\x00" + AVC)
    return tags


def samples(tags: FlvTags) -> list[Sample]:
    return [event for event in tags.take() if isinstance(event, Sample)]


def test_composition_time_is_signed() -> None:
    tags = configured()
    tags.add(VIDEO, 40, b"\x17\x01\x00\x00\x50key")
    tags.add(VIDEO, 80, b"\x27\x01\xff\xff\xd8other")
    assert [(one.dts, one.pts, one.is_key, one.data) for one in samples(tags)] == [
        (40, 120, True, b"key"),
        (80, 40, False, b"other"),
    ]


def test_clock_of_32_bits_goes_on() -> None:
    tags = configured()
    for time in ((1 << 32) - 40, 0, 40):
        tags.add(VIDEO, time, b"\x17\x01\x00\x00\x00.")
    times = [one.dts for one in samples(tags)]
    assert [time - times[0] for time in times] == [0, 40, 80]


def test_new_configuration_is_announced() -> None:
    tags = configured()
    tags.add(VIDEO, 0, b"\x17\x01\x00\x00\x00.")
    tags.add(VIDEO, 0, b"\x17\x00\x00\x00\x00" + AVC)
    tags.add(VIDEO, 40, b"\x27\x01\x00\x00\x00.")
    other = bytes.fromhex(
        "014d401effe1001c674d401ef405a126ffc0040003c4000003000400000300c87c50aa8001000468de0fc8"
    )
    tags.add(VIDEO, 80, b"\x17\x00\x00\x00\x00" + other)
    tags.add(VIDEO, 80, b"\x17\x01\x00\x00\x00.")
    widths = [event.tracks[0].width for event in tags.take() if isinstance(event, Tracks)]
    assert widths == [176, 720]


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        (VIDEO, b"\x12\x00", "Sorenson H.263 pictures"),
        (VIDEO, b"\x14\x00", "VP6 pictures"),
        (VIDEO, b"\x90vp08", "VP8 pictures"),
        (VIDEO, b"\x96hvc1", "several video tracks"),
        (AUDIO, b"\x90ac-3", "AC-3 sound"),
        (AUDIO, b"\x5e\x00", "Nellymoser sound"),
        (AUDIO, b"\xbe\x00", "Speex sound"),
        (AUDIO, b"\x90abcd", "abcd"),
    ],
)
def test_codec_that_is_not_taken_is_refused_by_name(kind: int, data: bytes, name: str) -> None:
    tags = FlvTags()
    with pytest.raises(UnsupportedFormat, match=name):
        tags.add(kind, 0, data)


@pytest.mark.parametrize(
    "data", [b"", b"FLV", b"FLV\x01\x05\x00\x00\x00\x00....", b"FLV\x01\x05\xff\xff\xff\xff...."]
)
def test_header_that_is_not_one_is_malformed(data: bytes) -> None:
    parser = FlvParser()
    with pytest.raises(Malformed):
        parser.feed(data)
        parser.close()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([AUDIO, VIDEO, 18]), st.integers(0, 1 << 32), st.binary(max_size=40)))
)
def test_any_tags_are_parsed_or_refused(tags: list[tuple[int, int, bytes]]) -> None:
    parser = FlvTags()
    try:
        for kind, time, data in tags:
            parser.add(kind, time, data)
        parser.close()
    except FormatError:
        pass


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text("aé€𝄞", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("aé€", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, max_size=4))
def test_amf_values_survive(found: list[object]) -> None:
    assert parse_values(encode_values(*found)) == found  # type: ignore[arg-type]


def test_amf_of_a_real_encoder_is_parsed() -> None:
    command = bytes.fromhex(
        "0200086f6e53746174757300000000000000000005080000000100056c6576656c020006737461747573000009"
    )
    assert parse_values(command) == ["onStatus", 0.0, None, {"level": "status"}]


@pytest.mark.parametrize(
    "data",
    [b"\x00", b"\x02\xff\xff", b"\x03", b"\x0a\xff\xff\xff\xff\x05", b"\x77", b"\x0a\x00\x00\x00\x01" * 40],
)
def test_impossible_amf_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_values(data)

"""Matroska: lacing, header stripping, elements of unknown size, and what is refused."""

import pytest

from app.formats.ebml import parse_block, read_element_header
from app.formats.errors import FormatError, Malformed, UnsupportedFormat
from app.formats.matroska import MatroskaParser
from app.formats.samples import Codec, Event, Sample, Tracks
from tests.support.films import film, parsed

AAC = bytes.fromhex("1190")
UNKNOWN = b"\x01\xff\xff\xff\xff\xff\xff\xff"


def element(number: int, *content: bytes) -> bytes:
    """Return an element with a size of eight bytes."""
    data = b"".join(content)
    return (
        number.to_bytes((number.bit_length() + 7) // 8, "big")
        + (1 << 56 | len(data)).to_bytes(8, "big")
        + data
    )


def unsigned(number: int, value: int) -> bytes:
    return element(number, value.to_bytes(4, "big"))


def track(name: bytes, *more: bytes, kind: int = 2, private: bytes = AAC) -> bytes:
    return element(
        0xAE, unsigned(0xD7, 1), unsigned(0x83, kind), element(0x86, name), element(0x63A2, private), *more
    )


def segment(entry: bytes, *blocks: bytes, time: int = 1000) -> bytes:
    """Return a stream whose segment and cluster have unknown sizes."""
    return b"".join(
        [
            element(0x1A45DFA3, element(0x4282, b"matroska")),
            b"\x18\x53\x80\x67" + UNKNOWN,
            element(0x1549A966, unsigned(0x2AD7B1, 1_000_000)),
            element(0x1654AE6B, entry),
            element(0xEC, bytes(50)),
            b"\x1f\x43\xb6\x75" + UNKNOWN,
            unsigned(0xE7, time),
            *blocks,
        ]
    )


def block(frames: bytes, flags: int = 0x80, time: int = 0) -> bytes:
    return element(0xA3, b"\x81" + time.to_bytes(2, "big", signed=True) + bytes([flags]) + frames)


def parse(data: bytes) -> list[Event]:
    parser = MatroskaParser()
    return [*parser.feed(data), *parser.close()]


def frames(events: list[Event]) -> list[tuple[int, bytes]]:
    return [(event.dts, event.data) for event in events if isinstance(event, Sample)]


LACED = {
    "none": (0x80, b"aaaa"),
    "Xiph": (0x82, b"\x02\x02\x03aabbbc"),
    "fixed size": (0x84, b"\x02aabbcc"),
    "EBML": (0x86, b"\x02\x82\xc0aabbbc"),
}


@pytest.mark.parametrize("name", LACED)
def test_laced_frames_follow_each_other(name: str) -> None:
    flags, data = LACED[name]
    found = frames(parse(segment(track(b"A_AAC"), block(data, flags))))
    expected = {"none": [b"aaaa"], "fixed size": [b"aa", b"bb", b"cc"]}.get(name, [b"aa", b"bbb", b"c"])
    assert [one for _, one in found] == expected
    assert [dts - found[0][0] for dts, _ in found] == [1024 * index for index in range(len(found))]


def test_long_xiph_lace_is_parsed() -> None:
    found = parse_block(b"\x81\x00\x00\x02\x01\xff\x01" + b"a" * 256 + b"b")
    assert [len(one) for one in found.frames] == [256, 1]


@pytest.mark.parametrize(
    "data", ["", "81", "810000", "81000002", "8100000205ff", "8100000601ff", "81000002010961"]
)
def test_impossible_block_is_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        parse_block(bytes.fromhex(data))


def test_stripped_header_is_put_back() -> None:
    encodings = element(
        0x6D80, element(0x6240, element(0x5034, unsigned(0x4254, 3), element(0x4255, b"head")))
    )
    found = frames(parse(segment(track(b"A_AAC", encodings), block(b"-tail"))))
    assert [one for _, one in found] == [b"head-tail"]


@pytest.mark.parametrize(
    ("algorithm", "kind", "name"), [(0, 0, "compressed"), (2, 0, "compressed"), (3, 1, "encrypted")]
)
def test_other_encoding_is_refused(algorithm: int, kind: int, name: str) -> None:
    content = unsigned(0x5033, kind) + element(0x5034, unsigned(0x4254, algorithm))
    with pytest.raises(UnsupportedFormat, match=name):
        parse(segment(track(b"A_AAC", element(0x6D80, element(0x6240, content)))))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (b"V_VP8", 1, "VP8 pictures"),
        (b"V_MPEG4/ISO/ASP", 1, "MPEG-4 part 2 pictures"),
        (b"A_VORBIS", 2, "Vorbis sound"),
        (b"A_AC3", 2, "AC-3 sound"),
        (b"A_EAC3", 2, "E-AC-3 sound"),
        (b"A_DTS/LOSSLESS", 2, "DTS sound"),
        (b"A_MPEG/L2", 2, "MP2 sound"),
        (b"A_AAC/MPEG4/LC", 2, "AAC without its configuration"),
        (b"A_WAVPACK4", 2, "A_WAVPACK4"),
        (b"S_TEXT/UTF8", 17, "subtitles"),
    ],
)
def test_codec_that_is_not_taken_is_refused_by_name(name: bytes, kind: int, message: str) -> None:
    with pytest.raises(UnsupportedFormat, match=message):
        parse(segment(track(name, kind=kind)))


def test_block_group_is_a_key_frame_without_a_reference() -> None:
    avc = bytes.fromhex("0142c00bffe100176742c00bda0b13b021000003000100000300320f142aa001000468ce0fc8")
    entry = track(b"V_MPEG4/ISO/AVC", kind=1, private=avc)
    key = element(0xA0, element(0xA1, b"\x81\x00\x00\x00key"))
    other = element(0xA0, element(0xA1, b"\x81\x00\x28\x00other"), element(0xFB, b"\xd8"))
    events = [event for event in parse(segment(entry, key, other)) if isinstance(event, Sample)]
    assert [(one.data, one.is_key, one.pts - events[0].pts) for one in events] == [
        (b"key", True, 0),
        (b"other", False, 3600),
    ]


def test_codec_delay_is_not_part_of_the_time() -> None:
    head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00"
    entry = track(b"A_OPUS", element(0x56AA, (6_500_000).to_bytes(4, "big")), private=head)
    assert frames(parse(segment(entry, block(b"\x08.")))) == [(48_000 - 312, b"\x08.")]


def test_pictures_without_configuration_have_start_codes() -> None:
    """As Chromium's MediaRecorder writes H.264 into Matroska."""
    annex_b = (
        b"\x00\x00\x00\x01"
        + bytes.fromhex("6742c00bda0b13b021000003000100000300320f142aa0")
        + b"\x00\x00\x00\x01\x68\xce\x0f\xc8"
    )
    picture = annex_b + b"\x00\x00\x01\x65\x88\x84"
    entry = track(b"V_MPEG4/ISO/AVC", kind=1, private=b"")
    events = parse(segment(entry, block(picture), block(b"\x00\x00\x01\x41\x9a", 0, 40)))
    assert isinstance(events[0], Tracks)
    assert (events[0].tracks[0].codec, events[0].tracks[0].width) == (Codec.H264, 176)
    assert [one for _, one in frames(events)] == [
        b"\x00\x00\x00\x03\x65\x88\x84",
        b"\x00\x00\x00\x02\x41\x9a",
    ]


def test_decoding_times_are_sorted_presentation_times() -> None:
    events = [
        one
        for one in parsed(film("H.264 and AAC in Matroska"))
        if isinstance(one, Sample) and not one.duration
    ]
    assert [one.dts for one in events] == sorted(one.dts for one in events)
    assert all(one.dts <= one.pts for one in events)
    assert any(one.dts < one.pts for one in events)
    assert sorted(one.pts for one in events)[:5] == [events[0].pts + 3600 * index for index in range(5)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1a\x45\xdf\xa3\xff",
        b"\x00" * 20,
        b"\xa3" + (1 << 56 | 1 << 40).to_bytes(8, "big"),
        b"\x16\x54\xae\x6b" + (1 << 56 | 1 << 30).to_bytes(8, "big"),
        b"\x19\x41\xa4\x69" + (1 << 56 | 1 << 50).to_bytes(8, "big"),
    ],
)
def test_impossible_element_is_malformed(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse(data)


def test_element_header_waits_for_its_bytes() -> None:
    whole = b"\x1f\x43\xb6\x75\x40\x02"
    assert [read_element_header(whole[:size], 0) for size in range(6)] == [None] * 6
    assert read_element_header(whole, 0) == (0x1F43B675, 6, 2)
    assert read_element_header(b"\xa3\xff", 0) == (0xA3, 2, None)

"""MPEG-TS: damaged streams, clocks that wrap, and programs with streams that are not taken."""

import random
from itertools import pairwise

import pytest

from app.formats.errors import Malformed, UnsupportedFormat
from app.formats.samples import Event, Sample, Tracks
from app.formats.transport import PACKET, TransportParser
from tests.support.films import cut, film, make_film, parsed

NAME = "H.264 and AAC in MPEG-TS"


def transport_packets(data: bytes) -> list[bytes]:
    return list(cut(data, [PACKET]))


def samples(events: list[Event]) -> list[Sample]:
    return [event for event in events if isinstance(event, Sample)]


def parse(data: bytes) -> list[Event]:
    parser = TransportParser()
    return [*parser.feed(data), *parser.close()]


def test_stream_joined_in_the_middle_begins_with_a_key_frame() -> None:
    whole = samples(parsed(film(NAME)))
    late = samples(parse(film(NAME)[20_011:]))
    assert next(one for one in late if one.duration == 0).is_key
    assert {one.data for one in late} <= {one.data for one in whole}
    assert len(late) > 30


def test_packets_are_found_again_after_other_bytes() -> None:
    packets = transport_packets(film(NAME))
    randomly = random.Random(1)
    for _ in range(5):
        packets.insert(randomly.randrange(len(packets)), randomly.randbytes(randomly.randint(1, 400)))
    found = samples(parse(b"".join(packets)))
    whole = samples(parsed(film(NAME)))
    assert len(found) > len(whole) * 0.7
    assert {one.data for one in found} <= {one.data for one in whole}


def test_lost_packets_cost_only_their_frames() -> None:
    packets = transport_packets(film(NAME))
    whole = samples(parsed(film(NAME)))
    for lost in (40, 100, 200):
        kept = [packet for index, packet in enumerate(packets) if index != lost]
        found = samples(parse(b"".join(kept)))
        assert {one.data for one in found} <= {one.data for one in whole}
        assert len(found) >= len(whole) - 12  # a PES packet contains several frames of sound


def test_lost_packets_do_not_move_later_frames() -> None:
    packets = transport_packets(film(NAME))
    times = {one.data: (one.dts, one.pts) for one in samples(parsed(film(NAME)))}
    randomly = random.Random(2)
    kept = [packet for index, packet in enumerate(packets) if index < 10 or randomly.random() > 0.05]
    for one in samples(parse(b"".join(kept))):
        assert times[one.data] == (one.dts, one.pts)


def test_packets_that_are_sent_twice_count_once() -> None:
    packets = transport_packets(film(NAME))
    assert parse(b"".join(packet + packet for packet in packets)) == parsed(film(NAME))


def test_other_programs_and_null_packets_are_ignored() -> None:
    other = b"G\x1f\xff\x10" + bytes(184)
    foreign = b"G\x01\x77\x10" + b"\x5a" * 184
    packets = transport_packets(film(NAME))
    assert parse(b"".join(packet + other + foreign for packet in packets)) == parsed(film(NAME))


def test_damaged_packets_are_dropped() -> None:
    packets = transport_packets(film(NAME))
    broken = [bytes([0x47, packets[0][1] | 0x80]) + random.Random(3).randbytes(186)] * 3
    assert parse(b"".join([*packets[:50], *broken, *packets[50:]])) == parsed(film(NAME))


def test_clock_that_wraps_goes_on() -> None:
    """33 bits of 90 kHz are 95,443.7 s: the clock wraps in the middle of this film."""
    options = "-c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 15 -c:a aac -muxdelay 0"
    found = samples(parsed(make_film(44_100, f"{options} -output_ts_offset 95443.1 -f mpegts")))
    pictures = [one for one in found if one.duration == 0]
    assert pictures[-1].dts > 1 << 33
    assert {after.dts - one.dts for one, after in pairwise(pictures)} == {3600}
    sound = [one for one in found if one.duration]
    assert {after.dts - one.dts for one, after in pairwise(sound)} == {1024}


def crc(data: bytes) -> bytes:
    remainder = 0xFFFF_FFFF
    for byte in data:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x04C11DB7 if remainder >> 31 else 0)) & 0xFFFF_FFFF
    return remainder.to_bytes(4, "big")


def section(pid: int, table: int, body: bytes) -> bytes:
    """Return the packet of a table."""
    size = len(body) + 9
    data = bytes([table, 0xB0 | size >> 8, size & 0xFF]) + b"\x00\x01\xc1\x00\x00" + body
    payload = b"\x00" + data + crc(data)
    return b"G" + bytes([0x40 | pid >> 8, pid & 0xFF, 0x10]) + payload.ljust(184, b"\xff")


def program(*streams: tuple[int, bytes]) -> bytes:
    """Return the tables of a program with these stream types and descriptors."""
    body = b"\xe1\x00\xf0\x00"
    for index, (kind, descriptors) in enumerate(streams):
        body += bytes([kind, 0xE1, index]) + (0xF000 | len(descriptors)).to_bytes(2, "big") + descriptors
    return section(0, 0, b"\x00\x01\xf0\x00") + section(0x1000, 2, body)


H264 = (0x1B, b"")


@pytest.mark.parametrize(
    ("kind", "descriptors", "name"),
    [
        (0x02, "", "MPEG-2 pictures"),
        (0x11, "", "AAC in LATM"),
        (0x81, "", "AC-3 sound"),
        (0x87, "", "E-AC-3 sound"),
        (0x06, "6a00", "AC-3 sound"),
        (0x06, "0504" + b"AC-3".hex(), "AC-3 sound"),
        (0x06, "7a00", "E-AC-3 sound"),
        (0x06, "5908 64657510 00010001".replace(" ", ""), "DVB subtitles"),
        (0x06, "5605 6465750801".replace(" ", ""), "Teletext subtitles"),
        (0x06, "0504" + b"AV01".hex(), "AV1 in MPEG-TS"),
        (0xEA, "", "VC-1 pictures"),
    ],
)
def test_stream_that_is_not_taken_is_refused_by_name(kind: int, descriptors: str, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"contains {name}, which"):
        parse(program(H264, (kind, bytes.fromhex(descriptors))) * 2)


@pytest.mark.parametrize("kind", [0x05, 0x0D, 0x15, 0x86, 0x06, 0xC0])
def test_data_without_sound_or_pictures_are_left_out(kind: int) -> None:
    parser = TransportParser()
    assert parser.feed(program(H264, (kind, b"")) * 2) == []


@pytest.mark.parametrize("data", [b"", b"G" * PACKET, program((0x15, b""))[:PACKET] * 4])
def test_stream_without_a_program_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="no program"):
        parse(data)


def test_program_of_data_alone_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="neither pictures nor sound"):
        parse(program((0x15, b"")) * 2)


def test_damaged_table_is_ignored() -> None:
    tables = bytearray(program((0x02, b"")) * 2)
    tables[PACKET + 18] ^= 1
    tables[3 * PACKET + 18] ^= 1
    with pytest.raises(Malformed, match="no program"):
        parse(bytes(tables))


def test_encrypted_stream_is_refused() -> None:
    packets = transport_packets(film(NAME))
    locked = [packet[:3] + bytes([packet[3] | 0x80]) + packet[4:] for packet in packets[3:]]
    with pytest.raises(UnsupportedFormat, match="encrypted"):
        parse(b"".join([*packets[:3], *locked]))


def test_endless_garbage_is_malformed() -> None:
    parser = TransportParser()
    with pytest.raises(Malformed, match="no MPEG-TS packets"):
        for _ in range(40):
            parser.feed(bytes(65_536))


def test_endless_picture_is_malformed() -> None:
    parser = TransportParser()
    parser.feed(program(H264) * 2)
    start = b"G\x41\x00\x10\x00\x00\x01\xe0\x00\x00\x80\x80\x05\x21\x00\x01\x00\x01" + bytes(170)
    parser.feed(start)
    with pytest.raises(Malformed, match="larger than 8 MiB"):
        for index in range(1, 50_000):
            parser.feed(b"G\x01\x00" + bytes([0x10 | index & 15]) + bytes(184))


def test_configuration_that_changes_begins_with_new_tracks() -> None:
    other = make_film(
        44_100, "-s 64x48 -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 15 -c:a aac -f mpegts"
    )
    events = parse(film(NAME) + other)
    tracks = [event for event in events if isinstance(event, Tracks)]
    sizes = [(one.width, one.height) for event in tracks for one in event.tracks if one.width]
    assert sizes == [(128, 72), (64, 48)]
    following = events[events.index(tracks[1]) + 1 :]
    assert next(one for one in samples(following) if one.duration == 0).is_key


def test_sound_that_the_program_no_longer_contains_ends() -> None:
    packets = transport_packets(film(NAME))
    half = len(packets) // 2
    pictures_only = section(0x1000, 2, b"\xe1\x00\xf0\x00\x1b\xe1\x00\xf0\x00")
    later = [packet for packet in packets[half:] if packet[1] & 0x1F != 0x10]
    events = parse(b"".join([*packets[:half], pictures_only, *later]))
    kinds = [
        [track.codec.is_video for track in event.tracks] for event in events if isinstance(event, Tracks)
    ]
    assert sorted(kinds[0]) == [False, True]
    assert kinds[1:] == [[True]]
    last = max(index for index, event in enumerate(events) if isinstance(event, Tracks))
    assert {one.duration for one in samples(events[last:])} == {0}


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (b"\x7f\xe0\x03\x08ab", [b"\x08ab"]),
        (b"\x7f\xe0\x02\x08a\x7f\xe0\x02\x08b", [b"\x08a", b"\x08b"]),
        (b"\x7f\xf0\x02\x01\x38\x08a", [b"\x08a"]),  # trimmed at its beginning
        (b"\x7f\xe4\x02\x01\xff\x08a", [b"\x08a"]),  # with an extension of its header
        (b"\x7f\xe0\xff\x01\x08" + b"x" * 255, [b"\x08" + b"x" * 255]),
        (b"\x00\x00\x03\x08ab", []),
        (b"\x7f\xe0\x09\x08a", [b"\x08a"]),
        (b"\x7f", []),
    ],
)
def test_opus_packets_have_control_headers(unit: bytes, expected: list[bytes]) -> None:
    parser = TransportParser()
    parser.feed(program((0x06, b"\x05\x04Opus\x7f\x02\x80\x02")) * 2)
    pes = (
        b"\x00\x00\x01\xbd" + (8 + len(unit)).to_bytes(2, "big") + b"\x80\x80\x05\x21\x00\x01\x00\x01" + unit
    )
    packets = []
    for index, start in enumerate(range(0, len(pes), 184)):
        payload = pes[start : start + 184]
        head = b"G" + bytes([0x41 if index == 0 else 0x01, 0x00])
        if len(payload) == 184:
            packets.append(head + bytes([0x10 | index]) + payload)
        else:
            length = 183 - len(payload)
            stuffing = b"\x00" + b"\xff" * (length - 1) if length else b""
            packets.append(head + bytes([0x30 | index, length]) + stuffing + payload)
    events = [*parser.feed(b"".join(packets) + section(0, 0, b"\x00\x01\xf0\x00") * 2), *parser.close()]
    assert [one.data for one in samples(events)] == expected


@pytest.mark.parametrize("extension", [b"", b"\x7f\x02\x80\x09", b"\x7f\x02\x81\x02"])
def test_opus_of_unknown_channels_is_refused(extension: bytes) -> None:
    with pytest.raises((Malformed, UnsupportedFormat)):
        parse(program((0x06, b"\x05\x04Opus" + extension)) * 2)


def test_too_many_tracks_are_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="more than 8 tracks"):
        parse(program(*[(0x0F, b"")] * 9) * 2)


def test_program_that_moves_to_other_packets_goes_on() -> None:
    """As where two files of different programs are sent one after another."""
    options = "-c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 15 -c:a aac -f mpegts"
    other = make_film(44_100, f"{options} -mpegts_pmt_start_pid 0x300 -mpegts_start_pid 0x400")
    events = parse(film(NAME) + other)
    assert len(samples(events)) == len(samples(parse(film(NAME)))) + len(samples(parse(other)))
    tracks = [{track.id for track in event.tracks} for event in events if isinstance(event, Tracks)]
    assert tracks == [{0x100, 0x101}, {0x400, 0x401}]

"""Boxes, fragmented MP4 as input, and the recognition of containers."""

import pytest

from app.formats.boxes import MAX_BOXES, box, find_box, read_boxes, read_header
from app.formats.errors import Malformed, UnsupportedFormat
from app.formats.flv import FlvParser
from app.formats.fragments import FragmentParser
from app.formats.matroska import MatroskaParser
from app.formats.movie_fragments import Defaults, NewRun, movie_fragment, parse_movie_fragment
from app.formats.recognition import ENOUGH, recognise
from app.formats.samples import Sample
from app.formats.transport import TransportParser
from tests.support.films import film, parsed, recorded


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\x00\x00\x0cfree....", (b"free", 0, 8, 12)),
        (b"\x00\x00\x00\x01mdat\x00\x00\x00\x01\x00\x00\x00\x00", (b"mdat", 0, 16, 1 << 32)),
        (b"\x00\x00\x00\x01mdat\x00", None),
        (b"\x00\x00\x00", None),
    ],
)
def test_header_of_a_box_is_read(data: bytes, expected: tuple[bytes, int, int, int] | None) -> None:
    assert read_header(data) == expected


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x00mdat", b"\x00\x00\x00\x07mdat", b"\x00\x00\x00\x01mdat" + bytes(8)]
)
def test_impossible_size_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="impossible size"):
        read_header(data)


def test_box_larger_than_its_parent_is_malformed() -> None:
    data = box(b"moov", b"\x00\x00\x00\x20trak")
    with pytest.raises(Malformed, match="larger than its parent"):
        find_box(data, next(read_boxes(data)), b"mvex")


def test_too_many_boxes_are_malformed() -> None:
    with pytest.raises(Malformed, match="too many"):
        list(read_boxes(box(b"free") * (MAX_BOXES + 1)))


RUN = NewRun(3, 7, [10, 20, 30], [5, 5, 5], [0, 4, -2], [True, False, False])


@pytest.mark.parametrize(
    "run",
    [
        RUN,
        RUN._replace(durations=[1, 2, 3]),
        RUN._replace(keys=[True, True, True], compositions=[0, 0, 0]),
        RUN._replace(keys=[False, False, False]),
        RUN._replace(keys=[False, True, False]),
        RUN._replace(decode_time=1 << 40),
    ],
)
def test_fragment_contains_its_run(run: NewRun) -> None:
    data = movie_fragment(1, [run._replace(track=9), run])
    defaults = {3: Defaults(), 9: Defaults()}
    first, second = parse_movie_fragment(data[:-8], defaults)
    assert (first.track, second.track, second.decode_time) == (9, 3, run.decode_time)
    (found,) = second.runs
    assert (list(found.sizes), list(found.durations)) == (run.sizes, run.durations)
    assert list(found.compositions) == list(run.compositions)
    assert [not flags & 0x10000 for flags in found.flags] == run.keys
    assert first.runs[0].offset == len(data)
    assert found.offset == len(data) + sum(run.sizes)


def test_fragment_of_countless_samples_is_malformed() -> None:
    data = bytearray(movie_fragment(1, [RUN])[:-8])
    at = data.index(b"trun")
    data[at + 4 : at + 12] = bytes(4) + b"\x7f\xff\xff\xff"
    with pytest.raises(Malformed, match="too many samples"):
        parse_movie_fragment(bytes(data), {3: Defaults()})


def test_samples_that_overlap_are_malformed() -> None:
    """They would multiply the bytes that arrive."""
    recording = recorded(film("H.264 and AAC in fragmented MP4"))
    head = recording[: recording.index(b"moof") - 4]
    fragment = movie_fragment(1, [RUN._replace(track=1), RUN._replace(track=2)])
    first = fragment.index(b"trun") + 12
    second = fragment.index(b"trun", first) + 12
    FragmentParser().feed(head + fragment + bytes(120))
    damaged = fragment[:second] + fragment[first : first + 4] + fragment[second + 4 :]
    with pytest.raises(Malformed, match="overlap"):
        FragmentParser().feed(head + damaged + bytes(120))


def test_sample_outside_of_its_data_is_malformed() -> None:
    recording = recorded(film("H.264 and AAC in fragmented MP4"))
    first = recording.index(b"trun") + 12
    with pytest.raises(Malformed, match="outside"):
        parsed(recording[:first] + (8).to_bytes(4, "big") + recording[first + 4 :])


@pytest.mark.parametrize("index_first", [False, True])
def test_ordinary_mp4_is_refused_with_the_remedy(index_first: bool) -> None:
    head = box(b"ftyp", b"isom") + (box(b"moov", box(b"mvhd", bytes(100))) if index_first else b"")
    with pytest.raises(UnsupportedFormat, match="frag_keyframe"):
        FragmentParser().feed(head + box(b"mdat", bytes(100)))


def test_huge_index_is_malformed() -> None:
    with pytest.raises(Malformed, match="1 MiB"):
        FragmentParser().feed(box(b"ftyp", b"isom") + b"\x7f\xff\xff\xffmoov")


def test_pieces_of_a_large_fragment_are_emitted_as_they_arrive() -> None:
    data = film("H.264 and AAC in fragmented MP4")
    parser = FragmentParser()
    half = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 4
    found = [event for event in parser.feed(data[:half]) if isinstance(event, Sample)]
    assert found
    assert sum(len(one.data) for one in found) > (half - data.index(b"mdat")) // 2


@pytest.mark.parametrize(
    ("head", "parser"),
    [
        (b"\x1a\x45\xdf\xa3\x93", MatroskaParser),
        (b"FLV\x01\x05", FlvParser),
        (b"\x00\x00\x00\x20ftypiso5", FragmentParser),
        (b"\x00\x00\x00\x20stypmsdh", FragmentParser),
        ((b"G" + bytes(187)) * 4, TransportParser),
        ((bytes(100) + b"G" + bytes(87)) * 4, TransportParser),
    ],
)
def test_container_is_recognised_by_its_first_bytes(head: bytes, parser: type) -> None:
    assert recognise(head) is parser


@pytest.mark.parametrize("head", [b"", b"\x1a\x45", b"\x00\x00\x00\x20", b"G" + bytes(300)])
def test_few_bytes_are_not_recognised_yet(head: bytes) -> None:
    assert recognise(head) is None


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"RIFF\x00\x00\x00\x00AVI ", "AVI"),
        (b"OggS", "Ogg"),
        (b"ID3\x04", "bare sound"),
        (b"#EXTM3U\n", "playlist"),
        (b"<html>", "text"),
        (bytes(ENOUGH), "unknown"),
        (b"x" * ENOUGH, "unknown"),
    ],
)
def test_other_body_is_refused(head: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{name}.*Send MPEG-TS"):
        recognise(head)


def test_short_body_is_refused_at_its_end() -> None:
    with pytest.raises(UnsupportedFormat, match="unknown"):
        recognise(b"hello", is_whole=True)

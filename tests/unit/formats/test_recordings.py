"""Recordings: their times and fragments, and the ordinary MP4 that each becomes, also a torn one."""

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats.boxes import Box, find_box, read_boxes, require_box
from app.formats.errors import Malformed, UnsupportedFormat
from app.formats.finishing import header_patch, read_recording
from app.formats.fragmented import HEAD, Fragment, FragmentWriter, Initialization, TimeShift
from app.formats.fragments import FragmentParser
from app.formats.movie import MovieTrack, SampleTable, movie
from app.formats.movie_fragments import decode_times
from app.formats.samples import MAX_HELD, Codec, Event, Sample, SampleGrid, Track, TrackGate, Tracks, rescale
from app.formats.timeline import Timeline
from tests.support.films import decoded, film, finished, make_film, parsed, read, recorded, written

AVC = bytes.fromhex("0142c00bffe100176742c00bda0b13b021000003000100000300320f142aa001000468ce0fc8")
OTHER_AVC = bytes.fromhex(
    "014d401effe1001c674d401ef405a126ffc0040003c4000003000400000300c87c50aa8001000468de0fc8"
)
VIDEO = Track(256, Codec.H264, 90_000, AVC, 176, 144)
SOUND = Track(257, Codec.AAC, 48_000, bytes.fromhex("1190"), rate=48_000, channels=2)
BOTH = Tracks((VIDEO, SOUND))
FRAME, SOUND_FRAME = 3600, 1024


def stream(
    seconds: float, start: float = 0.0, *, name: str = "a", reorder: int = 0, tracks: Tracks = BOTH
) -> Iterator[Event]:
    """Yield interleaved samples: pictures at 25 Hz with a key frame a second, and sound."""
    yield tracks
    video, sound = tracks.tracks[0], tracks.tracks[-1]
    samples = []
    for index in range(int(seconds * 25)):
        dts = int(start * 90_000) + index * FRAME
        data = f"{name}v{index}".encode().ljust(20, b".")
        samples.append((dts / 90_000, Sample(video.id, dts, dts + reorder * FRAME, 0, index % 25 == 0, data)))
    for index in range(int(seconds * 48_000 / SOUND_FRAME) if sound is not video else 0):
        dts = int(start * 48_000) + index * SOUND_FRAME
        data = f"{name}s{index}".encode()
        samples.append((dts / 48_000, Sample(sound.id, dts, dts, SOUND_FRAME, True, data)))
    yield from (sample for _, sample in sorted(samples, key=lambda entry: entry[0]))


class Stored(NamedTuple):
    """A sample that the tables of a movie name."""

    track: int
    dts: int
    pts: int
    duration: int
    is_key: bool
    description: int
    data: bytes


def table(data: bytes, stbl: Box, kind: bytes, fields: str) -> list[tuple[int, ...]]:
    found = find_box(data, stbl, kind)
    if found is None:
        return []
    size = struct.calcsize(">" + fields)
    start = found.body + (12 if kind == b"stsz" else 8)
    return [struct.unpack_from(">" + fields, data, at) for at in range(start, found.stop, size)]


def stored(data: bytes) -> list[Stored]:
    """Return the samples of an ordinary MP4, by its tables alone."""
    moov = next(box for box in read_boxes(data) if box.kind == b"moov")
    samples = []
    for trak in (box for box in read_boxes(data, moov.body, moov.stop) if box.kind == b"trak"):
        number = int.from_bytes(data[require_box(data, trak, b"tkhd").body + 20 :][:4], "big")
        stbl = require_box(data, trak, b"mdia", b"minf", b"stbl")
        sizes = [size for (size,) in table(data, stbl, b"stsz", "I")]
        durations = [value for count, value in table(data, stbl, b"stts", "II") for _ in range(count)]
        shifts = [value for count, value in table(data, stbl, b"ctts", "Ii") for _ in range(count)]
        keys = {key for (key,) in table(data, stbl, b"stss", "I")} or set(range(1, len(sizes) + 1))
        offsets = [one for (one,) in table(data, stbl, b"stco", "I") or table(data, stbl, b"co64", "Q")]
        chunks = table(data, stbl, b"stsc", "III")
        index = dts = 0
        for (first, count, description), (following, *_) in pairwise([*chunks, (len(offsets) + 1, 0, 0)]):
            for offset in offsets[first - 1 : following - 1]:
                start = offset
                for _ in range(count):
                    pts = dts + (shifts[index] if shifts else 0)
                    content = data[start : start + sizes[index]]
                    is_key = index + 1 in keys
                    samples.append(Stored(number, dts, pts, durations[index], is_key, description, content))
                    start += sizes[index]
                    dts += durations[index]
                    index += 1
        assert index == len(sizes) == len(durations)
    return samples


def edits(data: bytes) -> dict[int, list[tuple[int, int]]]:
    """Return duration and media time of each edit, by track."""
    moov = next(box for box in read_boxes(data) if box.kind == b"moov")
    found = {}
    for index, trak in enumerate(
        box for box in read_boxes(data, moov.body, moov.stop) if box.kind == b"trak"
    ):
        elst = find_box(data, trak, b"edts", b"elst")
        found[index + 1] = (
            [struct.unpack_from(">Qq", data, at) for at in range(elst.body + 8, elst.stop, 20)]
            if elst
            else []
        )
    return found


def presented(data: bytes, track: int, start: bytes) -> float:
    """Return the seconds at which the first sample of a track whose data begin so is presented."""
    pts = next(one.pts for one in stored(data) if one.track == track and one.data.startswith(start))
    found = edits(data)[track]
    delay = sum(duration for duration, time in found if time < 0)
    media = sum(time for _, time in found if time >= 0)
    return delay / 1000 + (pts - media) / (90_000 if track == 1 else 48_000)


def recording_of(*parts: Sequence[Event], resumed: bool = True) -> bytes:
    """Return the recording of publishers that follow each other."""
    writer = FragmentWriter()
    found: list[Initialization | Fragment] = []
    for index, part in enumerate(parts):
        if index and resumed:
            found += writer.resume()
        found += [one for event in part for one in writer.add(event)]
    return b"".join(one.data for one in found + writer.close())


def test_finished_recording_has_every_sample_at_its_time() -> None:
    events = list(stream(3))
    samples = stored(finished(recording_of(events)))
    for track, number in ((VIDEO, 1), (SOUND, 2)):
        expected = [event for event in events if isinstance(event, Sample) and event.track == track.id]
        found = [sample for sample in samples if sample.track == number]
        assert [(one.dts, one.is_key, one.data) for one in found] == [
            (one.dts, one.is_key, one.data) for one in expected
        ]
    assert {one.duration for one in samples} == {FRAME, SOUND_FRAME}


def test_recording_is_parsed_like_its_input() -> None:
    events = list(stream(2, reorder=1))
    parser = FragmentParser()
    again = [*parser.feed(recording_of(events)), *parser.close()]
    assert {one.data for one in again if isinstance(one, Sample)} == {
        one.data for one in events if isinstance(one, Sample)
    }
    first = {
        track: next(one for one in again if isinstance(one, Sample) and one.track == track)
        for track in (1, 2)
    }
    assert first[1].pts == FRAME  # sound begins one frame before the reordered picture, as in the input
    assert first[2].pts == 0


def test_second_camera_keeps_its_key_frames() -> None:
    """Fragments are cut at key frames of the first pictures only."""
    second = replace(VIDEO, id=258)
    events: list[Event] = [Tracks((VIDEO, second))]
    for index in range(50):
        events.append(Sample(256, index * FRAME, index * FRAME, 0, index % 25 == 0, b"a%d" % index))
        events.append(Sample(258, index * FRAME, index * FRAME, 0, index in {0, 13, 30}, b"b%d" % index))
    samples = stored(finished(recording_of(events)))
    assert [one.data for one in samples if one.track == 2 and one.is_key] == [b"b0", b"b13", b"b30"]
    assert [one.data for one in samples if one.track == 1 and one.is_key] == [b"a0", b"a25"]


def test_edit_list_hides_the_reordering() -> None:
    whole = finished(recording_of(list(stream(2, reorder=2))))
    samples = [sample for sample in stored(whole) if sample.track == 1]
    delay, media = edits(whole)[1]
    assert media[1] == samples[0].pts == 2 * FRAME
    assert delay == (80, -1)  # the picture begins 80 ms after the sound
    assert edits(whole)[2] == []


def test_track_that_begins_later_is_delayed() -> None:
    events = [
        BOTH,
        *(
            one
            for one in stream(2)
            if isinstance(one, Sample) and not (one.track == 256 and one.dts < 90_000)
        ),
    ]
    whole = finished(recording_of(events))
    assert edits(whole)[1][0] == (1000, -1)
    assert edits(whole)[2] == []


def test_fragments_are_short_and_end_before_key_frames() -> None:
    found = [one for one in written(list(stream(3))) if isinstance(one, Fragment)]
    assert all(one.duration_s <= 0.4 + 1e-9 for one in found)
    assert [one.start_s for one in found if one.is_key] == [0, 1, 2]
    assert sum(one.duration_s for one in found) == pytest.approx(3)
    for one, after in pairwise(found):
        assert one.start_s + one.duration_s == pytest.approx(after.start_s)
    assert not any(one.is_discontinuous for one in found)


def test_fragments_go_on_without_pictures() -> None:
    """A publisher that stops its camera is still heard."""
    events = [
        one for one in stream(6) if not (isinstance(one, Sample) and one.track == 256 and one.dts > 90_000)
    ]
    found = [one for one in written(events) if isinstance(one, Fragment)]
    assert 5 <= len(found) <= 15
    assert not any(one.is_key for one in found if one.start_s > 1.5)
    assert len(stored(finished(b"".join(one.data for one in written(events))))) == len(events) - 1


JUMPS = {
    "back to the beginning": (3.0, 0.0),
    "a day ahead": (0.0, 86_400.0),
    "over the end of 33 bits": (95_443.0, -20.0),
    "eleven seconds ahead": (0.0, 13.0),
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("reorder", [0, 2])
def test_times_that_jump_continue(name: str, reorder: int) -> None:
    before, after = JUMPS[name]
    events = [*stream(2, before, reorder=reorder), *list(stream(2, after, name="b", reorder=reorder))[1:]]
    found = written(events)
    fragments = [one for one in found if isinstance(one, Fragment)]
    assert sum(one.is_discontinuous for one in fragments) == 1
    assert sum(isinstance(one, Initialization) for one in found) == 1
    whole = finished(b"".join(one.data for one in found))
    samples = stored(whole)
    assert len(samples) == len(events) - 1
    assert all(0 < one.duration <= FRAME + 3000 for one in samples if one.track == 1)
    starts = {track: presented(whole, track, b"b") for track in (1, 2)}
    assert starts[1] == pytest.approx(starts[2] + reorder * 0.04, abs=0.001)
    assert starts[2] == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize("gap", [0.2, 3.0, 9.0])
def test_gap_stays_a_gap(gap: float) -> None:
    events = [*stream(2), *list(stream(2, 2 + gap, name="b"))[1:]]
    fragments = [one for one in written(events) if isinstance(one, Fragment)]
    assert not any(one.is_discontinuous for one in fragments)
    last = fragments[-1]
    assert last.start_s + last.duration_s == pytest.approx(4 + gap, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-(1 << 40), 1 << 40), st.integers(-(1 << 34), 1 << 34)),
        max_size=60,
    )
)
def test_any_times_make_a_recording(times: list[tuple[bool, int, int]]) -> None:
    events: list[Event] = [BOTH]
    for index, (is_video, dts, shift) in enumerate(times):
        track, duration = (256, 0) if is_video else (257, SOUND_FRAME)
        events.append(Sample(track, dts, dts + (shift if is_video else 0), duration, True, b"%d" % index))
    recording = b"".join(one.data for one in written(events))
    if not times:
        assert recording == b""
        return
    samples = stored(finished(recording))
    assert sorted(one.data for one in samples) == sorted(b"%d" % index for index in range(len(times)))
    for track in (1, 2):
        numbers = [int(one.data) for one in samples if one.track == track]
        assert numbers == sorted(numbers)


def test_every_prefix_of_a_recording_finishes() -> None:
    recording = recording_of(list(stream(2, reorder=1)), list(stream(1, name="b", tracks=changed())))
    whole = stored(finished(recording))
    seen = 0
    for size in [*range(0, len(recording), 307), *range(len(recording) - 40, len(recording) + 1)]:
        prefix = recording[:size]
        found = read(prefix)
        assert found.stop <= size
        if not found.movie:
            continue
        samples = stored(finished(prefix))
        assert {one.data for one in samples} <= {one.data for one in whole}
        assert len(samples) >= seen
        seen = len(samples)
    assert seen == len(whole)


def test_prefix_of_a_recording_plays() -> None:
    recording = recorded(film("H.264 and AAC in MPEG-TS"))
    randomly = random.Random(1)
    all_frames = decoded(finished(recording))["video"]
    for _ in range(2):
        prefix = recording[: randomly.randrange(len(recording) // 3, len(recording))]
        frames = decoded(finished(prefix))["video"]
        assert len(frames) > 5
        # The last picture may refer to one that was lost.
        assert frames[:-2] == all_frames[: len(frames) - 2]


def changed() -> Tracks:
    """Return the tracks of a publisher with another configuration, and other numbers."""
    return Tracks(
        (
            replace(SOUND, id=7, configuration=bytes.fromhex("1210"), rate=44_100),
            replace(VIDEO, id=9, configuration=OTHER_AVC),
        )
    )


def test_publisher_that_returns_continues_the_recording() -> None:
    recording = recording_of(list(stream(2)), list(stream(2, 0.3, name="b")))
    assert recording.count(b"moov") == 1
    samples = stored(finished(recording))
    assert {one.description for one in samples} == {1}
    assert [one.dts for one in samples if one.track == 1] == [index * FRAME for index in range(100)]


def test_publisher_with_another_configuration_continues_the_recording() -> None:
    other = Tracks(
        (replace(VIDEO, id=9, configuration=OTHER_AVC, width=720, height=576), replace(SOUND, id=7))
    )
    recording = recording_of(
        list(stream(2)), list(stream(1, name="b", tracks=other)), list(stream(1, name="c"))
    )
    samples = [one for one in stored(finished(recording)) if one.track == 1]
    assert [one.description for one in samples] == [1] * 50 + [2] * 25 + [1] * 25
    found = read(recording)
    assert [track.configuration for track in found.tracks] == [AVC, SOUND.configuration]
    whole = finished(recording)
    assert AVC in whole[-len(found.movie) :]
    assert OTHER_AVC in whole[-len(found.movie) :]


def test_two_films_of_different_codecs_become_one() -> None:
    recording = recording_of(
        parsed(film("H.264 and AAC in MPEG-TS")), parsed(film("HEVC and MP3 in MPEG-TS")), resumed=True
    )
    frames = len(decoded(film("H.264 and AAC in MPEG-TS"))["video"])
    samples = [one for one in stored(finished(recording)) if one.track == 1]
    assert [one.description for one in samples].count(1) == frames
    assert {one.description for one in samples} == {1, 2}


def test_film_that_changes_its_size_plays() -> None:
    options = "-s 64x48 -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 15 -c:a aac -f mpegts"
    films = film("H.264 and AAC in MPEG-TS"), make_film(44_100, options)
    found = decoded(finished(recording_of(*map(parsed, films))), "-autoscale", "0")
    assert found["video"] == [frame for one in films for frame in decoded(one)["video"]]


def test_another_process_continues_the_recording() -> None:
    """As after `kill -9`: the last fragment is torn."""
    torn = recording_of(list(stream(2, reorder=1)))[:-30]
    found = read(torn)
    whole = torn[: found.stop]
    writer = FragmentWriter(recorded=found.recorded, tracks=found.tracks, sequence=found.sequence)
    more = [
        one for event in stream(1, 5000, name="b", reorder=1) for one in writer.add(event)
    ] + writer.close()
    assert all(isinstance(one, Fragment) for one in more)  # the configuration is the same
    assert isinstance(more[0], Fragment)
    assert more[0].is_discontinuous
    samples = [one for one in stored(finished(whole + b"".join(one.data for one in more))) if one.track == 1]
    assert all(one.dts + one.duration == after.dts for one, after in pairwise(samples))
    assert sum(one.data.startswith(b"b") for one in samples) == 25


def test_configuration_that_changes_too_often_is_malformed() -> None:
    writer = FragmentWriter()
    with pytest.raises(Malformed, match="changes too often"):
        for index in range(1100):
            for event in stream(0.04, index, tracks=Tracks((replace(VIDEO, width=16 + index), SOUND))):
                writer.add(event)


def test_finished_file_differs_in_sixteen_bytes() -> None:
    recording = recording_of(list(stream(2)))
    whole = finished(recording)
    patch = header_patch(len(recording))
    assert (patch.offset, len(patch.data)) == (len(HEAD) - 16, 16)
    assert whole[: patch.offset] == recording[: patch.offset]
    assert whole[patch.offset + 16 : len(recording)] == recording[patch.offset + 16 :]
    assert [box.kind for box in read_boxes(whole)] == [b"ftyp", b"mdat", b"moov"]
    assert [box.kind for box in read_boxes(recording)][:4] == [b"ftyp", b"free", b"moov", b"moof"]


def test_recording_reads_little() -> None:
    recording = recording_of(list(stream(4)))
    asked = 0

    def read_at(offset: int, size: int) -> bytes:
        nonlocal asked
        asked += 1
        return recording[offset : offset + size]

    read_recording(read_at, len(recording))
    fragments = recording.count(b"moof")
    assert asked <= fragments + 3


@pytest.mark.parametrize("data", [b"", b"GG", b"\x00\x00\x00\x08free", b"\x00\x00\x00\x03ftyp", bytes(64)])
def test_other_file_is_no_recording(data: bytes) -> None:
    with suppress(Malformed):
        assert read(data).movie == b""


def test_large_offsets_take_64_bits() -> None:
    table = SampleTable()
    table.add_chunk(1 << 33, 1, [5], [FRAME], [0], [True])
    data = movie([MovieTrack(1, 90_000, (VIDEO,), 0, 0, table)])
    assert b"co64" in data
    assert b"stco" not in data
    assert b"mvex" not in data


def test_shifted_fragments_begin_at_zero() -> None:
    found = written(list(stream(4)))
    late = [one for one in found if isinstance(one, Fragment) and one.start_s >= 2]
    timescales = read(b"".join(one.data for one in found)).recorded
    shift = TimeShift(timescales)
    shifted = [shift.apply(moof(one.data)) for one in late]
    assert [len(one) for one in shifted] == [len(moof(one.data)) for one in late]
    times = [{track: time for track, (_, time) in decode_times(one).items()} for one in shifted]
    assert min(times[0][1] / 90_000, times[0][2] / 48_000) == pytest.approx(0, abs=0.001)
    assert times[1][1] - times[0][1] == round(late[0].duration_s * 90_000)
    assert times[0][1] / 90_000 == pytest.approx(times[0][2] / 48_000, abs=0.03)


def moof(fragment: bytes) -> bytes:
    return fragment[: next(read_boxes(fragment)).stop]


def test_gate_waits_for_every_track() -> None:
    gate = TrackGate(max_wait_s=3)
    gate.expect(frozenset({256, 257}))
    gate.configure(VIDEO)
    gate.add(Sample(256, 0, 0, 0, True, b"first"))
    assert gate.take() == []
    gate.configure(SOUND)
    gate.add(Sample(257, 0, 0, 1024, True, b"second"))
    assert gate.take() == [
        BOTH,
        Sample(256, 0, 0, 0, True, b"first"),
        Sample(257, 0, 0, 1024, True, b"second"),
    ]


def test_gate_does_not_wait_for_ever() -> None:
    gate = TrackGate(max_wait_s=3)
    gate.expect(frozenset({256, 257}))
    gate.configure(VIDEO)
    events: list[Event] = []
    for index in range(100):
        gate.add(Sample(256, index * FRAME, index * FRAME, 0, True, b"."))
        events += gate.take()
    assert events[0] == Tracks((VIDEO,))
    assert len(events) == 101
    gate.configure(SOUND)
    gate.add(Sample(257, 0, 0, 1024, True, b"late"))
    assert gate.take() == [BOTH, Sample(257, 0, 0, 1024, True, b"late")]


def test_gate_begins_with_a_key_frame() -> None:
    gate = TrackGate()
    gate.configure(VIDEO)
    gate.add(Sample(256, 0, 0, 0, False, b"lost"))
    gate.add(Sample(256, 1, 1, 0, True, b"key"))
    assert gate.take() == [Tracks((VIDEO,)), Sample(256, 1, 1, 0, True, b"key")]


def test_gate_refuses_a_stream_without_key_frames() -> None:
    gate = TrackGate()
    gate.configure(VIDEO)
    with pytest.raises(UnsupportedFormat, match="no key frame"):
        for _ in range(9):
            gate.add(Sample(256, 0, 0, 0, False, bytes(8 << 20)))
    with pytest.raises(Malformed, match="larger than 8 MiB"):
        gate.add(Sample(256, 0, 0, 0, True, bytes((8 << 20) + 1)))


def test_gate_emits_held_samples_with_their_own_tracks() -> None:
    gate = TrackGate()
    gate.expect(frozenset({256, 257}))
    gate.configure(VIDEO)
    first, second = Sample(256, 0, 0, 0, True, b"first"), Sample(256, 1, 1, 0, True, b"second")
    gate.add(first)
    other = replace(VIDEO, configuration=OTHER_AVC)
    gate.configure(other)
    gate.add(second)
    assert gate.take() == [Tracks((VIDEO,)), first, Tracks((other,)), second]


def test_gate_holds_a_bounded_number_of_samples() -> None:
    gate = TrackGate()
    gate.expect(frozenset({256, 257}))
    gate.configure(VIDEO)
    for _ in range(MAX_HELD + 1):
        gate.add(Sample(256, 0, 0, 0, True, b"."))
    assert len(gate.take()) == MAX_HELD + 2


@pytest.mark.parametrize("timescale", [1000, 90_000])
def test_sound_lies_on_its_grid_whatever_the_container_rounds(timescale: int) -> None:
    grid = SampleGrid(44_100)
    times = [grid.place(rescale(index * 1024, 44_100, timescale), timescale, 1024) for index in range(1000)]
    assert times == [index * 1024 for index in range(1000)]


def test_grid_follows_lost_sound() -> None:
    grid = SampleGrid(48_000)
    assert [grid.place(time, 1000, 1024) for time in (0, 21, 500)] == [0, 1024, 24_000]


def test_timeline_holds_no_more_than_a_second() -> None:
    timeline = Timeline()
    timeline.use((VIDEO, SOUND))
    placed = []
    for index in range(50):
        placed += timeline.place(Sample(256, index * FRAME, index * FRAME, 0, True, b"."))
    assert len(placed) == 50
    assert [one.dts for one in placed] == [index * FRAME for index in range(50)]

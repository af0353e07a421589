"""Streams of ffmpeg, recorded and finished: no frame differs from the original."""

import random
import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.formats.errors import FormatError, UnsupportedFormat
from app.formats.samples import Sample, Tracks
from tests.support.films import (
    FILMS,
    REFUSED_FILMS,
    SECONDS,
    decoded,
    film,
    finished,
    packets,
    parsed,
    recorded,
    written,
)

ONE_OF_EACH = [
    "H.264 and AAC in MPEG-TS",
    "H.264 and AAC in fragmented MP4 with offsets of the file",
    "VP9 and Opus in WebM",
    "H.264 and MP3 in FLV",
]


@pytest.mark.parametrize("name", FILMS)
def test_recording_has_every_frame(name: str) -> None:
    data = film(name)
    # Players trim the beginning of sound in Matroska, and not in MP4: the packets are compared there.
    options = ["-c:a", "copy"] if "Matroska" in name or "WebM" in name else []
    original = decoded(data, *options)
    whole = finished(recorded(data))
    assert decoded(whole, *options) == original
    assert original


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_recording_plays_before_it_is_finished(name: str) -> None:
    recording = recorded(film(name))
    assert decoded(recording) == decoded(finished(recording))


@pytest.mark.parametrize("name", ONE_OF_EACH[:2])
def test_sound_and_pictures_stay_together(name: str) -> None:
    """The edit list hides the time that reordering takes; B-frames begin two frames late without it."""
    before, after = packets(film(name)), packets(finished(recorded(film(name))))
    start = {kind: min(time for one, time in before if one == kind) for kind in ("audio", "video")}
    result = {kind: min(time for one, time in after if one == kind) for kind in ("audio", "video")}
    assert result["video"] - result["audio"] == pytest.approx(start["video"] - start["audio"], abs=0.002)
    assert min(result.values()) == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("name", REFUSED_FILMS)
def test_codec_that_is_not_taken_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name.partition(" in M")[0].replace(".", r"\.")) as refusal:
        parsed(film(name))
    assert "Send H.264" in str(refusal.value)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_cut_gives_the_same_events(name: str) -> None:
    data = film(name)
    expected = parsed(data, [len(data)])
    assert parsed(data, [1]) == expected

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
    def check(sizes: list[int]) -> None:
        assert parsed(data, sizes) == expected

    check()


@pytest.mark.campaign
@pytest.mark.parametrize("name", FILMS)
def test_many_cuts_give_the_same_events(name: str) -> None:
    data = film(name)
    expected = parsed(data, [len(data)])
    randomly = random.Random(name)
    for _ in range(200):
        assert parsed(data, [randomly.randint(1, 3000) for _ in range(50)]) == expected


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_torn_stream_is_recorded_up_to_its_end(name: str) -> None:
    data = film(name)
    samples = [event for event in parsed(data) if isinstance(event, Sample)]
    torn = [event for event in parsed(data[: len(data) * 3 // 4], is_torn=True) if isinstance(event, Sample)]
    assert len(torn) > len(samples) // 2
    assert {sample.data for sample in torn} <= {sample.data for sample in samples}


def mutants(data: bytes, count: int, seed: str) -> list[bytes]:
    """Return damaged copies: bytes changed, pieces removed, repeated or exchanged."""
    randomly = random.Random(seed)
    found = []
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(randomly.randint(1, 8)):
            limit = len(mutant) if randomly.random() < 0.5 else min(len(mutant), 2000)
            at = randomly.randrange(limit)
            size = randomly.randint(1, 300)
            match randomly.randrange(4):
                case 0:
                    mutant[at : at + 1] = randomly.randbytes(1)
                case 1:
                    del mutant[at : at + size]
                case 2:
                    mutant[at:at] = mutant[at : at + size]
                case _:
                    mutant[at : at + 4] = randomly.choice(
                        [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"]
                    )
        found.append(bytes(mutant))
    return found


def check_mutants(name: str, count: int) -> None:
    for mutant in mutants(film(name), count, name):
        try:
            events = parsed(mutant)
            recording = b"".join(one.data for one in written(events))
        except FormatError:
            continue
        assert sum(len(event.data) for event in events if isinstance(event, Sample)) <= 2 * len(mutant)
        if recording:
            finished(recording)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_damaged_stream_is_refused_or_recorded(name: str) -> None:
    tracemalloc.start()
    started = time.process_time()
    check_mutants(name, 12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20
    assert time.process_time() - started < 60  # a loop that does not end would take for ever


@pytest.mark.campaign
@pytest.mark.parametrize("name", FILMS)
def test_many_damaged_streams_are_refused_or_recorded(name: str) -> None:
    check_mutants(name, 300)


@pytest.mark.parametrize("name", FILMS)
def test_tracks_precede_samples(name: str) -> None:
    events = parsed(film(name))
    assert isinstance(events[0], Tracks)
    assert sum(isinstance(event, Tracks) for event in events) == 1
    for track in events[0].tracks:
        samples = [event for event in events if isinstance(event, Sample) and event.track == track.id]
        assert samples[0].is_key
        assert (samples[-1].dts - samples[0].dts) / track.timescale == pytest.approx(SECONDS, abs=0.15)
        assert all(one.dts < after.dts for one, after in pairwise(samples))

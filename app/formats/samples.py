"""Tracks and samples: the values that every input is parsed into, and that every output is written from.

An input is a push parser: `feed(bytes)` and `close()` return events. The first event is `Tracks`, and another
one follows whenever a track is added or its configuration changes. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.formats.errors import Malformed, UnsupportedFormat

MAX_SAMPLE = 8 << 20
"""Bytes of one sample."""

MAX_TRACKS = 8
"""Tracks of one stream."""

MAX_HELD = 2000
"""Samples that wait in memory, of one track: small ones would take more of it than their bytes."""

MAX_WITHOUT_KEY = 64 << 20
"""Bytes of pictures that are dropped while no key frame arrives."""


class Codec(StrEnum):
    """The codecs that recordings contain."""

    H264 = "H.264"
    HEVC = "HEVC"
    VP9 = "VP9"
    AV1 = "AV1"
    AAC = "AAC"
    OPUS = "Opus"
    MP3 = "MP3"
    FLAC = "FLAC"

    @property
    def is_video(self) -> bool:
        return self in _VIDEO


_VIDEO = frozenset({Codec.H264, Codec.HEVC, Codec.VP9, Codec.AV1})


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream."""

    id: int
    """Its number in the container: a PID, a track_ID, a TrackNumber."""
    codec: Codec
    timescale: int
    """Ticks per second of its samples' times."""
    configuration: bytes
    """The content of avcC, hvcC, av1C, vpcC, dOps or dfLa; the AudioSpecificConfig of AAC; empty for MP3."""
    width: int = 0
    height: int = 0
    rate: int = 0
    """Samples of sound per second."""
    channels: int = 0
    language: str = "und"
    """ISO 639-2/T."""


class Sample(NamedTuple):
    """An access unit as ISO BMFF stores it: NAL units with lengths, AAC without ADTS. Times are in ticks."""

    track: int
    dts: int
    pts: int
    duration: int
    """0 if the container does not contain it: the sample lasts until the next one of its track."""
    is_key: bool
    data: bytes


class Tracks(NamedTuple):
    """The tracks of the samples that follow."""

    tracks: tuple[Track, ...]


Event = Tracks | Sample


class TrackGate:
    """Holds samples back until the configuration of every expected track is known.

    A container may announce sound that never arrives, so the wait is bounded in time and bytes. Pictures
    before the first key frame are dropped: they cannot be decoded.
    """

    def __init__(self, max_wait_s: int = 3, max_bytes: int = MAX_SAMPLE) -> None:
        self._max_wait_s = max_wait_s
        self._max_bytes = max_bytes
        self._expected: frozenset[int] = frozenset()
        self._tracks: dict[int, Track] = {}
        self._has_key: set[int] = set()
        self._held: list[Sample] = []
        self._held_bytes = 0
        self._dropped_bytes = 0
        self._is_open = False
        self._is_changed = False
        """Whether the tracks differ from those of the last event."""
        self._events: list[Event] = []

    def expect(self, tracks: frozenset[int]) -> None:
        """Wait for these tracks; those that the container no longer contains are removed."""
        if len(tracks) > MAX_TRACKS:
            raise UnsupportedFormat(f"The stream contains more than {MAX_TRACKS} tracks. Send fewer.")
        self._expected = tracks
        gone = [track for track in self._tracks if track not in tracks]
        if gone:
            self._release()
        for track in gone:
            del self._tracks[track]
            self._has_key.discard(track)
            self._is_changed = True
        if not self._tracks:  # all of them are new: wait for them together
            self._is_open = False

    def configure(self, track: Track) -> None:
        """Add a track, or replace its configuration."""
        if self._tracks.get(track.id) == track:
            return
        if track.id in self._tracks:
            self._release()
        self._tracks[track.id] = track
        self._is_changed = True
        if track.codec.is_video:
            self._has_key.discard(track.id)

    def add(self, sample: Sample) -> None:
        """Emit a sample of a configured track, or hold it. Raises Malformed, UnsupportedFormat."""
        track = self._tracks.get(sample.track)
        if track is None or not sample.data:
            return
        if len(sample.data) > MAX_SAMPLE:
            raise Malformed(f"A frame is larger than {MAX_SAMPLE >> 20} MiB.")
        if sample.track not in self._has_key and not self._admit(track, sample):
            return
        if not self._is_open and self._expected <= self._tracks.keys():
            self._open()
        if self._is_open:
            self._emit(sample)
            return
        self._held.append(sample)
        self._held_bytes += len(sample.data)
        if self._is_late(track, sample):
            self._open()

    def take(self) -> list[Event]:
        """Return the events so far, each once."""
        events, self._events = self._events, []
        return events

    def close(self) -> list[Event]:
        """Return the last events: the wait for further tracks is over."""
        self._release()
        return self.take()

    def _release(self) -> None:
        """Emit the samples that are held, before the tracks change."""
        if self._held:
            self._open()

    def _admit(self, track: Track, sample: Sample) -> bool:
        """Return whether decoding can begin at the sample."""
        if sample.is_key or not track.codec.is_video:
            self._has_key.add(sample.track)
            return True
        self._dropped_bytes += len(sample.data)
        if self._dropped_bytes > MAX_WITHOUT_KEY:
            raise UnsupportedFormat(
                f"The stream contains no key frame in {MAX_WITHOUT_KEY >> 20} MiB. Set a key frame interval."
            )
        return False

    def _is_late(self, track: Track, sample: Sample) -> bool:
        first = next(one for one in self._held if one.track == sample.track)
        waited = abs(sample.dts - first.dts)
        is_long = waited > self._max_wait_s * track.timescale
        return is_long or self._held_bytes > self._max_bytes or len(self._held) > MAX_HELD

    def _open(self) -> None:
        self._is_open = True
        for sample in self._held:
            self._emit(sample)
        self._held, self._held_bytes = [], 0

    def _emit(self, sample: Sample) -> None:
        # Tracks are announced with the next sample only: pieces of the input must not decide how often.
        if self._is_changed:
            self._is_changed = False
            self._events.append(Tracks(tuple(self._tracks.values())))
        self._events.append(sample)


class SampleGrid:
    """Places the frames of sound one after another on the grid of its sampling rate.

    Containers round times, to milliseconds or to 90 kHz. A time that is within half a frame, or 5 ms, of the
    end of the previous frame is that end, so that equal frames have equal durations.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._end: int | None = None

    def place(self, time: int | None, timescale: int, duration: int) -> int:
        """Return the time of a frame in samples of sound.

        `time` is in ticks of the container, None if it has none; `duration` is in samples.
        """
        given = None if time is None else rescale(time, timescale, self._rate)
        start = self._end
        if start is None or (
            given is not None and abs(given - start) > max(duration // 2, self._rate // 200)
        ):
            start = given or 0
        self._end = start + duration
        return start


def rescale(time: int, timescale: int, to: int) -> int:
    """Convert ticks to ticks of another timescale, rounded to the nearest."""
    return (2 * time * to + timescale) // (2 * timescale)

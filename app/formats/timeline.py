"""The time of a recording: one that never jumps, whatever the times of its publishers do. Pure.

An epoch is a stretch of samples whose input times differ from those of the recording by one constant. A new
epoch begins with the first sample, after `resume()`, and where times jump: back, or by more than MAX_GAP_S.
It starts where the recording ends. Its constant is the same for all tracks, which keeps sound and pictures
together, so samples are held until each track has arrived in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from app.formats.errors import Malformed
from app.formats.samples import MAX_HELD, MAX_SAMPLE, Sample, Track, rescale

MAX_GAP_S = 10
"""Seconds that a stream may lack; a longer step forward is a jump."""

MAX_OVERLAP_S = 0.5
"""Seconds by which a track may step back without a jump: its samples are then moved to where it ends."""

MAX_HELD_S = 1
"""Seconds of samples to hold at the beginning of an epoch, for tracks that have not arrived."""

_MAX_TIME = 1 << 62
_MAX_COMPOSITION = 1 << 30
"""Ticks that a fragment can contain in 32 bits with a sign."""


@dataclass
class RecordedTrack:
    """One track of a recording; it outlives the publishers that feed it."""

    id: int
    is_video: bool
    timescale: int
    composition: int | None = None
    """Ticks that its edit list skips; None before its first sample."""
    end: int = 0
    """Where its last sample ends; 0 before the first one."""
    last: int = -1
    """The decoding time of its last sample."""
    step: int = 1
    """Ticks between its last samples: the duration of one whose own is not known."""


class Placed(NamedTuple):
    """A sample in the time of the recording."""

    track: RecordedTrack
    dts: int
    composition: int
    """Ticks from decoding to presentation."""
    duration: int
    """0 if it lasts until the next sample of the track."""
    is_key: bool
    is_first: bool
    """Whether it begins an epoch."""
    data: bytes


@dataclass
class _Input:
    """A track of the publisher, and the track that records it."""

    track: Track
    recorded: RecordedTrack
    last: int | None = None
    """The decoding time of its last sample in the epoch."""
    offset: int = 0
    """Ticks from the input's time to the recording's, in the timescale of the recording."""


class Timeline:
    """Places samples in the time of a recording."""

    def __init__(self, recorded: Iterable[RecordedTrack] = ()) -> None:
        self.recorded = list(recorded)
        self._inputs: dict[int, _Input] = {}
        self._epoch = Fraction(0)
        """Seconds from the input's time to the recording's."""
        self._latest = 0.0
        """The newest input time of the epoch, in seconds."""
        self._held: list[Sample] = []
        self._held_bytes = 0
        self._held_tracks: set[int] = set()
        self._is_waiting = True
        """Whether an epoch is about to begin."""

    def use(self, tracks: Iterable[Track]) -> list[Placed]:
        """Record these tracks from now on. The n-th track of each kind continues the n-th one of the
        recording.

        Returns the samples of the former tracks that were still held.
        """
        placed = self.flush()
        former = self._inputs
        self._inputs = {}
        used: set[int] = set()
        for track in tracks:
            recorded = self._recorded(track, used)
            used.add(recorded.id)
            one = former.get(track.id)
            if one is None or one.recorded is not recorded or one.track.timescale != track.timescale:
                one = _Input(track, recorded, offset=round(self._epoch * recorded.timescale))
            self._inputs[track.id] = replace(one, track=track)
        if former.keys().isdisjoint(self._inputs):
            self._is_waiting = True
        return placed

    def _recorded(self, track: Track, used: set[int]) -> RecordedTrack:
        for one in self.recorded:
            if one.is_video == track.codec.is_video and one.id not in used:
                return one
        one = RecordedTrack(len(self.recorded) + 1, track.codec.is_video, track.timescale)
        self.recorded.append(one)
        return one

    def recorded_by(self, tracks: Iterable[Track]) -> list[RecordedTrack]:
        """Return the tracks of the recording that these tracks are recorded in."""
        return [self._inputs[track.id].recorded for track in tracks]

    def resume(self) -> list[Placed]:
        """Begin an epoch with the next sample. Returns the samples that were still held."""
        placed = self.flush()
        self._is_waiting = True
        return placed

    def place(self, sample: Sample) -> list[Placed]:
        """Return the samples whose place is now known, in the order of their arrival. Raises Malformed."""
        one = self._inputs[sample.track]
        if max(abs(sample.dts), abs(sample.pts)) > _MAX_TIME:
            raise Malformed("The times of the stream are beyond 64 bits.")
        if not self._is_waiting:
            if self._continues(one, sample):
                return [self._placed(one, sample)]
            self._is_waiting = True
        elif self._held and not self._is_near_held(sample):
            has_jumped = sample.track in self._held_tracks or one.last is None
            if not has_jumped and self._continues(one, sample):
                return [self._placed(one, sample)]
            placed = self.flush()
            return [*placed, *self.place(sample)]
        self._hold(sample)
        return self._begin() if self._is_ready(sample) else []

    def flush(self) -> list[Placed]:
        """Return the samples that are held for tracks that have not arrived."""
        return self._begin() if self._held else []

    def _continues(self, one: _Input, sample: Sample) -> bool:
        """Return whether a sample belongs to the epoch."""
        scale = one.track.timescale
        if one.last is None:
            earliest = (self._latest - MAX_GAP_S) * scale
        else:
            earliest = one.last - MAX_OVERLAP_S * scale
        return earliest <= sample.dts <= (self._latest + MAX_GAP_S) * scale

    def _is_near_held(self, sample: Sample) -> bool:
        first = self._held[0]
        distance = self._seconds(sample) - self._seconds(first)
        return -MAX_GAP_S / 2 <= distance <= MAX_GAP_S

    def _seconds(self, sample: Sample) -> Fraction:
        return Fraction(sample.dts, self._inputs[sample.track].track.timescale)

    def _hold(self, sample: Sample) -> None:
        self._held.append(sample)
        self._held_bytes += len(sample.data)
        self._held_tracks.add(sample.track)

    def _is_ready(self, sample: Sample) -> bool:
        if len(self._held_tracks) == len(self._inputs):
            return True
        if self._held_bytes > MAX_SAMPLE or len(self._held) > MAX_HELD:
            return True
        return any(
            abs(self._seconds(sample) - self._seconds(one)) > MAX_HELD_S
            for one in (self._held[0], self._held[-1])
        )

    def _begin(self) -> list[Placed]:
        """Begin an epoch with the samples that are held."""
        held, self._held, self._held_bytes = self._held, [], 0
        self._held_tracks.clear()
        self._is_waiting = False
        firsts: dict[int, Sample] = {}
        for sample in held:
            firsts.setdefault(sample.track, sample)
        self._epoch = self._constant(firsts)
        self._latest = max(float(self._seconds(sample)) for sample in firsts.values())
        for one in self._inputs.values():
            one.offset = round(self._epoch * one.recorded.timescale)
            one.last = None
        placed: list[Placed] = []
        for sample in held:
            one = self._inputs[sample.track]
            found = self._placed(one, sample)
            placed.append(found if placed else found._replace(is_first=True))
        return placed

    def _constant(self, firsts: dict[int, Sample]) -> Fraction:
        """Return the seconds to add to the input's times, so that no track begins before it ended."""
        end = max((Fraction(one.end, one.timescale) for one in self.recorded), default=Fraction(0))
        needed = []
        for number, sample in firsts.items():
            one = self._inputs[number]
            recorded = one.recorded
            if recorded.composition is None:
                composition = max(sample.pts - sample.dts, 0)
                recorded.composition = rescale(composition, one.track.timescale, recorded.timescale)
                own_end = end
            else:
                own_end = Fraction(recorded.end, recorded.timescale)
            start = self._seconds(sample) + Fraction(recorded.composition, recorded.timescale)
            needed.append(own_end - start)
        return max(needed)

    def _placed(self, one: _Input, sample: Sample) -> Placed:
        recorded, scale = one.recorded, one.track.timescale
        if recorded.composition is None:  # the track arrived after the epoch had begun
            recorded.composition = rescale(max(sample.pts - sample.dts, 0), scale, recorded.timescale)
        self._latest = max(self._latest, sample.dts / scale)
        one.last = sample.dts
        shift = one.offset + recorded.composition
        dts, pts, duration = sample.dts, sample.pts, sample.duration
        if scale != recorded.timescale:
            dts, pts, duration = (rescale(time, scale, recorded.timescale) for time in (dts, pts, duration))
        if abs(pts - dts) > min(MAX_GAP_S * recorded.timescale, _MAX_COMPOSITION):  # a damaged time
            pts = dts
        dts, pts = dts + shift, pts + shift
        dts = max(dts, recorded.last + 1)
        if recorded.last >= 0 and dts - recorded.last <= recorded.timescale:
            recorded.step = dts - recorded.last
        recorded.last = dts
        recorded.end = dts + (duration or recorded.step)
        return Placed(recorded, dts, pts - dts, duration, sample.is_key, False, sample.data)

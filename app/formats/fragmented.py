"""Writes a recording: a fragmented MP4 (CMAF) that becomes an ordinary one by a `moov` and sixteen bytes.
Pure.

The file begins with `ftyp`, a `free` box of sixteen bytes, and the `moov` of an initialization segment; then
each fragment is a `moof` and an `mdat`. Where the configuration of a track changes, another such head
precedes the next fragment. At the end, a `moov` of the whole is appended and the first `free` becomes the
header of an `mdat` up to it: all heads of fragments are then bytes that no sample names. See
`app/formats/finishing.py`.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from app.formats.boxes import box
from app.formats.codecs import media_type
from app.formats.errors import Malformed
from app.formats.movie import MovieTrack, movie
from app.formats.movie_fragments import NewRun, decode_times, movie_fragment
from app.formats.samples import MAX_HELD, MAX_SAMPLE, Event, Track, Tracks
from app.formats.timeline import Placed, RecordedTrack, Timeline

MAX_CONFIGURATIONS = 1000
"""Changes of configuration in one recording: a shared window changes its size."""

MAX_WAIT_S = 1.0
"""Seconds of the other tracks after which a fragment ends, though its leading track has stopped."""

RESERVED = 16
"""Bytes of `free` that become the header of `mdat`."""

_BRANDS = b"iso6" + b"\x00\x00\x02\x00" + b"iso6iso5cmfcmp41"
HEAD = box(b"ftyp", _BRANDS) + box(b"free", bytes(RESERVED - 8))
"""The first bytes of a recording."""

_MAX_UNSIGNED = (1 << 32) - 1


class Initialization(NamedTuple):
    """An initialization segment: bytes of the recording, and the EXT-X-MAP of the fragments that follow."""

    data: bytes
    tracks: tuple[Track, ...]
    media_type: str
    """With its codecs: `video/mp4; codecs="avc1.64001f, mp4a.40.2"`."""


class Fragment(NamedTuple):
    """A `moof` and its `mdat`."""

    data: bytes
    start_s: float
    """Seconds from the beginning of the recording, by the decoding times of the leading track."""
    duration_s: float
    is_key: bool
    """Whether decoding can begin here."""
    is_discontinuous: bool
    """Whether the times of the publisher jumped before it."""


@dataclass
class _Queue:
    """The samples of one track that are not in a fragment yet."""

    track: RecordedTrack
    samples: list[Placed] = field(default_factory=list)
    usual_duration: int = 1
    """Of the previous sample, for one whose own is not known."""
    _taken: list[bytes] = field(default_factory=list)

    def take(self, end: int | None) -> NewRun | None:
        """Remove the samples whose durations are known: all of them if their end is given."""
        samples = self.samples
        if not samples:
            return None
        times = [sample.dts for sample in samples]
        last = samples[-1]
        if end is None and last.duration:
            end = last.dts + last.duration
        if end is None:
            self.samples = [last]
            samples = samples[:-1]
        else:
            self.samples = []
            times.append(max(end, last.dts + 1))
        if not samples:
            return None
        durations = [min(after - time, _MAX_UNSIGNED) for time, after in pairwise(times)]
        self.usual_duration = durations[-1]
        self._taken = [sample.data for sample in samples]
        return NewRun(
            self.track.id,
            times[0],
            list(map(len, self._taken)),
            durations,
            [sample.composition for sample in samples],
            [sample.is_key for sample in samples],
        )

    def take_data(self) -> list[bytes]:
        """Return the data of the samples that were removed last."""
        taken, self._taken = self._taken, []
        return taken

    @property
    def expected_end(self) -> int:
        last = self.samples[-1]
        return last.dts + (last.duration or self.usual_duration)


class FragmentWriter:
    """Writes the fragments of one recording. Its output, in order, is the file."""

    def __init__(
        self,
        fragment_s: float = 0.4,
        *,
        recorded: Iterable[RecordedTrack] = (),
        tracks: tuple[Track, ...] = (),
        sequence: int = 0,
    ) -> None:
        """`recorded`, `tracks` and `sequence` continue a recording: see `app.formats.finishing.Recording`."""
        self._fragment_s = fragment_s
        self._timeline = Timeline(recorded)
        self._sequence = sequence
        self._queues: dict[int, _Queue] = {}
        self._lead: _Queue | None = None
        self._bytes = 0
        self._is_discontinuous = False
        self._tracks = tracks
        self._configurations = 0
        self._needs_initialization = False

    def add(self, event: Event) -> list[Initialization | Fragment]:
        """Return what is whole after the event. Raises Malformed."""
        if isinstance(event, Tracks):
            return self._use(event.tracks)
        return self._write(self._timeline.place(event))

    def resume(self) -> list[Initialization | Fragment]:
        """Continue the recording with another publisher, whose times may begin anywhere."""
        return [*self._write(self._timeline.resume()), *self._cut(is_last=True)]

    def close(self) -> list[Initialization | Fragment]:
        """Return the last fragment."""
        return [*self._write(self._timeline.flush()), *self._cut(is_last=True)]

    def _use(self, tracks: tuple[Track, ...]) -> list[Initialization | Fragment]:
        written = [*self._write(self._timeline.use(tracks)), *self._cut(is_last=True)]
        recorded = self._timeline.recorded_by(tracks)
        queues = [self._queues.get(one.id) or _Queue(one) for one in recorded]
        self._queues = {queue.track.id: queue for queue in queues}
        self._lead = next((queue for queue in queues if queue.track.is_video), queues[0] if queues else None)
        described = tuple(
            replace(track, id=one.id, timescale=one.timescale)
            for track, one in zip(tracks, recorded, strict=True)
        )
        if described != self._tracks:
            self._tracks = described
            self._configurations += 1
            if self._configurations > MAX_CONFIGURATIONS:
                raise Malformed("The configuration of the stream changes too often.")
            self._needs_initialization = True
        return written

    def _initialization(self) -> Initialization:
        """Return the head; it needs the first composition offset of each track, so a sample of each."""
        self._needs_initialization = False
        tracks = []
        for queue, track in zip(self._queues.values(), self._tracks, strict=True):
            if queue.track.composition is None:  # it has no sample yet, and the edit list must stay true
                queue.track.composition = 0
            tracks.append(MovieTrack(track.id, track.timescale, (track,), queue.track.composition))
        return Initialization(HEAD + movie(tracks), self._tracks, media_type(self._tracks))

    def _write(self, placed: list[Placed]) -> list[Initialization | Fragment]:
        written: list[Initialization | Fragment] = []
        for sample in placed:
            queue = self._queues[sample.track.id]
            if sample.is_first:
                written += self._cut(is_last=True)
                self._is_discontinuous = self._sequence > 0
            elif self._is_full(queue, sample):
                written += self._cut(next_dts=sample.dts if queue is self._lead else None)
            queue.samples.append(sample)
            self._bytes += len(sample.data)
        return written

    def _is_full(self, queue: _Queue, sample: Placed) -> bool:
        """Return whether the open fragment ends before the sample."""
        if self._bytes >= MAX_SAMPLE or len(queue.samples) >= MAX_HELD:
            return True
        if not queue.samples:
            return False
        if queue is not self._lead:
            waited = sample.dts - queue.samples[0].dts
            return waited > (self._fragment_s + MAX_WAIT_S) * queue.track.timescale
        if sample.is_key and queue.track.is_video:
            return True
        duration = sample.duration or sample.dts - queue.samples[-1].dts
        end = sample.dts + duration - queue.samples[0].dts
        return end > self._fragment_s * queue.track.timescale + 1

    def _cut(self, *, next_dts: int | None = None, is_last: bool = False) -> list[Initialization | Fragment]:
        """Write a fragment of the queued samples."""
        runs: list[NewRun] = []
        data: list[bytes] = []
        lead: NewRun | None = None
        for queue in self._queues.values():
            end = queue.expected_end if is_last and queue.samples else None
            if queue is self._lead and next_dts is not None:
                end = next_dts
            run = queue.take(end)
            if run is not None:
                runs.append(run)
                data += queue.take_data()
                if queue is self._lead or lead is None:
                    lead = run
        self._bytes = sum(len(one.data) for queue in self._queues.values() for one in queue.samples)
        if lead is None:
            return []
        written: list[Initialization | Fragment] = []
        if self._needs_initialization:
            written.append(self._initialization())
        self._sequence += 1
        moof = movie_fragment(self._sequence, runs)
        timescale = self._queues[lead.track].track.timescale
        written.append(
            Fragment(
                b"".join([moof, *data]),
                lead.decode_time / timescale,
                sum(lead.durations) / timescale,
                lead.keys[0] and (self._lead is None or lead.track == self._lead.track.id),
                self._is_discontinuous,
            )
        )
        self._is_discontinuous = False
        return written


class TimeShift:
    """Shifts the times of fragments to a beginning at 0: VLC 3 shows nothing of one that begins later."""

    def __init__(self, tracks: Iterable[RecordedTrack]) -> None:
        self._timescales = {track.id: track.timescale for track in tracks}
        self._start_s: float | None = None

    def apply(self, moof: bytes) -> bytes:
        """Return the `moof` with its times shifted; its length does not change. Raises Malformed."""
        times = {track: found for track, found in decode_times(moof).items() if track in self._timescales}
        if self._start_s is None and times:
            self._start_s = min(time / self._timescales[track] for track, (_, time) in times.items())
        shifted = bytearray(moof)
        for track, (at, time) in times.items():
            ticks = int((self._start_s or 0) * self._timescales[track])
            struct.pack_into(">Q", shifted, at, max(time - ticks, 0))
        return bytes(shifted)

"""Fragmented MP4 input: `moov`, then pairs of `moof` and `mdat` (ISO/IEC 14496-12 §8.8, CMAF) to samples.

Pure.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from app.formats.bits import ByteReader
from app.formats.boxes import Box, find_box, read_boxes, read_header, require_box
from app.formats.codecs import described_by, is_described
from app.formats.errors import Malformed, UnsupportedFormat
from app.formats.movie_fragments import NON_SYNC, Defaults, TrackFragment, parse_movie_fragment
from app.formats.sample_entries import parse_sample_entry
from app.formats.samples import MAX_SAMPLE, Event, Sample, Track, TrackGate, rescale

MAX_MOVIE = 1 << 20
"""Bytes of `moov`, and of `moof`."""

_MAX_SKIPPED = 64 << 20
"""Bytes of one box without samples."""
_MAX_TIMESCALE = 1 << 31

NOT_FRAGMENTED = (
    "The MP4 is not fragmented, so it cannot be recorded while it arrives. "
    "Use “-movflags frag_keyframe+empty_moov+default_base_moof”."
)


@dataclass
class _Input:
    """One track of the movie."""

    track: Track
    shift: int
    """Ticks that its edit list adds to its times."""
    following: int = 0
    """The decoding time of the next fragment, if that does not contain one."""
    is_complete: bool = True
    """Whether the configuration suffices; else the samples contain it."""


class _Pending(NamedTuple):
    """A sample whose bytes have not arrived; offsets are of the stream."""

    start: int
    stop: int
    sample: Sample


class FragmentParser:
    """Parses fragmented MP4. Samples leave in the order of their bytes."""

    def __init__(self) -> None:
        self._gate = TrackGate()
        self._buffer = bytearray()
        self._position = 0
        """Offset of the buffer in the stream."""
        self._skip = 0
        self._media_left = 0
        """Bytes of the open `mdat` that have not been parsed."""
        self._inputs: dict[int, _Input] = {}
        self._defaults: dict[int, Defaults] = {}
        self._pending: deque[_Pending] = deque()

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes. Raises Malformed, UnsupportedFormat."""
        self._buffer += data
        while self._advance():
            pass
        return self._gate.take()

    def close(self, *, is_torn: bool = False) -> list[Event]:
        """Return the last events. Raises Malformed, UnsupportedFormat."""
        if not self._inputs:
            raise Malformed("The MP4 ends before its movie box.")
        return self._gate.close()

    def _advance(self) -> bool:
        """Parse a part of the buffer; return False if more bytes are needed."""
        if self._skip:
            skipped = min(self._skip, len(self._buffer))
            self._consume(skipped)
            self._skip -= skipped
            return skipped > 0
        if self._media_left:
            return self._media()
        found = read_header(bytes(self._buffer[:16]))
        if found is None:
            return False
        if found.kind == b"mdat":
            self._begin_media(found)
            return True
        if found.kind in {b"moov", b"moof"}:
            if found.stop > MAX_MOVIE:
                raise Malformed("The index of the MP4 or of a fragment is larger than 1 MiB.")
            if len(self._buffer) < found.stop:
                return False
            data = bytes(self._buffer[: found.stop])
            if found.kind == b"moov":
                self._use_movie(data)
            else:
                self._use_fragment(data)
            self._consume(found.stop)
            return True
        if found.stop > _MAX_SKIPPED:
            raise Malformed("A box of the MP4 is too large.")
        self._skip = found.stop
        return True

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self._position += count

    def _begin_media(self, found: Box) -> None:
        if not self._inputs:
            raise UnsupportedFormat(NOT_FRAGMENTED)
        self._consume(found.body)
        self._media_left = found.stop - found.body
        stop = self._position + self._media_left
        if self._pending and (self._pending[0].start < self._position or self._pending[-1].stop > stop):
            raise Malformed("A sample of a fragment is outside of its data.")

    def _media(self) -> bool:
        """Emit the samples of `mdat` that have arrived, and drop bytes that no sample names."""
        arrived = self._position + min(len(self._buffer), self._media_left)
        done = arrived
        at = self._position
        while self._pending:
            start, stop, sample = self._pending[0]
            if stop > arrived:
                done = min(start, arrived)
                break
            self._pending.popleft()
            self._emit(sample._replace(data=bytes(self._buffer[start - at : stop - at])))
        count = done - at
        self._consume(count)
        self._media_left -= count
        return count > 0

    def _emit(self, sample: Sample) -> None:
        one = self._inputs.get(sample.track)
        if one is None:
            return
        if not one.is_complete:
            if not sample.is_key:
                return
            one.track = described_by(one.track, sample.data)
            one.is_complete = True
            self._gate.configure(one.track)
        self._gate.add(sample)

    def _use_movie(self, data: bytes) -> None:
        moov = next(read_boxes(data))
        extends = find_box(data, moov, b"mvex")
        if extends is None:
            raise UnsupportedFormat(NOT_FRAGMENTED)
        header = require_box(data, moov, b"mvhd")
        version = data[header.body]
        timescale = ByteReader(data, header.body + (20 if version else 12)).unsigned(4)
        inputs = {}
        for trak in read_boxes(data, moov.body, moov.stop):
            if trak.kind == b"trak" and (one := _parse_trak(data, trak, timescale)):
                inputs[one.track.id] = one
        if not inputs:
            raise UnsupportedFormat("The MP4 contains neither pictures nor sound.")
        self._defaults = dict.fromkeys(inputs, Defaults())
        for trex in read_boxes(data, extends.body, extends.stop):
            if trex.kind == b"trex":
                reader = ByteReader(data, trex.body + 4)
                number = reader.unsigned(4)
                if number in inputs:
                    self._defaults[number] = Defaults(*(reader.unsigned(4) for _ in range(4)))
        self._inputs = inputs
        self._pending.clear()
        self._gate.expect(frozenset(inputs))
        for one in inputs.values():
            if one.is_complete:
                self._gate.configure(one.track)

    def _use_fragment(self, data: bytes) -> None:
        pending = []
        for fragment in parse_movie_fragment(data, self._defaults):
            pending += self._samples(fragment)
        pending.sort()
        # Overlapping samples would multiply the bytes that arrive.
        if any(one.stop > after.start for one, after in pairwise(pending)):
            raise Malformed("Samples of a fragment overlap.")
        self._pending = deque(pending)

    def _samples(self, fragment: TrackFragment) -> list[_Pending]:
        one = self._inputs[fragment.track]
        base = self._position if fragment.base is None else fragment.base
        dts = one.following if fragment.decode_time is None else fragment.decode_time
        pending = []
        for run in fragment.runs:
            at = base + run.offset
            for size, duration, composition, flags in zip(
                run.sizes, run.durations, run.compositions, run.flags, strict=True
            ):
                if size > MAX_SAMPLE:
                    raise Malformed(f"A frame is larger than {MAX_SAMPLE >> 20} MiB.")
                time = dts + one.shift
                is_key = not flags & NON_SYNC or not one.track.codec.is_video
                sample = Sample(fragment.track, time, time + composition, duration, is_key, b"")
                if size:
                    pending.append(_Pending(at, at + size, sample))
                at += size
                dts += duration
        one.following = dts
        return pending


def _parse_trak(data: bytes, trak: Box, movie_timescale: int) -> _Input | None:
    """Return a track of pictures or sound; None for another one. Raises Malformed, UnsupportedFormat."""
    handler = require_box(data, trak, b"mdia", b"hdlr")
    kind = data[handler.body + 8 : handler.body + 12]
    if kind not in {b"vide", b"soun", b"text", b"sbtl", b"subt"}:
        return None
    header = require_box(data, trak, b"tkhd")
    number = ByteReader(data, header.body + (20 if data[header.body] else 12)).unsigned(4)
    media = require_box(data, trak, b"mdia", b"mdhd")
    reader = ByteReader(data, media.body + (20 if data[media.body] else 12))
    timescale = reader.unsigned(4)
    reader.take(8 if data[media.body] else 4)
    packed = reader.unsigned(2)
    if not 0 < timescale < _MAX_TIMESCALE:
        raise Malformed("A track of the MP4 has an impossible timescale.")
    letters = [(packed >> shift & 31) + 0x60 for shift in (10, 5, 0)]
    language = "".join(map(chr, letters)) if all(0x61 <= one <= 0x7A for one in letters) else "und"
    entries = require_box(data, trak, b"mdia", b"minf", b"stbl", b"stsd")
    entry = next(read_boxes(data, entries.body + 8, entries.stop), None)
    if entry is None:
        raise Malformed("A track of the MP4 has no sample description.")
    track = parse_sample_entry(data, entry, number, timescale, language)
    shift = _edit_shift(data, trak, timescale, movie_timescale)
    return _Input(track, shift, is_complete=is_described(track))


def _edit_shift(data: bytes, trak: Box, timescale: int, movie_timescale: int) -> int:
    """Return the ticks from media time to presentation time, by the first edit of media (§8.6.6)."""
    edits = find_box(data, trak, b"edts", b"elst")
    if edits is None or not movie_timescale:
        return 0
    reader = ByteReader(data, edits.body, edits.stop)
    size = 8 if reader.unsigned(4) >> 24 else 4
    delay = 0
    for _ in range(min(reader.unsigned(4), 16)):
        duration, time = reader.unsigned(size), reader.signed(size)
        reader.take(4)
        if time >= 0:
            return rescale(delay, movie_timescale, timescale) - time
        delay += duration
    return 0

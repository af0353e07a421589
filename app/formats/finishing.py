"""Reads the heads of a recording's fragments: to finish it as an ordinary MP4, or to continue it. Pure.

A recording whose writer died is read up to its last whole fragment.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.formats.bits import ByteReader
from app.formats.boxes import MAX_HEADER, Box, find_box, read_boxes, read_header, require_box
from app.formats.errors import Malformed
from app.formats.fragmented import HEAD, MAX_CONFIGURATIONS, RESERVED
from app.formats.movie import MovieTrack, SampleTable, movie
from app.formats.movie_fragments import NON_SYNC, Defaults, TrackFragment, parse_movie_fragment
from app.formats.sample_entries import parse_sample_entry
from app.formats.samples import Track
from app.formats.timeline import RecordedTrack

ReadAt = Callable[[int, int], bytes]
"""Returns the bytes at an offset; fewer than asked for at the end of the file only."""

MAX_HEAD = 8 << 20
"""Bytes of one `moov` or `moof`."""

_READ = 4096
"""Bytes to read at once: the head of a usual fragment, with the header of its `mdat`."""


@dataclass
class _Track:
    """One track of the recording."""

    id: int
    timescale: int
    composition: int
    descriptions: list[Track] = field(default_factory=list)
    table: SampleTable = field(default_factory=SampleTable)
    start: int = 0
    """Decoding time of its first sample."""
    last: int = -1
    """Decoding time of its last sample."""
    description: int = 1
    """The sample description of the fragments that follow."""


@dataclass
class Recording:
    """What is whole in a recording."""

    tracks: tuple[Track, ...] = ()
    """Those of the newest initialization segment."""
    recorded: tuple[RecordedTrack, ...] = ()
    """All of them, to continue the recording."""
    sequence: int = 0
    """Number of the last fragment."""
    stop: int = 0
    """Where the last whole fragment ends: a writer that continues the recording cuts it there."""
    duration_s: float = 0.0
    movie: bytes = b""
    """The `moov` of the whole, to append; empty if the recording contains no fragment."""


class Patch(NamedTuple):
    """Bytes to write at an offset, once the movie box is appended."""

    offset: int
    data: bytes


def read_recording(read_at: ReadAt, size: int) -> Recording:
    """Read the heads of a recording of `size` bytes. Raises Malformed if it is not one of ours."""
    tracks: dict[int, _Track] = {}
    recording = Recording()
    defaults: dict[int, Defaults] = {}
    fragments = 0
    for at, data, stop in _heads(read_at, size):
        kind = data[4:8]
        if kind == b"moov":
            recording.tracks = _use_movie(data, tracks)
            defaults = {track.id: Defaults() for track in recording.tracks}
            recording.stop = stop if fragments == 0 else recording.stop
        elif kind == b"moof":
            for fragment in parse_movie_fragment(data, defaults):
                _add(tracks[fragment.track], fragment, at)
            recording.stop = stop
            fragments += 1
    recording.sequence = fragments
    if fragments:
        present = [track for track in tracks.values() if track.table.sizes]
        recording.movie = movie([_movie_track(track) for track in present])
        recording.duration_s = max((one.start + one.table.end) / one.timescale for one in present)
    recording.recorded = tuple(_recorded(track) for track in tracks.values())
    return recording


def header_patch(size: int) -> Patch:
    """Return the header of the `mdat` that contains all fragments of a recording of `size` bytes.

    `size` is that of the file before the movie box is appended; bytes of a torn fragment at its end do no
    harm.
    """
    offset = len(HEAD) - RESERVED
    return Patch(offset, b"\x00\x00\x00\x01mdat" + (size - offset).to_bytes(8, "big"))


def _heads(read_at: ReadAt, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield place and bytes of each `moov`, and of each `moof` whose `mdat` is whole, and where these end."""
    at = 0
    while at + 8 <= size:
        data = read_at(at, min(_READ, size - at))
        found = read_header(data)
        if found is None or at + found.stop > size:
            return
        if at == 0 and found.kind != b"ftyp":
            raise Malformed("The file is not a recording.")
        stop = at + found.stop
        if found.kind in {b"moov", b"moof"}:
            if found.stop > MAX_HEAD:
                raise Malformed("The head of a fragment is too large.")
            if len(data) < found.stop + MAX_HEADER:
                data = read_at(at, min(found.stop + MAX_HEADER, size - at))
            if found.kind == b"moof":
                media = read_header(data, found.stop)
                if media is None or media.kind != b"mdat" or at + media.stop > size:
                    return
                stop = at + media.stop
            yield at, data[: found.stop], stop
        at = stop


def _use_movie(data: bytes, tracks: dict[int, _Track]) -> tuple[Track, ...]:
    """Add the tracks of a `moov`, or further sample descriptions of known ones; return its tracks."""
    moov = next(read_boxes(data))
    used = []
    for trak in read_boxes(data, moov.body, moov.stop):
        if trak.kind != b"trak":
            continue
        header = require_box(data, trak, b"tkhd")
        number = ByteReader(data, header.body + 20).unsigned(4)
        media = require_box(data, trak, b"mdia", b"mdhd")
        timescale = ByteReader(data, media.body + 20).unsigned(4)
        language = _language(ByteReader(data, media.body + 32).unsigned(2))
        entries = require_box(data, trak, b"mdia", b"minf", b"stbl", b"stsd")
        entry = next(read_boxes(data, entries.body + 8, entries.stop), None)
        if entry is None:
            raise Malformed("A track of the recording has no sample description.")
        described = parse_sample_entry(data, entry, number, timescale, language)
        known = tracks.setdefault(number, _Track(number, timescale, _composition(data, trak)))
        if not known.table.sizes:
            known.composition = _composition(data, trak)
        if described not in known.descriptions:
            if len(known.descriptions) >= MAX_CONFIGURATIONS:
                raise Malformed("The configuration of the recording changes too often.")
            known.descriptions.append(described)
        known.description = known.descriptions.index(described) + 1
        used.append(described)
    return tuple(used)


def _composition(data: bytes, trak: Box) -> int:
    edits = find_box(data, trak, b"edts", b"elst")
    return ByteReader(data, edits.body + 16).unsigned(8) if edits else 0


def _language(packed: int) -> str:
    return "".join(chr((packed >> shift & 31) + 0x60) for shift in (10, 5, 0))


def _add(track: _Track, fragment: TrackFragment, at: int) -> None:
    """Add the samples of a fragment whose `moof` is at `at`."""
    table = track.table
    time = fragment.decode_time or 0
    if not table.sizes:
        track.start = time
    else:
        table.extend_last(time - track.start - table.end)
    for run in fragment.runs:
        if run.sizes:
            keys = _keys(run.flags)
            table.add_chunk(
                at + run.offset, track.description, run.sizes, run.durations, run.compositions, keys
            )
            track.last = track.start + table.end - run.durations[-1]


def _keys(flags: Sequence[int]) -> list[bool]:
    """Return which samples are key frames; usually all of them, the first one, or none."""
    following = not flags[-1] & NON_SYNC
    if flags.count(flags[-1]) == len(flags) - (flags[0] != flags[-1]):
        return [not flags[0] & NON_SYNC, *[following] * (len(flags) - 1)]
    return [not one & NON_SYNC for one in flags]


def _movie_track(track: _Track) -> MovieTrack:
    return MovieTrack(
        track.id, track.timescale, tuple(track.descriptions), track.composition, track.start, track.table
    )


def _recorded(track: _Track) -> RecordedTrack:
    end = track.start + track.table.end
    composition = track.composition if track.table.sizes else None
    is_video = track.descriptions[0].codec.is_video
    step = max(end - track.last, 1)
    return RecordedTrack(track.id, is_video, track.timescale, composition, end, track.last, step)

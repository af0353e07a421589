"""The movie box: `moov` of an initialization segment or of a whole film (ISO/IEC 14496-12 §8.2). Pure."""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.formats.boxes import box, full_box
from app.formats.sample_entries import sample_descriptions
from app.formats.samples import Track, rescale

TIMESCALE = 1000
"""Ticks per second of the movie's own durations."""

_IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000)
_FULL_VOLUME = b"\x01\x00"


@dataclass
class SampleTable:
    """The tables of one track: what a player needs to find and to time each sample (§8.6, §8.7)."""

    sizes: "array[int]" = field(default_factory=lambda: array("I"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Of each chunk, in the file."""
    durations: list[list[int]] = field(default_factory=list)
    """Pairs of a count and a duration."""
    compositions: list[list[int]] = field(default_factory=list)
    """Pairs of a count and the ticks from decoding to presentation."""
    keys: "array[int]" = field(default_factory=lambda: array("I"))
    """The numbers of the samples that are key frames, from 1."""
    chunks: list[tuple[int, int, int]] = field(default_factory=list)
    """First chunk, samples of each chunk, and sample description."""
    end: int = 0
    """Ticks from the first sample to the end of the last one."""

    def add_chunk(
        self,
        offset: int,
        description: int,
        sizes: Sequence[int],
        durations: Sequence[int],
        compositions: Sequence[int],
        keys: Sequence[bool],
    ) -> None:
        """Add samples that follow each other in the file."""
        before = len(self.sizes)
        self.offsets.append(offset)
        self.sizes.extend(sizes)
        _append_runs(self.durations, durations)
        _append_runs(self.compositions, compositions)
        if all(keys):
            self.keys.extend(range(before + 1, before + 1 + len(sizes)))
        elif any(keys):
            self.keys.extend(before + 1 + index for index, is_key in enumerate(keys) if is_key)
        if not self.chunks or self.chunks[-1][1:] != (len(sizes), description):
            self.chunks.append((len(self.offsets), len(sizes), description))
        self.end += sum(durations)

    def extend_last(self, ticks: int) -> None:
        """Change the duration of the last sample, up to the beginning of the next one."""
        last = self.durations[-1]
        duration = min(last[1] + ticks, (1 << 32) - 1)
        if ticks == 0 or duration < 0:
            return
        last[0] -= 1
        if not last[0]:
            self.durations.pop()
        _append_runs(self.durations, [duration])
        self.end += ticks

    def boxes(self) -> list[bytes]:
        """Return `stts` to `co64`, to be placed beside `stsd`."""
        tables = [full_box(b"stts", 0, 0, _pairs(self.durations))]
        if any(value for _, value in self.compositions):
            version = int(any(value < 0 for _, value in self.compositions))
            tables.append(full_box(b"ctts", version, 0, _pairs(self.compositions)))
        if len(self.keys) < len(self.sizes):
            tables.append(full_box(b"stss", 0, 0, _count(self.keys), _big_endian(self.keys)))
        chunks = [value for entry in self.chunks for value in entry]
        tables.append(full_box(b"stsc", 0, 0, _count(self.chunks), struct.pack(f">{len(chunks)}I", *chunks)))
        tables.append(full_box(b"stsz", 0, 0, bytes(4), _count(self.sizes), _big_endian(self.sizes)))
        if self.offsets and max(self.offsets) >= 1 << 32:
            tables.append(full_box(b"co64", 0, 0, _count(self.offsets), _big_endian(self.offsets)))
        else:
            small = array("I", self.offsets)
            tables.append(full_box(b"stco", 0, 0, _count(small), _big_endian(small)))
        return tables


def _append_runs(runs: list[list[int]], values: Sequence[int]) -> None:
    """Append values to pairs of count and value. Equal values, the usual case, are one step."""
    first = values[0]
    if values.count(first) == len(values):
        _append_run(runs, len(values), first)
    else:
        for value in values:
            _append_run(runs, 1, value)


def _append_run(runs: list[list[int]], count: int, value: int) -> None:
    if runs and runs[-1][1] == value:
        runs[-1][0] += count
    else:
        runs.append([count, value])


def _pairs(runs: list[list[int]]) -> bytes:
    values = [value & 0xFFFF_FFFF for run in runs for value in run]
    return len(runs).to_bytes(4, "big") + struct.pack(f">{len(values)}I", *values)


def _count(values: Sequence[object]) -> bytes:
    return len(values).to_bytes(4, "big")


def _big_endian(values: "array[int]") -> bytes:
    if sys.byteorder == "little":
        values = values[:]
        values.byteswap()
    return values.tobytes()


@dataclass(frozen=True)
class MovieTrack:
    """One track of a movie."""

    id: int
    timescale: int
    descriptions: tuple[Track, ...]
    """Its configurations, in the order of their sample descriptions."""
    composition: int
    """Ticks from the first decoding to the first presentation, which an edit list skips."""
    delay: int = 0
    """Ticks from the beginning of the movie to the track's first sample."""
    table: SampleTable | None = None
    """None for an initialization segment: its samples are in fragments."""


def movie(tracks: Sequence[MovieTrack]) -> bytes:
    """Return `moov`; with `mvex` if the samples of the tracks are in fragments."""
    durations = [_edited(track) + _delay(track) for track in tracks]
    following = max((track.id for track in tracks), default=0) + 1
    header = full_box(
        b"mvhd",
        1,
        0,
        struct.pack(">QQIQ", 0, 0, TIMESCALE, max(durations, default=0)),
        b"\x00\x01\x00\x00" + _FULL_VOLUME + bytes(10),
        _IDENTITY,
        bytes(24),
        following.to_bytes(4, "big"),
    )
    traks = [_trak(track, duration) for track, duration in zip(tracks, durations, strict=True)]
    extends = [
        full_box(b"trex", 0, 0, struct.pack(">5I", track.id, 1, 0, 0, 0))
        for track in tracks
        if track.table is None
    ]
    return box(b"moov", header, *traks, *([box(b"mvex", *extends)] if extends else []))


def _edited(track: MovieTrack) -> int:
    """Return the ticks of the movie for which the track is presented."""
    return rescale(track.table.end, track.timescale, TIMESCALE) if track.table else 0


def _delay(track: MovieTrack) -> int:
    return rescale(track.delay, track.timescale, TIMESCALE)


def _trak(track: MovieTrack, duration: int) -> bytes:
    first = track.descriptions[0]
    volume = b"\x00\x00" if first.codec.is_video else _FULL_VOLUME
    header = full_box(
        b"tkhd",
        1,
        3,  # enabled, in the movie
        struct.pack(">QQIIQ", 0, 0, track.id, 0, duration),
        bytes(8) + b"\x00\x00\x00" + bytes([0 if first.codec.is_video else 1]) + volume + bytes(2),
        _IDENTITY,
        struct.pack(">II", (first.width & 0xFFFF) << 16, (first.height & 0xFFFF) << 16),
    )
    table = track.table or SampleTable()
    is_video = first.codec.is_video
    media = full_box(b"vmhd", 0, 1, bytes(8)) if is_video else full_box(b"smhd", 0, 0, bytes(4))
    handler, name = (b"vide", b"Video\x00") if is_video else (b"soun", b"Sound\x00")
    return box(
        b"trak",
        header,
        _edit_list(track),
        box(
            b"mdia",
            full_box(
                b"mdhd",
                1,
                0,
                struct.pack(">QQIQ", 0, 0, track.timescale, table.end),
                _language(first) + bytes(2),
            ),
            full_box(b"hdlr", 0, 0, bytes(4) + handler + bytes(12) + name),
            box(
                b"minf",
                media,
                box(b"dinf", full_box(b"dref", 0, 0, b"\x00\x00\x00\x01" + full_box(b"url ", 0, 1))),
                box(b"stbl", sample_descriptions(track.descriptions), *table.boxes()),
            ),
        ),
    )


def _edit_list(track: MovieTrack) -> bytes:
    """Return `edts`: an empty edit up to a late beginning, and the media without its first decoding delay."""
    delay = _delay(track)
    edits = [(delay, -1)] if delay else []
    if delay or track.composition:
        edits.append((_edited(track), track.composition))
    if not edits:
        return b""
    entries = b"".join(struct.pack(">QqHH", duration, time, 1, 0) for duration, time in edits)
    return box(b"edts", full_box(b"elst", 1, 0, len(edits).to_bytes(4, "big"), entries))


def _language(track: Track) -> bytes:
    letters = [ord(letter) - 0x60 for letter in track.language]
    if len(letters) != 3 or not all(0 < letter < 27 for letter in letters):
        return b"\x55\xc4"  # "und"
    return (letters[0] << 10 | letters[1] << 5 | letters[2]).to_bytes(2, "big")

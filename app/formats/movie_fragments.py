"""Movie fragments: `moof` (ISO/IEC 14496-12 §8.8), written and read. Pure."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.formats.bits import ByteReader
from app.formats.boxes import Box, box, full_box, read_boxes, require_box
from app.formats.errors import Malformed

NON_SYNC = 0x0001_0000
"""sample_is_non_sync_sample of the sample flags (§8.8.3.1)."""

KEY_FLAGS = 0x0200_0000
"""Flags of a sample that depends on no other one."""
DEPENDENT_FLAGS = 0x0100_0000 | NON_SYNC

MAX_SAMPLES = 20_000
"""Samples of one fragment: parsing more of them at once would occupy the event loop."""

_BASE_OFFSET, _DESCRIPTION, _DURATION, _SIZE, _FLAGS, _BASE_IS_MOOF = 1, 2, 8, 0x10, 0x20, 0x2_0000
_OFFSET, _FIRST_FLAGS, _DURATIONS, _SIZES, _SAMPLE_FLAGS, _COMPOSITIONS = 1, 4, 0x100, 0x200, 0x400, 0x800


class Defaults(NamedTuple):
    """The values of `trex` for the samples of a track (§8.8.3)."""

    description: int = 1
    duration: int = 0
    size: int = 0
    flags: int = 0


class Run(NamedTuple):
    """The samples of one `trun`; the lists are of equal length."""

    offset: int
    """Where its first byte is, relative to `moof` unless the fragment has a base."""
    sizes: Sequence[int]
    durations: Sequence[int]
    compositions: Sequence[int]
    """Ticks from decoding to presentation."""
    flags: Sequence[int]


class TrackFragment(NamedTuple):
    """The samples of one track in a fragment."""

    track: int
    base: int | None
    """The place in the file that offsets are relative to; None: the first byte of `moof`."""
    decode_time: int | None
    description: int
    """1 for the first sample description."""
    runs: tuple[Run, ...]


def parse_movie_fragment(data: bytes, defaults: Mapping[int, Defaults]) -> list[TrackFragment]:
    """Parse a whole `moof`; fragments of tracks without defaults are omitted. Raises Malformed."""
    moof = next(read_boxes(data), None)
    if moof is None:
        raise Malformed("A movie fragment is empty.")
    found = []
    left = MAX_SAMPLES
    following: int | None = None  # where the data of the previous track fragment end
    try:
        for traf in read_boxes(data, moof.body, moof.stop):
            if traf.kind == b"traf":
                fragment, following = _track_fragment(data, traf, defaults, following)
                left -= sum(len(run.sizes) for run in fragment.runs)
                if left < 0:
                    raise Malformed("A movie fragment contains too many samples.")
                if fragment.track in defaults:
                    found.append(fragment)
    except struct.error as error:
        raise Malformed("A box of a movie fragment is shorter than its fields.") from error
    return found


def _track_fragment(
    data: bytes, traf: Box, defaults: Mapping[int, Defaults], following: int | None
) -> tuple[TrackFragment, int]:
    """Return a track fragment, and where its data end. Raises struct.error if a box is too short."""
    children = list(read_boxes(data, traf.body, traf.stop))
    header = next((child for child in children if child.kind == b"tfhd"), None)
    if header is None:
        raise Malformed("A track fragment has no header.")
    track, base, own, is_based = _fragment_header(data, header, defaults)
    # Without a base, offsets count from the end of the previous track fragment's data (§8.8.7.1).
    offset = 0 if is_based or following is None else following
    start = offset
    decode_time = None
    runs = []
    for child in children:
        if child.kind == b"tfdt":
            (decode_time,) = struct.unpack_from(">Q" if data[child.body] else ">I", data, child.body + 4)
        elif child.kind == b"trun":
            run = _run(data[child.body : child.stop], own, start, offset)
            runs.append(run)
            offset = run.offset + sum(run.sizes)
    return TrackFragment(track, base, decode_time, own.description, tuple(runs)), offset


def _fragment_header(
    data: bytes, header: Box, defaults: Mapping[int, Defaults]
) -> tuple[int, int | None, Defaults, bool]:
    """Return track, base, the values of its samples, and whether their offsets have a base of their own."""
    flags, track = struct.unpack_from(">II", data, header.body)
    at = header.body + 8
    base = None
    if flags & _BASE_OFFSET:
        (base,) = struct.unpack_from(">Q", data, at)
        at += 8
    values = list(defaults.get(track, Defaults()))
    for index, bit in enumerate((_DESCRIPTION, _DURATION, _SIZE, _FLAGS)):
        if flags & bit:
            (values[index],) = struct.unpack_from(">I", data, at)
            at += 4
    return track, base, Defaults(*values), base is not None or flags & _BASE_IS_MOOF != 0


def _run(data: bytes, defaults: Defaults, start: int, following: int) -> Run:
    """Return the samples of the content of `trun`. Raises struct.error if it is too short."""
    head, count = struct.unpack_from(">II", data)
    if count > MAX_SAMPLES:
        raise Malformed("A movie fragment contains too many samples.")
    at = 8
    offset = following
    if head & _OFFSET:
        offset = start + struct.unpack_from(">i", data, at)[0]
        at += 4
    first_flags = None
    if head & _FIRST_FLAGS:
        (first_flags,) = struct.unpack_from(">I", data, at)
        at += 4
    present = [bit for bit in (_DURATIONS, _SIZES, _SAMPLE_FLAGS, _COMPOSITIONS) if head & bit]
    values = struct.unpack_from(f">{count * len(present)}I", data, at)
    columns = {bit: values[index :: len(present)] for index, bit in enumerate(present)}
    compositions = columns.get(_COMPOSITIONS) or (0,) * count
    if head >> 24 and count and max(compositions) >> 31:
        compositions = tuple(value - (1 << 32) if value >> 31 else value for value in compositions)
    sample_flags = columns.get(_SAMPLE_FLAGS)
    if sample_flags is None:
        sample_flags = (defaults.flags,) * count
        if first_flags is not None and count:
            sample_flags = (first_flags, *sample_flags[1:])
    return Run(
        offset,
        columns.get(_SIZES) or (defaults.size,) * count,
        columns.get(_DURATIONS) or (defaults.duration,) * count,
        compositions,
        sample_flags,
    )


class NewRun(NamedTuple):
    """The samples of one track for a new fragment; the lists are of equal length, and not empty."""

    track: int
    decode_time: int
    sizes: Sequence[int]
    durations: Sequence[int]
    compositions: Sequence[int]
    keys: Sequence[bool]


def movie_fragment(sequence: int, runs: Sequence[NewRun]) -> bytes:
    """Return `moof`, and the header of an `mdat` that contains the runs one after another."""
    header = full_box(b"mfhd", 0, 0, sequence.to_bytes(4, "big"))
    trafs = [_new_track_fragment(run, 0) for run in runs]
    head = 8 + len(header) + sum(map(len, trafs))
    offset = head + 8
    placed = []
    for run in runs:
        placed.append(_new_track_fragment(run, offset))
        offset += sum(run.sizes)
    size = offset - head
    return box(b"moof", header, *placed) + size.to_bytes(4, "big") + b"mdat"


def _new_track_fragment(run: NewRun, offset: int) -> bytes:
    """Return `traf`; its size does not depend on the offset."""
    count = len(run.sizes)
    flags = _OFFSET | _SIZES
    defaults = _BASE_IS_MOOF | _DURATION | _FLAGS
    columns: list[Sequence[int]] = []
    if run.durations.count(run.durations[0]) < count:
        flags |= _DURATIONS
        columns.append(run.durations)
    columns.append(run.sizes)
    first = b""
    usual = KEY_FLAGS if run.keys[-1] else DEPENDENT_FLAGS
    if run.keys.count(run.keys[-1]) < count:
        if run.keys.count(run.keys[-1]) == count - 1 and run.keys[0] != run.keys[-1]:
            flags |= _FIRST_FLAGS
            first = (KEY_FLAGS if run.keys[0] else DEPENDENT_FLAGS).to_bytes(4, "big")
        else:
            flags |= _SAMPLE_FLAGS
            columns.append([KEY_FLAGS if is_key else DEPENDENT_FLAGS for is_key in run.keys])
    if any(run.compositions):
        flags |= _COMPOSITIONS
        columns.append([value & 0xFFFF_FFFF for value in run.compositions])
    values = [value for row in zip(*columns, strict=True) for value in row]
    return box(
        b"traf",
        full_box(b"tfhd", 0, defaults, struct.pack(">III", run.track, run.durations[0], usual)),
        full_box(b"tfdt", 1, 0, run.decode_time.to_bytes(8, "big")),
        full_box(
            b"trun",
            1,
            flags,
            struct.pack(">Ii", count, offset),
            first,
            struct.pack(f">{len(values)}I", *values),
        ),
    )


def decode_times(moof: bytes) -> dict[int, tuple[int, int]]:
    """Return the place and the value of each decode time in a `moof` of our own, by track.

    Raises Malformed.
    """
    outer = next(read_boxes(moof), None)
    times = {}
    for traf in read_boxes(moof, outer.body, outer.stop) if outer else ():
        if traf.kind == b"traf":
            header, time = require_box(moof, traf, b"tfhd"), require_box(moof, traf, b"tfdt")
            track = ByteReader(moof, header.body + 4).unsigned(4)
            times[track] = time.body + 4, ByteReader(moof, time.body + 4).unsigned(8)
    return times

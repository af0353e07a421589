"""MPEG-TS input: packets, program tables and PES packets (ISO/IEC 13818-1) to samples. Pure.

Most packets of a stream continue a PES packet. A regular expression matches runs of them, and one `struct`
removes their headers: a loop over packets in Python would take several times as long.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from app.formats.elementary_streams import ElementaryStream, open_stream
from app.formats.errors import Malformed, UnsupportedFormat, unsupported
from app.formats.samples import MAX_SAMPLE, Event, TrackGate

PACKET = 188
_SYNC = 0x47
_SYNCS_TO_TRUST = 3
"""Sync bytes in a distance of one packet that end a search for packets."""

_MAX_GARBAGE = 1 << 20
"""Bytes to search for packets before the input is refused."""
_MAX_PACKET_RUN = 512
_MAX_SECTION = 4096
_MAX_TABLES = 1000
"""Changes of the program tables of one stream."""

_PAT, _PMT = 0, 2
_CLOCK_BITS = 33
_PES_HEADER = 9

_COUNTERS = bytes(0x10 | index & 15 for index in range(16 + _MAX_PACKET_RUN))
"""The last header byte of packets that follow each other, with payload only."""


@lru_cache(maxsize=_MAX_PACKET_RUN)
def _payloads(count: int) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """Return the function that splits packets into payloads of 184 bytes."""
    return struct.Struct("4x184s" * count).unpack_from


@dataclass
class _PacketStream:
    """One PID that contains a taken elementary stream."""

    stream: ElementaryStream
    continuation: re.Pattern[bytes]
    """Matches packets that only continue a PES packet."""
    counter: int | None = None
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    expected: int = 0
    """Bytes of the whole PES packet; 0 if it ends where the next one begins."""

    def lose(self) -> None:
        """Drop the PES packet of which a part was lost."""
        self.clear()
        self.stream.lose()

    def clear(self) -> None:
        self.parts.clear()
        self.size = 0

    def append(self, payload: bytes) -> None:
        if self.parts:
            self.parts.append(payload)
            self.size += len(payload)
            if self.size > MAX_SAMPLE + (1 << 16):
                raise Malformed(f"A frame is larger than {MAX_SAMPLE >> 20} MiB.")


@dataclass
class _Section:
    """The bytes of a table that may take several packets."""

    data: bytearray = field(default_factory=bytearray)
    is_open: bool = False


class TransportParser:
    """Parses the first program of a transport stream."""

    def __init__(self) -> None:
        self._gate = TrackGate()
        self._rest = b""
        self._is_synced = False
        self._garbage = 0
        self._sections: dict[int, _Section] = {_PAT: _Section()}
        self._tables: dict[int, bytes] = {}
        """The tables in use, by PID."""
        self._changes = 0
        self._streams: dict[int, _PacketStream] = {}
        self._clock: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes. Raises Malformed, UnsupportedFormat."""
        buffer = self._rest + data if self._rest else data
        at = self._packets(buffer)
        self._rest = buffer[at:]
        return self._gate.take()

    def close(self, *, is_torn: bool = False) -> list[Event]:
        """Return the last events. Raises Malformed, UnsupportedFormat."""
        for one in self._streams.values():
            if not is_torn:  # the length of the last picture is not known
                self._flush(one)
        if not self._streams:
            raise Malformed("The MPEG-TS stream contains no program.")
        return self._gate.close()

    def _packets(self, buffer: bytes) -> int:
        """Parse whole packets, and return where the first incomplete one begins."""
        at, last = 0, len(buffer) - PACKET
        while at <= last:
            if buffer[at] != _SYNC or not self._is_synced:
                found = self._search(buffer, at)
                if found is None:
                    return self._skip_to_sync(buffer, at)
                self._garbage = 0
                at = found
                continue
            pid = (buffer[at + 1] & 0x1F) << 8 | buffer[at + 2]
            one = self._streams.get(pid)
            run = one.continuation.match(buffer, at) if one else None
            if one is not None and run is not None and self._continue(one, buffer, at, run.end()):
                at = run.end()
            else:
                self._packet(pid, buffer, at)
                at += PACKET
        return at

    def _search(self, buffer: bytes, at: int) -> int | None:
        """Return where packets begin again; None if more bytes are needed."""
        self._is_synced = False
        if self._garbage > _MAX_GARBAGE:
            raise Malformed("The stream contains no MPEG-TS packets.")
        while (at := buffer.find(_SYNC, at)) >= 0:
            marks = [at + PACKET * index for index in range(_SYNCS_TO_TRUST)]
            if marks[-1] >= len(buffer):
                return None
            if all(buffer[mark] == _SYNC for mark in marks):
                self._is_synced = True
                for one in self._streams.values():
                    one.counter = None
                    one.lose()
                return at
            at += 1
        return None

    def _skip_to_sync(self, buffer: bytes, at: int) -> int:
        """Return where the search continues when more bytes have arrived."""
        mark = buffer.find(_SYNC, at)
        while mark >= 0 and mark + PACKET * (_SYNCS_TO_TRUST - 1) < len(buffer):
            mark = buffer.find(_SYNC, mark + 1)
        found = len(buffer) if mark < 0 else mark
        self._garbage += found - at
        return found

    def _continue(self, one: _PacketStream, buffer: bytes, start: int, stop: int) -> bool:
        """Append the payloads of packets that continue a PES packet; return False if one is missing."""
        counters = buffer[start + 3 : stop : PACKET]
        first = ((-1 if one.counter is None else one.counter) + 1) & 15
        if one.counter is None or counters != _COUNTERS[first : first + len(counters)]:
            return False
        one.counter = counters[-1] & 15
        if one.parts:
            one.append(b"".join(_payloads(len(counters))(buffer, start)))
            self._flush_if_whole(one)
        return True

    def _packet(self, pid: int, buffer: bytes, at: int) -> None:
        """Parse one packet (§2.4.3.2)."""
        head, control = buffer[at + 1], buffer[at + 3]
        one = self._streams.get(pid)
        if head & 0x80 or (one is None and pid not in self._sections) or not control & 0x10:
            return
        if control & 0xC0:
            if one is not None:
                raise unsupported("encrypted pictures or sound")
            return
        start, is_discontinuous = at + 4, False
        if control & 0x20:
            length = buffer[start]
            is_discontinuous = length > 0 and buffer[start + 1] & 0x80 != 0
            start += 1 + length
        payload = buffer[start : at + PACKET]
        if one is None:
            self._table_payload(pid, payload, head & 0x40 != 0)
            return
        counter = control & 15
        if one.counter is not None and not is_discontinuous:
            if counter == one.counter:  # a packet may be sent twice
                return
            if counter != (one.counter + 1) & 15:
                one.lose()
        one.counter = counter
        if head & 0x40:
            self._flush(one)
            self._begin(one, payload)
        else:
            one.append(payload)
        self._flush_if_whole(one)

    def _begin(self, one: _PacketStream, payload: bytes) -> None:
        """Begin a PES packet (§2.4.3.7)."""
        if not payload.startswith(b"\x00\x00\x01"):
            return
        length = int.from_bytes(payload[4:6], "big")
        one.expected = 6 + length if length else 0
        one.parts.append(payload)
        one.size = len(payload)

    def _flush_if_whole(self, one: _PacketStream) -> None:
        if one.expected and one.parts and one.size >= one.expected:
            self._flush(one)

    def _flush(self, one: _PacketStream) -> None:
        """Pass a PES packet on."""
        if not one.parts:
            return
        data = b"".join(one.parts)
        one.clear()
        if one.expected:
            if len(data) < one.expected:  # its end was lost, or the stream is torn
                one.stream.lose()
                return
            data = data[: one.expected]
        if len(data) < _PES_HEADER or data[6] & 0xC0 != 0x80:
            return
        if data[6] & 0x30:
            raise unsupported("encrypted pictures or sound")
        start = _PES_HEADER + data[8]
        pts = dts = None
        if data[7] & 0x80 and data[8] >= 5:
            pts = dts = self._unwrap(_timestamp(data, 9), self._clock)
            if data[7] & 0x40 and data[8] >= 10:
                dts = self._unwrap(_timestamp(data, 14), self._clock)
                pts = self._unwrap(pts, dts)
            self._clock = dts
        one.stream.add(data[start:], pts, dts)

    def _unwrap(self, time: int, near: int | None) -> int:
        """Return the time of 33 bits that is the nearest to another one: it wraps after 26.5 hours."""
        if near is None:
            return time
        half = 1 << _CLOCK_BITS - 1
        return near + (time - near + half) % (1 << _CLOCK_BITS) - half

    def _table_payload(self, pid: int, payload: bytes, is_start: bool) -> None:
        """Collect the section of a program table (§2.4.4)."""
        section = self._sections[pid]
        if is_start:
            if not payload:
                return
            section.data = bytearray(payload[1 + payload[0] :])
            section.is_open = True
        elif section.is_open:
            section.data += payload
        if not section.is_open or len(section.data) < 3:
            return
        size = 3 + ((section.data[1] & 0x0F) << 8 | section.data[2])
        if size > _MAX_SECTION:
            section.is_open = False
        elif len(section.data) >= size:
            section.is_open = False
            self._use_table(pid, bytes(section.data[:size]))

    def _use_table(self, pid: int, table: bytes) -> None:
        """Use a table that is in force, and intact, unless it is the one in use."""
        kind = 0 if pid == _PAT else _PMT
        if len(table) < 12 or table[0] != kind or not table[5] & 1:
            return
        if table == self._tables.get(pid) or not _is_intact(table):
            return
        self._changes += 1
        if self._changes > _MAX_TABLES:
            raise Malformed("The program of the MPEG-TS stream changes too often.")
        self._tables[pid] = table
        if pid == _PAT:
            self._use_association(table)
        else:
            self._use_program(table)

    def _use_association(self, table: bytes) -> None:
        """Read the first program of a program association table (§2.4.4.3)."""
        for at in range(8, len(table) - 7, 4):
            program, found = struct.unpack_from(">HH", table, at)
            pid = found & 0x1FFF
            if program and pid:
                if pid not in self._sections:
                    self._sections = {_PAT: self._sections[_PAT], pid: _Section()}
                    self._tables = {_PAT: table}
                return

    def _use_program(self, table: bytes) -> None:
        """Use the elementary streams of a program map table (§2.4.4.9)."""
        streams = {}
        for kind, pid, descriptors in _program(table):
            known = self._streams.get(pid)
            if known is not None and known.stream.kind == kind:
                streams[pid] = known
                continue
            stream = open_stream(self._gate, pid, kind, descriptors)
            if stream is not None:
                streams[pid] = _PacketStream(stream, _continuation(pid))
        for pid, one in self._streams.items():
            if streams.get(pid) is not one:
                self._flush(one)
        if not streams:
            raise UnsupportedFormat(
                "The MPEG-TS stream contains neither pictures nor sound that can be recorded."
            )
        self._streams = streams
        self._gate.expect(frozenset(streams))


def _continuation(pid: int) -> re.Pattern[bytes]:
    head = re.escape(bytes([_SYNC, pid >> 8, pid & 0xFF]))
    return re.compile(rb"(?s:%b[\x10-\x1f].{184}){1,%d}+" % (head, _MAX_PACKET_RUN))


def _timestamp(data: bytes, at: int) -> int:
    """Return the 33 bits of a PTS or DTS (§2.4.3.7)."""
    high, middle, low = (
        data[at],
        int.from_bytes(data[at + 1 : at + 3], "big"),
        int.from_bytes(data[at + 3 : at + 5], "big"),
    )
    return (high >> 1 & 7) << 30 | middle >> 1 << 15 | low >> 1


def _program(table: bytes) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Yield type, PID and descriptors of each elementary stream."""
    stop = len(table) - 4
    at = 12 + (int.from_bytes(table[10:12], "big") & 0x0FFF)
    while at + 5 <= stop:
        length = int.from_bytes(table[at + 3 : at + 5], "big") & 0x0FFF
        pid = int.from_bytes(table[at + 1 : at + 3], "big") & 0x1FFF
        yield table[at], pid, _descriptors(table[at + 5 : min(at + 5 + length, stop)])
        at += 5 + length


def _descriptors(data: bytes) -> dict[int, bytes]:
    """Return the first descriptor of each tag."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(data):
        found.setdefault(data[at], data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    return found


def _is_intact(table: bytes) -> bool:
    """Return whether the CRC of a section is right (Annex A)."""
    remainder = 0xFFFF_FFFF
    for byte in table:
        remainder = (remainder << 8 & 0xFFFF_FFFF) ^ _CRC[remainder >> 24 ^ byte]
    return remainder == 0


def _crc_of(byte: int) -> int:
    remainder = byte << 24
    for _ in range(8):
        remainder = (remainder << 1 ^ (0x04C1_1DB7 if remainder >> 31 else 0)) & 0xFFFF_FFFF
    return remainder


_CRC = [_crc_of(byte) for byte in range(256)]

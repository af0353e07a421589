"""The elementary streams of MPEG-TS: PES payloads to samples (ISO/IEC 13818-1, ETSI TS 101 154). Pure."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from app.formats import aac
from app.formats.codecs import mp3_track, sound_track
from app.formats.errors import Malformed, UnsupportedFormat, unsupported
from app.formats.nal_units import AccessUnits, split_annex_b
from app.formats.samples import MAX_SAMPLE, Codec, Sample, SampleGrid, Track, TrackGate
from app.formats.sound_frames import OPUS_RATE, opus_for_channels, opus_samples, parse_mpeg_frame

TIMESCALE = 90_000

_REGISTRATION, _LANGUAGE, _EXTENSION = 0x05, 0x0A, 0x7F
_PRIVATE = 0x06

_REFUSED_TYPES = {
    0x01: "MPEG-1 pictures",
    0x02: "MPEG-2 pictures",
    0x10: "MPEG-4 part 2 pictures",
    0x11: "AAC in LATM",
    0x1C: "raw AAC",
    0x21: "JPEG 2000 pictures",
    0x33: "VVC pictures",
    0x42: "AVS pictures",
    0x81: "AC-3 sound",
    0x82: "DTS sound",
    0x83: "TrueHD sound",
    0x85: "DTS sound",
    0x87: "E-AC-3 sound",
    0x8A: "DTS sound",
    0xD1: "Dirac pictures",
    0xEA: "VC-1 pictures",
}
"""By stream_type (ISO/IEC 13818-1 table 2-34, and ATSC A/53)."""
_REFUSED_DESCRIPTORS = {
    0x56: "Teletext subtitles",
    0x59: "DVB subtitles",
    0x6A: "AC-3 sound",
    0x7A: "E-AC-3 sound",
    0x7B: "DTS sound",
    0x7C: "AAC in LATM",
}
"""By tag of a descriptor of a private stream (ETSI EN 300 468 §6.1)."""
_REFUSED_REGISTRATIONS = {
    b"AC-3": "AC-3 sound",
    b"EAC3": "E-AC-3 sound",
    b"AC-4": "AC-4 sound",
    b"DTS1": "DTS sound",
    b"DTS2": "DTS sound",
    b"DTS3": "DTS sound",
    b"BSSD": "PCM sound (SMPTE 302M)",
    b"AV01": "AV1 in MPEG-TS",
    b"VC-1": "VC-1 pictures",
    b"drac": "Dirac pictures",
}


class ElementaryStream(Protocol):
    """One elementary stream; its samples go into a gate."""

    kind: int
    """Its stream_type."""

    def add(self, payload: bytes, pts: int | None, dts: int | None) -> None:
        """Parse the payload of a PES packet. Raises Malformed, UnsupportedFormat."""

    def lose(self) -> None:
        """Expect that bytes are missing before the next payload."""


def open_stream(
    gate: TrackGate, pid: int, kind: int, descriptors: Mapping[int, bytes]
) -> ElementaryStream | None:
    """Return the parser of an elementary stream; None for data that are neither pictures nor sound.

    Raises UnsupportedFormat for pictures, sound and subtitles that a recording cannot contain.
    """
    registration = descriptors.get(_REGISTRATION, b"")[:4]
    language = descriptors.get(_LANGUAGE, b"")[:3].decode("ascii", "replace").lower()
    language = language if len(language) == 3 and language.isalpha() else "und"
    if kind == 0x1B:
        return _Pictures(gate, pid, kind, Codec.H264)
    if kind == 0x24 or (kind == _PRIVATE and registration == b"HEVC"):
        return _Pictures(gate, pid, kind, Codec.HEVC)
    if kind == 0x0F:
        return _Sound(gate, pid, kind, _adts_frame, language)
    if kind in {0x03, 0x04}:
        return _Sound(gate, pid, kind, _mpeg_frame, language)
    if kind == _PRIVATE:
        if registration == b"Opus":
            return _OpusPackets(gate, pid, kind, descriptors.get(_EXTENSION, b""), language)
        for tag, name in _REFUSED_DESCRIPTORS.items():
            if tag in descriptors:
                raise unsupported(name)
    if registration in _REFUSED_REGISTRATIONS:
        raise unsupported(_REFUSED_REGISTRATIONS[registration])
    if kind in _REFUSED_TYPES and registration != b"CUEI":
        raise unsupported(_REFUSED_TYPES[kind])
    return None


class _Pictures:
    """H.264 or HEVC. A PES packet contains one access unit, or the two fields of one."""

    def __init__(self, gate: TrackGate, pid: int, kind: int, codec: Codec) -> None:
        self.kind = kind
        self._gate = gate
        self._pid = pid
        self._units = AccessUnits(codec, pid, TIMESCALE)
        self._track: Track | None = None
        self._last: int | None = None
        self._step = 0

    def add(self, payload: bytes, pts: int | None, dts: int | None) -> None:
        data, is_key = self._units.convert(split_annex_b(payload))
        track = self._units.track
        if track is not self._track and track is not None:
            self._track = track
            self._gate.configure(track)
        if dts is None:
            if self._last is None:
                return
            dts = self._last + self._step
        elif self._last is not None:
            self._step = dts - self._last
        self._last = dts
        self._gate.add(Sample(self._pid, dts, dts if pts is None else pts, 0, is_key, data))

    def lose(self) -> None:
        """Do nothing: an access unit never continues in another PES packet."""


class _Frame(NamedTuple):
    """A frame of sound within the bytes of its stream."""

    skip: int
    """Bytes of its header that the sample lacks."""
    size: int
    samples: int
    configuration: bytes
    """The AudioSpecificConfig; for MP3 the fields of the header that a track depends on."""


_ParseFrame = Callable[[bytes, int], _Frame | None]


def _adts_frame(data: bytes, at: int) -> _Frame | None:
    header = aac.parse_adts(data, at)
    return header and _Frame(header.header_size, header.size, 1024, header.configuration)


def _mpeg_frame(data: bytes, at: int) -> _Frame | None:
    header = parse_mpeg_frame(data, at)
    return header and _Frame(
        0, header.size, header.samples, bytes([header.channels]) + header.rate.to_bytes(4, "big")
    )


class _Sound:
    """AAC in ADTS, or MP3: frames that follow one another, across the borders of PES packets."""

    def __init__(self, gate: TrackGate, pid: int, kind: int, parse: _ParseFrame, language: str) -> None:
        self.kind = kind
        self._gate = gate
        self._pid = pid
        self._parse = parse
        self._language = language
        self._rest = b""
        self._is_synced = False
        self._configuration = b""
        self._grid = SampleGrid(TIMESCALE)

    def add(self, payload: bytes, pts: int | None, dts: int | None) -> None:
        data = self._rest + payload
        timed_from = len(self._rest)  # the first frame that begins in this packet has its time
        at = 0
        while at + aac.ADTS_HEADER <= len(data):
            frame = self._parsed(data, at)
            if frame is None or not (self._is_synced or self._is_followed(data, at + frame.size)):
                self._is_synced = False
                found = data.find(0xFF, at + 1)
                at = len(data) if found < 0 else found
                continue
            if at + frame.size > len(data):
                break
            self._is_synced = True
            time = None
            if at >= timed_from:
                time, pts = pts, None
            self._frame(frame, data[at : at + frame.size], time)
            at += frame.size
        self._rest = data[at:]

    def lose(self) -> None:
        self._rest = b""
        self._is_synced = False

    def _parsed(self, data: bytes, at: int) -> _Frame | None:
        """Parse a frame.

        Once the sound is known, a refused one is a sync word by chance, after lost bytes.
        """
        try:
            return self._parse(data, at)
        except UnsupportedFormat:
            if self._configuration:
                return None
            raise

    def _is_followed(self, data: bytes, at: int) -> bool:
        """Return whether another frame begins at `at`, as far as is known: sync words occur in sound."""
        return at + aac.ADTS_HEADER > len(data) or self._parsed(data, at) is not None

    def _frame(self, frame: _Frame, data: bytes, time: int | None) -> None:
        if frame.configuration != self._configuration:
            self._configuration = frame.configuration
            track = (
                sound_track(self._pid, Codec.AAC, frame.configuration, language=self._language)
                if self._parse is _adts_frame
                else mp3_track(self._pid, data, self._language)
            )
            self._grid = SampleGrid(track.rate)
            self._gate.configure(track)
        start = self._grid.place(time, TIMESCALE, frame.samples)
        self._gate.add(Sample(self._pid, start, start, frame.samples, True, data[frame.skip :]))


class _OpusPackets:
    """Opus: access units with control headers (Opus in MPEG-TS, ETSI TS 103 491 §B)."""

    def __init__(self, gate: TrackGate, pid: int, kind: int, extension: bytes, language: str) -> None:
        self.kind = kind
        self._gate = gate
        self._pid = pid
        if len(extension) < 2 or extension[0] != 0x80:
            raise Malformed("The Opus stream has no channel configuration.")
        channels = extension[1] or 2
        self._grid = SampleGrid(OPUS_RATE)
        gate.configure(sound_track(pid, Codec.OPUS, opus_for_channels(channels), language=language))

    def add(self, payload: bytes, pts: int | None, dts: int | None) -> None:
        at = 0
        while at + 2 < len(payload):
            head = int.from_bytes(payload[at : at + 2], "big")
            if head & 0xFFE0 != 0x7FE0:
                return
            at += 2
            size = 0
            while at < len(payload) and size <= MAX_SAMPLE:
                size += payload[at]
                at += 1
                if payload[at - 1] != 0xFF:
                    break
            at += 2 * (head >> 4 & 1) + 2 * (head >> 3 & 1)
            if head & 4 and at < len(payload):
                at += 1 + payload[at]
            packet = payload[at : at + size]
            at += size
            if packet:
                samples = opus_samples(packet)
                start = self._grid.place(pts, TIMESCALE, samples)
                pts = None
                self._gate.add(Sample(self._pid, start, start, samples, True, packet))

    def lose(self) -> None:
        """Do nothing: a packet never continues in another PES packet."""

"""Matroska and WebM input (RFC 9559): clusters and blocks to samples. Pure.

The stream is parsed flat: Segment and Cluster are entered whatever their sizes are, as a live stream does not
know them, and the elements of both have different ids.
"""

from bisect import insort
from dataclasses import dataclass, field

from app.formats.bits import Backlog
from app.formats.codecs import (
    av1_track,
    frame_samples,
    mp3_track,
    picture_size,
    reordered_frames,
    sound_track,
    vp9_track,
)
from app.formats.ebml import parse_block, read_element_header, read_elements, unsigned
from app.formats.errors import Malformed, UnsupportedFormat, unsupported
from app.formats.nal_units import AccessUnits, split_annex_b
from app.formats.samples import MAX_SAMPLE, Codec, Event, Sample, SampleGrid, Track, TrackGate, rescale
from app.formats.sound_frames import flac_configuration, opus_configuration

TIMESCALE = 90_000
"""Ticks of pictures: whole milliseconds, the usual unit of Matroska, are exact."""

NANOSECONDS = 1_000_000_000

MAX_TRACKS_ELEMENT = 1 << 20
"""Bytes of Tracks."""

_MAX_SKIPPED = 64 << 20
"""Bytes of an element without samples: attachments, cues."""
_REORDER_RESET = TIMESCALE
"""Ticks by which times must step back to be a jump rather than reordered."""
_USUAL_STEP = TIMESCALE // 25

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_INFO, _TRACKS = 0x1549A966, 0x1654AE6B
_TIMESTAMP_SCALE, _TIMESTAMP = 0x2AD7B1, 0xE7
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK, _REFERENCE_BLOCK = 0xA3, 0xA0, 0xA1, 0xFB
_ENCRYPTED_BLOCK = 0xAF
_TRACK_ENTRY, _TRACK_NUMBER, _TRACK_TYPE, _CODEC_ID, _CODEC_PRIVATE = 0xAE, 0xD7, 0x83, 0x86, 0x63A2
_DEFAULT_DURATION, _CODEC_DELAY, _LANGUAGE = 0x23E383, 0x56AA, 0x22B59C
_VIDEO, _WIDTH, _HEIGHT, _AUDIO, _CHANNELS = 0xE0, 0xB0, 0xBA, 0xE1, 0x9F
_ENCODINGS, _ENCODING, _COMPRESSION, _ALGORITHM, _SETTINGS = 0x6D80, 0x6240, 0x5034, 0x4254, 0x4255
_ENCODING_TYPE, _ENCODING_SCOPE = 0x5033, 0x5032
_HEADER_STRIPPING = 3

_TYPE_VIDEO, _TYPE_AUDIO, _TYPE_SUBTITLE = 1, 2, 17

_CODECS = {
    b"V_MPEG4/ISO/AVC": Codec.H264,
    b"V_MPEGH/ISO/HEVC": Codec.HEVC,
    b"V_VP9": Codec.VP9,
    b"V_AV1": Codec.AV1,
    b"A_AAC": Codec.AAC,
    b"A_OPUS": Codec.OPUS,
    b"A_MPEG/L3": Codec.MP3,
    b"A_FLAC": Codec.FLAC,
}
_REFUSED = [
    (b"V_VP8", "VP8 pictures"),
    (b"V_MPEG2", "MPEG-2 pictures"),
    (b"V_MPEG1", "MPEG-1 pictures"),
    (b"V_MPEG4/", "MPEG-4 part 2 pictures"),
    (b"V_THEORA", "Theora pictures"),
    (b"V_MJPEG", "Motion JPEG pictures"),
    (b"A_AAC/", "AAC without its configuration"),
    (b"A_VORBIS", "Vorbis sound"),
    (b"A_EAC3", "E-AC-3 sound"),
    (b"A_AC3", "AC-3 sound"),
    (b"A_DTS", "DTS sound"),
    (b"A_TRUEHD", "TrueHD sound"),
    (b"A_MPEG/L", "MP2 sound"),
    (b"A_PCM", "PCM sound"),
    (b"A_ALAC", "ALAC sound"),
]
"""Beginnings of CodecID."""


@dataclass
class _Input:
    """One track of the segment."""

    number: int
    codec: Codec
    private: bytes
    width: int = 0
    height: int = 0
    channels: int = 0
    language: str = "und"
    step: int = 0
    """Ticks of pictures from one to the next; 0 if they are not known."""
    delay_ns: int = 0
    """Nanoseconds of CodecDelay, which the times of its blocks contain."""
    stripped: bytes = b""
    """The beginning of each frame, which its blocks lack."""
    track: Track | None = None
    units: AccessUnits | None = None
    """For pictures with start codes, whose configuration is not in the container."""
    grid: SampleGrid = field(default_factory=lambda: SampleGrid(1))
    order: "_DecodingOrder" = field(default_factory=lambda: _DecodingOrder(0, 0))

    def describe(self, track: Track) -> None:
        self.track = track
        if track.codec.is_video:
            self.order = _DecodingOrder(reordered_frames(track.codec, track.configuration), self.step)
        else:
            self.grid = SampleGrid(track.rate)


class _DecodingOrder:
    """Finds decoding times, which Matroska does not contain: those of presentation, sorted.

    A frame is decoded at most `depth` frames before one that it follows in presentation. So the n-th decoding
    time is the presentation time that is the n-th smallest, `depth` frames later: then it is among those that
    arrived.
    """

    def __init__(self, depth: int, step: int) -> None:
        self._depth = depth
        self._step = step or _USUAL_STEP
        self._waiting: list[int] = []
        self._first = 0
        self._count = 0

    def place(self, pts: int) -> int:
        """Return the decoding time of the next frame."""
        if self._waiting and pts < self._waiting[0] - _REORDER_RESET:
            self._waiting.clear()
            self._count = 0
        if self._count == 0:
            self._first = pts
        self._count += 1
        insort(self._waiting, pts)
        if self._count <= self._depth:
            return self._first - (self._depth + 1 - self._count) * self._step
        return self._waiting.pop(0)


class MatroskaParser:
    """Parses Matroska and WebM. Lacing and header stripping are resolved."""

    def __init__(self) -> None:
        self._gate = TrackGate()
        self._backlog = Backlog()
        self._needed = 1
        """Bytes that the element at hand needs."""
        self._skip = 0
        self._inputs: dict[int, _Input] = {}
        self._scale = 1_000_000
        """Nanoseconds of a tick."""
        self._cluster = 0

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes. Raises Malformed, UnsupportedFormat."""
        buffer = self._backlog.add(data)
        if buffer:
            at = 0
            while (following := self._element(buffer, at)) is not None:
                at = following
            self._backlog.keep(buffer[at:], self._needed)
        return self._gate.take()

    def close(self, *, is_torn: bool = False) -> list[Event]:
        """Return the last events. Raises Malformed, UnsupportedFormat."""
        if not self._inputs:
            raise Malformed("The Matroska stream ends before its tracks.")
        return self._gate.close()

    def _element(self, data: bytes, at: int) -> int | None:
        """Parse the element at `at`, and return where the next one begins; None if more bytes are needed."""
        self._needed = 1
        if self._skip:
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            return at + skipped if skipped else None
        header = read_element_header(data, at)
        if header is None:
            return None
        start = at + header.length
        if header.id in {_SEGMENT, _CLUSTER}:
            return start
        if header.size is None:
            raise Malformed("A Matroska element has no size.")
        limit = _LIMITS.get(header.id)
        if limit is None:
            if header.size > _MAX_SKIPPED:
                raise Malformed("A Matroska element is too large.")
            self._skip = header.size
            return start
        if header.size > limit:
            raise Malformed(f"A Matroska element is larger than {limit} bytes.")
        stop = start + header.size
        if stop > len(data):
            self._needed = stop - at
            return None
        self._use(header.id, data[start:stop])
        return stop

    def _use(self, kind: int, content: bytes) -> None:
        if kind == _SIMPLE_BLOCK:
            self._block(content, None)
        elif kind == _BLOCK_GROUP:
            elements = list(read_elements(content))
            is_key = all(found != _REFERENCE_BLOCK for found, _ in elements)
            for found, block in elements:
                if found == _BLOCK:
                    self._block(block, is_key)
        elif kind == _TIMESTAMP:
            self._cluster = unsigned(content)
        elif kind == _INFO:
            self._scale = _scale(content)
        elif kind == _TRACKS:
            self._use_tracks(content)
        elif kind == _ENCRYPTED_BLOCK:
            raise unsupported("encrypted pictures or sound")

    def _use_tracks(self, content: bytes) -> None:
        inputs = [_parse_track(entry) for kind, entry in read_elements(content) if kind == _TRACK_ENTRY]
        self._inputs = {one.number: one for one in inputs if one is not None}
        if not self._inputs:
            raise UnsupportedFormat("The Matroska stream contains neither pictures nor sound.")
        self._gate.expect(frozenset(self._inputs))
        for one in self._inputs.values():
            track = _configured(one)
            if track is not None:
                one.describe(track)
                self._gate.configure(track)

    def _block(self, content: bytes, is_key: bool | None) -> None:
        """Parse a block; `is_key` is None for a SimpleBlock, which contains it."""
        block = parse_block(content)
        one = self._inputs.get(block.track)
        if one is None:
            return
        time_ns = (self._cluster + block.time) * self._scale - one.delay_ns
        for index, frame in enumerate(block.frames):
            if one.codec.is_video:
                is_picture_key = block.is_key if is_key is None else is_key
                self._picture(one, time_ns, is_picture_key, one.stripped + frame)
            elif frame:
                self._sound(one, None if index else time_ns, one.stripped + frame)

    def _picture(self, one: _Input, time_ns: int, is_key: bool, frame: bytes) -> None:
        if one.units is not None:
            frame, is_key = one.units.convert(split_annex_b(frame))
            if one.units.track is not None and one.units.track is not one.track:
                self._configure(one, one.units.track)
        elif is_key and one.codec in {Codec.VP9, Codec.AV1}:
            track = _from_key_frame(one, frame)
            if track is not None and track != one.track:
                self._configure(one, track)
        if one.track is None:
            return
        pts = rescale(time_ns, NANOSECONDS, TIMESCALE)
        self._gate.add(Sample(one.number, one.order.place(pts), pts, 0, is_key, frame))

    def _sound(self, one: _Input, time_ns: int | None, frame: bytes) -> None:
        if one.track is None:
            self._configure(one, mp3_track(one.number, frame, one.language))
        assert one.track is not None
        samples = frame_samples(one.track, frame)
        start = one.grid.place(time_ns, NANOSECONDS, samples)
        self._gate.add(Sample(one.number, start, start, samples, True, frame))

    def _configure(self, one: _Input, track: Track) -> None:
        one.describe(track)
        self._gate.configure(track)


_LIMITS = {
    _INFO: MAX_TRACKS_ELEMENT,
    _TRACKS: MAX_TRACKS_ELEMENT,
    _TIMESTAMP: 8,
    _SIMPLE_BLOCK: MAX_SAMPLE + 1024,
    _BLOCK_GROUP: MAX_SAMPLE + 65536,
    _ENCRYPTED_BLOCK: MAX_SAMPLE,
}
"""The elements that are parsed, and the most bytes of each."""


def _scale(info: bytes) -> int:
    """Return the nanoseconds of a tick. Raises Malformed."""
    scale = next(
        (unsigned(value) for kind, value in read_elements(info) if kind == _TIMESTAMP_SCALE), 1_000_000
    )
    if not 0 < scale <= NANOSECONDS:
        raise Malformed("The Matroska stream has an impossible timestamp scale.")
    return scale


def _parse_track(entry: bytes) -> _Input | None:
    """Return a track of pictures or sound; None for another one. Raises Malformed, UnsupportedFormat."""
    fields = dict(read_elements(entry))
    kind = unsigned(fields.get(_TRACK_TYPE, b""))
    if kind == _TYPE_SUBTITLE:
        raise unsupported("subtitles")
    if kind not in {_TYPE_VIDEO, _TYPE_AUDIO}:
        return None
    name = fields.get(_CODEC_ID, b"").rstrip(b"\x00")
    codec = _CODECS.get(name)
    if codec is None:
        refused = next((text for start, text in _REFUSED if name.startswith(start)), None)
        raise unsupported(refused or f"a track of type “{name[:32].decode('ascii', 'replace')}”")
    video = dict(read_elements(fields.get(_VIDEO, b"")))
    audio = dict(read_elements(fields.get(_AUDIO, b"")))
    language = fields.get(_LANGUAGE, b"").rstrip(b"\x00").decode("ascii", "replace")
    return _Input(
        unsigned(fields.get(_TRACK_NUMBER, b"")),
        codec,
        fields.get(_CODEC_PRIVATE, b""),
        unsigned(video.get(_WIDTH, b"")),
        unsigned(video.get(_HEIGHT, b"")),
        unsigned(audio.get(_CHANNELS, b"\x01")),
        language if len(language) == 3 and language.isalpha() else "und",
        rescale(unsigned(fields.get(_DEFAULT_DURATION, b"")), NANOSECONDS, TIMESCALE),
        unsigned(fields.get(_CODEC_DELAY, b"")),
        _stripped(fields.get(_ENCODINGS, b"")),
    )


def _stripped(encodings: bytes) -> bytes:
    """Return the bytes that header stripping removed from each frame (§5.1.4.1.31).

    Raises UnsupportedFormat.
    """
    stripped = b""
    for kind, encoding in read_elements(encodings):
        if kind != _ENCODING:
            continue
        fields = dict(read_elements(encoding))
        compression = dict(read_elements(fields.get(_COMPRESSION, b"")))
        if unsigned(fields.get(_ENCODING_TYPE, b"")) != 0:
            raise unsupported("encrypted pictures or sound")
        if unsigned(compression.get(_ALGORITHM, b"")) != _HEADER_STRIPPING:
            raise unsupported("compressed Matroska blocks")
        if unsigned(fields.get(_ENCODING_SCOPE, b"\x01")) & 1:
            stripped = compression.get(_SETTINGS, b"") + stripped
    if len(stripped) > 1024:
        raise Malformed("The stripped header of a Matroska track is too long.")
    return stripped


def _configured(one: _Input) -> Track | None:
    """Return the track as its CodecPrivate describes it; None if only its frames do. Raises Malformed."""
    match one.codec:
        case Codec.H264 | Codec.HEVC if not one.private:
            one.units = AccessUnits(one.codec, one.number, TIMESCALE, one.language)
            return None
        case Codec.AV1 if not one.private:
            return None
        case Codec.VP9 | Codec.MP3:
            return None
        case Codec.H264 | Codec.HEVC | Codec.AV1:
            width, height = picture_size(one.codec, one.private) or (one.width, one.height)
            return Track(one.number, one.codec, TIMESCALE, one.private, width, height, language=one.language)
        case Codec.OPUS:
            configuration = opus_configuration(one.private)
        case Codec.FLAC:
            configuration = flac_configuration(one.private)
        case _:
            configuration = one.private
    return sound_track(one.number, one.codec, configuration, channels=one.channels, language=one.language)


def _from_key_frame(one: _Input, frame: bytes) -> Track | None:
    """Return the track as a key frame describes it; None if its CodecPrivate does. Raises Malformed."""
    if one.codec is Codec.VP9:
        return vp9_track(one.number, TIMESCALE, frame, one.language)
    return None if one.private else av1_track(one.number, TIMESCALE, frame, one.language)

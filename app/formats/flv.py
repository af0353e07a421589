"""FLV tags to samples, with the FourCC of enhanced RTMP: for files, and for the messages of RTMP. Pure."""

from typing import NamedTuple

from app.formats.bits import Backlog, ByteReader
from app.formats.codecs import (
    av1_track,
    frame_samples,
    mp3_track,
    picture_size,
    reordered_frames,
    sound_track,
    vp9_track,
)
from app.formats.errors import Malformed, unsupported
from app.formats.samples import MAX_SAMPLE, Codec, Event, Sample, SampleGrid, Track, TrackGate
from app.formats.sound_frames import flac_configuration, opus_configuration

TIMESCALE = 1000
"""FLV has times in milliseconds."""

AUDIO, VIDEO = 8, 9
"""Types of tags, and of RTMP messages; the ids of our tracks, too."""

_HEADER, _TAG = 9, 11
_MAX_HEADER = 1 << 16
_CLOCK_BITS = 32

_AVC, _HEVC_BY_NUMBER = 7, 12
_VIDEO_CODECS = {
    1: "JPEG pictures",
    2: "Sorenson H.263 pictures",
    3: "screen video",
    4: "VP6 pictures",
    5: "VP6 pictures",
    6: "screen video",
    8: "H.263 pictures",
    9: "MPEG-4 part 2 pictures",
}
_MP3, _MP3_8K, _AAC, _EXTENDED = 2, 14, 10, 9
_SOUND_FORMATS = {
    0: "PCM sound",
    1: "ADPCM sound",
    3: "PCM sound",
    4: "Nellymoser sound",
    5: "Nellymoser sound",
    6: "Nellymoser sound",
    7: "G.711 sound",
    8: "G.711 sound",
    11: "Speex sound",
}
_FOUR_CC = {
    b"avc1": Codec.H264,
    b"hvc1": Codec.HEVC,
    b"vp09": Codec.VP9,
    b"av01": Codec.AV1,
    b"mp4a": Codec.AAC,
    b"Opus": Codec.OPUS,
    b".mp3": Codec.MP3,
    b"fLaC": Codec.FLAC,
}
_REFUSED = {
    b"vp08": "VP8 pictures",
    b"vvc1": "VVC pictures",
    b"ac-3": "AC-3 sound",
    b"ec-3": "E-AC-3 sound",
}
_SEQUENCE_START, _CODED_FRAMES, _SEQUENCE_END, _CODED_FRAMES_X, _METADATA = range(5)
_MULTITRACK_SOUND, _MULTITRACK_VIDEO, _MOD_EX = 5, 6, 7
_COMMAND_FRAME = 5
_WITH_COMPOSITION = frozenset({Codec.H264, Codec.HEVC})


class _Packet(NamedTuple):
    """The content of one tag."""

    codec: Codec
    is_configuration: bool
    is_key: bool
    composition: int
    """Milliseconds from decoding to presentation."""
    data: bytes


class FlvTags:
    """Turns tags, or the messages of RTMP, into samples: one track of pictures, one of sound."""

    def __init__(self, expected: frozenset[int] = frozenset({AUDIO, VIDEO})) -> None:
        """`expected` are the tracks to wait for."""
        self._gate = TrackGate()
        self._gate.expect(expected)
        self._tracks: dict[int, Track] = {}
        self._private: dict[int, bytes] = {}
        self._grid = SampleGrid(TIMESCALE)
        self._clock: int | None = None

    def add(self, kind: int, time_ms: int, data: bytes) -> None:
        """Parse the content of a tag. Raises Malformed, UnsupportedFormat."""
        if kind not in {AUDIO, VIDEO} or not data:
            return
        packet = _video_packet(data) if kind == VIDEO else _sound_packet(data)
        if packet is None or not packet.data:
            return
        if packet.is_configuration:
            self._use_configuration(kind, packet)
            return
        time = self._unwrap(time_ms)
        if kind == VIDEO:
            self._picture(packet, time)
        else:
            self._sound(packet, time)

    def take(self) -> list[Event]:
        """Return the events so far, each once."""
        return self._gate.take()

    def close(self) -> list[Event]:
        """Return the last events. Raises Malformed if there was no track."""
        if not self._tracks:
            raise Malformed("The FLV stream contains neither pictures nor sound.")
        return self._gate.close()

    def _unwrap(self, time: int) -> int:
        """Return the time of 32 bits that is the nearest to the previous one: it wraps after 49 days."""
        if self._clock is not None:
            half = 1 << _CLOCK_BITS - 1
            time = self._clock + (time - self._clock + half) % (1 << _CLOCK_BITS) - half
        self._clock = time
        return time

    def _use_configuration(self, kind: int, packet: _Packet) -> None:
        codec, data = packet.codec, packet.data
        if self._private.get(kind) == data:
            return
        self._private[kind] = data
        match codec:
            case Codec.VP9 | Codec.MP3:  # their frames describe them
                return
            case Codec.H264 | Codec.HEVC | Codec.AV1:
                reordered_frames(codec, data)  # parses it
                width, height = picture_size(codec, data) or (0, 0)
                track = Track(VIDEO, codec, TIMESCALE, data, width, height)
            case Codec.OPUS:
                track = sound_track(AUDIO, codec, opus_configuration(data))
            case Codec.FLAC:
                track = sound_track(AUDIO, codec, flac_configuration(data))
            case _:
                track = sound_track(AUDIO, codec, data)
        self._configure(kind, track)

    def _configure(self, kind: int, track: Track) -> None:
        if kind == AUDIO:
            self._grid = SampleGrid(track.rate)
        self._tracks[kind] = track
        self._gate.configure(track)

    def _picture(self, packet: _Packet, time: int) -> None:
        track = self._tracks.get(VIDEO)
        if packet.is_key and packet.codec is Codec.VP9:
            found = vp9_track(VIDEO, TIMESCALE, packet.data)
            if found != track:
                self._configure(VIDEO, found)
        elif packet.is_key and packet.codec is Codec.AV1 and track is None:
            self._configure(VIDEO, av1_track(VIDEO, TIMESCALE, packet.data))
        self._gate.add(Sample(VIDEO, time, time + packet.composition, 0, packet.is_key, packet.data))

    def _sound(self, packet: _Packet, time: int) -> None:
        track = self._tracks.get(AUDIO)
        if track is None or track.codec is not packet.codec:
            if packet.codec is not Codec.MP3:
                return
            track = mp3_track(AUDIO, packet.data)
            self._configure(AUDIO, track)
        samples = frame_samples(track, packet.data)
        start = self._grid.place(time, TIMESCALE, samples)
        self._gate.add(Sample(AUDIO, start, start, samples, True, packet.data))


def _video_packet(data: bytes) -> _Packet | None:
    """Parse the content of a video tag; None if it contains no picture.

    Raises Malformed, UnsupportedFormat.
    """
    reader = ByteReader(data)
    head = reader.unsigned(1)
    frame_type = head >> 4 & 7
    if frame_type == _COMMAND_FRAME:
        return None
    if head & 0x80:
        kind = head & 15
        if kind in {_MULTITRACK_VIDEO, _MOD_EX}:
            raise unsupported("several video tracks, or extensions of enhanced RTMP")
        codec = _by_four_cc(reader.take(4))
        if kind in {_SEQUENCE_END, _METADATA} or not codec.is_video:
            return None
        has_composition = kind == _CODED_FRAMES and codec in _WITH_COMPOSITION
    else:
        number = head & 15
        if number not in {_AVC, _HEVC_BY_NUMBER}:
            raise unsupported(_VIDEO_CODECS.get(number, f"pictures of the FLV codec {number}"))
        codec = Codec.H264 if number == _AVC else Codec.HEVC
        kind, has_composition = reader.unsigned(1), True
        if kind == _SEQUENCE_END:
            return None
    composition = reader.signed(3) if has_composition else 0
    return _Packet(codec, kind == _SEQUENCE_START, frame_type == 1, composition, reader.rest())


def _sound_packet(data: bytes) -> _Packet | None:
    """Parse the content of an audio tag; None if it contains no sound.

    Raises Malformed, UnsupportedFormat.
    """
    reader = ByteReader(data)
    head = reader.unsigned(1)
    number = head >> 4
    if number == _EXTENDED:
        kind = head & 15
        if kind in {_MULTITRACK_SOUND, _MOD_EX}:
            raise unsupported("several sound tracks, or extensions of enhanced RTMP")
        codec = _by_four_cc(reader.take(4))
        if kind not in {_SEQUENCE_START, _CODED_FRAMES} or codec.is_video:
            return None
        return _Packet(codec, kind == _SEQUENCE_START, True, 0, reader.rest())
    if number in {_MP3, _MP3_8K}:
        return _Packet(Codec.MP3, False, True, 0, reader.rest())
    if number != _AAC:
        raise unsupported(_SOUND_FORMATS.get(number, f"sound of the FLV format {number}"))
    return _Packet(Codec.AAC, reader.unsigned(1) == 0, True, 0, reader.rest())


def _by_four_cc(name: bytes) -> Codec:
    codec = _FOUR_CC.get(name)
    if codec is None:
        raise unsupported(_REFUSED.get(name, f"a track of type “{name.decode('ascii', 'replace')}”"))
    return codec


class FlvParser:
    """Parses an FLV file."""

    def __init__(self) -> None:
        self._backlog = Backlog()
        self._tags: FlvTags | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes. Raises Malformed, UnsupportedFormat."""
        buffer = self._backlog.add(data)
        at, needed = 0, 1
        while buffer:
            size = self._next_size(buffer, at)
            needed = size
            if at + size > len(buffer):
                break
            if self._tags is None:
                self._use_header(buffer[:size])
            elif size > _TAG:
                self._use_tag(self._tags, buffer[at : at + size])
            else:
                break
            at += size
        if buffer:
            self._backlog.keep(buffer[at:], needed)
        return self._tags.take() if self._tags else []

    def close(self, *, is_torn: bool = False) -> list[Event]:
        """Return the last events. Raises Malformed."""
        if self._tags is None:
            raise Malformed("The FLV stream ends within its header.")
        return self._tags.close()

    def _next_size(self, data: bytes, at: int) -> int:
        """Return the bytes of the header or tag at `at`; those needed to know it, while they are missing."""
        if self._tags is None:
            if len(data) < _HEADER:
                return _HEADER
            size = int.from_bytes(data[5:9], "big") + 4
            if not data.startswith(b"FLV") or not _HEADER + 4 <= size <= _MAX_HEADER:
                raise Malformed("The FLV stream has no valid header.")
            return size
        if len(data) - at < _TAG:
            return _TAG
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if size > MAX_SAMPLE + 16:
            raise Malformed(f"A frame is larger than {MAX_SAMPLE >> 20} MiB.")
        return _TAG + size + 4

    def _use_header(self, header: bytes) -> None:
        """Wait for the tracks that the header announces: 4 for sound, 1 for pictures."""
        flags = header[4]
        announced = [kind for bit, kind in ((4, AUDIO), (1, VIDEO)) if flags & bit]
        self._tags = FlvTags(frozenset(announced) or frozenset({AUDIO, VIDEO}))

    def _use_tag(self, tags: FlvTags, tag: bytes) -> None:
        if tag[0] & 0x20:
            raise unsupported("encrypted pictures or sound")
        time_ms = tag[7] << 24 | int.from_bytes(tag[4:7], "big")
        tags.add(tag[0] & 0x1F, time_ms, tag[_TAG:-4])

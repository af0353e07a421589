"""Sample entries: the description of a track in `stsd` (ISO/IEC 14496-12 §8.5.2), written and read. Pure."""

from dataclasses import replace

from app.formats import aac, vp9
from app.formats.bits import ByteReader
from app.formats.boxes import Box, box, find_box, full_box, read_boxes
from app.formats.codecs import picture_size, sound_track
from app.formats.errors import Malformed, unsupported
from app.formats.samples import Codec, Track

_ENTRIES = {
    Codec.H264: (b"avc1", b"avcC"),
    Codec.HEVC: (b"hvc1", b"hvcC"),
    Codec.VP9: (b"vp09", b"vpcC"),
    Codec.AV1: (b"av01", b"av1C"),
    Codec.AAC: (b"mp4a", b"esds"),
    Codec.MP3: (b"mp4a", b"esds"),
    Codec.OPUS: (b"Opus", b"dOps"),
    Codec.FLAC: (b"fLaC", b"dfLa"),
}
_CODECS = {
    b"avc1": Codec.H264,
    b"avc3": Codec.H264,
    b"hvc1": Codec.HEVC,
    b"hev1": Codec.HEVC,
    b"vp09": Codec.VP9,
    b"av01": Codec.AV1,
    b"mp4a": Codec.AAC,
    b"Opus": Codec.OPUS,
    b"fLaC": Codec.FLAC,
}
_REFUSED = {
    b"vp08": "VP8 pictures",
    b"mp4v": "MPEG-4 part 2 pictures",
    b"dvh1": "Dolby Vision pictures without an HEVC base",
    b"dvhe": "Dolby Vision pictures without an HEVC base",
    b"vvc1": "VVC pictures",
    b"jpeg": "Motion JPEG pictures",
    b"ac-3": "AC-3 sound",
    b"ec-3": "E-AC-3 sound",
    b"ac-4": "AC-4 sound",
    b"dtsc": "DTS sound",
    b"dtse": "DTS sound",
    b"dtsh": "DTS sound",
    b"alac": "ALAC sound",
    b"sowt": "PCM sound",
    b"twos": "PCM sound",
    b"ipcm": "PCM sound",
    b".mp3": "MP3 sound in QuickTime's form",
    b"encv": "encrypted pictures",
    b"enca": "encrypted sound",
    b"tx3g": "subtitles (tx3g)",
    b"wvtt": "subtitles (WebVTT)",
    b"stpp": "subtitles (TTML)",
}

_ENTRY_HEAD = 8
"""Bytes of reserved fields and data_reference_index."""
_VISUAL = 70
"""Bytes of the further fields of a visual sample entry."""
_AUDIO = 20
_DFLA_HEAD = 4
"""Bytes of version and flags, and as many of the head of its metadata block."""


def sample_entry(track: Track) -> bytes:
    """Return the sample entry of a track."""
    kind, configuration_kind = _ENTRIES[track.codec]
    configuration = track.configuration
    if configuration_kind == b"esds":
        object_type = aac.MP3_OBJECT if track.codec is Codec.MP3 else aac.AAC_OBJECT
        configuration = aac.elementary_stream(object_type, configuration)
    head = bytes(6) + b"\x00\x01"
    if track.codec.is_video:
        fields = b"".join(
            [
                bytes(16),
                (track.width & 0xFFFF).to_bytes(2, "big"),
                (track.height & 0xFFFF).to_bytes(2, "big"),
                b"\x00\x48\x00\x00\x00\x48\x00\x00\x00\x00\x00\x00\x00\x01",  # 72 dpi, one frame a sample
                bytes(32),
                b"\x00\x18\xff\xff",
            ]
        )
    else:
        # The field has 16 bits before the point: higher rates are 0 here, and in the configuration only.
        rate = track.rate if track.rate < 1 << 16 else 0
        fields = (
            bytes(8)
            + track.channels.to_bytes(2, "big")
            + b"\x00\x10"
            + bytes(4)
            + (rate << 16).to_bytes(4, "big")
        )
    return box(kind, head, fields, box(configuration_kind, configuration))


def parse_sample_entry(data: bytes, entry: Box, track: int, timescale: int, language: str) -> Track:
    """Return the track that a sample entry describes. Raises Malformed, UnsupportedFormat."""
    if entry.kind in _REFUSED:
        raise unsupported(_REFUSED[entry.kind])
    codec = _CODECS.get(entry.kind)
    if codec is None:
        raise unsupported(f"a track of type “{entry.kind.decode('ascii', 'replace')}”")
    reader = ByteReader(data, entry.body, entry.stop)
    reader.take(_ENTRY_HEAD)
    if codec.is_video:
        return _visual(data, entry, reader, Track(track, codec, timescale, b"", language=language))
    return _audio(data, entry, reader, Track(track, codec, timescale, b"", language=language))


def _visual(data: bytes, entry: Box, reader: ByteReader, track: Track) -> Track:
    reader.take(16)
    width, height = reader.unsigned(2), reader.unsigned(2)
    reader.take(_VISUAL - 20)
    configuration = _configuration(data, entry, reader.position, track.codec)
    width, height = picture_size(track.codec, configuration) or (width, height)
    if track.codec is Codec.VP9:
        configuration = vp9.with_level(configuration, width, height)
    return replace(track, configuration=configuration, width=width, height=height)


def _audio(data: bytes, entry: Box, reader: ByteReader, track: Track) -> Track:
    version = reader.unsigned(2)
    reader.take(6)
    channels = reader.unsigned(2)
    reader.take(6)
    rate = reader.unsigned(4) >> 16
    # Versions 1 and 2 are QuickTime's, and longer.
    reader.take({0: 0, 1: 16}.get(version, 36))
    configuration = _configuration(data, entry, reader.position, track.codec)
    if track.codec is Codec.AAC:
        is_mp3, configuration = aac.parse_elementary_stream(configuration)
        if is_mp3:
            return replace(track, codec=Codec.MP3, configuration=b"", rate=rate, channels=channels)
        # ffmpeg writes none with `-c copy -bsf:a aac_adtstoasc`: its head precedes the first frame.
        configuration = configuration or aac.configuration_for(rate, channels)
    found = sound_track(track.id, track.codec, configuration, channels=channels, language=track.language)
    return replace(found, timescale=track.timescale)


def _configuration(data: bytes, entry: Box, start: int, codec: Codec) -> bytes:
    kind = _ENTRIES[codec][1]
    for found in read_boxes(data, start, entry.stop):
        if found.kind == kind:
            return data[found.body : found.stop]
        if found.kind == b"wave" and (inner := find_box(data, found, kind)):
            return data[inner.body : inner.stop]
    raise Malformed(f"The {codec} track has no {kind.decode()}.")


def sample_descriptions(tracks: tuple[Track, ...]) -> bytes:
    """Return `stsd` with one entry for each configuration of a track."""
    return full_box(b"stsd", 0, 0, len(tracks).to_bytes(4, "big"), *map(sample_entry, tracks))

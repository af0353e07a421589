"""The codecs together: RFC 6381 strings, tracks from a configuration, and durations of frames of sound.

Pure.
"""

from app.formats import aac, av1, h264, hevc, vp9
from app.formats.errors import Malformed
from app.formats.nal_units import ParameterSets, split_lengths
from app.formats.samples import Codec, Track
from app.formats.sound_frames import (
    OPUS_RATE,
    flac_samples,
    opus_channels,
    opus_samples,
    parse_flac_configuration,
    parse_mpeg_frame,
)


def codec_string(track: Track) -> str:
    """Return the string that `canPlayType` and `EXT-X-STREAM-INF` expect (RFC 6381). Raises Malformed."""
    configuration = track.configuration
    match track.codec:
        case Codec.H264:
            return h264.codec_string(configuration)
        case Codec.HEVC:
            return hevc.codec_string(configuration)
        case Codec.VP9:
            return vp9.codec_string(configuration)
        case Codec.AV1:
            return av1.codec_string(configuration)
        case Codec.AAC:
            return aac.codec_string(configuration)
        case Codec.OPUS:
            return "opus"
        case Codec.MP3:
            return "mp4a.6B"
        case Codec.FLAC:
            return "flac"


def media_type(tracks: tuple[Track, ...]) -> str:
    """Return the type of an MP4 of these tracks: `video/mp4; codecs="avc1.64001f, mp4a.40.2"`."""
    kind = "video" if any(track.codec.is_video for track in tracks) else "audio"
    return f'{kind}/mp4; codecs="{", ".join(map(codec_string, tracks))}"'


def picture_size(codec: Codec, configuration: bytes) -> tuple[int, int] | None:
    """Return the width and height that a configuration contains, None if it contains none.

    Raises Malformed.
    """
    if codec is Codec.H264:
        sets = h264.parse_configuration(configuration).sequence_sets
        found = h264.parse_sps(sets[0]) if sets else None
        return (found.width, found.height) if found else None
    if codec is Codec.HEVC:
        units = hevc.parse_configuration(configuration).sets.get(hevc.SPS)
        picture = hevc.parse_sps(units[0]) if units else None
        return (picture.width, picture.height) if picture else None
    if codec is Codec.AV1 and len(configuration) > 4:
        header = av1.parse_sequence_header(configuration[4:])
        return header.width, header.height
    return None


def reordered_frames(codec: Codec, configuration: bytes) -> int:
    """Return how many frames may precede a frame in decoding order and follow it in output order."""
    if codec is Codec.H264:
        sets = h264.parse_configuration(configuration).sequence_sets
        return h264.parse_sps(sets[0]).reordered if sets else 0
    if codec is Codec.HEVC:
        units = hevc.parse_configuration(configuration).sets.get(hevc.SPS)
        return hevc.parse_sps(units[0]).reordered if units else 0
    return 0


def sound_track(
    number: int, codec: Codec, configuration: bytes, *, channels: int = 0, language: str = "und"
) -> Track:
    """Return a track whose ticks are samples of sound. Raises Malformed.

    `channels` is the container's number, for a configuration that does not contain it.
    """
    match codec:
        case Codec.AAC:
            found = aac.parse_configuration(configuration)
            rate, channels = found.rate, found.channels or channels
        case Codec.OPUS:
            rate, channels = OPUS_RATE, opus_channels(configuration)
        case Codec.FLAC:
            described = parse_flac_configuration(configuration)
            rate, channels = described.rate, described.channels
        case _:
            raise Malformed(f"{codec} has no configuration of sound.")
    return Track(number, codec, rate, configuration, rate=rate, channels=channels, language=language)


def mp3_track(number: int, frame: bytes, language: str = "und") -> Track:
    """Return the track of an MP3 frame. Raises Malformed, UnsupportedFormat."""
    header = parse_mpeg_frame(frame, 0) if len(frame) >= 4 else None
    if header is None:
        raise Malformed("An MP3 frame has no valid header.")
    return Track(
        number, Codec.MP3, header.rate, b"", rate=header.rate, channels=header.channels, language=language
    )


def is_described(track: Track) -> bool:
    """Return whether the configuration of a track suffices to decode it; else a key frame contains it.

    So it is with the sample entries avc3 and hev1, and where a program wrote its head before its first frame.
    Raises Malformed.
    """
    match track.codec:
        case Codec.H264 if track.configuration:
            avc = h264.parse_configuration(track.configuration)
            return bool(avc.sequence_sets and avc.picture_sets)
        case Codec.HEVC if track.configuration:
            return hevc.parse_configuration(track.configuration).sets.keys() >= hevc.PARAMETER_SETS
        case Codec.AV1:
            return len(track.configuration) > 4
        case Codec.H264 | Codec.HEVC:
            return False
        case _:
            return True


def described_by(track: Track, sample: bytes) -> Track:
    """Return a track with the configuration that is in its first key frame. Raises Malformed."""
    if track.codec is Codec.AV1:
        return av1_track(track.id, track.timescale, sample, track.language)
    known = ParameterSets(track.codec)
    for unit in split_lengths(sample, 4):
        known.add_if_set(unit)
    if not known.is_complete:
        raise Malformed(f"The {track.codec} track has no parameter sets.")
    return known.track(track.id, track.timescale, track.language)


def av1_track(number: int, timescale: int, sample: bytes, language: str = "und") -> Track:
    """Return the track that a key frame of AV1 describes. Raises Malformed."""
    obu = av1.sequence_header_of(sample)
    if obu is None:
        raise Malformed("A key frame of AV1 contains no sequence header.")
    header = av1.parse_sequence_header(obu)
    configuration = av1.configuration(obu)
    return Track(number, Codec.AV1, timescale, configuration, header.width, header.height, language=language)


def vp9_track(number: int, timescale: int, frame: bytes, language: str = "und") -> Track:
    """Return the track that a key frame of VP9 describes. Raises Malformed."""
    found = vp9.parse_key_frame(frame)
    configuration = vp9.configuration(found)
    return Track(number, Codec.VP9, timescale, configuration, found.width, found.height, language=language)


def frame_samples(track: Track, frame: bytes) -> int:
    """Return the duration of a frame of sound, in samples. Raises Malformed."""
    match track.codec:
        case Codec.AAC:
            return aac.parse_configuration(track.configuration).frame_samples
        case Codec.OPUS:
            return opus_samples(frame)
        case Codec.FLAC:
            return flac_samples(frame)
        case Codec.MP3:
            header = parse_mpeg_frame(frame, 0) if len(frame) >= 4 else None
            return header.samples if header else 1152
        case _:
            raise Malformed(f"{track.codec} is no codec of sound.")

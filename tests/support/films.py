"""Short films that ffmpeg makes, what ffmpeg decodes of a film, and recordings in memory."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache

from app.formats.finishing import Recording, header_patch, read_recording
from app.formats.fragmented import Fragment, FragmentWriter, Initialization
from app.formats.recognition import recognise
from app.formats.samples import Event
from tests.support import need

SECONDS = 1.0

_PICTURES = f"-f lavfi -i testsrc2=size=128x72:rate=25:duration={SECONDS}"
_SOUND = f"-f lavfi -i sine=frequency=440:sample_rate={{rate}}:duration={SECONDS}"
_H264 = "-c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 15 -pix_fmt yuv420p"
_HEVC = "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=none:frame-threads=1 -g 15"
_VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 15"
_AV1 = "-c:v libaom-av1 -usage realtime -cpu-used 8 -g 15"
_FRAGMENTED = "-f mp4 -movflags frag_keyframe+empty_moov"

FILMS = {
    "H.264 and AAC in MPEG-TS": (44100, f"{_H264} -c:a aac -f mpegts"),
    "HEVC and MP3 in MPEG-TS": (48000, f"{_HEVC} -c:a libmp3lame -f mpegts"),
    "H.264 and Opus in MPEG-TS": (48000, f"{_H264} -c:a libopus -f mpegts"),
    "AAC in MPEG-TS": (48000, "-vn -c:a aac -f mpegts"),
    "H.264 and AAC in fragmented MP4": (48000, f"{_H264} -c:a aac {_FRAGMENTED}+default_base_moof"),
    "H.264 and AAC in fragmented MP4 with offsets of the file": (48000, f"{_H264} -c:a aac {_FRAGMENTED}"),
    "HEVC and FLAC in fragmented MP4": (48000, f"{_HEVC} -c:a flac -strict -2 {_FRAGMENTED}"),
    "AV1 and Opus in CMAF": (48000, f"{_AV1} -c:a libopus {_FRAGMENTED}+cmaf"),
    "H.264 and AAC in Matroska": (44100, f"{_H264} -c:a aac -f matroska"),
    "HEVC and MP3 in Matroska": (44100, f"{_HEVC} -c:a libmp3lame -f matroska"),
    "H.264 and FLAC in Matroska": (48000, f"{_H264} -c:a flac -f matroska"),
    "VP9 and Opus in WebM": (48000, f"{_VP9} -c:a libopus -f webm"),
    "AV1 and Opus in WebM": (48000, f"{_AV1} -c:a libopus -f webm"),
    "H.264 and AAC in FLV": (44100, f"{_H264} -c:a aac -f flv"),
    "H.264 and MP3 in FLV": (44100, f"{_H264} -c:a libmp3lame -f flv"),
}

REFUSED_FILMS = {
    "AC-3 sound": (48000, f"{_H264} -c:a ac3 -f mpegts"),
    "MP2 sound": (48000, f"{_H264} -c:a mp2 -f mpegts"),
    "AAC in LATM": (48000, f"{_H264} -c:a aac -mpegts_flags latm -f mpegts"),
    "VP8 pictures": (48000, "-c:v libvpx -c:a libopus -f webm"),
    "AC-3 sound in MP4": (48000, f"{_H264} -c:a ac3 {_FRAGMENTED}+delay_moov"),
}


@cache
def film(name: str) -> bytes:
    """Return the bytes of a film; made once by each process."""
    need("ffmpeg")
    rate, options = (FILMS | REFUSED_FILMS)[name]
    return make_film(rate, options)


def make_film(rate: int, options: str) -> bytes:
    """Return a film that ffmpeg makes. As when it publishes, it cannot return to what it has written."""
    inputs = f"{_PICTURES} {_SOUND.format(rate=rate)}"
    command = f"ffmpeg -v error -threads 1 {inputs} {options}".split()
    if "libaom-av1" in options and "webm" in options:  # the head of this one follows the first frame
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run([*command, "-y", file.name], check=True, capture_output=True)
            return file.read()
    return subprocess.run([*command, "pipe:1"], check=True, capture_output=True).stdout


@cache
def decoded(data: bytes, *options: str) -> dict[str, list[str]]:
    """Return the hashes of the decoded frames, by kind of stream; fails if ffmpeg reports an error."""
    need("ffmpeg")
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", file.name, *options, "-f", "framemd5", "-"]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not result.stderr, result.stderr
    kinds: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        if line.startswith("#media_type"):
            number, _, kind = line.removeprefix("#media_type").partition(":")
            kinds[number.strip()] = kind.strip()
        elif not line.startswith("#"):
            fields = line.split(",")
            found.setdefault(kinds[fields[0]], []).append(fields[5].strip())
    return found


def packets(data: bytes) -> list[tuple[str, float]]:
    """Return the kind of stream and the presentation time of each packet, in seconds, by ffprobe."""
    need("ffprobe")
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = ["ffprobe", "-v", "error", "-show_entries", "packet=codec_type,pts_time", "-of", "csv=p=0"]
        result = subprocess.run([*command, file.name], check=True, capture_output=True, text=True)
    assert not result.stderr, result.stderr
    lines = (line.split(",") for line in result.stdout.splitlines())
    return [(fields[0], float(fields[1])) for fields in lines if fields[0] in {"audio", "video"}]


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield the data in pieces of these sizes, again and again."""
    at = index = 0
    while at < len(data):
        size = sizes[index % len(sizes)]
        yield data[at : at + size]
        at += size
        index += 1


def parsed(data: bytes, sizes: Sequence[int] = (4096,), *, is_torn: bool = False) -> list[Event]:
    """Return all events of a stream whose bytes arrive in pieces of these sizes."""
    opened = recognise(data[:4096], is_whole=True)
    assert opened is not None
    parser = opened()
    events = [event for piece in cut(data, sizes) for event in parser.feed(piece)]
    return events + parser.close(is_torn=is_torn)


def written(events: Sequence[Event], fragment_s: float = 0.4) -> list[Initialization | Fragment]:
    """Return the initialization segments and fragments of a recording."""
    writer = FragmentWriter(fragment_s)
    found = [one for event in events for one in writer.add(event)]
    return found + writer.close()


@cache
def recorded(data: bytes) -> bytes:
    """Return the recording of a stream."""
    return b"".join(one.data for one in written(parsed(data)))


def read(recording: bytes) -> Recording:
    return read_recording(lambda offset, size: recording[offset : offset + size], len(recording))


def finished(recording: bytes) -> bytes:
    """Return the ordinary MP4 that a recording becomes."""
    movie = read(recording).movie
    patch = header_patch(len(recording))
    whole = bytearray(recording)
    whole[patch.offset : patch.offset + len(patch.data)] = patch.data
    return bytes(whole) + movie

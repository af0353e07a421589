"""The playlist formats M3U and XSPF, in parts, so that a playlist of any length can be streamed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Types of playlists. Players may open those that a playlist lists, and so on without end.
_PLAYLIST_TYPES = frozenset(
    (
        "audio/mpegurl",
        "audio/scpls",
        "audio/x-mpegurl",
        "audio/x-scpls",
        "video/vnd.mpegurl",
        "video/x-mpegurl",
        "video/x-ms-asx",
    )
)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may contain, even escaped (XML 1.0 §2.2)."""


@dataclass(frozen=True, slots=True)
class PlaylistEntry:
    url: str
    """Absolute and percent-encoded: players interpret only ASCII alike."""
    title: str
    """Must not contain line breaks."""


@dataclass(frozen=True, slots=True)
class Format:
    """A playlist format: the parts that make up a playlist, in this order."""

    extension: str
    content_type: str
    head: Callable[[str], str]
    """Takes the title of the playlist."""
    track: Callable[[PlaylistEntry], str]
    tail: str


def is_playable(content_type: str) -> bool:
    """Return whether the type is audio or video, but not a playlist."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith(("audio/", "video/")) and kind not in _PLAYLIST_TYPES


def _m3u_track(track: PlaylistEntry) -> str:
    return f"#EXTINF:-1,{track.title}\n{track.url}\n"  # -1: unknown duration


def _xspf_head(title: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<playlist version="1" xmlns="http://xspf.org/ns/0/">\n'
        f"<title>{_xml(title)}</title>\n"
        "<trackList>\n"
    )


def _xspf_track(track: PlaylistEntry) -> str:
    return f"<track><location>{_xml(track.url)}</location><title>{_xml(track.title)}</title></track>\n"


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


M3U = Format(
    "m3u",
    # With application/vnd.apple.mpegurl, VLC expects the segments of HLS, and plays nothing.
    "audio/x-mpegurl",
    # Some players decode an .m3u as Latin-1 without #EXTENC.
    lambda title: "#EXTM3U\n#EXTENC:UTF-8\n",
    _m3u_track,
    "",
)

XSPF = Format("xspf", "application/xspf+xml", _xspf_head, _xspf_track, "</trackList>\n</playlist>\n")

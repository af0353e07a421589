"""Playlists as players read them: M3U and XSPF, written piece by piece, so that they may be of any length."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

# What lists other files. A player that meets it in a playlist may well follow it.
_LISTS = frozenset(
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
"""What no XML document can hold, escaped or not (XML 1.0 2.2)."""


@dataclass(frozen=True, slots=True)
class Track:
    """One entry of a playlist."""

    url: str
    """Absolute and percent-encoded, so that it is in ASCII and means the same in every player."""
    title: str
    """Without line breaks."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a playlist is written: a head that may name it, its tracks one after another, and a tail."""

    extension: str
    content_type: str
    head: Callable[[str], str]
    track: Callable[[Track], str]
    tail: str


def is_playable(content_type: str) -> bool:
    """Whether a player plays this: sound and pictures that move, and no lists of them."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith(("audio/", "video/")) and kind not in _LISTS


def _m3u_track(track: Track) -> str:
    return f"#EXTINF:-1,{track.title}\n{track.url}\n"  # -1: nobody has looked how long it is


def _xspf_head(title: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<playlist version="1" xmlns="http://xspf.org/ns/0/">\n'
        f"<title>{_xml(title)}</title>\n"
        "<trackList>\n"
    )


def _xspf_track(track: Track) -> str:
    return f"<track><location>{_xml(track.url)}</location><title>{_xml(track.title)}</title></track>\n"


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


M3U = Format(
    "m3u",
    # application/vnd.apple.mpegurl would promise HLS: VLC then looks for segments, and plays nothing.
    "audio/x-mpegurl",
    # Without it an .m3u is in Latin-1 to some players.
    lambda title: "#EXTM3U\n#EXTENC:UTF-8\n",
    _m3u_track,
    "",
)

XSPF = Format("xspf", "application/xspf+xml", _xspf_head, _xspf_track, "</trackList>\n</playlist>\n")

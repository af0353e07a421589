"""M3U and XSPF playlists as text: every file name survives."""

from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import pytest

from app.media.playlist_formats import M3U, XSPF, Format, PlaylistEntry, is_playable

XSPF_NAMES = {"": "http://xspf.org/ns/0/"}

TITLES = [
    "film.mp4",
    "two  words.mp4",
    ' "quoted" it\'s ',
    "100%.mp4",
    "%41%2F.mp4",
    "#1?.mp4",
    "#EXTM3U",
    "a=1&b=2;c+d.mp4",
    "&amp;",
    "</title></track>",
    "]]>",
    "<!--",
    "<b>:*|.mp4",
    "film 🎬.mp4",
    "סרט עברי.mp4",
    "Ame\u0301lie ½.mp4",
    "-leading dash.mp4",
    ".hidden.mp4",
    "A - B, C.mp4",
    "\u202eright to left",
    "\u2028line\u2029s",
    "\U0001ffff",
]


def playlist_of(kind: Format, *titles: str, name: str = "films") -> str:
    tracks = (PlaylistEntry(f"http://localhost:8000/files/{quote(title)}", title) for title in titles)
    return kind.head(name) + "".join(map(kind.track, tracks)) + kind.tail


def parse_xspf(text: str) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the title of the playlist, and the URL and title of each track."""
    root = ElementTree.fromstring(text.encode())
    assert (root.tag, root.attrib) == ("{http://xspf.org/ns/0/}playlist", {"version": "1"})
    # The XSPF schema fixes the order and the number of elements.
    assert [child.tag.partition("}")[2] for child in root] == ["title", "trackList"]
    tracks = []
    for track in root.findall("trackList/track", XSPF_NAMES):
        assert [child.tag.partition("}")[2] for child in track] == ["location", "title"]
        tracks.append((track[0].text or "", track[1].text or ""))
    return root[0].text, tracks


def test_m3u_is_extended_m3u_in_utf8() -> None:
    assert playlist_of(M3U, "a b.mp4", "ü.mp4") == (
        "#EXTM3U\n"
        "#EXTENC:UTF-8\n"
        "#EXTINF:-1,a b.mp4\n"
        "http://localhost:8000/files/a%20b.mp4\n"
        "#EXTINF:-1,ü.mp4\n"
        "http://localhost:8000/files/%C3%BC.mp4\n"
    )


def test_xspf_is_escaped_xml() -> None:
    assert playlist_of(XSPF, "a & b.mp4") == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<playlist version="1" xmlns="http://xspf.org/ns/0/">\n'
        "<title>films</title>\n"
        "<trackList>\n"
        "<track><location>http://localhost:8000/files/a%20%26%20b.mp4</location>"
        "<title>a &amp; b.mp4</title></track>\n"
        "</trackList>\n"
        "</playlist>\n"
    )


def test_playlist_without_tracks_is_valid() -> None:
    assert playlist_of(M3U) == "#EXTM3U\n#EXTENC:UTF-8\n"
    assert parse_xspf(playlist_of(XSPF)) == ("films", [])


def test_xspf_preserves_every_title() -> None:
    _, tracks = parse_xspf(playlist_of(XSPF, *TITLES))
    assert [title for _, title in tracks] == TITLES
    assert [unquote(urlsplit(url).path.removeprefix("/files/")) for url, _ in tracks] == TITLES


def test_m3u_preserves_every_title() -> None:
    lines = playlist_of(M3U, *TITLES).split("\n")[2:-1]
    assert [line.removeprefix("#EXTINF:-1,") for line in lines[::2]] == TITLES
    assert [unquote(urlsplit(url).path.removeprefix("/files/")) for url in lines[1::2]] == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_xspf_preserves_every_folder_name(title: str) -> None:
    assert parse_xspf(playlist_of(XSPF, name=title))[0] == title


@pytest.mark.parametrize("bad", ["\ufffe", "\uffff", "\x00", "\x0b", "\x1f", "\ud800"])
def test_xspf_replaces_characters_illegal_in_xml_in_titles_only(bad: str) -> None:
    track = PlaylistEntry("http://localhost/files/odd%EF%BF%BE.mp4", f"odd{bad}.mp4")
    name, tracks = parse_xspf(XSPF.head(f"a{bad}b") + XSPF.track(track) + XSPF.tail)
    assert name == "a\ufffdb"
    assert tracks == [(track.url, "odd\ufffd.mp4")]


def test_playlist_formats_have_their_media_types() -> None:
    assert M3U.content_type == "audio/x-mpegurl", "application/vnd.apple.mpegurl is HLS to VLC"
    assert XSPF.content_type == "application/xspf+xml"


@pytest.mark.parametrize(
    ("content_type", "playable"),
    [
        ("video/mp4", True),
        ("video/x-matroska", True),
        ("audio/flac", True),
        ("Audio/MPEG", True),
        ('video/mp4; codecs="avc1.42E01E"', True),
        ("audio/x-mpegurl", False),
        ("audio/x-scpls; charset=utf-8", False),
        ("application/xspf+xml", False),
        ("image/png", False),
        ("text/vtt", False),
        ("application/x-subrip", False),
        ("application/octet-stream", False),
        ("videos/mp4", False),
        ("text/plain; video/mp4", False),
        ("", False),
    ],
)
def test_is_playable_is_true_for_audio_and_video_alone(content_type: str, playable: bool) -> None:
    assert is_playable(content_type) is playable

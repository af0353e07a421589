"""Playlists as text: what a player reads is what was meant, whatever the names."""

from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import pytest

from app.media.playlists import M3U, XSPF, Format, Track, is_playable

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


def written(kind: Format, *titles: str, name: str = "films") -> str:
    tracks = (Track(f"http://localhost:8000/files/{quote(title)}", title) for title in titles)
    return kind.head(name) + "".join(map(kind.track, tracks)) + kind.tail


def xspf(text: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The title of a playlist, and address and title of each track."""
    root = ElementTree.fromstring(text.encode())
    assert (root.tag, root.attrib) == ("{http://xspf.org/ns/0/}playlist", {"version": "1"})
    # The order and the number of elements are the schema's.
    assert [child.tag.partition("}")[2] for child in root] == ["title", "trackList"]
    tracks = []
    for track in root.findall("trackList/track", XSPF_NAMES):
        assert [child.tag.partition("}")[2] for child in track] == ["location", "title"]
        tracks.append((track[0].text or "", track[1].text or ""))
    return root[0].text, tracks


def test_an_m3u() -> None:
    assert written(M3U, "a b.mp4", "ü.mp4") == (
        "#EXTM3U\n"
        "#EXTENC:UTF-8\n"
        "#EXTINF:-1,a b.mp4\n"
        "http://localhost:8000/files/a%20b.mp4\n"
        "#EXTINF:-1,ü.mp4\n"
        "http://localhost:8000/files/%C3%BC.mp4\n"
    )


def test_an_xspf() -> None:
    assert written(XSPF, "a & b.mp4") == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<playlist version="1" xmlns="http://xspf.org/ns/0/">\n'
        "<title>films</title>\n"
        "<trackList>\n"
        "<track><location>http://localhost:8000/files/a%20%26%20b.mp4</location>"
        "<title>a &amp; b.mp4</title></track>\n"
        "</trackList>\n"
        "</playlist>\n"
    )


def test_empty_playlists() -> None:
    assert written(M3U) == "#EXTM3U\n#EXTENC:UTF-8\n"
    assert xspf(written(XSPF)) == ("films", [])


def test_every_title_survives_in_xspf() -> None:
    _, tracks = xspf(written(XSPF, *TITLES))
    assert [title for _, title in tracks] == TITLES
    assert [unquote(urlsplit(url).path.removeprefix("/files/")) for url, _ in tracks] == TITLES


def test_every_title_survives_in_m3u() -> None:
    lines = written(M3U, *TITLES).split("\n")[2:-1]
    assert [line.removeprefix("#EXTINF:-1,") for line in lines[::2]] == TITLES
    assert [unquote(urlsplit(url).path.removeprefix("/files/")) for url in lines[1::2]] == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_every_folder_names_an_xspf(title: str) -> None:
    assert xspf(written(XSPF, name=title))[0] == title


@pytest.mark.parametrize("bad", ["\ufffe", "\uffff", "\x00", "\x0b", "\x1f", "\ud800"])
def test_what_xml_cannot_hold_is_replaced_in_titles_only(bad: str) -> None:
    track = Track("http://localhost/files/odd%EF%BF%BE.mp4", f"odd{bad}.mp4")
    name, tracks = xspf(XSPF.head(f"a{bad}b") + XSPF.track(track) + XSPF.tail)
    assert name == "a\ufffdb"
    assert tracks == [(track.url, "odd\ufffd.mp4")]


def test_media_types() -> None:
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
def test_what_a_player_plays(content_type: str, playable: bool) -> None:
    assert is_playable(content_type) is playable

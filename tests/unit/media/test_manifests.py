"""The files that an HLS playlist or a DASH manifest names, and the cost of hostile ones."""

import time
from itertools import pairwise

import pytest

from app.media.manifests import MAX_PATHS, Presentation, is_manifest, parse_manifest

MEDIA = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n"


def mpd(inside: str, head: str = '<?xml version="1.0"?>') -> bytes:
    return f'{head}<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>{inside}</Period></MPD>'.encode()


def parse(data: str | bytes, path: str = "f/film.m3u8") -> Presentation:
    found = parse_manifest(path, data.encode() if isinstance(data, str) else data)
    assert found is not None
    return found


HLS = [
    (MEDIA + "#EXTINF:2,\nseg0.ts\n#EXTINF:2,\nseg1.ts\n", ["f/seg0.ts", "f/seg1.ts"]),
    (MEDIA.replace("\n", "\r\n") + "a.ts\r\n", ["f/a.ts"]),
    ("\ufeff" + MEDIA + "a.ts", ["f/a.ts"]),
    (MEDIA + '#EXT-X-MAP:URI="init.mp4"\n1.m4s\n', ["f/init.mp4", "f/1.m4s"]),
    (MEDIA + '#EXT-X-PART:DURATION=1,URI="p.m4s"\n', ["f/p.m4s"]),
    (MASTER + 'v/720.m3u8\n#EXT-X-MEDIA:TYPE=AUDIO,URI="a.m3u8"\n', ["f/v/720.m3u8", "f/a.m3u8"]),
    (MEDIA + "sub/../a%20b.ts?x=1#t\n./%C3%BC.ts\nu\u0308.ts\n", ["f/a b.ts", "f/ü.ts"]),
    (MEDIA + "a.ts\nhttp://other/b.ts\n//other/c.ts\n/files/f/d.ts\n../../e.ts\n", ["f/a.ts"]),
    (MEDIA + "../g/a.ts\n", ["g/a.ts"]),
]


@pytest.mark.parametrize(("text", "paths"), HLS)
def test_hls_playlist_names_its_segments(text: str, paths: list[str]) -> None:
    assert parse(text).paths == set(paths)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#EXTM3U\n#EXTINF:-1,a song\nsong.mp3\n",  # an album
        "song.mp3\n",
        "#EXTM3U\n",
        MEDIA,
        "\0" * 100,
        "<html></html>",
        "<MPD/>",
        "<MPD><Period>",
        '<x><MPD><Period><Representation><SegmentTemplate media="a"/></Representation></Period></MPD></x>',
    ],
)
def test_presentation_is_none_for_other_text(text: str) -> None:
    assert parse_manifest("f/film.m3u8", text.encode()) is None


REPRESENTATION = '<Representation id="v1" bandwidth="900">{}</Representation>'
TEMPLATE = (
    '<SegmentTemplate media="$RepresentationID$/c-$Number%05d$.m4s" initialization="i-$Bandwidth$.mp4" />'
)


@pytest.mark.parametrize(
    ("inside", "segments", "others"),
    [
        (
            f"<AdaptationSet>{TEMPLATE}{REPRESENTATION.format('')}</AdaptationSet>",
            ["f/v1/c-00001.m4s", "f/v1/c-123456.m4s", "f/i-900.mp4"],
            [
                "f/v2/c-00001.m4s",
                "f/v1/c-.m4s",
                "f/v1/c-x.m4s",
                "f/v1/c-1.m4sx",
                "g/v1/c-00001.m4s",
                "f/film.mp4",
            ],
        ),
        (
            f"<BaseURL>media/</BaseURL><AdaptationSet>{REPRESENTATION.format(TEMPLATE)}</AdaptationSet>",
            ["f/media/v1/c-1.m4s", "f/media/i-900.mp4"],
            ["f/v1/c-1.m4s"],
        ),
        (
            '<AdaptationSet><SegmentTemplate media="t-$Time$-$$.m4s"/><Representation/></AdaptationSet>',
            ["f/t-0-$.m4s", "f/t-9000-$.m4s"],
            ["f/t--$.m4s"],
        ),
        (
            "<AdaptationSet><Representation><BaseURL>film%20v.mp4</BaseURL><SegmentBase>"
            '<Initialization range="0-1"/></SegmentBase></Representation></AdaptationSet>',
            ["f/film v.mp4"],
            ["f/film%20v.mp4", "f"],
        ),
        (
            '<AdaptationSet><Representation><SegmentList><Initialization sourceURL="i.mp4"/>'
            '<SegmentURL media="1.m4s"/><SegmentURL media="2.m4s"/></SegmentList></Representation>'
            "</AdaptationSet>",
            ["f/i.mp4", "f/1.m4s", "f/2.m4s"],
            ["f/3.m4s", "f"],
        ),
        (
            "<AdaptationSet><BaseURL>http://cdn.example.org/</BaseURL><Representation>"
            "<BaseURL>a.mp4</BaseURL></Representation></AdaptationSet><AdaptationSet><Representation>"
            "<BaseURL>b.mp4</BaseURL><BaseURL>twin.mp4</BaseURL></Representation></AdaptationSet>",
            ["f/b.mp4"],
            ["f/a.mp4", "f/twin.mp4"],
        ),
    ],
)
def test_dash_manifest_names_its_segments(inside: str, segments: list[str], others: list[str]) -> None:
    found = parse(mpd(inside), "f/film.mpd")
    assert [path for path in (*segments, *others) if found.includes(path)] == segments


ENTITIES = (f'<!ENTITY {outer} "{f"&{inner};" * 10}">' for inner, outer in pairwise("abcdefghi"))
BOMB = f'<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa">{"".join(ENTITIES)}]>'
LONG = 2 << 20
HOSTILE = {
    "entities": mpd("<BaseURL>&i;</BaseURL>", BOMB),
    "external entity": mpd(
        "<BaseURL>&x;</BaseURL>", '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    ),
    "nested": b"<MPD>" + b"<Period><BaseURL>a/</BaseURL>" * (LONG // 29),
    "nested unknown elements": b"<MPD>" + b"<x>" * (LONG // 3),
    "attributes": mpd("<AdaptationSet>" + "".join(f'<SegmentTemplate a{n}=""/>' for n in range(75_000))),
    "character references": mpd("<BaseURL>" + "&#65;" * (LONG // 5) + "</BaseURL>"),
    "representations": mpd("<SegmentTemplate media='$Number$'/>" + "<Representation/>" * (LONG // 17)),
    "long URL": f"{MEDIA}{'a/../' * (LONG // 5)}".encode(),
    "quotes": (MEDIA + "#" + ',URI="' * (LONG // 6)).encode(),
    "long base": mpd(f"<BaseURL>{'a' * (LONG // 2)}/</BaseURL>" + '<SegmentURL media="b"/>' * (LONG // 46)),
    "long template": mpd(
        f'<SegmentTemplate media="{"$a$" * (LONG // 6)}"/>' + "<Representation/>" * (LONG // 34)
    ),
    "long templates": mpd(f'<SegmentTemplate media="{"$a$" * 1365}"/>' + "<Representation/>" * (LONG // 17)),
    "long identities": mpd(
        f'<SegmentTemplate media="{"$RepresentationID$" * 227}"/>'
        + f'<Representation id="{"b" * 1024}"/>' * (LONG // 1064)
    ),
    "combining characters": (MEDIA + ("\u0301\u0316" * 2047 + "\n") * (LONG // 8189)).encode(),
    "dollars": mpd(f'<Representation><SegmentTemplate media="{"$a" * (LONG // 2)}"/></Representation>'),
    "names": (MEDIA + "".join(f"{n}\n" for n in range(LONG // 7))).encode(),
    "carriage returns": (MEDIA + "\r" * LONG).encode(),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifest_costs_little(data: bytes) -> None:
    began = time.process_time()
    found = parse_manifest("f/film.mpd", data[:LONG])
    assert time.process_time() - began < 10  # a wide margin: in `make coverage` it is traced
    if found is not None:
        assert len(found.paths) <= MAX_PATHS


def test_manifest_with_dtd_is_refused() -> None:
    film = "<Representation><BaseURL>a.mp4</BaseURL></Representation>"
    assert parse_manifest("f/film.mpd", mpd(film)) is not None
    assert parse_manifest("f/film.mpd", mpd(film, "<!DOCTYPE MPD>")) is None


def test_hostile_template_matches_in_linear_time() -> None:
    inside = f'<Representation><SegmentTemplate media="{"$Number$1" * 30}x"/></Representation>'
    found = parse(mpd(inside), "f/film.mpd")
    began = time.process_time()
    assert not found.includes("f/" + "1" * 255)
    assert time.process_time() - began < 0.1


def test_is_manifest_goes_by_file_extension() -> None:
    names = ("a.m3u8", "A.M3U8", "a.mpd", ".mpd", "mpd", "a.m3u", "a.mpd.mp4")
    assert [name for name in names if is_manifest(name)] == ["a.m3u8", "A.M3U8", "a.mpd", ".mpd", "mpd"]

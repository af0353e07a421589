"""Content-Disposition: media types shown inline, and file names by RFC 6266 and RFC 8187."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.content_disposition import content_disposition, is_inline

INLINE = [
    *(
        "video/mp4",
        "video/x-matroska",
        "video/mp2t",
        "audio/mpeg",
        "audio/flac",
        "audio/x-mpegurl",
        "audio/ogg",
    ),
    *(
        "image/jpeg",
        "image/png",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/apng",
        "image/bmp",
        "image/tiff",
    ),
    *("image/x-icon", "image/vnd.microsoft.icon", "image/heic", "image/heif", "image/jxl"),
    *("text/plain", "text/vtt", "application/x-subrip", "text/x-ssa", "text/x-microdvd"),
    # RFC 9110 §8.3.1: case and parameters
    *(
        "VIDEO/MP4",
        "text/plain; charset=utf-8",
        "Text/Plain;Charset=UTF-8",
        "audio/ogg ; codecs=opus",
        "video/mp4;",
    ),
    'video/mp4; codecs="avc1.640028, mp4a.40.2"',
]

NOT_INLINE = [
    *(
        "text/html",
        "TEXT/HTML",
        "text/html; charset=utf-8",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
    ),
    *(
        "application/xml",
        "application/ttml+xml",
        "text/javascript",
        "application/javascript",
        "application/pdf",
    ),
    *(
        "text/css",
        "application/json",
        "application/octet-stream",
        "application/zip",
        "multipart/x-mixed-replace",
    ),
    *("text/richtext", "message/rfc822", "image/unknown", "model/gltf+json", "font/woff2"),
    # browsers parse any type with the suffix +xml as an XML document
    *("audio/x+xml", "video/x+XML", "video/mp4+xml; charset=utf-8", "image/png+xml", "text/plain+xml"),
    # a browser takes the last of several types (Fetch, "extract a MIME type")
    *("video/mp4, text/html", "text/plain,text/html", "video/mp4; a=b, text/html", "video/mp4;, text/html"),
    *(
        'video/mp4; a="b", text/html',
        'video/mp4; a="\\", text/html; b="',
        'video/mp4; a="b',
        "video/mp4; a=b c",
    ),
    # not a media type
    *(
        "",
        "video",
        "video/",
        "/mp4",
        "video/ mp4",
        "video /mp4",
        "video/mp4/x",
        "video/mp4 x",
        "video/mp4\n",
        "*/*",
    ),
    *("video/mp4;charset", "audio/é", "video/<script>"),
]


@pytest.mark.parametrize("content_type", INLINE)
def test_media_type_is_inline(content_type: str) -> None:
    assert is_inline(content_type)


@pytest.mark.parametrize("content_type", NOT_INLINE)
def test_media_type_is_not_inline(content_type: str) -> None:
    assert not is_inline(content_type)


@pytest.mark.timeout(6)
@pytest.mark.parametrize(
    "text", ["video/mp4" + ";" * 65536 + ",", "a" * 65536, "video/mp4" + " " * 65536 + "x"]
)
def test_hostile_content_type_is_parsed_in_linear_time(text: str) -> None:
    assert not any(is_inline(text) for _ in range(20))


NAMES = [
    # safe: unchanged
    ("film.mp4", 'filename="film.mp4"'),
    ("-rf .mp4", 'filename="-rf .mp4"'),
    (".hidden", 'filename=".hidden"'),
    ("a;b,c=d&e#f?g'h.mp4", 'filename="a;b,c=d&e#f?g\'h.mp4"'),
    # RFC 6266 appendix D: characters that clients decode or unescape in their own ways
    ('say "hi".mp4', "filename=\"say _hi_.mp4\"; filename*=UTF-8''say%20%22hi%22.mp4"),
    ("back\\slash", "filename=\"back_slash\"; filename*=UTF-8''back%5Cslash"),
    ("100%25.mp4", "filename=\"100_25.mp4\"; filename*=UTF-8''100%2525.mp4"),
    # RFC 8187 §3.2.3, the example
    ("£ and € rates", "filename=\"GBP and EUR rates\"; filename*=UTF-8''%C2%A3%20and%20%E2%82%AC%20rates"),
    ("naïve.mkv", "filename=\"naive.mkv\"; filename*=UTF-8''na%C3%AFve.mkv"),
    ("🎬.mp4", "filename=\"clapper.mp4\"; filename*=UTF-8''%F0%9F%8E%AC.mp4"),
    ("שלום.mp4", "filename=\"slvm.mp4\"; filename*=UTF-8''%D7%A9%D7%9C%D7%95%D7%9D.mp4"),
    ("a\u202e4pm.exe", "filename=\"a4pm.exe\"; filename*=UTF-8''a%E2%80%AE4pm.exe"),
    # transliterated for clients without filename*, which would otherwise show underscores
    ("Größe.mkv", "filename=\"Grosse.mkv\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.mkv"),
    ("Gro\u0308ße", "filename=\"Grosse\"; filename*=UTF-8''Gro%CC%88%C3%9Fe"),
    ("Мир", "filename=\"Mir\"; filename*=UTF-8''%D0%9C%D0%B8%D1%80"),
    ("北京.mp4", "filename=\"BeiJing.mp4\"; filename*=UTF-8''%E5%8C%97%E4%BA%AC.mp4"),
    # a transliteration must not add a path, end the quoted value or give an empty name
    ("a／b＼c：d.mp4", "filename=\"a_b_c_d.mp4\"; filename*=UTF-8''a%EF%BC%8Fb%EF%BC%BCc%EF%BC%9Ad.mp4"),
    ("＂％.mp4", "filename=\"__.mp4\"; filename*=UTF-8''%EF%BC%82%EF%BC%85.mp4"),
    ("․․", "filename=\"_\"; filename*=UTF-8''%E2%80%A4%E2%80%A4"),
    ("\u200b", "filename=\"_\"; filename*=UTF-8''%E2%80%8B"),
    ("\ue000.mp4", "filename=\"_.mp4\"; filename*=UTF-8''%EE%80%80.mp4"),
    ("...", 'filename="..."'),
    # RFC 8187 §3.2.1: attr-char is left as it is, the rest is encoded
    ("é!#$&+-.^_`|~*'()", "filename=\"e!#$&+-.^_`|~*'()\"; filename*=UTF-8''%C3%A9!#$&+-.^_`|~%2A%27%28%29"),
    # illegal names, which still must not inject a header
    ("a\r\nSet-Cookie: x", "filename=\"a__Set-Cookie: x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
    ("a\x00\x7f", "filename=\"a__\"; filename*=UTF-8''a%00%7F"),
]


@pytest.mark.parametrize(("filename", "parameters"), NAMES, ids=lambda value: ascii(value)[:30])
def test_filename_is_written_as_parameters(filename: str, parameters: str) -> None:
    assert content_disposition(filename, attachment=True) == f"attachment; {parameters}"
    assert content_disposition(filename, attachment=False) == f"inline; {parameters}"


GRAMMAR = re.compile(
    r'attachment; filename="(?P<plain>[ !#-\[\]-~]*)"'
    r"(?:; filename\*=UTF-8''(?P<encoded>(?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+))?"
)


@given(filename=st.one_of(st.text(min_size=1), st.text('";%\\ aé\r\n', min_size=1)))
def test_any_filename_survives_and_injects_nothing(filename: str) -> None:
    match = GRAMMAR.fullmatch(content_disposition(filename, attachment=True))
    assert match is not None
    assert match["plain"]
    if match["encoded"] is None:
        assert match["plain"] == filename
        assert "%" not in filename
    else:
        assert unquote(match["encoded"], errors="strict") == filename


def test_lone_surrogate_in_filename_raises_nothing() -> None:
    assert content_disposition("\ud800", attachment=False) == "inline; filename=\"_\"; filename*=UTF-8''%3F"

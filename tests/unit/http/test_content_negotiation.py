"""Which requests get an error as a page: the headers that browsers and programs send."""

import pytest

from app.http.content_negotiation import asks_for_page

CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FIREFOX_FILM = "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,audio/*;q=0.6,*/*;q=0.5"

PAGES = {
    "Chrome": (CHROME, "document"),
    "Chrome by http from another machine": (CHROME, None),  # no Fetch Metadata
    "Firefox and Safari": (FIREFOX, "document"),
    "Safari before 16.4": (FIREFOX, None),
    "Lynx": ("text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01", None),
    "w3m": ("text/html, text/*;q=0.5, image/*, application/*;q=0.5, audio/*, video/*", None),
    "curl -H 'Accept: text/html'": ("text/html", None),
    "another case": ("Text/HTML ; Q=0.9, */* ; q=0.8", None),
    "any text": ("text/*", None),
}
PROBLEMS = {
    "curl, wget, ffmpeg, mpv, VLC, Kodi, httpx": ("*/*", None),
    "rclone, Go, urllib": (None, None),
    "aria2": ("*/*,application/metalink4+xml,application/metalink+xml", None),
    "fetch()": ("*/*", "empty"),
    "fetch() that accepts a page": ("text/html", "empty"),
    "axios": ("application/json, text/plain, */*", "empty"),
    "a program of ours": ("application/problem+json", None),
    "a program that takes either": ("text/html, application/problem+json", None),
    "a program that prefers JSON": ("application/json, text/html;q=0.9", None),
    "<img> of Chrome": ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image"),
    "<img> of Safari": ("image/webp,image/avif,image/jxl,image/heic,video/*;q=0.8,*/*;q=0.5", "image"),
    "<video> of Chrome and Safari": ("*/*", "video"),
    "<video> of Firefox": (FIREFOX_FILM, "video"),
    "<video> of Firefox by http": (FIREFOX_FILM, None),
    "<track>": ("*/*", "track"),
    "<script>": ("*/*", "script"),
    "<link rel=stylesheet>": ("text/css,*/*;q=0.1", "style"),
    "<iframe>": (CHROME, "iframe"),
    "any type as well as HTML": ("text/html, */*", None),
    "no HTML": ("text/html;q=0, */*;q=0.1", None),
    "nothing": ("", None),
    "malformed weights": ("text/html;q=high, text/html;q=2, text/html;q", None),
    "malformed list": (',;,"', None),
}


def headers(accept: str | None, destination: str | None) -> list[tuple[bytes, bytes]]:
    sent = {b"accept": accept, b"sec-fetch-dest": destination}
    return [(name, value.encode()) for name, value in sent.items() if value is not None]


@pytest.mark.parametrize("client", PAGES)
def test_page_is_sent_to_browser_that_opens_address(client: str) -> None:
    assert asks_for_page(headers(*PAGES[client]))


@pytest.mark.parametrize("client", PROBLEMS)
def test_problem_document_is_sent_to_programs_and_parts_of_pages(client: str) -> None:
    assert not asks_for_page(headers(*PROBLEMS[client]))


def test_weight_of_lines_is_that_of_one_list() -> None:
    assert asks_for_page([*headers("image/png", None), *headers(FIREFOX, "document")])
    assert not asks_for_page([*headers("*/*", None), *headers("text/html", None)])


@pytest.mark.parametrize("accept", ["text/html," * 6000, "text/html" + "," * 60_000])
def test_problem_document_is_sent_for_accept_longer_than_that_of_browsers(accept: str) -> None:
    assert not asks_for_page(headers(accept, "document"))

"""Errors as pages for browsers, and as problem documents for programs, at every address."""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.http.test_web_page import StrictParser, check_safe
from tests.support import Server

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]

BROWSER = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Sec-Fetch-Dest: document",
)

ERRORS = {
    "/nope": 404,
    "/files/none/such.mp4": 404,
    "/files/none/": 404,
    "/files/a%2F..%2Fb": 400,
    "/files/%FF": 400,
    "/stream/none": 404,
    "/file/stream": 422,
    "/files?limit=0": 422,
    "/files?cursor=!": 400,
    "/file/upload": 405,
    "/events": 426,
    "/assets/none": 404,
    "/playlist.m3u?folder=..": 400,
}


@pytest.mark.parametrize("target", ERRORS)
def test_error_is_page_for_browser_and_problem_for_program(
    send_request: SendRequest, check_problem: CheckProblem, http: httpx.Client, target: str
) -> None:
    status = ERRORS[target]
    page, problem = send_request("GET", target, *BROWSER), send_request("GET", target, "Accept: */*")
    detail = check_problem(problem, status)
    assert page.status_code == status
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    root = StrictParser(page.text).root
    check_safe(page, root)
    main = root.one("main")
    assert str(status) in main.one("h1").text
    assert detail in main.text
    assert http.get(main.all("a")[-1].attributes["href"]).status_code == 200
    for response in (page, problem):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["vary"] == "accept, sec-fetch-dest"
    own = {
        "content-type",
        "content-length",
        "content-security-policy",
        "referrer-policy",
        "x-request-id",
        "date",
    }
    assert {name: value for name, value in page.headers.items() if name not in own} == {
        name: value for name, value in problem.headers.items() if name not in own
    }


@pytest.mark.parametrize("target", ERRORS)
def test_error_has_no_body_for_head(send_request: SendRequest, target: str) -> None:
    for headers in (BROWSER, ()):
        get, head = (send_request(method, target, *headers) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (get.status_code, b"")
        for response in (get, head):
            del response.headers["date"]
            response.headers.pop("x-request-id", None)
        assert head.headers == get.headers


def test_change_is_answered_with_problem_document(
    send_request: SendRequest, check_problem: CheckProblem
) -> None:
    response = send_request("POST", "/", *BROWSER, body=b"")
    check_problem(response, 405)
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert "vary" not in response.headers


def test_page_names_missing_file_and_escapes_it(send_request: SendRequest) -> None:
    target = "/files/%3Cscript%3Ealert(1)%3C/script%3E%22'%26.mp4"
    response = send_request("GET", target, *BROWSER)
    assert "<script>alert" not in response.text
    main = StrictParser(response.text).root.one("main")
    assert "/files/<script>alert(1)</script>\"'&.mp4" in main.text
    assert "renamed, moved or deleted" in main.text


@pytest.mark.parametrize(
    ("target", "thing"),
    [
        ("/?play=films/none.mp4", "films/none.mp4"),
        ("/?folder=..", ".."),
        ("/files/none.mp4?folder=films", "/files/none.mp4"),
        ("/file/stream?folder=films&filename=none.mp4", "/file/stream"),
    ],
)
def test_page_names_address_or_parameter_of_list(send_request: SendRequest, target: str, thing: str) -> None:
    main = StrictParser(send_request("GET", target, *BROWSER).text).root.one("main")
    assert main.one("b").text == thing


def test_wrong_method_page_leads_to_api_docs(send_request: SendRequest) -> None:
    response = send_request("GET", "/file/upload", *BROWSER)
    assert response.headers["allow"] == "POST"
    main = StrictParser(response.text).root.one("main")
    assert "/docs" in [link.attributes["href"] for link in main.all("a")]


# Refusals of the host guard


def refused_main(response: httpx.Response, status: int) -> Any:
    """Check that a refusal is a page that loads nothing; return its main element."""
    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["vary"] == "accept, sec-fetch-dest"
    root = StrictParser(response.text).root
    style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    loading = ("script", "link", "img", "iframe")
    assert not [element for element in root.all() if element.tag in loading]
    return root.one("main")


@pytest.mark.parametrize("target", ["/", "/files/film.mp4", "/health"])
def test_unknown_host_page_names_host_and_setting(
    send_request: SendRequest, check_problem: CheckProblem, http: httpx.Client, server: Server, target: str
) -> None:
    main = refused_main(send_request("GET", target, *BROWSER, "Host: NAS.example:8000"), 421)
    assert "nas.example" in main.text
    assert main.one("pre").text == "SEEKABLE_ALLOWED_HOSTS=nas.example"
    assert main.one("a").attributes["href"] == f"http://127.0.0.1:{server.port}/"
    detail = check_problem(send_request("GET", target, "Host: nas.example"), 421)
    assert detail in main.text


def test_unknown_host_page_names_no_inner_address_behind_proxy(send_request: SendRequest) -> None:
    headers = (*BROWSER, "Host: nas.example", "Via: 1.1 proxy")
    main = refused_main(send_request("GET", "/", *headers), 421)
    assert main.all("a") == []


def test_malformed_host_is_not_repeated(send_request: SendRequest) -> None:
    response = send_request("GET", "/", *BROWSER, "Host: <script>alert(1)</script>")
    refused_main(response, 400)
    assert "alert" not in response.text


def test_refused_peer_page_names_setting(send_request: SendRequest) -> None:
    # The proxy on this machine is trusted: the address is that of the client.
    response = send_request("GET", "/", *BROWSER, "X-Forwarded-For: 192.0.2.1")
    assert "SEEKABLE_ACCESS=accounts" in refused_main(response, 403).text


def test_metrics_refusal_is_page_for_browser(send_request: SendRequest) -> None:
    response = send_request("GET", "/metrics", *BROWSER, "Via: 1.1 proxy")
    assert response.status_code == 403
    assert "Connect directly" in StrictParser(response.text).root.one("main").text

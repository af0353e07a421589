"""The host guard: which peers, hosts and origins the server accepts, by table and by requests."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from app.resources.middleware.host_guard import HostGuard, RequestRefused, names_of_machine
from tests.support import NewLibrary, Server, find_external_addresses, running
from tests.support.forking import completed
from tests.support.sockets import HANDSHAKE, Socket

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
StorageUnchanged = Callable[..., AbstractContextManager[None]]

# The rules as a table


def check(rules: HostGuard, method: str = "GET", peer: str | None = "127.0.0.1", **fields: Any) -> int | None:
    """Return the status of the refusal, or None if the request is accepted."""
    local, version = fields.pop("local", "127.0.0.1"), fields.pop("version", "1.1")
    websocket = fields.pop("websocket", False)
    headers = {"host": "localhost", **{name.replace("_", "-"): value for name, value in fields.items()}}
    raw = [
        (name.encode(), line.encode("latin-1"))
        for name, value in headers.items()
        if value is not None
        for line in (value if isinstance(value, list) else [value])
    ]
    try:
        rules.check(method, Headers(raw=raw), peer=peer, local=local, version=version, websocket=websocket)
    except RequestRefused as refused:
        return refused.status
    return None


def rules(
    *,
    any_peer: bool = False,
    base_url: str | None = None,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> HostGuard:
    return HostGuard.of(any_peer=any_peer, base_url=base_url, hosts=hosts, origins=origins)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", None),
        ("127.255.255.254", None),
        ("::1", None),
        ("0:0:0:0:0:0:0:1", None),
        ("::ffff:127.0.0.1", None),
        ("::ffff:7f00:1", None),
        ("192.168.1.2", 403),
        ("::ffff:192.168.1.2", 403),
        ("128.0.0.1", 403),
        ("0.0.0.0", 403),
        ("::", 403),
        ("::2", 403),
        ("fe80::1", 403),
        ("169.254.1.1", 403),
        ("8.8.8.8", 403),
        ("localhost", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        (None, 403),
    ],
)
def test_peer_is_refused_unless_loopback_or_any_peer_is_allowed(
    method: str, peer: str | None, status: int | None
) -> None:
    assert check(rules(), method, peer) == status
    assert check(rules(any_peer=True), method, peer) is None


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("nas", ("nas", "nas.local")),
        ("NAS.lan", ("nas.lan", "nas", "nas.local")),
        ("mac.local", ("mac.local", "mac")),
        ("a.b.example.org", ("a.b.example.org", "a", "a.local")),
        ("no host!", ()),
        ("", ()),
    ],
)
def test_names_of_machine_include_short_and_local_names(name: str, names: tuple[str, ...]) -> None:
    assert names_of_machine(name) == names


def test_server_accepts_names_of_its_machine(send_request: SendRequest, check_problem: CheckProblem) -> None:
    label = gethostname().partition(".")[0]
    for host in (gethostname(), label, f"{label}.local", f"{label.upper()}.LOCAL:8000"):
        assert send_request("GET", "/health", f"Host: {host}").status_code == 200
    check_problem(send_request("GET", "/health", f"Host: {label}.example"), 421)


OURS = {
    "base_url": "https://Media.Example.org:8443/seekable",
    "hosts": (
        "nas.local",
        "*.example.net",
        "192.168.1.5",
        "[fd00::5]",
        "with-port.test:9000",
        "*.ported.test:9000",
    ),
}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", None),
        ("LocalHost:8000", None),
        ("localhost.", None),
        ("127.0.0.1", None),
        ("127.0.0.1:8000", None),
        ("[::1]", None),
        ("[::1]:8000", None),
        ("media.example.org", None),
        ("media.example.org:8443", None),
        ("MEDIA.EXAMPLE.ORG", None),
        ("nas.local", None),
        ("nas.local:8000", None),
        ("a.example.net", None),
        ("a.b.example.net:8000", None),
        ("192.168.1.5:8000", None),
        ("[fd00::5]:8000", None),
        ("with-port.test", None),
        ("a.ported.test:8000", None),
        ("evil.example", 421),
        ("example.net", 421),
        ("aexample.net", 421),
        ("example.org", 421),
        ("a.media.example.org", 421),
        ("localhost.evil.example", 421),
        ("evil.example.localhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("192.168.1.50", 421),
        ("[::2]", 421),
        ("[fd00::50]", 421),
        ("example.net.evil.example", 421),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_host_is_refused_unless_allowed(method: str, host: str, status: int | None) -> None:
    assert check(rules(**OURS), method, host=host) == status  # type: ignore[arg-type]
    # A request from any peer still needs an allowed Host.
    assert check(rules(any_peer=True, **OURS), method, host=host) == status  # type: ignore[arg-type]
    assert check(rules(hosts=("*",)), method, host=host) is None


@pytest.mark.parametrize(
    ("local", "host", "status"),
    [
        ("192.168.1.9", "192.168.1.9:8000", None),
        ("192.168.1.9", "192.168.1.8:8000", 421),
        ("fd00::9", "[fd00::9]:8000", None),
        ("fd00::9", "[fd00::8]:8000", 421),
        (None, "192.168.1.9", 421),
        (None, "localhost", None),
    ],
)
def test_host_may_be_the_address_of_the_connection(local: str | None, host: str, status: int | None) -> None:
    assert check(rules(any_peer=True), host=host, local=local) == status


def test_request_has_exactly_one_host() -> None:
    assert check(rules(), host=None) == 400
    assert check(rules(), host=["localhost", "localhost"]) == 400
    assert check(rules(), host=["localhost", "evil.example"]) == 400
    assert check(rules(), host=None, version="1.0") is None
    assert check(rules(), host=["localhost", "localhost"], version="1.0") == 400


SITES = [
    # Sec-Fetch-Site, Origin, whether a write is accepted
    (None, None, True),  # curl, VLC
    ("none", None, True),  # typed by the user
    ("same-origin", None, True),
    ("same-origin", "http://localhost:8000", True),
    (None, "http://localhost:8000", True),
    (None, "HTTP://LOCALHOST:8000", True),
    (None, "https://localhost:8000", True),  # a proxy may have terminated TLS
    ("cross-site", None, False),
    ("cross-site", "http://localhost:8000", False),
    ("same-site", None, False),
    ("same-site", "http://localhost:9000", False),
    ("nonsense", None, False),
    ("cross-site", "https://evil.example", False),
    (None, "https://evil.example", False),
    (None, "http://localhost:9000", False),  # another program on this machine
    (None, "http://localhost", False),
    (None, "http://localhost:8000.evil.example", False),
    (None, "http://evil.example/localhost:8000", False),
    (None, "http://localhost:8000@evil.example", False),
    (None, "null", False),
    ("cross-site", "null", False),
    ("same-origin", "null", True),  # a sandboxed page of ours, according to the browser
    (None, "", False),
    (None, "file://", False),
    (None, "http://[::1", False),
    (None, "http://[evil]", False),
    (None, "http://\u00e9", False),
]


@pytest.mark.parametrize(("site", "origin", "allowed"), SITES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_write_is_refused_from_other_site(
    method: str, site: str | None, origin: str | None, allowed: bool
) -> None:
    fields = {"host": "localhost:8000", "sec_fetch_site": site, "origin": origin}
    expected = None if allowed else 403
    assert check(rules(), method, **fields) == expected
    assert check(rules(origins=("https://app.example.org",)), method, **fields) == expected
    for safe in ("GET", "HEAD", "OPTIONS"):
        assert check(rules(), safe, **fields) is None


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "same-origin"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.org", True),
        ("HTTPS://App.Example.org", True),
        ("http://app.example.org", False),
        ("https://app.example.org:444", False),
        ("https://app.example.org.evil.example", False),
        ("https://evil.example", False),
    ],
)
def test_write_is_accepted_from_cors_origin(site: str | None, origin: str, allowed: bool) -> None:
    own_rules = rules(origins=("https://App.example.org/",))
    expected = None if allowed or site == "same-origin" else 403
    assert check(own_rules, "PUT", sec_fetch_site=site, origin=origin) == expected
    assert check(rules(origins=("*",)), "PUT", sec_fetch_site=site, origin=origin) is None


def test_origin_is_refused_when_request_has_no_host() -> None:
    assert check(rules(), "PUT", host=None, version="1.0", origin="https://evil.example") == 403
    assert check(rules(), "PUT", host=None, version="1.0") is None


def test_origin_of_base_url_is_same_origin() -> None:
    """A proxy that does not forward the Host header sends its own."""
    own_rules = rules(base_url="https://media.example.org/seekable")
    assert check(own_rules, "PUT", host="127.0.0.1:8000", origin="https://media.example.org") is None
    assert check(own_rules, "PUT", host="127.0.0.1:8000", origin="https://evil.example") == 403


@pytest.mark.parametrize("site", [None, "cross-site", "same-origin"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost:8000", True),
        ("HTTPS://LocalHost:8000", True),  # the scheme differs behind a proxy
        ("https://app.example.org", True),
        ("https://media.example.org", True),  # of the base URL
        ("http://localhost", False),
        ("http://localhost:8001", False),
        ("http://localhost:8000.evil.example", False),
        ("https://evil.example", False),
        ("http://app.example.org", False),
        ("localhost:8000", False),
        ("null", False),
        ("", False),
        (["http://localhost:8000", "https://evil.example"], False),
    ],
)
def test_websocket_is_refused_from_other_origin(
    site: str | None, origin: str | list[str] | None, allowed: bool
) -> None:
    """Browsers open WebSockets across origins without a preflight, so a WebSocket's GET is checked like a
    write."""
    own_rules = rules(base_url="https://media.example.org", origins=("https://app.example.org",))
    fields = {"host": "localhost:8000", "origin": origin, "sec_fetch_site": site}
    assert check(own_rules, websocket=True, **fields) == (None if allowed else 403)
    assert check(own_rules, websocket=False, **fields) is None
    assert check(rules(origins=("*",)), websocket=True, **fields) is None
    assert check(own_rules, websocket=True, peer="192.168.1.2", **fields) == 403
    assert check(own_rules, websocket=True, **{**fields, "host": "evil.example"}) == 421


# By requests to a server


def test_request_with_foreign_host_is_refused(
    send_request: SendRequest,
    part: Any,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    http: httpx.Client,
) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"film").raise_for_status()
    with storage_unchanged():
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example"):
            check_problem(send_request("PUT", f"/files/{folder}/new.mp4", f"Host: {host}", body=b"x"), 421)
            check_problem(send_request("PUT", f"/files/{folder}/film.mp4", f"Host: {host}", body=b"x"), 421)
            check_problem(send_request("DELETE", f"/files/{folder}/film.mp4", f"Host: {host}"), 421)
            check_problem(send_request("GET", f"/files/{folder}/film.mp4", f"Host: {host}"), 421)
            check_problem(send_request("GET", "/files", f"Host: {host}"), 421)
            check_problem(send_request("GET", "/health", f"Host: {host}"), 421)
            file = part("file", b"x", filename="new.mp4")
            check_problem(send_form(file, query=f"?folder={folder}", headers=(f"Host: {host}",)), 421)
        check_problem(
            send_request("PUT", f"/files/{folder}/new.mp4", "Host: localhost", "Host: localhost", body=b"x"),
            400,
        )


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: https://evil.example",),
        ("Origin: null",),
        ("Sec-Fetch-Site: cross-site",),
        ("Sec-Fetch-Site: same-site",),
        ("Origin: http://localhost:1", "Sec-Fetch-Site: same-site"),
        ("Origin: http://[::1",),
        ("Origin: \u00e9",),
    ],
)
def test_cross_site_write_is_refused(
    send_request: SendRequest,
    part: Any,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    http: httpx.Client,
    headers: tuple[str, ...],
) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"film").raise_for_status()
    with storage_unchanged():
        for response in (
            send_request("PUT", f"/files/{folder}/new.mp4", *headers, body=b"x"),
            send_request("PUT", f"/files/{folder}/film.mp4", *headers, body=b"x"),
            send_request("DELETE", f"/files/{folder}/film.mp4", *headers),
            send_form(part("file", b"x", filename="new.mp4"), query=f"?folder={folder}", headers=headers),
        ):
            check_problem(response, 403)
            assert "access-control-allow-origin" not in response.headers
    # A read is allowed; without CORS headers the browser hides the response from the page.
    response = send_request("GET", f"/files/{folder}/film.mp4", *headers)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_cross_site_write_over_http_1_0_is_refused(
    connect: Any, check_problem: CheckProblem, storage_unchanged: StorageUnchanged, folder: str
) -> None:
    with storage_unchanged():
        connection = connect()
        lines = f"PUT /files/{folder}/film.mp4 HTTP/1.0", "Origin: https://evil.example", "Content-Length: 1"
        connection.send("\r\n".join([*lines, "", "x"]).encode())
        check_problem(connection.receive_response("PUT"), 403)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_authority_of_target_replaces_host(
    server: Server, connect: Any, http: httpx.Client, folder: str, version: str
) -> None:
    """RFC 9112 §3.2.2: both checks, of host and of origin, ignore the Host header of such a request."""
    path, foreign_origin = f"{folder}/film.mp4", "Origin: http://evil.example"

    def status(method: str, authority: str, *headers: str) -> int:
        connection = connect()
        lines = [f"{method} http://{authority}/files/{path} HTTP/{version}", "Content-Length: 0", *headers]
        connection.send("\r\n".join([*lines, "", ""]).encode())
        return int(connection.receive_response(method).status_code)

    other_host, own_host = "Host: evil.example", f"localhost:{server.port}"
    assert status("PUT", "evil.example", f"Host: {own_host}") == 421
    assert status("PUT", "evil.example", f"Host: {own_host}", foreign_origin) == 421
    assert status("PUT", own_host, other_host, foreign_origin) == 403
    assert status("GET", own_host, other_host) == 404
    assert status("PUT", own_host, other_host, f"Origin: http://{own_host}") == 201
    assert status("GET", own_host, *([] if version == "1.0" else ["Host: a"])) == 200
    assert http.get(f"/files/{path}").status_code == 200
    assert status("PUT", own_host, other_host, other_host) == 400
    if version == "1.1":
        assert status("PUT", own_host) == 400


def test_absolute_target_without_path_is_root(server: Server, send_request: SendRequest) -> None:
    page = send_request("GET", f"http://localhost:{server.port}")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_same_origin_page_may_write(send_request: SendRequest, server: Server, folder: str) -> None:
    origin = f"Origin: {server.url}"
    assert send_request("PUT", f"/files/{folder}/a.mp4", origin, body=b"x").status_code == 201
    same = "Sec-Fetch-Site: same-origin"
    assert send_request("PUT", f"/files/{folder}/b.mp4", origin, same, body=b"x").status_code == 201
    assert send_request("DELETE", f"/files/{folder}/b.mp4", "Sec-Fetch-Site: none").status_code == 204


# CORS

APP = "https://app.example.org"
EXPOSED = {"accept-ranges", "content-range", "content-length", "content-type", "content-encoding",
           "content-disposition", "etag", "last-modified", "location", "repr-digest",
           "link", "allow", "accept-patch", "retry-after"}  # fmt: skip


def tokens(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",")}


@pytest.fixture(scope="module", params=[APP, "*"])
def cors_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_library: NewLibrary,
) -> Iterator[Server]:
    """A server that allows one other origin, or all of them."""
    folder = tmp_path_factory.mktemp("shared")
    with running(folder, cors_origins=request.param, **new_library()) as server:
        yield server


def test_cors_headers_are_on_every_response(
    cors_server: Server, send_request: SendRequest, check_problem: CheckProblem
) -> None:
    response = send_request(
        "PUT", "/files/film.mp4", f"Origin: {APP}", "Sec-Fetch-Site: cross-site", body=b"film", to=cors_server
    )
    assert response.status_code in (201, 204)
    responses = [
        response,
        send_request("GET", "/files/film.mp4", f"Origin: {APP}", to=cors_server),
        send_request("GET", "/files/film.mp4", f"Origin: {APP}", "Range: bytes=0-1", to=cors_server),
        send_request("GET", "/files/film.mp4", f"Origin: {APP}", "Range: bytes=9-", to=cors_server),
        send_request("GET", "/files/film.mp4", f"Origin: {APP}", "If-None-Match: *", to=cors_server),
        send_request(
            "GET",
            "/files/film.mp4",
            f"Origin: {APP}",
            "Cookie: a=b",
            "Authorization: Basic eDp5",
            to=cors_server,
        ),
        send_request("HEAD", "/files/film.mp4", f"Origin: {APP}", to=cors_server),
        send_request("GET", "/files/none.mp4", f"Origin: {APP}", to=cors_server),
        send_request("GET", "/files", f"Origin: {APP}", to=cors_server),
    ]
    assert [response.status_code for response in responses[1:]] == [200, 206, 416, 304, 200, 200, 404, 200]
    for response in responses:
        assert response.headers["access-control-allow-origin"] in (APP, "*")
        assert tokens(response.headers["access-control-expose-headers"]) >= EXPOSED
        assert "access-control-allow-credentials" not in response.headers
        if response.headers["access-control-allow-origin"] != "*":
            assert "origin" in tokens(response.headers["vary"])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_preflight_allows_method_and_headers(
    cors_server: Server, send_request: SendRequest, method: str
) -> None:
    response = send_request(
        "OPTIONS",
        "/files/film.mp4",
        f"Origin: {APP}",
        f"Access-Control-Request-Method: {method}",
        "Access-Control-Request-Headers: content-type, if-match, range",
        to=cors_server,
    )
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] in (APP, "*")
    assert method in response.headers["access-control-allow-methods"]
    assert tokens(response.headers["access-control-allow-headers"]) >= {"content-type", "if-match", "range"}
    assert "access-control-allow-credentials" not in response.headers


PRIVATE = ("Access-Control-Request-Method: GET", "Access-Control-Request-Private-Network: true")


def test_private_network_access_is_for_named_origins_only(
    tmp_path: Path, new_library: NewLibrary, send_request: SendRequest, check_problem: CheckProblem
) -> None:
    for number, sites in enumerate((APP, f"*,{APP}")):
        with running(tmp_path / str(number), cors_origins=sites, **new_library()) as server:
            named = send_request("OPTIONS", "/files/film.mp4", f"Origin: {APP}", *PRIVATE, to=server)
            assert named.status_code == 200
            assert named.headers["access-control-allow-origin"] in (APP, "*")
            assert named.headers["access-control-allow-private-network"] == "true"
            foreign_origin = "Origin: https://evil.example"
            foreign = send_request("OPTIONS", "/files/film.mp4", foreign_origin, *PRIVATE, to=server)
            check_problem(foreign, 400)
            plain_preflight = send_request(
                "OPTIONS", "/files/film.mp4", f"Origin: {APP}", PRIVATE[0], to=server
            )
            for response in (foreign, plain_preflight):
                assert "access-control-allow-private-network" not in response.headers


def test_cors_headers_are_for_named_origins_only(
    cors_server: Server, send_request: SendRequest, check_problem: CheckProblem
) -> None:
    allowed = send_request("GET", "/health", f"Origin: {APP}", to=cors_server).headers[
        "access-control-allow-origin"
    ]
    if allowed == "*":
        return  # all origins are allowed
    foreign_origin = "Origin: https://evil.example"
    check_problem(send_request("PUT", "/files/evil.mp4", foreign_origin, body=b"x", to=cors_server), 403)
    assert (
        "access-control-allow-origin"
        not in send_request("GET", "/health", foreign_origin, to=cors_server).headers
    )
    preflight = send_request(
        "OPTIONS", "/files/a", foreign_origin, "Access-Control-Request-Method: PUT", to=cors_server
    )
    assert "access-control-allow-origin" not in preflight.headers
    assert "SEEKABLE_CORS_ORIGINS" in check_problem(preflight, 400)
    assert "origin" in tokens(preflight.headers["vary"])
    check_problem(send_request("GET", "/files/evil.mp4", to=cors_server), 404)


def test_cors_is_off_by_default(send_request: SendRequest) -> None:
    for response in (
        send_request("GET", "/health", f"Origin: {APP}"),
        send_request("OPTIONS", "/files/a", f"Origin: {APP}", "Access-Control-Request-Method: PUT"),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_allowed_hosts_setting_adds_hosts(
    tmp_path: Path, new_library: NewLibrary, send_request: SendRequest, check_problem: CheckProblem
) -> None:
    with running(tmp_path, allowed_hosts="nas.local, *.example.net", **new_library()) as server:
        for host in ("nas.local", "a.example.net:8000", "localhost"):
            response = send_request("PUT", f"/files/{host}", f"Host: {host}", body=b"x", to=server)
            assert response.status_code == 201
            # Links use the Host of the request.
            assert response.json()["url"].startswith(f"http://{host}/files/")
        check_problem(
            send_request("PUT", "/files/a", "Host: nas.local.evil.example", body=b"x", to=server), 421
        )


# Other machines, simulated through the external address of this one


@pytest.fixture(scope="module")
def external_addresses() -> list[str]:
    return find_external_addresses()


def without_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.77", "example.org", ""])
@pytest.mark.parametrize("how", ["setting", "option"])
def test_serve_refuses_public_address_without_accounts(tmp_path: Path, host: str, how: str) -> None:
    settings = {"SEEKABLE_HOST": host} if how == "setting" else {}
    options = ["--host", host] if how == "option" else []
    environment = without_settings() | settings
    result = completed("serve", "--port", "0", *options, folder=tmp_path, environment=environment)
    assert result.returncode != 0
    assert "SEEKABLE_ACCESS=accounts" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_open_access_accepts_other_machines(
    tmp_path: Path,
    new_library: NewLibrary,
    send_request: SendRequest,
    check_problem: CheckProblem,
    external_addresses: list[str],
) -> None:
    with running(tmp_path, host="0.0.0.0", access="open", **new_library()) as server:
        for host in ("127.0.0.1", *external_addresses):
            response = send_request("PUT", f"/files/{host}", body=b"x", to=server, host=host)
            assert response.status_code == 201
            assert response.json()["url"] == f"http://{host}:{server.port}/files/{host}"
            check_problem(send_request("GET", "/files", "Host: evil.example", to=server, host=host), 421)
            check_problem(
                send_request(
                    "PUT", "/files/a", "Origin: https://evil.example", body=b"x", to=server, host=host
                ),
                403,
            )
            with Socket(server, address=host) as session:
                assert session.status == 101


@contextmanager
def plain_uvicorn(folder: Path, new_library: NewLibrary) -> Iterator[int]:
    """Run `uvicorn app.main:app --host 0.0.0.0`, without the checks of `seekable serve`, and yield its
    port."""
    settings = {f"SEEKABLE_{name.upper()}": str(value) for name, value in new_library().items()}
    log_file = folder / "uvicorn.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "0"],
            cwd=folder,
            env=without_settings() | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"running on http://0\.0\.0\.0:(\d+)", log_file.read_text())):
            assert time.monotonic() < deadline, log_file.read_text()
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_plain_uvicorn_accepts_loopback_only(
    tmp_path: Path, new_library: NewLibrary, check_problem: CheckProblem, external_addresses: list[str]
) -> None:
    with plain_uvicorn(tmp_path, new_library) as port:
        loopback_url = f"http://127.0.0.1:{port}"
        h2c = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c"}
        with httpx.Client(trust_env=False) as client:
            for external_url, headers in itertools.product(
                (f"http://{address}:{port}" for address in external_addresses),
                (
                    {},
                    {"host": "localhost"},
                    {"x-forwarded-for": "127.0.0.1"},
                    {"forwarded": "for=127.0.0.1"},
                    {"x-real-ip": "127.0.0.1"},
                    {"sec-fetch-site": "same-origin"},
                ),
            ):
                handshake = dict(line.split(": ") for line in HANDSHAKE)
                check_problem(client.get(f"{external_url}/events", headers=headers | handshake), 403)
                check_problem(client.get(f"{external_url}/files", headers=headers), 403)
                check_problem(client.get(f"{external_url}/health", headers=headers), 403)
                check_problem(client.put(f"{external_url}/files/a.mp4", content=b"x", headers=headers), 403)
                check_problem(client.delete(f"{external_url}/files/a.mp4", headers=headers), 403)
            assert client.get(f"{loopback_url}/files").json()["items"] == []
            assert client.put(f"{loopback_url}/files/a.mp4", content=b"x").status_code == 201
            assert client.get(f"{loopback_url}/files", headers=h2c).status_code == 200
            check_problem(client.put(f"{loopback_url}/files/b.mp4", content=b"x", headers=h2c), 501)
            check_problem(client.request("CONNECT", f"{loopback_url}/files/b.mp4", content=b"x"), 501)
            # A proxy on this machine forwards the address of its client.
            for forwarded in ("198.51.100.7", "127.0.0.1, 198.51.100.7"):
                check_problem(
                    client.get(f"{loopback_url}/files", headers={"x-forwarded-for": forwarded}), 403
                )

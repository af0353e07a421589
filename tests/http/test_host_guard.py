"""The host guard and CORS, by requests to servers."""

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

from tests.support import NewLibrary, Server, find_external_addresses, running
from tests.support.forking import completed
from tests.support.sockets import HANDSHAKE, Socket

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
StorageUnchanged = Callable[..., AbstractContextManager[None]]


def test_server_accepts_names_of_its_machine(send_request: SendRequest, check_problem: CheckProblem) -> None:
    label = gethostname().partition(".")[0]
    for host in (gethostname(), label, f"{label}.local", f"{label.upper()}.LOCAL:8000"):
        assert send_request("GET", "/health", f"Host: {host}").status_code == 200
    check_problem(send_request("GET", "/health", f"Host: {label}.example"), 421)


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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.77", "example.org"])
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
